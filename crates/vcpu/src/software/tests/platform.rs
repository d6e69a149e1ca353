//! A platform for tests: ports and MMIO that answer from the position, a timer, one interrupt.

use crate::{Platform, Position};

#[derive(Debug, Default)]
pub(in crate::software) struct Bench {
    /// Every access, with its position.
    pub log: Vec<(Position, &'static str, u64, u64)>,
    /// Positions at which the timer fires, ascending, and raises `vector`.
    pub timers: Vec<Position>,
    pub vector: u8,
    pub pending: Option<u8>,
    pub stop: bool,
    pub priority: u8,
}

impl Platform for Bench {
    fn pio_read(&mut self, at: Position, port: u16, size: u8) -> u32 {
        self.log.push((at, "in", port.into(), size.into()));
        at as u32
    }
    fn pio_write(&mut self, at: Position, port: u16, _: u8, value: u32) {
        self.log.push((at, "out", port.into(), value.into()));
        if port == 0x99 {
            self.stop = true;
        }
        if port == 0x77 {
            self.pending = Some(value as u8);
        }
    }
    fn mmio_read(&mut self, at: Position, address: u64, size: u8) -> u64 {
        self.log.push((at, "read", address, size.into()));
        at.wrapping_mul(0x0101_0101_0101_0101)
    }
    fn mmio_write(&mut self, at: Position, address: u64, _: u8, value: u64) {
        self.log.push((at, "write", address, value));
        if address == 0xE000_0077 {
            self.pending = Some(value as u8);
        }
    }
    fn tsc(&mut self, at: Position) -> u64 {
        at * 10
    }
    fn msr_read(&mut self, _: Position, msr: u32) -> Option<u64> {
        (msr == 0x1B).then_some(0xFEE0_0900)
    }
    fn msr_write(&mut self, at: Position, msr: u32, value: u64) -> bool {
        self.log.push((at, "wrmsr", msr.into(), value));
        msr == 0x1B
    }
    fn cr8(&self) -> u8 {
        self.priority
    }
    fn set_cr8(&mut self, value: u8) {
        self.priority = value;
    }
    fn next_timer(&self) -> Position {
        self.timers.first().copied().unwrap_or(Position::MAX)
    }
    fn fire_timers(&mut self, at: Position) {
        while self.timers.first().is_some_and(|due| *due <= at) {
            self.timers.remove(0);
            self.log.push((at, "timer", 0, 0));
            if self.vector != 0 {
                self.pending = Some(self.vector);
            }
        }
    }
    fn pending_interrupt(&self) -> Option<u8> {
        self.pending.filter(|vector| vector >> 4 > self.priority)
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.pending.take().expect("asked for only if pending")
    }
    fn wants_stop(&self) -> bool {
        self.stop
    }
}
