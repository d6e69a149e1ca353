//! Two-operand and one-operand arithmetic and logic, and the fused compare-and-branch.

use super::{follow, load, next};
use crate::software::cpu::{Cpu, Form, Int, Slow, address, reg};
use crate::software::flags::{AF, CF, LOGIC, Lazy, OF, SUB};
use crate::software::op::{Handler, Op};
use crate::software::tlb::{load, modify_load, modify_store};

/// A two-operand operation.
pub(in crate::software) trait Alu: 'static {
    /// False for CMP and TEST.
    const STORE: bool;
    fn run<T: Int>(flags: &mut Lazy, a: T, b: T) -> T;
}

macro_rules! alu {
    ($name:ident, $store:expr, $t:ident, $flags:ident, $a:ident, $b:ident, $body:expr) => {
        #[derive(Debug)]
        pub(in crate::software) struct $name;
        impl Alu for $name {
            const STORE: bool = $store;
            #[inline(always)]
            fn run<$t: Int>($flags: &mut Lazy, $a: $t, $b: $t) -> $t {
                $body
            }
        }
    };
}

alu!(Add, true, T, flags, a, b, {
    let result = a.wadd(b);
    flags.add(a, b, result);
    result
});
alu!(Sub, true, T, flags, a, b, {
    let result = a.wsub(b);
    flags.sub(a, b, result);
    result
});
alu!(Cmp, false, T, flags, a, b, {
    let result = a.wsub(b);
    flags.sub(a, b, result);
    result
});
alu!(And, true, T, flags, a, b, {
    let result = a & b;
    flags.logic(result);
    result
});
alu!(Test, false, T, flags, a, b, {
    let result = a & b;
    flags.logic(result);
    result
});
alu!(Or, true, T, flags, a, b, {
    let result = a | b;
    flags.logic(result);
    result
});
alu!(Xor, true, T, flags, a, b, {
    let result = a ^ b;
    flags.logic(result);
    result
});
alu!(Adc, true, T, flags, a, b, {
    let carry = flags.cf();
    let result = a.wadd(b).wadd(T::from64(carry.into()));
    let out = result < a || (carry && result == a);
    let (x, y, r) = (a.sext(), b.sext(), result.sext());
    let overflow = ((x ^ r) & (y ^ r)) >> 63;
    flags.result(result, (u64::from(out) * CF) | (x ^ y ^ r) & AF | (overflow * OF));
    result
});
alu!(Sbb, true, T, flags, a, b, {
    let carry = flags.cf();
    let result = a.wsub(b).wsub(T::from64(carry.into()));
    let out = a < b || (carry && a == b);
    let (x, y, r) = (a.sext(), b.sext(), result.sext());
    let overflow = ((x ^ y) & (x ^ r)) >> 63;
    flags.result(result, (u64::from(out) * CF) | (x ^ y ^ r) & AF | (overflow * OF));
    result
});

/// Register (base) and register.
pub(in crate::software) unsafe extern "C" fn rr<T: Int, A: Alu>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        let result = A::run::<T>(&mut (*cpu).flags, reg(cpu, (*op).base), reg(cpu, (*op).reg));
        if A::STORE {
            result.write(cpu, (*op).base);
        }
        next::<crate::software::cpu::Fast>(cpu, op)
    }
}

/// Register and immediate.
pub(in crate::software) unsafe extern "C" fn ri<T: Int, A: Alu>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let result = A::run::<T>(&mut (*cpu).flags, reg(cpu, (*op).base), T::from64((*op).imm));
        if A::STORE {
            result.write(cpu, (*op).base);
        }
        next::<crate::software::cpu::Fast>(cpu, op)
    }
}

/// Register and memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn rm<T: Int, A: Alu, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let b = load!(load::<F, T>(cpu, address::<F>(cpu, op, T::SIZE)), F, cpu, op, rm::<T, A, Slow>);
        let result = A::run::<T>(&mut (*cpu).flags, reg(cpu, (*op).reg), b);
        if A::STORE {
            result.write(cpu, (*op).reg);
        }
        next::<F>(cpu, op)
    }
}

