//! The rest of the integer instructions, interpreted.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::operand::{register_offset, size_of_operand};
use super::{interpret, next};
use crate::software::block::Flow;
use crate::software::cpu::{Cpu, Fast, Int, address, reg};
use crate::software::fault::Fault;
use crate::software::flags::{AF, CF, DF, Lazy, OF, PF, SF, ZF};
use crate::software::op::Op;
use crate::software::tlb::{fast_write, mask};

/// Compares as CMP does.
pub(in crate::software) fn compare(flags: &mut Lazy, size: usize, a: u64, b: u64) {
    match size {
        1 => flags.sub(a as u8, b as u8, (a as u8).wrapping_sub(b as u8)),
        2 => flags.sub(a as u16, b as u16, (a as u16).wrapping_sub(b as u16)),
        4 => flags.sub(a as u32, b as u32, (a as u32).wrapping_sub(b as u32)),
        _ => flags.sub(a, b, a.wrapping_sub(b)),
    }
}

/// CMPXCHG. The memory operand is written in every case, as on silicon.
pub(in crate::software) fn cmpxchg(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let old = c.get_modify(i, 0)?;
    let new = c.get(i, 1)?;
    let expected = c.gpr[0] & mask(size);
    if old == expected {
        c.set(i, 0, new)?;
    } else {
        if i.op_kind(0) == OpKind::Memory {
            c.set(i, 0, old)?;
        }
        c.set_at(0, size, old);
    }
    compare(&mut c.flags, size, expected, old);
    Ok(Flow::Next)
}

/// CMPXCHG of plain memory that the TLB matches, with a register (reg). `imm` is the interpreted form, for all else.
pub(in crate::software) unsafe extern "C" fn compare_exchange_m<T: Int>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; a matching TLB entry maps the whole operand.
    unsafe {
        let at = address::<Fast>(cpu, op, T::SIZE);
        let Some(place) = fast_write(cpu, at, T::SIZE) else { return interpret(cpu, op) };
        let place = place.cast::<T>();
        let (old, expected) = (place.read_unaligned(), reg::<T>(cpu, 0));
        if old == expected {
            place.write_unaligned(reg::<T>(cpu, (*op).reg));
        } else {
            old.write(cpu, 0);
        }
        (*cpu).flags.sub(expected, old, expected.wsub(old));
        next::<Fast>(cpu, op)
    }
}

/// CMPXCHG8B, CMPXCHG16B.
pub(in crate::software) fn cmpxchg_pair(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let half = if i.mnemonic() == Mnemonic::Cmpxchg16b { 8 } else { 4 };
    let at = c.linear(i);
    if half == 8 && at & 15 != 0 {
        return Err(Fault::gp());
    }
    c.check_write(at, half * 2)?;
    let upper = c.wrap(at.wrapping_add(half as u64));
    let (low, high) = (c.read(at, half)?, c.read(upper, half)?);
    let m = mask(half);
    let equal = low == c.gpr[0] & m && high == c.gpr[2] & m;
    let (new_low, new_high) = if equal { (c.gpr[3] & m, c.gpr[1] & m) } else { (low, high) };
    c.write(at, half, new_low)?;
    c.write(upper, half, new_high)?;
    if !equal {
        c.set_at(0, half, low);
        c.set_at(16, half, high);
    }
    let flags = c.flags.bits() & !ZF | (u64::from(equal) * ZF);
    c.flags.set_bits(flags);
    Ok(Flow::Next)
}

/// XADD.
pub(in crate::software) fn xadd(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let a = c.get_modify(i, 0)?;
    let b = c.get(i, 1)?;
    let sum = a.wrapping_add(b) & mask(size);
    if i.op_kind(0) == OpKind::Memory {
        c.set(i, 0, sum)?;
        c.set(i, 1, a)?;
    } else {
        c.set(i, 1, a)?;
        c.set(i, 0, sum)?;
    }
    match size {
        1 => c.flags.add(a as u8, b as u8, sum as u8),
        2 => c.flags.add(a as u16, b as u16, sum as u16),
        4 => c.flags.add(a as u32, b as u32, sum as u32),
        _ => c.flags.add(a, b, sum),
    }
    Ok(Flow::Next)
}

