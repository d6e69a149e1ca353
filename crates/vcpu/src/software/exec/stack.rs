//! Stack instructions and near transfers in the forms that the fast handlers leave out (16-bit operands, 32-bit mode).

use iced_x86::{Instruction, OpKind};

use super::operand::segment_number;
use crate::software::block::Flow;
use crate::software::cpu::{Cpu, RSP};
use crate::software::fault::Fault;
use crate::software::flags::{AC, ARITHMETIC, ID, IF, IOPL, NT, RF, TF, VM};
use crate::software::tlb::mask;

/// Where a near branch goes: the instruction was decoded with its page at 0.
pub(in crate::software) fn near_target(c: &Cpu, i: &Instruction) -> u64 {
    match i.op_kind(0) {
        OpKind::NearBranch16 => c.gpr[17].wrapping_add(u64::from(i.near_branch16())) & 0xFFFF,
        OpKind::NearBranch32 => c.gpr[17].wrapping_add(u64::from(i.near_branch32())) & 0xFFFF_FFFF,
        _ => c.gpr[17].wrapping_add(i.near_branch64()),
    }
}

/// Bytes that a stack instruction moves: what the decoder says the stack pointer changes by.
fn moved(i: &Instruction) -> usize {
    i.stack_pointer_increment().unsigned_abs() as usize
}

/// PUSH of anything.
pub(in crate::software) fn push(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = if i.op_kind(0) == OpKind::Register && i.op0_register().is_segment_register() {
        c.s.segments[segment_number(i.op0_register())].selector.into()
    } else {
        c.get(i, 0)?
    };
    c.push(moved(i), value)?;
    Ok(Flow::Next)
}

/// POP to anything but a segment register.
pub(in crate::software) fn pop(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = moved(i);
    let value = c.peek(0, size)?;
    let before = c.gpr[RSP];
    // The address of a memory operand is computed with the stack pointer already moved.
    c.set_stack(before.wrapping_add(size as u64));
    if i.op_kind(0) == OpKind::Register {
        c.set_register(i.op0_register(), value);
        return Ok(Flow::Next);
    }
    if let Err(fault) = c.set(i, 0, value) {
        c.gpr[RSP] = before;
        return Err(fault);
    }
    Ok(Flow::Next)
}

/// PUSHA, PUSHAD.
pub(in crate::software) fn pusha(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = moved(i) / 8;
    let bottom = c.gpr[RSP].wrapping_sub(8 * size as u64);
    let at = c.stack_address(bottom, 8 * size);
    c.check_write(at, 8 * size)?;
    let values: [u64; 8] = std::array::from_fn(|n| c.gpr[n]);
    for value in values {
        c.push(size, value)?;
    }
    Ok(Flow::Next)
}

/// POPA, POPAD.
pub(in crate::software) fn popa(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = moved(i) / 8;
    let mut values = [0; 8];
    for (n, value) in values.iter_mut().enumerate() {
        *value = c.peek((n * size) as u64, size)?;
    }
    for (n, value) in values.into_iter().enumerate() {
        if 7 - n != RSP {
            c.set_at((7 - n) as u8 * 8, size, value);
        }
    }
    c.set_stack(c.gpr[RSP].wrapping_add(8 * size as u64));
    Ok(Flow::Next)
}

/// PUSHF.
pub(in crate::software) fn pushf(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.rflags() & !(RF | VM);
    c.push(moved(i), value)?;
    Ok(Flow::Next)
}

/// POPF.
pub(in crate::software) fn popf(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = moved(i);
    let value = c.pop(size)?;
    c.load_flags(value, size);
    Ok(Flow::Boundary)
}

impl Cpu {
    /// Replaces the flags that POPF and IRET of an operand size may change at this privilege level.
    pub(in crate::software) fn load_flags(&mut self, value: u64, size: usize) {
        let cpl = self.cpl();
        let iopl = (self.system_flags >> 12 & 3) as u8;
        let mut change = ARITHMETIC | TF | crate::software::flags::DF | NT | AC | ID;
        if cpl == 0 {
            change |= IOPL;
        }
        if cpl <= iopl {
            change |= IF;
        }
        change &= mask(size);
        let merged = self.rflags() & !change & !RF | value & change;
        self.set_rflags(merged);
        self.update_mode();
    }
}

/// ENTER.
pub(in crate::software) fn enter(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = match i.code() {
        iced_x86::Code::Enterw_imm16_imm8 => 2,
        _ if c.long64() => 8,
        _ => 4,
    };
    let locals = u64::from(i.immediate16());
    let levels = u64::from(i.immediate8_2nd() & 31);
    let step = size as u64;
    let (rsp, rbp) = (c.gpr[RSP], c.gpr[5]);
    let frame = rsp.wrapping_sub(step);
    // Everything is checked before anything changes: ENTER must restart.
    let depth = step * (levels + 1);
    for slot in 0..=levels {
        let at = c.stack_address(rsp.wrapping_sub(step * (slot + 1)), size);
        c.check_write(at, size)?;
    }
    let end = c.stack_address(rsp.wrapping_sub(depth + locals), size);
    c.check_write(end, size)?;
    for level in 1..levels {
        let at = c.stack_address(rbp.wrapping_sub(step * level), size);
        c.read(at, size)?;
    }
    c.push(size, rbp)?;
    // The frames may overlap: what was pushed is read again.
    for level in 1..levels {
        let at = c.stack_address(rbp.wrapping_sub(step * level), size);
        let pointer = c.read(at, size)?;
        c.push(size, pointer)?;
    }
    if levels > 0 {
        c.push(size, frame)?;
    }
    let wide = if c.long64() { 8 } else { size };
    c.set_at(5 * 8, wide.min(if size == 2 { 2 } else { 8 }), frame & c.stack_mask());
    let top = c.gpr[RSP].wrapping_sub(locals);
    c.set_stack(top);
    Ok(Flow::Next)
}

/// LEAVE.
pub(in crate::software) fn leave(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = match i.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    };
    let frame = c.gpr[5] & c.stack_mask();
    let at = c.stack_address(frame, size);
    let value = c.read(at, size)?;
    c.set_stack(frame.wrapping_add(size as u64));
    c.set_at(5 * 8, size, value);
    Ok(Flow::Next)
}

/// Near CALL.
pub(in crate::software) fn call(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = moved(i);
    let target = near_operand(c, i)?;
    c.push(size, c.next_rip)?;
    Ok(Flow::Jump(target))
}

/// Near JMP through a register or memory.
pub(in crate::software) fn jump(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    Ok(Flow::Jump(near_operand(c, i)?))
}

/// Near RET.
pub(in crate::software) fn ret(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let more = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
    let size = match i.code() {
        iced_x86::Code::Retnw | iced_x86::Code::Retnw_imm16 => 2,
        iced_x86::Code::Retnd | iced_x86::Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let target = c.pop(size)?;
    c.set_stack(c.gpr[RSP].wrapping_add(more));
    Ok(Flow::Jump(target))
}

fn near_operand(c: &mut Cpu, i: &Instruction) -> Result<u64, Fault> {
    match i.op_kind(0) {
        OpKind::Register | OpKind::Memory => c.get(i, 0),
        _ => Ok(near_target(c, i)),
    }
}