#[inline(always)]
unsafe fn memory<T: Int, A: Alu, F: Form>(cpu: *mut Cpu, op: *const Op, b: T, slow: Handler) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        if A::STORE {
            let (a, host) = load!(modify_load::<F, T>(cpu, at), F, cpu, op, slow);
            let result = A::run::<T>(&mut (*cpu).flags, a, b);
            modify_store::<F, T>(cpu, at, host, result);
        } else {
            let a = load!(load::<F, T>(cpu, at), F, cpu, op, slow);
            A::run::<T>(&mut (*cpu).flags, a, b);
        }
        next::<F>(cpu, op)
    }
}

/// Memory and register.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn mr<T: Int, A: Alu, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe { memory::<T, A, F>(cpu, op, reg(cpu, (*op).reg), mr::<T, A, Slow>) }
}

/// Memory and immediate.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn mi<T: Int, A: Alu, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe { memory::<T, A, F>(cpu, op, T::from64((*op).imm), mi::<T, A, Slow>) }
}

/// A one-operand operation.
pub(in crate::software) trait Unary: 'static {
    fn run<T: Int>(flags: &mut Lazy, a: T) -> T;
}

#[derive(Debug)]
pub(in crate::software) struct Inc;
impl Unary for Inc {
    #[inline(always)]
    fn run<T: Int>(flags: &mut Lazy, a: T) -> T {
        let carry = u64::from(flags.cf()) * CF;
        let result = a.wadd(T::from64(1));
        let r = result.sext();
        flags.result(result, carry | (a.sext() ^ r ^ 1) & AF | ((a.sext() ^ r) & r) >> 63 << 11);
        result
    }
}

#[derive(Debug)]
pub(in crate::software) struct Dec;
impl Unary for Dec {
    #[inline(always)]
    fn run<T: Int>(flags: &mut Lazy, a: T) -> T {
        let carry = u64::from(flags.cf()) * CF;
        let result = a.wsub(T::from64(1));
        let r = result.sext();
        flags.result(result, carry | (a.sext() ^ r ^ 1) & AF | ((a.sext() ^ r) & a.sext()) >> 63 << 11);
        result
    }
}

#[derive(Debug)]
pub(in crate::software) struct Neg;
impl Unary for Neg {
    #[inline(always)]
    fn run<T: Int>(flags: &mut Lazy, a: T) -> T {
        let result = T::ZERO.wsub(a);
        flags.sub(T::ZERO, a, result);
        result
    }
}

#[derive(Debug)]
pub(in crate::software) struct Not;
impl Unary for Not {
    #[inline(always)]
    fn run<T: Int>(_: &mut Lazy, a: T) -> T {
        !a
    }
}

/// One-operand operation on a register (base).
pub(in crate::software) unsafe extern "C" fn unary_r<T: Int, U: Unary>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        U::run::<T>(&mut (*cpu).flags, reg(cpu, (*op).base)).write(cpu, (*op).base);
        next::<crate::software::cpu::Fast>(cpu, op)
    }
}

/// One-operand operation on memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn unary_m<T: Int, U: Unary, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        let (a, host) = load!(modify_load::<F, T>(cpu, at), F, cpu, op, unary_m::<T, U, Slow>);
        let result = U::run::<T>(&mut (*cpu).flags, a);
        modify_store::<F, T>(cpu, at, host, result);
        next::<F>(cpu, op)
    }
}

/// Decides condition `C` right after a CMP (`SUBTRACT`) or TEST whose flags were just stored.
#[inline(always)]
fn fused_condition<T: Int, const SUBTRACT: bool, const C: u8>(flags: &Lazy, a: T, b: T) -> bool {
    // The kind is known here, so the compiler drops every other case.
    let known = Lazy { kind: if SUBTRACT { SUB } else { LOGIC }, ..*flags };
    match (SUBTRACT, C) {
        (true, 4) => a == b,
        (true, 5) => a != b,
        (true, 2) => a < b,
        (true, 3) => a >= b,
        (true, 6) => a <= b,
        (true, 7) => a > b,
        _ => crate::software::flags::condition::<C>(&known),
    }
}

