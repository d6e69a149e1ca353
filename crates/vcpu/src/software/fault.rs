//! Exceptions and their delivery (SDM volume 3, chapter 6).

use super::cpu::{CS, Cpu, RSP, SS};
use super::debug::DR7_PROTECT;
use super::flags::{IF, NT, RF, TF};
use super::tlb::{SUPERVISOR, USER};
use crate::state::Segment;

pub(super) const DE: u8 = 0;
pub(super) const DB: u8 = 1;
pub(super) const BR: u8 = 5;
pub(super) const UD: u8 = 6;
pub(super) const NM: u8 = 7;
pub(super) const DOUBLE: u8 = 8;
pub(super) const TS: u8 = 10;
pub(super) const NP: u8 = 11;
pub(super) const STACK: u8 = 12;
pub(super) const GP: u8 = 13;
pub(super) const PAGE_FAULT: u8 = 14;
pub(super) const MF: u8 = 16;
pub(super) const ALIGNMENT: u8 = 17;
pub(super) const XM: u8 = 19;

/// How an event came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The processor: faults, and #DB after single steps.
    Exception,
    /// INT n, INT3, INTO: the gate's DPL is checked, and the saved RIP is that of the next instruction.
    Software,
    /// An interrupt controller.
    External,
}

/// An event to deliver through the IDT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub vector: u8,
    pub origin: Origin,
    pub code: u32,
    /// For a page fault.
    pub address: u64,
}

/// The guest cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TripleFault;

impl Fault {
    pub(super) const fn new(vector: u8) -> Self {
        Self { vector, origin: Origin::Exception, code: 0, address: 0 }
    }

    pub(super) const fn with_code(vector: u8, code: u32) -> Self {
        Self { vector, origin: Origin::Exception, code, address: 0 }
    }

    pub(super) const fn page(address: u64, code: u32) -> Self {
        Self { vector: PAGE_FAULT, origin: Origin::Exception, code, address }
    }

    pub(super) const fn software(vector: u8) -> Self {
        Self { vector, origin: Origin::Software, code: 0, address: 0 }
    }

    pub(super) const fn external(vector: u8) -> Self {
        Self { vector, origin: Origin::External, code: 0, address: 0 }
    }

    /// #UD.
    pub(super) const fn ud() -> Self {
        Self::new(UD)
    }

    /// #GP(0).
    pub(super) const fn gp() -> Self {
        Self::with_code(GP, 0)
    }

    fn has_code(self) -> bool {
        self.origin == Origin::Exception && matches!(self.vector, 8 | 10..=14 | 17 | 21)
    }

    fn contributory(self) -> bool {
        self.origin == Origin::Exception && matches!(self.vector, DE | 10..=13)
    }

    /// True if `next`, met while delivering this one, makes a double fault.
    fn doubles(self, next: Self) -> bool {
        (self.contributory() && next.contributory())
            || (self.origin == Origin::Exception
                && self.vector == PAGE_FAULT
                && (next.contributory() || next.vector == PAGE_FAULT))
    }
}

impl Cpu {
    /// Delivers an event at `rip` (`next_rip` for software interrupts), and whatever comes of delivering it.
    pub(super) fn raise(&mut self, fault: Fault) -> Result<(), TripleFault> {
        let mut current = fault;
        loop {
            if current.vector == PAGE_FAULT && current.origin == Origin::Exception {
                self.s.cr2 = current.address;
            }
            if current.vector == DB && current.origin == Origin::Exception {
                self.s.debug[5] &= !DR7_PROTECT;
            }
            match self.deliver(current) {
                Ok(()) => return Ok(()),
                Err(_) if current.vector == DOUBLE && current.origin == Origin::Exception => {
                    return Err(TripleFault);
                }
                Err(next) => {
                    let double = current.doubles(next);
                    current = if double { Fault::with_code(DOUBLE, 0) } else { next };
                }
            }
        }
    }

    fn deliver(&mut self, event: Fault) -> Result<(), Fault> {
        if self.long_mode() { self.deliver_long(event) } else { self.deliver_32(event) }
    }

    fn return_rip(&self, event: Fault) -> u64 {
        if event.origin == Origin::Software { self.next_rip } else { self.rip }
    }

    /// Flags as pushed: RF is set for faults but #DB, so that an instruction breakpoint is not hit twice.
    fn pushed_flags(&self, event: Fault) -> u64 {
        let fault = event.origin == Origin::Exception && event.vector != DB && event.vector != DOUBLE;
        self.rflags() | if fault { RF } else { 0 }
    }

    fn gate_error(event: Fault) -> u32 {
        u32::from(event.vector) << 3 | 2 | u32::from(event.origin != Origin::Software)
    }