/// BSWAP; of 16 bits it clears them, as silicon does.
pub(in crate::software) fn bswap(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.get(i, 0)?;
    let swapped = match size_of_operand(i, 0) {
        2 => 0,
        4 => u64::from((value as u32).swap_bytes()),
        _ => value.swap_bytes(),
    };
    c.set(i, 0, swapped)?;
    Ok(Flow::Next)
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub(in crate::software) fn widen(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let a = c.gpr[0];
    match i.mnemonic() {
        Mnemonic::Cbw => c.set_at(0, 2, a as i8 as u64),
        Mnemonic::Cwde => c.set_at(0, 4, a as i16 as u64),
        Mnemonic::Cdqe => c.set_at(0, 8, a as i32 as u64),
        Mnemonic::Cwd => c.set_at(16, 2, ((a as i16) >> 15) as u64),
        Mnemonic::Cdq => c.set_at(16, 4, ((a as i32) >> 31) as u64),
        _ => c.set_at(16, 8, ((a as i64) >> 63) as u64),
    }
    Ok(Flow::Next)
}

/// CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC.
pub(in crate::software) fn flag(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let bits = c.flags.bits();
    match i.mnemonic() {
        Mnemonic::Clc => c.flags.set_bits(bits & !CF),
        Mnemonic::Stc => c.flags.set_bits(bits | CF),
        Mnemonic::Cmc => c.flags.set_bits(bits ^ CF),
        Mnemonic::Cld => c.system_flags &= !DF,
        Mnemonic::Std => c.system_flags |= DF,
        Mnemonic::Lahf => c.set_at(1, 1, bits & (CF | PF | AF | ZF | SF) | 2),
        _ => {
            let ah = c.gpr[0] >> 8 & (CF | PF | AF | ZF | SF);
            c.flags.set_bits(bits & OF | ah);
        }
    }
    Ok(Flow::Next)
}

/// XLATB.
pub(in crate::software) fn xlat(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let base = match i.memory_base() {
        Register::BX => Register::BX,
        Register::EBX => Register::EBX,
        _ => Register::RBX,
    };
    let offset = c.register(base).wrapping_add(c.gpr[0] & 0xFF) & mask(base.size());
    let at = c.in_segment(super::operand::segment_number(i.memory_segment()), offset, 1);
    let value = c.read(at, 1)?;
    c.set_at(0, 1, value);
    Ok(Flow::Next)
}

/// LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ.
pub(in crate::software) fn count_branch(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use iced_x86::Code;
    let size = match i.code() {
        Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32 => 2,
        Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64 => 8,
        _ => 4,
    };
    let mut count = c.gpr[1] & mask(size);
    let taken = match i.mnemonic() {
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => count == 0,
        loop_kind => {
            count = count.wrapping_sub(1) & mask(size);
            c.set_at(8, size, count);
            count != 0
                && match loop_kind {
                    Mnemonic::Loope => c.flags.zf(),
                    Mnemonic::Loopne => !c.flags.zf(),
                    _ => true,
                }
        }
    };
    Ok(if taken { Flow::Jump(super::stack::near_target(c, i)) } else { Flow::Jump(c.next_rip) })
}

/// Jcc with a 16-bit operand size: EIP is cut to 16 bits.
pub(in crate::software) fn short_branch(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let taken = c.holds(crate::software::decode::condition(i));
    Ok(Flow::Jump(if taken { super::stack::near_target(c, i) } else { c.next_rip }))
}

/// SETcc with an address that the fast handlers do not take.
pub(in crate::software) fn set_if(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.holds(crate::software::decode::condition(i));
    c.set(i, 0, value.into())?;
    Ok(Flow::Next)
}

/// CMOVcc likewise: the source is read, and a 32-bit destination cut, whatever the condition.
pub(in crate::software) fn move_if(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let source = c.get(i, 1)?;
    let value = if c.holds(crate::software::decode::condition(i)) { source } else { c.get(i, 0)? };
    c.set(i, 0, value)?;
    Ok(Flow::Next)
}

impl Cpu {
    /// Whether a condition (the low four bits of the opcode) holds.
    fn holds(&self, condition: u8) -> bool {
        use crate::software::flags::condition as test;
        let table: [fn(&Lazy) -> bool; 16] = [
            test::<0>, test::<1>, test::<2>, test::<3>, test::<4>, test::<5>, test::<6>, test::<7>,
            test::<8>, test::<9>, test::<10>, test::<11>, test::<12>, test::<13>, test::<14>, test::<15>,
        ];
        table[usize::from(condition & 15)](&self.flags)
    }
}

/// MOV and arithmetic in the few forms that the fast handlers leave out: moffs, and moves of segment registers.
pub(in crate::software) fn mov_offset(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.get(i, 1)?;
    c.set(i, 0, value)?;
    Ok(Flow::Next)
}

/// What the engine does not know: it is noted for the operator, and #UD.
pub(in crate::software) fn unimplemented(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let mut bytes = String::new();
    for n in 0..i.len() as u64 {
        let at = c.rip.wrapping_add(n);
        let byte = c.read(at, 1).unwrap_or(0);
        bytes.push_str(&format!("{byte:02x}"));
    }
    c.note(&format!("{:?} ({:?}), bytes {bytes}", i.mnemonic(), i.code()));
    Err(Fault::ud())
}

/// An encoding that no x86-64 processor of this model has.
pub(in crate::software) fn undefined(_: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    Err(Fault::ud())
}

/// CRC32 (SSE4.2).
pub(in crate::software) fn crc32(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 1);
    let source = c.get(i, 1)?;
    let mut crc = c.gpr[register_offset(i.op0_register()) as usize / 8] as u32;
    for byte in &source.to_le_bytes()[..size] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    c.set(i, 0, crc.into())?;
    Ok(Flow::Next)
}