/// CMP or TEST of two registers (base, reg), then Jcc: two jump ops follow, for taken and not.
unsafe extern "C" fn fused_rr<T: Int, const SUBTRACT: bool, const C: u8>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe { fused::<T, SUBTRACT, C>(cpu, op, reg(cpu, (*op).reg)) }
}

/// As [`fused_rr`] with an immediate.
unsafe extern "C" fn fused_ri<T: Int, const SUBTRACT: bool, const C: u8>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe { fused::<T, SUBTRACT, C>(cpu, op, T::from64((*op).imm)) }
}

/// Keeps the compiler from turning a branch into a choice of the op to follow: a predicted branch and two indirect jumps,
/// each with its own history, are faster than one indirect jump that waits for the choice.
#[inline(always)]
pub(super) fn two_jumps() {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
}

#[inline(always)]
unsafe fn fused<T: Int, const SUBTRACT: bool, const C: u8>(cpu: *mut Cpu, op: *const Op, b: T) -> *const Op {
    // SAFETY: as rr.
    unsafe { compare_and_branch::<T, SUBTRACT, C>(cpu, reg(cpu, (*op).base), b, op.add(1)) }
}

/// Compares, and goes where one of the two jump ops leads: the first if condition `C` holds.
///
/// # Safety
/// `jumps` and the op after it are jump ops of the running block.
#[inline(always)]
pub(super) unsafe fn compare_and_branch<T: Int, const SUBTRACT: bool, const C: u8>(
    cpu: *mut Cpu,
    a: T,
    b: T,
    jumps: *const Op,
) -> *const Op {
    // SAFETY: by contract.
    unsafe {
        let flags = &mut (*cpu).flags;
        if SUBTRACT {
            Cmp::run(flags, a, b);
        } else {
            Test::run(flags, a, b);
        }
        if fused_condition::<T, SUBTRACT, C>(flags, a, b) {
            two_jumps();
            follow(cpu, jumps)
        } else {
            follow(cpu, jumps.add(1))
        }
    }
}

macro_rules! conditions {
    ($f:ident, $($g:tt),*) => {
        [
            $f::<$($g),*, 0>, $f::<$($g),*, 1>, $f::<$($g),*, 2>, $f::<$($g),*, 3>,
            $f::<$($g),*, 4>, $f::<$($g),*, 5>, $f::<$($g),*, 6>, $f::<$($g),*, 7>,
            $f::<$($g),*, 8>, $f::<$($g),*, 9>, $f::<$($g),*, 10>, $f::<$($g),*, 11>,
            $f::<$($g),*, 12>, $f::<$($g),*, 13>, $f::<$($g),*, 14>, $f::<$($g),*, 15>,
        ]
    };
}

/// The fused handler for an operand size.
pub(in crate::software) fn fused_handler(
    size: usize,
    immediate: bool,
    subtract: bool,
    condition: u8,
) -> Handler {
    fn table<T: Int>(immediate: bool, subtract: bool) -> [Handler; 16] {
        match (immediate, subtract) {
            (false, false) => conditions!(fused_rr, T, false),
            (false, true) => conditions!(fused_rr, T, true),
            (true, false) => conditions!(fused_ri, T, false),
            (true, true) => conditions!(fused_ri, T, true),
        }
    }
    let table = match size {
        1 => table::<u8>(immediate, subtract),
        2 => table::<u16>(immediate, subtract),
        4 => table::<u32>(immediate, subtract),
        _ => table::<u64>(immediate, subtract),
    };
    table[condition as usize & 15]
}

pub(in crate::software) use conditions;
