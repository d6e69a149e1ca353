//! Shifts and rotates.

use super::{load, next};
use crate::software::cpu::{Cpu, Fast, Form, Int, Slow, address, reg};
use crate::software::flags::{CF, Lazy, OF};
use crate::software::op::Op;
use crate::software::tlb::{modify_load, modify_store};

/// A shift or rotate by a count that is masked already and not 0.
pub(in crate::software) trait Shift: 'static {
    fn run<T: Int>(flags: &mut Lazy, a: T, count: u32) -> T;
}

fn top<T: Int>(value: T) -> u64 {
    value.sext() >> 63
}

macro_rules! shift {
    ($name:ident, $t:ident, $flags:ident, $a:ident, $n:ident, $body:expr) => {
        #[derive(Debug)]
        pub(in crate::software) struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn run<$t: Int>($flags: &mut Lazy, $a: $t, $n: u32) -> $t {
                $body
            }
        }
    };
}

shift!(Shl, T, flags, a, n, {
    let wide = u128::from(a.zext()) << n;
    let result = T::from64(wide as u64);
    let carry = (wide >> T::BITS) as u64 & 1;
    flags.result(result, (carry * CF) | ((top(result) ^ carry) * OF));
    result
});
shift!(Shr, T, flags, a, n, {
    let result = T::from64(if n >= 64 { 0 } else { a.zext() >> n });
    let carry = (a.zext() >> (n - 1)) & 1;
    // OF is the sign of the operand before the last step.
    let overflow = if n == 1 { top(a) } else { 0 };
    flags.result(result, (carry * CF) | (overflow * OF));
    result
});
shift!(Sar, T, flags, a, n, {
    let result = a.sar(n);
    let carry = ((a.sext() as i64) >> (n - 1).min(63)) as u64 & 1;
    flags.result(result, carry * CF);
    result
});

/// Replaces CF and OF only.
#[inline(always)]
fn rotate_flags(flags: &mut Lazy, carry: u64, overflow: u64) {
    flags.replace(CF | OF, (carry * CF) | (overflow * OF));
}

shift!(Rol, T, flags, a, n, {
    let result = a.rol(n % T::BITS);
    let carry = result.zext() & 1;
    rotate_flags(flags, carry, top(result) ^ carry);
    result
});
shift!(Ror, T, flags, a, n, {
    let result = a.ror(n % T::BITS);
    rotate_flags(flags, top(result), (top(result) ^ result.zext() >> (T::BITS - 2)) & 1);
    result
});
shift!(Rcl, T, flags, a, n, {
    let n = n % (T::BITS + 1);
    let carry = u64::from(flags.cf());
    if n == 0 {
        rotate_flags(flags, carry, top(a) ^ carry);
        return a;
    }
    let wide = u128::from(a.zext()) | u128::from(carry) << T::BITS;
    let turned = wide << n | wide >> (T::BITS + 1 - n);
    let result = T::from64(turned as u64);
    let carry = (turned >> T::BITS) as u64 & 1;
    rotate_flags(flags, carry, top(result) ^ carry);
    result
});
shift!(Rcr, T, flags, a, n, {
    let n = n % (T::BITS + 1);
    let carry = u64::from(flags.cf());
    let wide = u128::from(a.zext()) | u128::from(carry) << T::BITS;
    let turned = if n == 0 { wide } else { wide >> n | wide << (T::BITS + 1 - n) };
    let result = T::from64(turned as u64);
    let carry = (turned >> T::BITS) as u64 & 1;
    rotate_flags(flags, carry, (top(result) ^ result.zext() >> (T::BITS - 2)) & 1);
    result
});

#[inline(always)]
fn count_mask<T: Int>() -> u32 {
    if T::BITS == 64 { 63 } else { 31 }
}

/// Register (base) by an immediate that is masked and not 0.
pub(in crate::software) unsafe extern "C" fn r_imm<T: Int, S: Shift>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        S::run::<T>(&mut (*cpu).flags, reg(cpu, (*op).base), (*op).imm as u32).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// Register (base) by CL.
pub(in crate::software) unsafe extern "C" fn r_cl<T: Int, S: Shift>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as r_imm.
    unsafe {
        let count = (*cpu).gpr[1] as u32 & count_mask::<T>();
        let a: T = reg(cpu, (*op).base);
        // A 32-bit destination is cut to 32 bits even by a count of 0.
        let result = if count == 0 { a } else { S::run::<T>(&mut (*cpu).flags, a, count) };
        result.write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// Memory by an immediate (`imm`) or, if `imm` is 256, by CL.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn m<T: Int, S: Shift, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as r_imm.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        let (a, host) = load!(modify_load::<F, T>(cpu, at), F, cpu, op, m::<T, S, Slow>);
        let count = if (*op).imm == 256 { (*cpu).gpr[1] } else { (*op).imm };
        let count = count as u32 & count_mask::<T>();
        let result = if count == 0 { a } else { S::run::<T>(&mut (*cpu).flags, a, count) };
        modify_store::<F, T>(cpu, at, host, result);
        next::<F>(cpu, op)
    }
}

/// SHLD and SHRD: the result and its flags. `count` is masked, and not 0.
pub(in crate::software) fn double(
    flags: &mut Lazy,
    left: bool,
    bits: u32,
    a: u64,
    b: u64,
    count: u32,
) -> u64 {
    fn set(flags: &mut Lazy, bits: u32, result: u64, explicit: u64) {
        match bits {
            16 => flags.result(result as u16, explicit),
            32 => flags.result(result as u32, explicit),
            _ => flags.result(result, explicit),
        }
    }
    // A 16-bit shift by more than 16 goes on with the destination's own bits, as silicon does.
    let (result, carry);
    let one = |value: u64| value >> (bits - 1) & 1;
    if left {
        let triple = if bits == 64 {
            u128::from(a) << 64 | u128::from(b)
        } else {
            u128::from(a) << (2 * bits) | u128::from(b) << bits | u128::from(a)
        };
        let top_bits = if bits == 64 { 128 } else { 3 * bits };
        result = (triple >> (top_bits - bits - count)) as u64;
        carry = (triple >> (top_bits - count)) as u64 & 1;
    } else {
        let triple = if bits == 64 {
            u128::from(b) << 64 | u128::from(a)
        } else {
            u128::from(a) << (2 * bits) | u128::from(b) << bits | u128::from(a)
        };
        result = (triple >> count) as u64;
        carry = (triple >> (count - 1)) as u64 & 1;
    }
    let overflow = if left { one(result) ^ carry } else { one(result) ^ (result >> (bits - 2) & 1) };
    set(flags, bits, result, (carry * CF) | (overflow * OF));
    result
}