/// LEA with a rare address.
pub(in crate::software) fn lea(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.effective(i);
    c.set(i, 0, value)?;
    Ok(Flow::Next)
}

/// MOVZX, MOVSX, MOVSXD with a rare address.
pub(in crate::software) fn extend(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let value = c.get(i, 1)?;
    let unused = 64 - 8 * size_of_operand(i, 1) as u32;
    let signed = i.mnemonic() != Mnemonic::Movzx;
    c.set(i, 0, if signed { ((value << unused) as i64 >> unused) as u64 } else { value })?;
    Ok(Flow::Next)
}

/// Arithmetic, logic and shifts with an address that the fast handlers do not take (16 bits wide, say).
pub(in crate::software) fn rare_form(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    match size_of_operand(i, 0) {
        1 => rare::<u8>(c, i),
        2 => rare::<u16>(c, i),
        4 => rare::<u32>(c, i),
        _ => rare::<u64>(c, i),
    }
}

fn rare<T: Int>(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use super::alu::{Adc, Add, Alu, And, Cmp, Dec, Inc, Neg, Not, Or, Sbb, Sub, Test, Unary, Xor};
    use super::shift::{Rcl, Rcr, Rol, Ror, Sar, Shift, Shl, Shr};
    let reads_only = matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
    let a = T::from64(if reads_only { c.get(i, 0)? } else { c.get_modify(i, 0)? });
    let second = if i.op_count() > 1 { c.get(i, 1)? } else { 0 };
    let b = T::from64(second);
    let count = second as u32 & if T::BITS == 64 { 63 } else { 31 };
    let flags = &mut c.flags;
    let result = match i.mnemonic() {
        Mnemonic::Add => Add::run(flags, a, b),
        Mnemonic::Or => Or::run(flags, a, b),
        Mnemonic::Adc => Adc::run(flags, a, b),
        Mnemonic::Sbb => Sbb::run(flags, a, b),
        Mnemonic::And => And::run(flags, a, b),
        Mnemonic::Sub => Sub::run(flags, a, b),
        Mnemonic::Xor => Xor::run(flags, a, b),
        Mnemonic::Cmp => Cmp::run(flags, a, b),
        Mnemonic::Test => Test::run(flags, a, b),
        Mnemonic::Inc => Inc::run(flags, a),
        Mnemonic::Dec => Dec::run(flags, a),
        Mnemonic::Neg => Neg::run(flags, a),
        Mnemonic::Not => Not::run(flags, a),
        Mnemonic::Xchg => {
            c.set(i, 0, b.zext())?;
            c.set(i, 1, a.zext())?;
            return Ok(Flow::Next);
        }
        _ if count == 0 => a,
        Mnemonic::Rol => Rol::run(flags, a, count),
        Mnemonic::Ror => Ror::run(flags, a, count),
        Mnemonic::Rcl => Rcl::run(flags, a, count),
        Mnemonic::Rcr => Rcr::run(flags, a, count),
        Mnemonic::Shr => Shr::run(flags, a, count),
        Mnemonic::Sar => Sar::run(flags, a, count),
        _ => Shl::run(flags, a, count),
    };
    if !reads_only {
        c.set(i, 0, result.zext())?;
    }
    Ok(Flow::Next)
}
