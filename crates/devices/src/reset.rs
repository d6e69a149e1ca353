//! How a guest ends the machine: the keyboard controller's reset and the exit port.

use std::cell::Cell;
use std::convert::Infallible;

use ft_core::output::OutputBody;
use vm_superio::{I8042Device, Trigger};

use crate::layout::{EXIT_PORT, I8042_PORT};

#[derive(Debug, Default)]
struct Asked(Cell<bool>);

impl Trigger for Asked {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// Ports by which the guest asks for a reset or switches the machine off. Without state: what it was asked is an output.
#[derive(Debug)]
pub struct Reset {
    i8042: I8042Device<Asked>,
}

impl Default for Reset {
    fn default() -> Self {
        Self { i8042: I8042Device::new(Asked::default()) }
    }
}

impl Reset {
    /// True if `port` belongs to the keyboard controller.
    pub fn claims(port: u16) -> bool {
        (I8042_PORT..I8042_PORT + 5).contains(&port) && port != I8042_PORT + 1
    }

    /// Reads a port of the keyboard controller: its input and output buffers are empty.
    pub fn read(&mut self, port: u16) -> u8 {
        self.i8042.read((port - I8042_PORT) as u8)
    }

    /// Writes a port; gives what the guest asked for by it.
    pub fn write(&mut self, port: u16, value: u8) -> Option<OutputBody> {
        if port == EXIT_PORT {
            return Some(OutputBody::PowerOff { code: value });
        }
        let Ok(()) = self.i8042.write((port - I8042_PORT) as u8, value);
        self.i8042.reset_evt().0.take().then_some(OutputBody::Reset)
    }
}
