//! The I/O APIC: 24 lines in, messages to the local APIC out (Intel 82093AA data sheet, version 0x20 with an EOI register).
//!
//! The polarity bit is stored and not interpreted: devices say whether their line is asserted.

use serde::{Deserialize, Serialize};

use crate::lapic::Message;
use crate::layout::IOAPIC_PINS;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const REGISTER_ID: u8 = 0;
const REGISTER_VERSION: u8 = 1;
const REGISTER_ARBITRATION: u8 = 2;
const REGISTER_TABLE: u8 = 0x10;
const VERSION_VALUE: u32 = 0x20 | (IOAPIC_PINS as u32 - 1) << 16;

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Everything but delivery status and remote IRR.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Registers and lines of the I/O APIC. The whole of it is state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u32,
    table: [u64; IOAPIC_PINS],
    /// Asserted lines, one bit a pin.
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, table: [MASKED; IOAPIC_PINS], lines: 0 }
    }
}

impl IoApic {
    /// Reads the register at `offset`; undefined ones read 0.
    pub fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (SELECT, _) => u32::from(self.select),
            (WINDOW, REGISTER_ID | REGISTER_ARBITRATION) => self.id,
            (WINDOW, REGISTER_VERSION) => VERSION_VALUE,
            (WINDOW, _) => {
                let Some((pin, high)) = self.selected_pin() else { return 0 };
                (if high { self.table[pin] >> 32 } else { self.table[pin] }) as u32
            }
            _ => 0,
        }
    }

    /// Writes the register at `offset`. Messages to deliver go to `send`, which says whether the APIC took it.
    pub fn write(&mut self, offset: u64, value: u32, send: &mut dyn FnMut(Message) -> bool) {
        match (offset, self.select) {
            (SELECT, _) => self.select = value as u8,
            (WINDOW, REGISTER_ID) => self.id = value & 0x0f00_0000,
            (WINDOW, _) => {
                let Some((pin, high)) = self.selected_pin() else { return };
                let entry = &mut self.table[pin];
                let written = if high {
                    *entry & 0xffff_ffff | u64::from(value) << 32
                } else {
                    *entry & !0xffff_ffff | u64::from(value)
                };
                *entry = written & WRITABLE | *entry & REMOTE_IRR;
                if *entry & LEVEL == 0 {
                    // Changing to edge forgets an interrupt in service (what Linux uses to clear a stuck one).
                    *entry &= !REMOTE_IRR;
                }
                self.level(pin, send);
            }
            (EOI, _) => self.end_of_interrupt(value as u8, send),
            _ => {}
        }
    }

    /// A device asserts or releases its line. An edge that comes while its pin is masked is lost, as in the chip.
    pub fn set_line(&mut self, pin: u8, asserted: bool, send: &mut dyn FnMut(Message) -> bool) {
        let pin = usize::from(pin);
        if pin >= IOAPIC_PINS {
            return;
        }
        let rises = asserted && self.lines & 1 << pin == 0;
        self.lines = if asserted { self.lines | 1 << pin } else { self.lines & !(1 << pin) };
        if self.table[pin] & LEVEL != 0 {
            self.level(pin, send);
        } else if rises && self.table[pin] & MASKED == 0 {
            send(self.message(pin));
        }
    }

    /// The local APIC ended a level-triggered interrupt: lines that are still asserted interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(Message) -> bool) {
        for pin in 0..IOAPIC_PINS {
            let entry = self.table[pin];
            if entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && entry as u8 == vector {
                self.table[pin] &= !REMOTE_IRR;
                self.level(pin, send);
            }
        }
    }

    /// Offers asserted levels again, after the local APIC changed in a way that may let it take what it did not.
    pub fn resend(&mut self, send: &mut dyn FnMut(Message) -> bool) {
        for pin in 0..IOAPIC_PINS {
            self.level(pin, send);
        }
    }

    fn level(&mut self, pin: usize, send: &mut dyn FnMut(Message) -> bool) {
        let entry = self.table[pin];
        let asserted = self.lines & 1 << pin != 0;
        if asserted && entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL && send(self.message(pin)) {
            self.table[pin] |= REMOTE_IRR;
        }
    }

    fn selected_pin(&self) -> Option<(usize, bool)> {
        let index = usize::from(self.select.checked_sub(REGISTER_TABLE)?);
        (index / 2 < IOAPIC_PINS).then_some((index / 2, index % 2 == 1))
    }

    fn message(&self, pin: usize) -> Message {
        let entry = self.table[pin];
        Message {
            vector: entry as u8,
            delivery: (entry >> 8 & 7) as u8,
            logical: entry & LOGICAL != 0,
            destination: (entry >> 56) as u8,
            level: entry & LEVEL != 0,
        }
    }
}
