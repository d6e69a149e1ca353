//! Far transfers: INT, IRET, SYSCALL, SYSRET, far JMP, CALL and RET, and loads of segment registers.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::operand::segment_number;
use crate::software::block::Flow;
use crate::software::cpu::{CR0_PE, CS, Cpu, EFER_SCE, RSP, SS};
use crate::software::fault::{DB, Fault, GP};
use crate::software::flags::{IF, NT, RF, TF, VM};
use crate::software::tlb::{SUPERVISOR, is_canonical};
use crate::state::Segment;

/// INT n, INT3, INT1, INTO, UD0-UD2.
pub(in crate::software) fn interrupt(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    match i.mnemonic() {
        Mnemonic::Int => Err(Fault::software(i.immediate8())),
        Mnemonic::Int3 => Err(Fault::software(3)),
        Mnemonic::Int1 => {
            c.rip = c.next_rip;
            Err(Fault { origin: crate::software::fault::Origin::Software, ..Fault::new(DB) })
        }
        Mnemonic::Into => {
            if c.flags.of() {
                Err(Fault::software(4))
            } else {
                Ok(Flow::Next)
            }
        }
        _ => Err(Fault::ud()),
    }
}

/// SYSCALL, of 64-bit mode only.
pub(in crate::software) fn syscall(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    if c.s.efer & EFER_SCE == 0 || !c.long64() {
        return Err(Fault::ud());
    }
    c.gpr[1] = c.next_rip;
    c.gpr[11] = c.rflags() & !RF;
    let selector = (c.s.star >> 32) as u16 & 0xFFFC;
    let flags = c.rflags() & !c.s.sfmask & !RF;
    c.no_step = c.s.sfmask & TF != 0;
    c.set_rflags(flags);
    c.s.segments[SS] =
        Segment { selector: selector.wrapping_add(8), base: 0, limit: u32::MAX, attributes: 0xC093 };
    c.set_code(Segment { selector, base: 0, limit: u32::MAX, attributes: 0xA09B }, 0);
    Ok(Flow::Jump(c.s.lstar))
}

/// SYSRET.
pub(in crate::software) fn sysret(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if c.s.efer & EFER_SCE == 0 || !c.long64() {
        return Err(Fault::ud());
    }
    if c.cpl() != 0 {
        return Err(Fault::gp());
    }
    let base = (c.s.star >> 48) as u16;
    let wide = i.code() == Code::Sysretq;
    if wide && !is_canonical(c.gpr[1]) {
        return Err(Fault::gp());
    }
    let target = if wide { c.gpr[1] } else { c.gpr[1] & 0xFFFF_FFFF };
    let flags = c.gpr[11] & 0x3C_7FD7 & !(RF | VM);
    c.set_rflags(flags);
    let (cs, attributes) = if wide { (base.wrapping_add(16), 0xA0FB) } else { (base, 0xC0FB) };
    c.s.segments[SS] =
        Segment { selector: base.wrapping_add(8) | 3, base: 0, limit: u32::MAX, attributes: 0xC0F3 };
    c.set_code(Segment { selector: cs | 3, base: 0, limit: u32::MAX, attributes }, 3);
    Ok(Flow::Jump(target))
}

/// The flat segment that SYSENTER and SYSEXIT load, by selector: code of 64 or 32 bits, or data.
fn flat(selector: u64, kind: u16, dpl: u16) -> Segment {
    let selector = selector as u16 & 0xFFFC | dpl;
    Segment { selector, base: 0, limit: u32::MAX, attributes: kind | dpl << 5 }
}

const CODE_64: u16 = 0xA09B;
const CODE_32: u16 = 0xC09B;
const DATA: u16 = 0xC093;

/// SYSENTER.
pub(in crate::software) fn sysenter(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    let [selector, stack, target] = c.s.sysenter;
    if c.s.cr0 & CR0_PE == 0 || selector & 0xFFFC == 0 {
        return Err(Fault::gp());
    }
    let long = c.long_mode();
    let cut = if long { u64::MAX } else { 0xFFFF_FFFF };
    c.system_flags &= !(IF | VM);
    c.gpr[RSP] = stack & cut;
    c.s.segments[SS] = flat(selector + 8, DATA, 0);
    c.set_code(flat(selector, if long { CODE_64 } else { CODE_32 }, 0), 0);
    Ok(Flow::Jump(target & cut))
}

/// SYSEXIT.
pub(in crate::software) fn sysexit(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let selector = c.s.sysenter[0];
    if selector & 0xFFFC == 0 || c.cpl() != 0 || c.s.cr0 & CR0_PE == 0 {
        return Err(Fault::gp());
    }
    let wide = i.code() == Code::Sysexitq;
    let (stack, target) = (c.gpr[1], c.gpr[2]);
    if wide && !(is_canonical(stack) && is_canonical(target)) {
        return Err(Fault::gp());
    }
    let (code, kind, cut) =
        if wide { (selector + 32, CODE_64, u64::MAX) } else { (selector + 16, CODE_32, 0xFFFF_FFFF) };
    c.gpr[RSP] = stack & cut;
    c.s.segments[SS] = flat(code + 8, DATA, 3);
    c.set_code(flat(code, kind, 3), 3);
    Ok(Flow::Jump(target & cut))
}

