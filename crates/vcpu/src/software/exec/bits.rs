//! Bit tests, bit scans, counts.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::next;
use super::operand::size_of_operand;
use super::shift::double;
use crate::software::block::Flow;
use crate::software::cpu::{Cpu, Fast, Int, reg};
use crate::software::fault::Fault;
use crate::software::flags::{CF, Lazy, ZF};
use crate::software::op::Op;
use crate::software::tlb::mask;

/// BT, BTS, BTR, BTC. A bit number in a register may lie anywhere around the memory operand.
pub(in crate::software) fn bit_test(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let bits = size as u64 * 8;
    let write = i.mnemonic() != Mnemonic::Bt;
    let number = c.get(i, 1)?;
    let mut at = None;
    let value = if i.op_kind(0) == OpKind::Memory {
        let mut away = 0;
        if i.op_kind(1) == OpKind::Register {
            let unused = 64 - bits as u32;
            let signed = ((number << unused) as i64) >> unused;
            away = (signed >> bits.ilog2()).wrapping_mul(size as i64) as u64;
        }
        let place = c.linear_from(i, away, size as u64);
        at = Some(place);
        if write {
            c.check_write(place, size)?;
        }
        c.read(place, size)?
    } else {
        c.get(i, 0)?
    };
    let bit = 1_u64 << (number & (bits - 1));
    let result = match i.mnemonic() {
        Mnemonic::Bts => value | bit,
        Mnemonic::Btr => value & !bit,
        Mnemonic::Btc => value ^ bit,
        _ => value,
    };
    match at {
        _ if !write => {}
        Some(place) => c.write(place, size, result)?,
        None => c.set(i, 0, result)?,
    }
    let flags = c.flags.bits() & !CF | (u64::from(value & bit != 0) * CF);
    c.flags.set_bits(flags);
    Ok(Flow::Next)
}

#[inline(always)]
unsafe fn test_bit<T: Int>(cpu: *mut Cpu, op: *const Op, number: u64) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        let set = reg::<T>(cpu, (*op).base).zext() >> (number & u64::from(T::BITS - 1)) & 1;
        let flags = &mut (*cpu).flags;
        flags.replace(CF, set);
        next::<Fast>(cpu, op)
    }
}

/// BT of a register (base) by a register.
pub(in crate::software) unsafe extern "C" fn bit_rr<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as test_bit.
    unsafe { test_bit::<T>(cpu, op, reg::<T>(cpu, (*op).reg).zext()) }
}

/// BT of a register (base) by an immediate.
pub(in crate::software) unsafe extern "C" fn bit_ri<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as test_bit.
    unsafe { test_bit::<T>(cpu, op, (*op).imm) }
}

fn logic_flags(flags: &mut Lazy, result: u64, zero: bool) {
    flags.logic(result);
    let bits = flags.bits() & !ZF | (u64::from(zero) * ZF);
    flags.set_bits(bits);
}

/// BSF or TZCNT (`FORWARD`), BSR or LZCNT, of a register (reg) to a register (base).
pub(in crate::software) unsafe extern "C" fn scan_rr<T: Int, const FORWARD: bool>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as test_bit.
    unsafe {
        let source = reg::<T>(cpu, (*op).reg).zext();
        let flags = &mut (*cpu).flags;
        if source == 0 {
            logic_flags(flags, 0, true);
        } else {
            let result = if FORWARD { source.trailing_zeros() } else { 63 - source.leading_zeros() };
            logic_flags(flags, result.into(), false);
            T::from64(result.into()).write(cpu, (*op).base);
        }
        next::<Fast>(cpu, op)
    }
}

/// BSF, BSR; and TZCNT, LZCNT, which are the same on a processor without BMI. A zero source leaves the destination alone.
pub(in crate::software) fn bit_scan(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let source = c.get(i, 1)?;
    if source != 0 {
        let forward = matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Tzcnt);
        let result = if forward { source.trailing_zeros() } else { 63 - source.leading_zeros() };
        c.set(i, 0, result.into())?;
        logic_flags(&mut c.flags, result.into(), false);
    } else {
        logic_flags(&mut c.flags, 0, true);
    }
    Ok(Flow::Next)
}

/// POPCNT: all flags 0 but ZF.
pub(in crate::software) fn popcnt(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let source = c.get(i, 1)?;
    c.set(i, 0, source.count_ones().into())?;
    c.flags.set_bits(u64::from(source == 0) * ZF);
    Ok(Flow::Next)
}

/// SHLD, SHRD.
pub(in crate::software) fn double_shift(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let a = c.get_modify(i, 0)?;
    let b = c.get(i, 1)?;
    let count = c.get(i, 2)? as u32 & if size == 8 { 63 } else { 31 };
    let mut result = a;
    if count != 0 {
        let left = i.mnemonic() == Mnemonic::Shld;
        result = double(&mut c.flags, left, size as u32 * 8, a, b, count) & mask(size);
    }
    c.set(i, 0, result)?;
    Ok(Flow::Next)
}
