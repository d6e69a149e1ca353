//! Multiplication and division.

use iced_x86::Instruction;

use super::operand::size_of_operand;
use super::{load, next};
use crate::software::block::Flow;
use crate::software::cpu::{Cpu, Fast, Form, Int, Slow, address, reg};
use crate::software::fault::{DE, Fault};
use crate::software::flags::{CF, Lazy, OF};
use crate::software::op::Op;
use crate::software::tlb::load;

/// The low half of a signed product, with CF and OF telling whether it is all of it.
#[inline(always)]
pub(super) fn imul<T: Int>(flags: &mut Lazy, a: T, b: T) -> T {
    let result;
    let over;
    if T::BITS == 64 {
        let (low, overflow) = (a.sext() as i64).overflowing_mul(b.sext() as i64);
        result = T::from64(low as u64);
        over = overflow;
    } else {
        let wide = (a.sext() as i64).wrapping_mul(b.sext() as i64);
        result = T::from64(wide as u64);
        over = result.sext() != wide as u64;
    }
    flags.result(result, u64::from(over) * (CF | OF));
    result
}

/// IMUL register (base) by register.
pub(in crate::software) unsafe extern "C" fn imul_rr<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        imul::<T>(&mut (*cpu).flags, reg(cpu, (*op).base), reg(cpu, (*op).reg)).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// IMUL register (base) from register (reg) by immediate.
pub(in crate::software) unsafe extern "C" fn imul_rri<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as imul_rr.
    unsafe {
        imul::<T>(&mut (*cpu).flags, reg(cpu, (*op).reg), T::from64((*op).imm)).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// IMUL register (reg) by memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn imul_rm<T: Int, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as imul_rr.
    unsafe {
        let b = load!(load::<F, T>(cpu, address::<F>(cpu, op, T::SIZE)), F, cpu, op, imul_rm::<T, Slow>);
        imul::<T>(&mut (*cpu).flags, reg(cpu, (*op).reg), b).write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// IMUL register (reg) from memory by immediate.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn imul_rmi<T: Int, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as imul_rr.
    unsafe {
        let a = load!(load::<F, T>(cpu, address::<F>(cpu, op, T::SIZE)), F, cpu, op, imul_rmi::<T, Slow>);
        imul::<T>(&mut (*cpu).flags, a, T::from64((*op).imm)).write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// IMUL of two or three operands with an address that the fast handlers do not take.
pub(in crate::software) fn imul_rare(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let (first, second) = if i.op_count() == 2 { (0, 1) } else { (1, 2) };
    let (a, b) = (c.get(i, first)?, c.get(i, second)?);
    let flags = &mut c.flags;
    let product = match size {
        2 => imul(flags, a as u16, b as u16).into(),
        4 => imul(flags, a as u32, b as u32).into(),
        _ => imul(flags, a, b),
    };
    c.set(i, 0, product)?;
    Ok(Flow::Next)
}

/// MUL r64 (reg): the common one of the one-operand forms.
pub(in crate::software) unsafe extern "C" fn mul64(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as imul_rr.
    unsafe {
        let c = &mut *cpu;
        let wide = u128::from(c.gpr[0]) * u128::from(reg::<u64>(cpu, (*op).reg));
        c.gpr[0] = wide as u64;
        c.gpr[2] = (wide >> 64) as u64;
        c.flags.result(wide as u64, u64::from(wide >> 64 != 0) * (CF | OF));
        next::<Fast>(cpu, op)
    }
}

impl Cpu {
    /// RDX:RAX of an operand size (AX for bytes).
    fn wide(&self, size: usize) -> u128 {
        let (a, d) = (self.gpr[0], self.gpr[2]);
        match size {
            1 => u128::from(a as u16),
            2 => u128::from((a as u16 as u32) | (d as u16 as u32) << 16),
            4 => u128::from((a as u32 as u64) | d << 32),
            _ => u128::from(a) | u128::from(d) << 64,
        }
    }

    /// Writes the two halves of a product, or quotient and remainder.
    fn set_halves(&mut self, size: usize, low: u64, high: u64) {
        if size == 1 {
            self.set_at(0, 2, low & 0xFF | (high & 0xFF) << 8);
        } else {
            self.set_at(0, size, low);
            self.set_at(16, size, high);
        }
    }
}

fn set_product_flags(flags: &mut Lazy, size: usize, low: u64, over: bool) {
    let explicit = u64::from(over) * (CF | OF);
    match size {
        1 => flags.result(low as u8, explicit),
        2 => flags.result(low as u16, explicit),
        4 => flags.result(low as u32, explicit),
        _ => flags.result(low, explicit),
    }
}

fn sign(value: u64, size: usize) -> i64 {
    let unused = 64 - 8 * size as u32;
    ((value << unused) as i64) >> unused
}

/// MUL.
pub(in crate::software) fn mul(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let b = c.get(i, 0)?;
    let a = c.gpr[0] & crate::software::tlb::mask(size);
    let wide = u128::from(a) * u128::from(b);
    let high = (wide >> (8 * size)) as u64;
    c.set_halves(size, wide as u64, high);
    set_product_flags(&mut c.flags, size, wide as u64, high != 0);
    Ok(Flow::Next)
}

/// One-operand IMUL.
pub(in crate::software) fn imul_wide(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let b = c.get(i, 0)?;
    let wide = i128::from(sign(c.gpr[0], size)) * i128::from(sign(b, size));
    c.set_halves(size, wide as u64, (wide >> (8 * size)) as u64);
    set_product_flags(&mut c.flags, size, wide as u64, wide != i128::from(sign(wide as u64, size)));
    Ok(Flow::Next)
}

/// DIV.
pub(in crate::software) fn div(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let divisor = c.get(i, 0)?;
    if divisor == 0 {
        return Err(Fault::new(DE));
    }
    let dividend = c.wide(size);
    if dividend >> 64 == 0 {
        // The host divides 64 bits much faster than 128.
        let (quotient, remainder) = (dividend as u64 / divisor, dividend as u64 % divisor);
        if quotient > crate::software::tlb::mask(size) {
            return Err(Fault::new(DE));
        }
        c.set_halves(size, quotient, remainder);
        return Ok(Flow::Next);
    }
    let quotient = dividend / u128::from(divisor);
    if quotient > u128::from(u64::MAX) {
        return Err(Fault::new(DE));
    }
    c.set_halves(size, quotient as u64, (dividend % u128::from(divisor)) as u64);
    Ok(Flow::Next)
}

/// IDIV.
pub(in crate::software) fn idiv(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = size_of_operand(i, 0);
    let divisor = i128::from(sign(c.get(i, 0)?, size));
    let unused = 128 - 16 * size as u32;
    let dividend = ((c.wide(size) << unused) as i128) >> unused;
    let (Some(quotient), Some(remainder)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(Fault::new(DE));
    };
    if quotient != i128::from(sign(quotient as u64, size)) {
        return Err(Fault::new(DE));
    }
    c.set_halves(size, quotient as u64, remainder as u64);
    Ok(Flow::Next)
}