/// IRET of every size, to the same or an outer level.
pub(in crate::software) fn iret(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = match i.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    if c.system_flags & NT != 0 {
        if c.long_mode() {
            return Err(Fault::gp());
        }
        c.note("IRET from a nested task");
        return Err(Fault::gp());
    }
    let step = size as u64;
    let rip = c.peek(0, size)?;
    let selector = c.peek(step, size)? as u16;
    let flags = c.peek(2 * step, size)?;
    let all = c.long64();
    if !c.long_mode() && flags & VM != 0 && c.cpl() == 0 {
        c.note("IRET to virtual-8086 mode");
        return Err(Fault::gp());
    }
    let outer = far_return(c, rip, selector, size, 3 * step, all, 0)?;
    let cpl_before = outer.from;
    // The flags that may change depend on the level that IRET ran at.
    let new = c.cpl();
    c.return_flags(flags, size, cpl_before);
    debug_assert_eq!(new, c.cpl());
    Ok(Flow::Jump(rip))
}

/// What a far return came from.
struct Returned {
    from: u8,
}

/// Returns to `selector:rip`, popping a stack pointer when the level changes (or always: IRET in 64-bit mode). `distance`
/// is what was popped already, `more` what leaves both stacks besides.
fn far_return(
    c: &mut Cpu,
    rip: u64,
    selector: u16,
    size: usize,
    distance: u64,
    always: bool,
    more: u64,
) -> Result<Returned, Fault> {
    let from = c.cpl();
    let rpl = selector as u8 & 3;
    let error = u32::from(selector & 0xFFFC);
    if rpl < from {
        return Err(Fault::with_code(GP, error));
    }
    let (cs, _) = c.code_descriptor(selector, 0)?;
    let dpl = (cs.attributes >> 5) as u8 & 3;
    let conforming = cs.attributes & 4 != 0;
    if (conforming && dpl > rpl) || (!conforming && dpl != rpl) {
        return Err(Fault::with_code(GP, error));
    }
    let to_64 = c.long_mode() && cs.attributes & 0x2000 != 0;
    if if to_64 { !is_canonical(rip) } else { rip > cs.limit.into() } {
        return Err(Fault::gp());
    }
    if !always && rpl == from {
        c.set_stack(c.gpr[RSP].wrapping_add(distance + more));
        c.set_code(cs, rpl);
        return Ok(Returned { from });
    }
    let stack = c.peek(distance + more, size)?;
    let stack_selector = c.peek(distance + more + size as u64, size)? as u16;
    let ss = return_stack(c, stack_selector, rpl, to_64)?;
    c.s.segments[SS] = ss;
    c.set_code(cs, rpl);
    let stack = stack.wrapping_add(more);
    match size {
        2 => c.set_at(RSP as u8 * 8, 2, stack),
        4 => c.gpr[RSP] = stack & 0xFFFF_FFFF,
        _ => c.gpr[RSP] = stack,
    }
    if rpl > from {
        // Data segments that the outer level may not use become null.
        for number in [0, 3, 4, 5] {
            let segment = c.s.segments[number];
            let dpl = (segment.attributes >> 5) as u8 & 3;
            let data = segment.attributes & 0x1C != 0x1C;
            if segment.attributes & 0x80 == 0 {
                // FS and GS keep the base that they may have from an MSR.
                c.s.segments[number].selector = 0;
            } else if data && dpl < rpl {
                c.s.segments[number] = Segment::default();
            }
        }
    }
    Ok(Returned { from })
}

fn return_stack(c: &mut Cpu, selector: u16, cpl: u8, to_64: bool) -> Result<Segment, Fault> {
    if selector & 0xFFFC == 0 {
        if !to_64 || cpl == 3 || selector as u8 & 3 != cpl {
            return Err(Fault::gp());
        }
        return Ok(Segment { selector, attributes: u16::from(cpl) << 5, ..Segment::default() });
    }
    c.data_segment(SS, selector, cpl)
}

impl Cpu {
    fn return_flags(&mut self, value: u64, size: usize, cpl: u8) {
        use crate::software::flags::{AC, ARITHMETIC, DF, ID, IOPL};
        let iopl = (self.system_flags >> 12 & 3) as u8;
        let mut change = ARITHMETIC | TF | DF | NT | AC | ID | RF;
        if cpl == 0 {
            change |= IOPL;
        }
        if cpl <= iopl {
            change |= IF;
        }
        change &= crate::software::tlb::mask(size);
        let merged = self.rflags() & !change | value & change;
        // RF matters to code breakpoints only, and costs a step: without one it is dropped.
        self.set_rflags(if self.stepping { merged } else { merged & !RF });
        self.update_mode();
    }
}

