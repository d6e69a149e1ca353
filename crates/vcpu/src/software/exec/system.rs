//! System instructions that are neither transfers nor control registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::control::PCID;
use crate::software::block::Flow;
use crate::software::cpu::{CR0_TS, CR4_FSGSBASE, CR4_PCIDE, CR4_SMAP, Cpu};
use crate::software::cpuid::cpuid as leaf;
use crate::software::fault::Fault;
use crate::software::flags::{AC, IF};
use crate::software::tlb::is_canonical;
use crate::state::DescriptorTable;

impl Cpu {
    /// #GP above level 0.
    pub(in crate::software) fn privileged(&self) -> Result<(), Fault> {
        if self.cpl() == 0 { Ok(()) } else { Err(Fault::gp()) }
    }

    /// #GP above the I/O privilege level.
    fn io_privileged(&self) -> Result<(), Fault> {
        if self.cpl() <= (self.system_flags >> 12 & 3) as u8 { Ok(()) } else { Err(Fault::gp()) }
    }
}

/// CLI.
pub(in crate::software) fn cli(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.io_privileged()?;
    c.system_flags &= !IF;
    Ok(Flow::Next)
}

/// STI: interrupts wait for one more instruction, if they were off.
pub(in crate::software) fn sti(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.io_privileged()?;
    if c.system_flags & IF == 0 {
        c.system_flags |= IF;
        c.s.interrupt_shadow = true;
    }
    Ok(Flow::Boundary)
}

/// HLT.
pub(in crate::software) fn hlt(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    c.s.halted = true;
    Ok(Flow::Boundary)
}

/// CPUID.
pub(in crate::software) fn cpuid(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    let values = leaf(c.gpr[0] as u32, c.gpr[1] as u32, c.s.cr4);
    for (register, value) in [0, 3, 1, 2].into_iter().zip(values) {
        c.gpr[register] = value.into();
    }
    Ok(Flow::Next)
}

/// RDTSC, RDTSCP.
pub(in crate::software) fn rdtsc(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if c.s.cr4 & 4 != 0 && c.cpl() != 0 {
        return Err(Fault::gp());
    }
    let at = c.position_now();
    let tsc = c.platform().tsc(at).wrapping_add(c.s.tsc_adjust);
    c.gpr[0] = tsc & 0xFFFF_FFFF;
    c.gpr[2] = tsc >> 32;
    if i.mnemonic() == Mnemonic::Rdtscp {
        c.gpr[1] = c.s.tsc_aux & 0xFFFF_FFFF;
    }
    Ok(Flow::Boundary)
}

/// RDPID.
pub(in crate::software) fn rdpid(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.s.tsc_aux;
    c.set(i, 0, value)?;
    Ok(Flow::Next)
}

/// RDPMC: there are no counters.
pub(in crate::software) fn rdpmc(_: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    Err(Fault::gp())
}

/// LGDT, LIDT.
pub(in crate::software) fn load_table(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let at = c.linear(i);
    let limit = c.read(at, 2)? as u16;
    let base_at = c.wrap(at.wrapping_add(2));
    let base = c.read(base_at, if c.long64() { 8 } else { 4 })?;
    if !is_canonical(base) {
        return Err(Fault::gp());
    }
    let table = DescriptorTable { base, limit };
    if i.mnemonic() == Mnemonic::Lgdt {
        c.s.gdtr = table;
    } else {
        c.s.idtr = table;
    }
    Ok(Flow::Next)
}

/// SGDT, SIDT.
pub(in crate::software) fn store_table(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let table = if i.mnemonic() == Mnemonic::Sgdt { c.s.gdtr } else { c.s.idtr };
    let size = if c.long64() { 8 } else { 4 };
    let at = c.linear(i);
    c.check_write(at, 2 + size)?;
    c.write(at, 2, table.limit.into())?;
    let base_at = c.wrap(at.wrapping_add(2));
    c.write(base_at, size, table.base & crate::software::tlb::mask(size))?;
    Ok(Flow::Next)
}

/// INVLPG.
pub(in crate::software) fn invlpg(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let at = c.linear(i);
    c.invalidate_page(at);
    Ok(Flow::Boundary)
}

/// INVPCID. The TLBs hold translations of the current process context alone: switching contexts empties them.
pub(in crate::software) fn invpcid(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let kind = c.register(i.op_register(0));
    let at = c.linear(i);
    let context = c.read(at, 8)?;
    let address = c.read(c.wrap(at.wrapping_add(8)), 8)?;
    let contexts = c.s.cr4 & CR4_PCIDE != 0;
    if context & !PCID != 0
        || kind > 3
        || (kind == 0 && !is_canonical(address))
        || (kind < 2 && !contexts && context != 0)
    {
        return Err(Fault::gp());
    }
    let current = if contexts { c.s.cr3 & PCID } else { 0 };
    match kind {
        0 if context == current => c.invalidate_page(address),
        1 if context == current => c.flush_tlbs(true),
        2 => c.flush_tlbs(false),
        3 => c.flush_tlbs(true),
        _ => {}
    }
    Ok(Flow::Boundary)
}

/// WBINVD, INVD: caches are not modelled.
pub(in crate::software) fn cache(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    Ok(Flow::Next)
}

/// CLTS.
pub(in crate::software) fn clts(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    c.s.cr0 &= !CR0_TS;
    c.update_mode();
    Ok(Flow::Boundary)
}

/// CLAC, STAC.
pub(in crate::software) fn access_check(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if c.cpl() != 0 {
        return Err(Fault::ud());
    }
    if i.mnemonic() == Mnemonic::Stac {
        c.system_flags |= AC;
    } else {
        c.system_flags &= !AC;
    }
    if c.s.cr4 & CR4_SMAP != 0 {
        c.update_mode();
    }
    Ok(Flow::Next)
}

/// SWAPGS.
pub(in crate::software) fn swapgs(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    if !c.long64() {
        return Err(Fault::ud());
    }
    c.privileged()?;
    std::mem::swap(&mut c.s.segments[5].base, &mut c.s.kernel_gs_base);
    Ok(Flow::Next)
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
pub(in crate::software) fn segment_base(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if c.s.cr4 & CR4_FSGSBASE == 0 || !c.long64() {
        return Err(Fault::ud());
    }
    let number = if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase) { 4 } else { 5 };
    if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
        c.set(i, 0, c.s.segments[number].base)?;
    } else {
        let base = c.get(i, 0)?;
        if !is_canonical(base) {
            return Err(Fault::gp());
        }
        c.s.segments[number].base = base;
    }
    Ok(Flow::Next)
}

/// CLFLUSH and the like: a read as far as faults go.
pub(in crate::software) fn flush_line(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    debug_assert_eq!(i.op0_kind(), OpKind::Memory);
    let at = c.linear(i);
    c.check_read(at, 1)?;
    Ok(Flow::Next)
}
