//! Records: everything that moves a backup, in one order.

use serde::{Deserialize, Serialize};

use crate::Lsn;
use crate::input::Input;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Place in the log; consecutive.
    pub lsn: Lsn,
    /// Where the primary's machine stood. Never decreases; being told it lets the backup run up to it.
    pub position: u64,
    /// What happened there.
    pub body: Body,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Nothing but the position: the primary has been here.
    Progress,
    /// An input, applied at the position.
    Input(Input),
    /// A disk read is done here, as an input; the backup has the data by itself.
    OwnRead {
        /// Index of the disk in the config.
        disk: u16,
        /// Number of the request on that disk.
        request: u64,
        /// A digest of the data ([`crate::reads::digest`]), which the backup's own must have too.
        digest: u32,
    },
    /// The marker of an output that is held until this record is acknowledged.
    Output {
        /// Its kind.
        class: OutputClass,
        /// A digest of its content, which the backup's own output must have too.
        digest: u64,
    },
    /// A digest of the machine at this (position, LSN), compared by the backup. Opaque here.
    Digest(Vec<u8>),
    /// From here on the receiver is a backup that may ask for the next generation.
    Armed,
    /// The operator stops the pair here.
    Stop,
}

/// Kinds of output that the Output Rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum OutputClass {
    /// Network frames.
    Net = 0,
    /// Console bytes.
    Console = 1,
    /// A write to a shared disk.
    DiskWrite = 2,
    /// The guest's end: power-off, reset, or a state that it cannot leave. The last output there is.
    End = 3,
}

impl OutputClass {
    /// The class with this number on the wire.
    pub fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Net,
            1 => Self::Console,
            2 => Self::DiskWrite,
            3 => Self::End,
            _ => return None,
        })
    }
}

/// LSNs, positions and generations stay below this: more than any pair can count to, and far from where sums overflow. A
/// peer that names more is not believed.
pub const MAX_COUNT: u64 = 1 << 62;

/// What each record costs in the log's account besides its data, in bytes.
pub const RECORD_OVERHEAD: u64 = 32;

/// The most that one record may cost, in bytes.
pub const MAX_RECORD_COST: u64 = ft_policies::MAX_RECORD;

impl Body {
    /// True if it changes the machine: this may itself make outputs, at its own position.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Input(_) | Self::OwnRead { .. })
    }

    /// Bytes that a record with this body takes from the log's bound. Both sides compute the same.
    pub fn cost(&self) -> u64 {
        let data = match self {
            Self::Input(Input::DiskDone(done)) => done.data.len(),
            Self::Input(Input::NetRx(batch)) => batch.frames.iter().map(|frame| frame.len() + 8).sum(),
            Self::Input(Input::Console(bytes) | Input::Entropy { bytes, .. }) => bytes.len(),
            Self::Digest(bytes) => bytes.len(),
            _ => 0,
        };
        RECORD_OVERHEAD + data as u64
    }
}