/// Far RET.
pub(in crate::software) fn ret_far(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = match i.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    };
    let more = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
    let step = size as u64;
    let rip = c.peek(0, size)?;
    let selector = c.peek(step, size)? as u16;
    far_return(c, rip, selector, size, 2 * step, false, more)?;
    Ok(Flow::Jump(rip))
}

/// Far JMP and CALL to code segments (no gates, no tasks).
pub(in crate::software) fn far_branch(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if c.s.cr0 & CR0_PE == 0 {
        c.note("far branch in real mode");
        return Err(Fault::ud());
    }
    let (size, offset, selector) = match i.op_kind(0) {
        OpKind::FarBranch16 => (2, u64::from(i.far_branch16()), i.far_branch_selector()),
        OpKind::FarBranch32 => (4, u64::from(i.far_branch32()), i.far_branch_selector()),
        _ => {
            let size = i.memory_size().size() - 2;
            let at = c.linear(i);
            let offset = c.read(at, size)?;
            let after = c.wrap(at.wrapping_add(size as u64));
            (size, offset, c.read(after, 2)? as u16)
        }
    };
    let error = u32::from(selector & 0xFFFC);
    let (cs, _) = c.code_descriptor(selector, 0)?;
    let dpl = (cs.attributes >> 5) as u8 & 3;
    let conforming = cs.attributes & 4 != 0;
    let cpl = c.cpl();
    let allowed = if conforming { dpl <= cpl } else { dpl == cpl && selector as u8 & 3 <= cpl };
    if !allowed {
        return Err(Fault::with_code(GP, error));
    }
    let to_64 = c.long_mode() && cs.attributes & 0x2000 != 0;
    if if to_64 { !is_canonical(offset) } else { offset > cs.limit.into() } {
        return Err(Fault::gp());
    }
    if i.mnemonic() == Mnemonic::Call {
        let old = c.s.segments[CS].selector;
        // The selector is pushed first: its place faults first.
        for pushed in 1..=2 {
            let at = c.stack_address(c.gpr[RSP].wrapping_sub(pushed * size as u64), size);
            c.check_write(at, size)?;
        }
        c.push(size, old.into())?;
        c.push(size, c.next_rip)?;
    }
    c.set_code(cs, cpl);
    Ok(Flow::Jump(offset))
}

/// MOV and POP to a segment register.
pub(in crate::software) fn load_segment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let number = segment_number(i.op0_register());
    if number == CS {
        return Err(Fault::ud());
    }
    if i.mnemonic() == Mnemonic::Pop {
        let size = i.stack_pointer_increment().unsigned_abs();
        let selector = c.peek(0, 2)? as u16;
        c.load_segment(number, selector)?;
        c.set_stack(c.gpr[RSP].wrapping_add(size.into()));
    } else {
        let selector = c.get(i, 1)? as u16;
        c.load_segment(number, selector)?;
    }
    if number == SS {
        c.s.interrupt_shadow = true;
        return Ok(Flow::Boundary);
    }
    Ok(Flow::Next)
}

/// MOV from a segment register.
pub(in crate::software) fn store_segment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let selector = c.s.segments[segment_number(i.op1_register())].selector;
    if i.op_kind(0) == OpKind::Memory {
        let at = c.linear(i);
        c.write(at, 2, selector.into())?;
    } else {
        c.set(i, 0, selector.into())?;
    }
    Ok(Flow::Next)
}

/// LTR, LLDT.
pub(in crate::software) fn load_system_segment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.privileged()?;
    let selector = c.get(i, 0)? as u16;
    if i.mnemonic() == Mnemonic::Lldt {
        c.s.ldtr = if selector & 0xFFFC == 0 {
            Segment { selector, ..Segment::default() }
        } else {
            c.system_segment(selector, 2)?.2
        };
        return Ok(Flow::Next);
    }
    let (at, raw, mut segment) = c.system_segment(selector, 9)?;
    c.write_view(SUPERVISOR, at.wrapping_add(5), 1, (raw >> 40 & 0xFF) | 2)?;
    segment.attributes |= 2;
    c.s.tr = segment;
    Ok(Flow::Next)
}

/// STR, SLDT.
pub(in crate::software) fn store_system_segment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let selector = if i.mnemonic() == Mnemonic::Str { c.s.tr.selector } else { c.s.ldtr.selector };
    if i.op_kind(0) == OpKind::Memory {
        let at = c.linear(i);
        c.write(at, 2, selector.into())?;
    } else {
        c.set(i, 0, selector.into())?;
    }
    Ok(Flow::Next)
}
