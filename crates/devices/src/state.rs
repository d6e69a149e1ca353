//! The saved form of a board: one versioned type per component.
//!
//! Components are the serde types of the devices themselves where the whole of a device is state, and types of our own
//! where a library holds it. There is no state outside this tree: a restored board behaves as the saved one.

use ft_core::output::Output;
use serde::{Deserialize, Serialize};

use crate::board::{ConsoleStream, PowerButton};
use crate::chipset::{Pic, Pit, Power, Rtc};
use crate::clock::Clock;
use crate::ioapic::IoApic;
use crate::lapic::Lapic;
use crate::serial::Com1State;
use crate::virtio::blk::Blk;
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::slot::SlotState;

/// A component's state with the version of its layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// Must equal the component's current [`Component::VERSION`].
    pub version: u16,
    /// The state.
    pub state: T,
}

/// A component of the saved state.
pub trait Component {
    /// Its name in messages.
    const NAME: &'static str;
    /// Raised whenever its layout or meaning changes.
    const VERSION: u16;
}

macro_rules! components {
    ($($type:ty => $name:literal, $version:literal;)*) => {
        $(impl Component for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
        })*
    };
}

components! {
    Clock => "clock", 1;
    Lapic => "lapic", 1;
    IoApic => "ioapic", 1;
    Com1State => "com1", 1;
    Pic => "pic", 1;
    Pit => "pit", 1;
    Rtc => "rtc", 1;
    Power => "power", 1;
    ConsoleStream => "console stream", 1;
    PowerButton => "power button", 1;
    DeviceState<Blk> => "disk", 2;
    DeviceState<Net> => "nic", 1;
    DeviceState<Rng> => "rng", 1;
    DeviceState<Console> => "console", 1;
}

impl<T: Component> Versioned<T> {
    /// Marks a state with the current version.
    pub fn new(state: T) -> Self {
        Self { version: T::VERSION, state }
    }

    /// The state, if its version is the current one.
    ///
    /// # Errors
    /// It is another version.
    pub fn get(&self) -> Result<&T, RestoreError> {
        if self.version == T::VERSION {
            Ok(&self.state)
        } else {
            Err(RestoreError::Version { component: T::NAME, found: self.version, known: T::VERSION })
        }
    }
}

/// A virtio device with its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState<D> {
    /// Transport and rings.
    pub slot: SlotState,
    /// Device model.
    pub device: D,
}

/// Everything of a board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is named for its component")]
pub struct BoardState {
    pub clock: Versioned<Clock>,
    pub lapic: Versioned<Lapic>,
    pub ioapic: Versioned<IoApic>,
    pub com1: Versioned<Com1State>,
    pub pic: Versioned<Pic>,
    pub pit: Versioned<Pit>,
    pub rtc: Versioned<Rtc>,
    pub power: Versioned<Power>,
    pub console_stream: Versioned<ConsoleStream>,
    pub power_button: Versioned<PowerButton>,
    pub disks: Vec<Versioned<DeviceState<Blk>>>,
    pub nics: Vec<Versioned<DeviceState<Net>>>,
    pub rng: Option<Versioned<DeviceState<Rng>>>,
    pub console: Option<Versioned<DeviceState<Console>>>,
    /// Outputs made and not yet collected.
    pub outputs: Vec<Output>,
}

/// A saved state that this board cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by a program with another layout.
    #[error("state of {component} has version {found}, this program knows {known}")]
    Version {
        /// Which component.
        component: &'static str,
        /// Its version in the state.
        found: u16,
        /// The version that can be read.
        known: u16,
    },
    /// The state is of a machine with other devices.
    #[error("the state has {0}")]
    OtherMachine(&'static str),
    /// The state of a component contradicts itself.
    #[error("bad state of {component}: {reason}")]
    Bad {
        /// Which component.
        component: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}
