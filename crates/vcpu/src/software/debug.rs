//! Debug registers and alignment checks: what looks at every access or instruction, and is off nearly always.
//!
//! While one of them is on, the fast handlers are given a TLB that never matches, so that each access takes the slow way
//! and is looked at there; code breakpoints make the driver step. Neither touches the real TLBs (SDM volume 3, sections
//! 17.2 and 17.3; 6.15 for #AC).

use super::cpu::{CR0_AM, Cpu};
use super::fault::{ALIGNMENT, DB, Fault, GP};
use super::flags::{AC, RF};

/// Bits of [`Cpu::watch`].
pub(super) const WATCH_ALIGNMENT: u8 = 1;
pub(super) const WATCH_DATA: u8 = 2;

/// DR6: breakpoints 0-3, DR7's protection, single step.
pub(super) const DR6_ACCESS: u64 = 1 << 13;
pub(super) const DR6_STEP: u64 = 1 << 14;
/// DR7: the debug registers are protected.
pub(super) const DR7_PROTECT: u64 = 1 << 13;
/// CR4: breakpoints on ports.
pub(super) const CR4_DE: u64 = 1 << 3;

/// What a breakpoint waits for, as DR7 has it.
const ON_EXECUTION: u64 = 0;
const ON_WRITE: u64 = 1;
const ON_PORT: u64 = 2;
const ON_ACCESS: u64 = 3;

impl Cpu {
    /// What breakpoint `number` waits for, and its first address and length; `None` if it is off.
    fn breakpoint(&self, number: usize) -> Option<(u64, u64, u64)> {
        let control = self.s.debug[5];
        if control >> (2 * number) & 3 == 0 {
            return None;
        }
        let kind = control >> (16 + 4 * number) & 3;
        let len = [1, 2, 8, 4][(control >> (18 + 4 * number) & 3) as usize];
        Some((kind, self.s.debug[number] & !(len - 1), len))
    }

    /// The breakpoints among `kinds` whose range an access touches, as bits of DR6.
    fn breakpoints_at(&self, address: u64, size: u64, kinds: &[u64]) -> u64 {
        (0..4)
            .filter(|number| {
                self.breakpoint(*number).is_some_and(|(kind, start, len)| {
                    let reaches = start.wrapping_sub(address) < size || address.wrapping_sub(start) < len;
                    kinds.contains(&kind) && reaches
                })
            })
            .fold(0, |bits, number| bits | 1 << number)
    }

    /// Recomputes what is to be watched: after changes of the debug registers, CR0, AC or the privilege level.
    pub(super) fn update_watch(&mut self) {
        let armed = |kinds: &[u64]| {
            (0..4).any(|number| self.breakpoint(number).is_some_and(|(kind, ..)| kinds.contains(&kind)))
        };
        let aligned = self.cpl() == 3 && self.s.cr0 & CR0_AM != 0 && self.system_flags & AC != 0;
        let data = self.s.debug[5] & 0xFF != 0 && armed(&[ON_WRITE, ON_ACCESS]);
        self.stepping = self.s.debug[5] & 0xFF != 0 && armed(&[ON_EXECUTION]);
        self.watch = (u8::from(aligned) * WATCH_ALIGNMENT) | (u8::from(data) * WATCH_DATA);
    }

    /// Looks at an access of the running program. Data breakpoints are noted, and become #DB after the instruction.
    ///
    /// # Errors
    /// #AC: alignment is checked, and the address is not aligned.
    #[cold]
    pub(super) fn watch_access(&mut self, address: u64, size: usize, write: bool) -> Result<(), Fault> {
        self.check_alignment(address, size)?;
        let kinds: &[u64] = if write { &[ON_WRITE, ON_ACCESS] } else { &[ON_ACCESS] };
        if self.watch & WATCH_DATA != 0 {
            self.note_breakpoints(self.breakpoints_at(address, size as u64, kinds));
        }
        Ok(())
    }

    /// Raises #AC if alignment is checked and an address is not a multiple of `unit` (2, 4, 8; others pass).
    pub(super) fn check_alignment(&self, address: u64, unit: usize) -> Result<(), Fault> {
        let checked = self.watch & WATCH_ALIGNMENT != 0 && matches!(unit, 2 | 4 | 8);
        if checked && address & (unit as u64 - 1) != 0 { Err(Fault::with_code(ALIGNMENT, 0)) } else { Ok(()) }
    }

    /// Looks at an access to a port.
    pub(super) fn watch_port(&mut self, port: u16, size: usize) {
        if self.s.debug[5] & 0xFF != 0 && self.s.cr4 & CR4_DE != 0 {
            self.note_breakpoints(self.breakpoints_at(port.into(), size as u64, &[ON_PORT]));
        }
    }

    fn note_breakpoints(&mut self, hits: u64) {
        if hits != 0 {
            self.hits |= hits;
            self.exit_request = true;
        }
    }

    /// The fault of a code breakpoint on the instruction at `rip`, if there is one and RF does not suppress it.
    pub(super) fn code_breakpoint(&mut self) -> Option<Fault> {
        if !self.stepping || self.system_flags & RF != 0 {
            return None;
        }
        let hits = self.breakpoints_at(self.rip, 1, &[ON_EXECUTION]);
        (hits != 0).then(|| self.debug_fault(hits))
    }

    /// #DB with its cause in DR6.
    pub(super) fn debug_fault(&mut self, cause: u64) -> Fault {
        self.s.debug[4] |= cause;
        Fault::new(DB)
    }

    /// What MOV to or from a debug register checks first.
    pub(super) fn debug_registers_open(&mut self) -> Result<(), Fault> {
        if self.s.debug[5] & DR7_PROTECT == 0 { Ok(()) } else { Err(self.debug_fault(DR6_ACCESS)) }
    }

    /// Sets DR0-DR3, DR6 (4) or DR7 (5).
    ///
    /// # Errors
    /// #GP: the upper half of DR6 or DR7 is not zero.
    pub(super) fn set_debug_register(&mut self, index: usize, value: u64) -> Result<(), Fault> {
        if index >= 4 && value >> 32 != 0 {
            return Err(Fault::with_code(GP, 0));
        }
        self.s.debug[index] = match index {
            4 => value & 0xE00F | 0xFFFF_0FF0,
            5 => value & 0xFFFF_2BFF | 0x400,
            _ => value,
        };
        self.update_mode();
        Ok(())
    }
}
