//! Control and debug registers, and model-specific registers.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::software::block::Flow;
use crate::software::cpu::{
    CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_FSGSBASE, CR4_OSFXSR, CR4_OSXSAVE, CR4_PAE, CR4_PCIDE, CR4_PGE,
    CR4_SMAP, CR4_SMEP, CR4_UMIP, CS, Cpu, EFER_LMA, EFER_LME,
};
use crate::software::debug::CR4_DE;
use crate::software::fault::Fault;
use crate::software::msr;

/// Bits of CR4 that exist: TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT and those below.
const CR4_EXISTING: u64 = 0x5FC & !CR4_UMIP
    | CR4_PAE
    | CR4_PGE
    | CR4_OSFXSR
    | CR4_FSGSBASE
    | CR4_OSXSAVE
    | CR4_PCIDE
    | CR4_SMEP
    | CR4_SMAP;
/// CR3: the process context, while CR4.PCIDE is set.
pub(in crate::software) const PCID: u64 = 0xFFF;
/// Changes of these empty the TLBs.
const CR4_FLUSHING: u64 = 0x10 | CR4_PCIDE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP;

impl Cpu {
    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let value = value | 0x10;
        if value >> 32 != 0 || (value & CR0_PG != 0 && value & CR0_PE == 0) {
            return Err(Fault::gp());
        }
        if value & (1 << 29) != 0 && value & (1 << 30) == 0 {
            return Err(Fault::gp());
        }
        if value & CR0_PE == 0 {
            self.note("real mode");
            return Err(Fault::gp());
        }
        let old = self.s.cr0;
        if value & CR0_PG != 0 && old & CR0_PG == 0 {
            if self.s.efer & EFER_LME == 0 {
                self.note("paging without long mode");
                return Err(Fault::gp());
            }
            if self.s.cr4 & CR4_PAE == 0 || self.s.segments[CS].attributes & 0x2000 != 0 {
                return Err(Fault::gp());
            }
            self.s.efer |= EFER_LMA;
        }
        if value & CR0_PG == 0 && old & CR0_PG != 0 {
            if self.long64() || self.s.cr4 & CR4_PCIDE != 0 {
                return Err(Fault::gp());
            }
            self.s.efer &= !EFER_LMA;
        }
        self.s.cr0 = value & (0xE005_003F | CR0_NE);
        if (old ^ value) & (CR0_PG | CR0_PE | CR0_WP) != 0 {
            self.flush_tlbs(false);
        }
        self.update_mode();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        if value & !CR4_EXISTING != 0 || (self.long_mode() && value & CR4_PAE == 0) {
            return Err(Fault::gp());
        }
        let changed = self.s.cr4 ^ value;
        // Process contexts are of long mode only, and begin with context 0.
        if changed & value & CR4_PCIDE != 0 && (!self.long_mode() || self.s.cr3 & PCID != 0) {
            return Err(Fault::gp());
        }
        self.s.cr4 = value;
        if changed & CR4_FLUSHING != 0 {
            self.flush_tlbs(false);
        }
        self.update_mode();
        Ok(())
    }
}

/// MOV to and from CR0-CR8 and DR0-DR7.
pub(in crate::software) fn mov_control(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let wide = c.long64();
    let store = i.op_kind(0) == OpKind::Register && (i.op0_register().is_cr() || i.op0_register().is_dr());
    let (control, general) = if store { (0, 1) } else { (1, 0) };
    let register = i.op_register(control);
    if !store {
        let value = match register {
            Register::CR0 => c.s.cr0,
            Register::CR2 => c.s.cr2,
            Register::CR3 => c.s.cr3,
            Register::CR4 => c.s.cr4,
            Register::CR8 => c.platform().cr8().into(),
            _ if register.is_dr() => {
                let index = debug_index(c, register)?;
                c.debug_registers_open()?;
                c.s.debug[index]
            }
            _ => return Err(Fault::ud()),
        };
        c.set_register(i.op_register(general), value);
        return Ok(Flow::Next);
    }
    let value = c.register(i.op_register(general));
    match register {
        Register::CR0 => c.write_cr0(value)?,
        Register::CR2 => c.s.cr2 = value,
        Register::CR3 => {
            // Asked to keep the new context's translations, this processor still forgets them, as it may.
            let keep_context = c.s.cr4 & CR4_PCIDE != 0;
            let value = if keep_context { value & !(1 << 63) } else { value };
            if wide && value >> crate::software::paging::PHYSICAL_BITS != 0 {
                return Err(Fault::gp());
            }
            c.s.cr3 = value;
            let keep = c.s.cr4 & CR4_PGE != 0;
            c.flush_tlbs(keep);
        }
        Register::CR4 => c.write_cr4(value)?,
        Register::CR8 => {
            if value > 15 {
                return Err(Fault::gp());
            }
            c.platform().set_cr8(value as u8);
        }
        _ if register.is_dr() => {
            let index = debug_index(c, register)?;
            c.debug_registers_open()?;
            c.set_debug_register(index, value)?;
        }
        _ => return Err(Fault::ud()),
    }
    Ok(Flow::Boundary)
}

fn debug_index(c: &Cpu, register: Register) -> Result<usize, Fault> {
    match register.number() {
        n @ 0..=3 => Ok(n),
        4 | 5 if c.s.cr4 & CR4_DE != 0 => Err(Fault::ud()),
        4 | 6 => Ok(4),
        5 | 7 => Ok(5),
        _ => Err(Fault::ud()),
    }
}

/// LMSW, SMSW.
pub(in crate::software) fn machine_status(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if i.mnemonic() == Mnemonic::Smsw {
        let value = c.s.cr0;
        if i.op_kind(0) == OpKind::Memory {
            let at = c.linear(i);
            c.write(at, 2, value & 0xFFFF)?;
        } else {
            c.set(i, 0, value)?;
        }
        return Ok(Flow::Next);
    }
    c.privileged()?;
    let value = c.get(i, 0)?;
    let cr0 = c.s.cr0 & !0xE | value & 0xF;
    c.write_cr0(cr0)?;
    Ok(Flow::Boundary)
}

/// RDMSR.
pub(in crate::software) fn rdmsr(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let at = c.position_now();
    let value = msr::read(c, at, c.gpr[1] as u32).ok_or(Fault::gp())?;
    c.gpr[0] = value & 0xFFFF_FFFF;
    c.gpr[2] = value >> 32;
    Ok(Flow::Boundary)
}

/// WRMSR.
pub(in crate::software) fn wrmsr(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let at = c.position_now();
    let value = c.gpr[0] & 0xFFFF_FFFF | c.gpr[2] << 32;
    if msr::write(c, at, c.gpr[1] as u32, value) { Ok(Flow::Boundary) } else { Err(Fault::gp()) }
}