    fn deliver_long(&mut self, event: Fault) -> Result<(), Fault> {
        let error = Self::gate_error(event);
        let external = error & 1;
        let at = u64::from(event.vector) * 16;
        if at + 15 > u64::from(self.s.idtr.limit) {
            return Err(Fault::with_code(GP, error));
        }
        self.address_vector = GP;
        let low = self.read_view(SUPERVISOR, self.s.idtr.base.wrapping_add(at), 8)?;
        let high = self.read_view(SUPERVISOR, self.s.idtr.base.wrapping_add(at + 8), 8)?;
        let kind = (low >> 40) & 0x1F;
        if kind != 0xE && kind != 0xF {
            return Err(Fault::with_code(GP, error));
        }
        let dpl = (low >> 45) as u8 & 3;
        if event.origin == Origin::Software && dpl < self.cpl() {
            return Err(Fault::with_code(GP, error));
        }
        if low >> 47 & 1 == 0 {
            return Err(Fault::with_code(NP, error));
        }
        let target = (low & 0xFFFF) | (low >> 48 << 16) | (high << 32);
        let selector = (low >> 16) as u16;
        let ist = (low >> 32) & 7;
        let (cs, _) = self.code_descriptor(selector, external)?;
        let cs_error = u32::from(selector & 0xFFFC) | external;
        let new_cpl = if cs.attributes & 4 != 0 { self.cpl() } else { (cs.attributes >> 5) as u8 & 3 };
        if new_cpl > self.cpl() || cs.attributes & 0x6000 != 0x2000 {
            return Err(Fault::with_code(GP, cs_error));
        }
        let outward = new_cpl < self.cpl();
        let mut stack = if ist != 0 {
            self.tss_stack(28 + 8 * ist, external)?
        } else if outward {
            self.tss_stack(4 + 8 * u64::from(new_cpl), external)?
        } else {
            self.gpr[RSP]
        };
        stack &= !15;
        let code = event.has_code();
        let size = if code { 48 } else { 40 };
        let view = if new_cpl == 3 { USER } else { SUPERVISOR };
        self.address_vector = STACK;
        let bottom = stack.wrapping_sub(size);
        self.check_write_view(view, bottom, size as usize)?;
        let mut values = [u64::from(event.code); 6];
        values[1] = self.return_rip(event);
        values[2] = u64::from(self.s.segments[CS].selector);
        values[3] = self.pushed_flags(event);
        values[4] = self.gpr[RSP];
        values[5] = u64::from(self.s.segments[SS].selector);
        for (number, value) in values[usize::from(!code)..].iter().enumerate() {
            self.write_view(view, bottom + number as u64 * 8, 8, *value)?;
        }
        if outward {
            self.s.segments[SS] = Segment {
                selector: u16::from(new_cpl),
                attributes: u16::from(new_cpl) << 5,
                ..Segment::default()
            };
        }
        self.gpr[RSP] = bottom;
        self.s.segments[CS] = Segment { selector: selector & 0xFFFC | u16::from(new_cpl), ..cs };
        self.system_flags &= !(TF | NT | RF);
        if kind == 0xE {
            self.system_flags &= !IF;
        }
        self.rip = target;
        self.update_mode();
        Ok(())
    }

    /// A stack pointer of the 64-bit TSS.
    fn tss_stack(&mut self, offset: u64, external: u32) -> Result<u64, Fault> {
        if offset + 7 > u64::from(self.s.tr.limit) {
            return Err(Fault::with_code(TS, u32::from(self.s.tr.selector & 0xFFFC) | external));
        }
        let base = self.s.tr.base;
        self.read_view(SUPERVISOR, base.wrapping_add(offset), 8)
    }

    /// 32-bit gates, to the same privilege level only.
    fn deliver_32(&mut self, event: Fault) -> Result<(), Fault> {
        let error = Self::gate_error(event);
        let at = u64::from(event.vector) * 8;
        if at + 7 > u64::from(self.s.idtr.limit) {
            return Err(Fault::with_code(GP, error));
        }
        self.address_vector = GP;
        let gate = self.read_view(SUPERVISOR, self.s.idtr.base.wrapping_add(at), 8)?;
        let kind = (gate >> 40) & 0x1F;
        if kind != 0xE && kind != 0xF {
            return Err(Fault::with_code(GP, error));
        }
        if event.origin == Origin::Software && ((gate >> 45) as u8 & 3) < self.cpl() {
            return Err(Fault::with_code(GP, error));
        }
        if gate >> 47 & 1 == 0 {
            return Err(Fault::with_code(NP, error));
        }
        let selector = (gate >> 16) as u16;
        let external = error & 1;
        let (cs, _) = self.code_descriptor(selector, external)?;
        let dpl = (cs.attributes >> 5) as u8 & 3;
        if cs.attributes & 4 == 0 && dpl != self.cpl() {
            self.note("interrupt to another privilege level in 32-bit mode");
            return Err(Fault::with_code(GP, u32::from(selector & 0xFFFC) | external));
        }
        let code = event.has_code();
        let size = if code { 16 } else { 12 };
        let stack = self.gpr[RSP] as u32;
        let base = self.s.segments[SS].base;
        let bottom = stack.wrapping_sub(size);
        self.address_vector = STACK;
        let linear = self.wrap(base.wrapping_add(u64::from(bottom)));
        self.check_write_view(self.view, linear, size as usize)?;
        let mut values = [u64::from(event.code); 4];
        values[1] = self.return_rip(event);
        values[2] = u64::from(self.s.segments[CS].selector);
        values[3] = self.pushed_flags(event);
        for (number, value) in values[usize::from(!code)..].iter().enumerate() {
            self.write(self.wrap(linear + number as u64 * 4), 4, *value)?;
        }
        self.gpr[RSP] = u64::from(bottom);
        self.s.segments[CS] = Segment { selector: selector & 0xFFFC | u16::from(self.cpl()), ..cs };
        self.system_flags &= !(TF | NT | RF);
        if kind == 0xE {
            self.system_flags &= !IF;
        }
        self.rip = (gate & 0xFFFF) | (gate >> 48 << 16);
        self.update_mode();
        Ok(())
    }
}
