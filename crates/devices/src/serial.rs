//! COM1: vm-superio's 16550 with its state in a type of our own, and a queue before its receive FIFO.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

/// Bytes typed that the guest has not room for; more are dropped.
pub const BACKLOG: usize = 64 << 10;

#[derive(Debug, Default)]
struct Line(Cell<bool>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// State of the serial line: vm-superio's registers, and the bytes waiting for its FIFO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the registers of a 16550 under their names")]
pub struct Com1State {
    pub baud_divisor_low: u8,
    pub baud_divisor_high: u8,
    pub interrupt_enable: u8,
    pub interrupt_identification: u8,
    pub line_control: u8,
    pub line_status: u8,
    pub modem_control: u8,
    pub modem_status: u8,
    pub scratch: u8,
    pub fifo: Vec<u8>,
    pub backlog: Vec<u8>,
}

/// The serial line.
#[derive(Debug)]
pub struct Com1 {
    serial: Serial<Line, NoEvents, Vec<u8>>,
    backlog: VecDeque<u8>,
}

impl Default for Com1 {
    fn default() -> Self {
        Self { serial: Serial::new(Line::default(), Vec::new()), backlog: VecDeque::new() }
    }
}

impl Com1 {
    /// Reads the register at `offset`, 0-7.
    pub fn read(&mut self, offset: u8) -> u8 {
        let value = self.serial.read(offset);
        self.feed();
        value
    }

    /// Writes the register at `offset`, 0-7; gives the byte sent, if one was.
    pub fn write(&mut self, offset: u8, value: u8) -> Option<u8> {
        // The sink is a Vec and the trigger a Cell: neither fails.
        let _ = self.serial.write(offset, value);
        self.feed();
        self.serial.writer_mut().pop()
    }

    /// Bytes typed. Beyond [`BACKLOG`] they are dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        let room = BACKLOG - self.backlog.len();
        self.backlog.extend(&bytes[..bytes.len().min(room)]);
        self.feed();
    }

    /// True, once, if the interrupt line was pulsed since the last call.
    pub fn take_interrupt(&mut self) -> bool {
        self.serial.interrupt_evt().0.take()
    }

    /// The whole state. To be called with no interrupt left to take.
    pub fn save(&self) -> Com1State {
        let state = self.serial.state();
        Com1State {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            fifo: state.in_buffer,
            backlog: self.backlog.iter().copied().collect(),
        }
    }

    /// A serial line in a saved state. vm-superio raises its interrupt again on this path; that pulse is part of the I/O
    /// APIC's state already, so it is taken back.
    ///
    /// # Errors
    /// The FIFO or the backlog is longer than it can be.
    pub fn restore(state: &Com1State) -> Result<Self, &'static str> {
        if state.backlog.len() > BACKLOG {
            return Err("serial backlog too long");
        }
        let registers = SerialState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.fifo.clone(),
        };
        let serial = Serial::from_state(&registers, Line::default(), NoEvents, Vec::new())
            .map_err(|_| "serial FIFO too long")?;
        serial.interrupt_evt().0.set(false);
        Ok(Self { serial, backlog: state.backlog.iter().copied().collect() })
    }

    fn feed(&mut self) {
        while !self.backlog.is_empty() && self.serial.fifo_capacity() > 0 {
            let count = self.serial.fifo_capacity().min(self.backlog.len());
            let bytes: Vec<u8> = self.backlog.iter().take(count).copied().collect();
            // In loop mode the line is cut: nothing is taken.
            match self.serial.enqueue_raw_bytes(&bytes) {
                Ok(taken) if taken > 0 => drop(self.backlog.drain(..taken)),
                _ => return,
            }
        }
    }
}
