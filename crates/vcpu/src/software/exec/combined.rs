//! Steps: what an instruction on registers computes, in a three-operand form, so that a move and the instruction that works
//! on the moved value are one step, and two steps are one op.
//!
//! No step can fault or leave. A step may be told that nobody looks at its flags; then it leaves the lazy state alone.

use super::alu::{Add, Alu, And, Or, Sub, Xor};
use super::go;
use super::muldiv::imul;
use super::shift::{Rol, Ror, Sar, Shift, Shl, Shr};
use crate::software::cpu::{Cpu, Int, reg};
use crate::software::flags::Lazy;
use crate::software::op::{Handler, Op};

/// What a step does to its operands. The number is the operand size: 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::software) enum Kind {
    Move32,
    Move64,
    /// A constant. With live flags it is that of XOR of a register by itself.
    Constant32,
    Constant64,
    Add32,
    Add64,
    Sub32,
    Sub64,
    And32,
    And64,
    Or32,
    Or64,
    Xor32,
    Xor64,
    /// Register and immediate from here on.
    AddImm32,
    AddImm64,
    AndImm32,
    AndImm64,
    OrImm32,
    OrImm64,
    XorImm32,
    XorImm64,
    /// Register by a count, which is the second operand's number.
    Shl32,
    Shl64,
    Shr32,
    Shr64,
    Sar32,
    Sar64,
    Rol32,
    Rol64,
    Ror32,
    Ror64,
    Mul32,
    Mul64,
    /// BSWAP.
    Swap32,
    Swap64,
    /// MOVZX from 8 and 16 bits.
    Zero8,
    Zero16,
    /// MOVSXD to 64 bits.
    Sign32,
}

/// One step: `to` becomes a function of registers `a` and `b` (offsets in [`Cpu`]) and an immediate.
#[derive(Debug, Clone, Copy)]
pub(in crate::software) struct Step {
    pub kind: Kind,
    pub to: u8,
    pub a: u8,
    pub b: u8,
    pub imm: i32,
}

pub(super) trait Run: 'static {
    /// # Safety
    /// `cpu` is live; the offsets are those of registers of the step's size.
    unsafe fn run<const LIVE: bool>(cpu: *mut Cpu, to: u8, a: u8, b: u8, imm: i32);
}

/// Runs `f` on the lazy flags, or on some that nobody reads.
#[inline(always)]
unsafe fn with_flags<const LIVE: bool, T>(cpu: *mut Cpu, f: impl FnOnce(&mut Lazy) -> T) -> T {
    if LIVE {
        // SAFETY: the Cpu is live.
        f(unsafe { &mut (*cpu).flags })
    } else {
        f(&mut Lazy::default())
    }
}

macro_rules! steps {
    ($($name:ident<$t:ident $(, $o:ident: $bound:ident)?>, ($cpu:ident, $live:ident, $a:ident, $b:ident, $imm:ident) => $value:expr;)*) => {$(
        pub(super) struct $name<$t $(, $o)?>(std::marker::PhantomData<($t $(, $o)?,)>);
        impl<$t: Int $(, $o: $bound)?> Run for $name<$t $(, $o)?> {
            #[inline(always)]
            #[allow(unused_variables, reason = "not every step has all operands")]
            unsafe fn run<const $live: bool>($cpu: *mut Cpu, to: u8, $a: u8, $b: u8, $imm: i32) {
                // SAFETY: by contract.
                unsafe {
                    let value: $t = $value;
                    value.write($cpu, to);
                }
            }
        }
    )*};
}

steps! {
    Move<T>, (cpu, LIVE, a, b, imm) => reg::<T>(cpu, a);
    Constant<T>, (cpu, LIVE, a, b, imm) => {
        if LIVE {
            (*cpu).flags.logic(T::ZERO);
        }
        T::from64(i64::from(imm) as u64)
    };
    Registers<T, A: Alu>, (cpu, LIVE, a, b, imm) => {
        let (x, y) = (reg::<T>(cpu, a), reg::<T>(cpu, b));
        with_flags::<LIVE, T>(cpu, |flags| A::run(flags, x, y))
    };
    Immediate<T, A: Alu>, (cpu, LIVE, a, b, imm) => {
        let x = reg::<T>(cpu, a);
        with_flags::<LIVE, T>(cpu, |flags| A::run(flags, x, T::from64(i64::from(imm) as u64)))
    };
    Turn<T, S: Shift>, (cpu, LIVE, a, b, imm) => {
        let x = reg::<T>(cpu, a);
        // The decoder cuts counts; the compiler does not know.
        let count = u32::from(b) & (T::BITS - 1);
        with_flags::<LIVE, T>(cpu, |flags| S::run(flags, x, count))
    };
    Swap<T>, (cpu, LIVE, a, b, imm) => T::from64(reg::<T>(cpu, a).zext().swap_bytes() >> (64 - T::BITS));
    Times<T>, (cpu, LIVE, a, b, imm) => {
        let (x, y) = (reg::<T>(cpu, a), reg::<T>(cpu, b));
        with_flags::<LIVE, T>(cpu, |flags| imul(flags, x, y))
    };
}

/// MOVZX from `T` to 32 bits, MOVSXD to 64 bits.
pub(super) struct Extend<T, const SIGNED: bool>(std::marker::PhantomData<T>);
impl<T: Int, const SIGNED: bool> Run for Extend<T, SIGNED> {
    #[inline(always)]
    unsafe fn run<const LIVE: bool>(cpu: *mut Cpu, to: u8, a: u8, _: u8, _: i32) {
        // SAFETY: by contract.
        unsafe {
            let value = reg::<T>(cpu, a);
            (if SIGNED { value.sext() } else { value.zext() }).write(cpu, to);
        }
    }
}

/// A step as an immediate: its operands in the low bytes, its own immediate in the upper half.
pub(super) fn packed(step: &Step) -> u64 {
    u64::from(step.to) | u64::from(step.a) << 8 | u64::from(step.b) << 16 | u64::from(step.imm as u32) << 32
}

/// Runs a step that [`packed`] made.
///
/// # Safety
/// As [`Run::run`].
#[inline(always)]
pub(super) unsafe fn run_packed<X: Run, const LIVE: bool>(cpu: *mut Cpu, step: u64) {
    // SAFETY: by contract.
    unsafe { X::run::<LIVE>(cpu, step as u8, (step >> 8) as u8, (step >> 16) as u8, (step >> 32) as i32) }
}

/// One step: `base`, `index`, `reg`, `disp`.
unsafe extern "C" fn one<X: Run, const LIVE: bool>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        let o = &*op;
        X::run::<LIVE>(cpu, o.base, o.index, o.reg, o.disp);
        go(cpu, op.add(1))
    }
}

/// Two steps, the first without flags, the second in `imm`.
unsafe extern "C" fn two<X: Run, Y: Run, const LIVE: bool>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as one.
    unsafe {
        let o = &*op;
        X::run::<false>(cpu, o.base, o.index, o.reg, o.disp);
        run_packed::<Y, LIVE>(cpu, o.imm);
        go(cpu, op.add(1))
    }
}

/// Four moves: to and from in `base` to `scale` and in the low half of `imm`.
unsafe extern "C" fn four_moves<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as one.
    unsafe {
        let o = &*op;
        reg::<T>(cpu, o.index).write(cpu, o.base);
        reg::<T>(cpu, o.scale).write(cpu, o.reg);
        let more = o.imm;
        reg::<T>(cpu, (more >> 8) as u8).write(cpu, more as u8);
        reg::<T>(cpu, (more >> 24) as u8).write(cpu, (more >> 16) as u8);
        go(cpu, op.add(1))
    }
}

/// Calls a macro with the type of a kind.
macro_rules! with_kind {
    ($kind:expr, $f:ident $(, $more:ty)*) => {
        match $kind {
            Kind::Move32 => $f!(Move<u32> $(, $more)*),
            Kind::Move64 => $f!(Move<u64> $(, $more)*),
            Kind::Constant32 => $f!(Constant<u32> $(, $more)*),
            Kind::Constant64 => $f!(Constant<u64> $(, $more)*),
            Kind::Add32 => $f!(Registers<u32, Add> $(, $more)*),
            Kind::Add64 => $f!(Registers<u64, Add> $(, $more)*),
            Kind::Sub32 => $f!(Registers<u32, Sub> $(, $more)*),
            Kind::Sub64 => $f!(Registers<u64, Sub> $(, $more)*),
            Kind::And32 => $f!(Registers<u32, And> $(, $more)*),
            Kind::And64 => $f!(Registers<u64, And> $(, $more)*),
            Kind::Or32 => $f!(Registers<u32, Or> $(, $more)*),
            Kind::Or64 => $f!(Registers<u64, Or> $(, $more)*),
            Kind::Xor32 => $f!(Registers<u32, Xor> $(, $more)*),
            Kind::Xor64 => $f!(Registers<u64, Xor> $(, $more)*),
            Kind::AddImm32 => $f!(Immediate<u32, Add> $(, $more)*),
            Kind::AddImm64 => $f!(Immediate<u64, Add> $(, $more)*),
            Kind::AndImm32 => $f!(Immediate<u32, And> $(, $more)*),
            Kind::AndImm64 => $f!(Immediate<u64, And> $(, $more)*),
            Kind::OrImm32 => $f!(Immediate<u32, Or> $(, $more)*),
            Kind::OrImm64 => $f!(Immediate<u64, Or> $(, $more)*),
            Kind::XorImm32 => $f!(Immediate<u32, Xor> $(, $more)*),
            Kind::XorImm64 => $f!(Immediate<u64, Xor> $(, $more)*),
            Kind::Shl32 => $f!(Turn<u32, Shl> $(, $more)*),
            Kind::Shl64 => $f!(Turn<u64, Shl> $(, $more)*),
            Kind::Shr32 => $f!(Turn<u32, Shr> $(, $more)*),
            Kind::Shr64 => $f!(Turn<u64, Shr> $(, $more)*),
            Kind::Sar32 => $f!(Turn<u32, Sar> $(, $more)*),
            Kind::Sar64 => $f!(Turn<u64, Sar> $(, $more)*),
            Kind::Rol32 => $f!(Turn<u32, Rol> $(, $more)*),
            Kind::Rol64 => $f!(Turn<u64, Rol> $(, $more)*),
            Kind::Ror32 => $f!(Turn<u32, Ror> $(, $more)*),
            Kind::Ror64 => $f!(Turn<u64, Ror> $(, $more)*),
            Kind::Mul32 => $f!(Times<u32> $(, $more)*),
            Kind::Mul64 => $f!(Times<u64> $(, $more)*),
            Kind::Swap32 => $f!(Swap<u32> $(, $more)*),
            Kind::Swap64 => $f!(Swap<u64> $(, $more)*),
            Kind::Zero8 => $f!(Extend<u8, false> $(, $more)*),
            Kind::Zero16 => $f!(Extend<u16, false> $(, $more)*),
            Kind::Sign32 => $f!(Extend<u32, true> $(, $more)*),
        }
    };
}

/// The handler of one step.
fn one_handler(kind: Kind, live: bool) -> Handler {
    macro_rules! pick {
        ($x:ty) => {
            if live { one::<$x, true> as Handler } else { one::<$x, false> }
        };
    }
    with_kind!(kind, pick)
}

/// The handler of two steps in one op, for the kinds that often come together.
fn two_handler(first: Kind, second: Kind, live: bool) -> Option<Handler> {
    macro_rules! table {
        ($x:ty, $($kind:ident: $y:ty),*) => {
            match second {
                $(Kind::$kind if live => two::<$x, $y, true> as Handler,)*
                $(Kind::$kind => two::<$x, $y, false>,)*
                _ => return None,
            }
        };
    }
    macro_rules! with32 {
        ($x:ty) => {
            table!(
                $x,
                Move32: Move<u32>,
                Constant32: Constant<u32>,
                Add32: Registers<u32, Add>,
                Sub32: Registers<u32, Sub>,
                And32: Registers<u32, And>,
                Or32: Registers<u32, Or>,
                Xor32: Registers<u32, Xor>,
                AddImm32: Immediate<u32, Add>,
                AndImm32: Immediate<u32, And>,
                XorImm32: Immediate<u32, Xor>,
                Shl32: Turn<u32, Shl>,
                Shr32: Turn<u32, Shr>,
                Rol32: Turn<u32, Rol>,
                Ror32: Turn<u32, Ror>,
                Zero8: Extend<u8, false>,
                Move64: Move<u64>,
                AddImm64: Immediate<u64, Add>
            )
        };
    }
    macro_rules! with64 {
        ($x:ty) => {
            table!(
                $x,
                Move64: Move<u64>,
                Constant32: Constant<u32>,
                Add64: Registers<u64, Add>,
                Sub64: Registers<u64, Sub>,
                And64: Registers<u64, And>,
                Or64: Registers<u64, Or>,
                Xor64: Registers<u64, Xor>,
                AddImm64: Immediate<u64, Add>,
                AndImm64: Immediate<u64, And>,
                Shl64: Turn<u64, Shl>,
                Shr64: Turn<u64, Shr>,
                Mul64: Times<u64>,
                Zero8: Extend<u8, false>,
                Sign32: Extend<u32, true>,
                Move32: Move<u32>,
                AddImm32: Immediate<u32, Add>
            )
        };
    }
    Some(match first {
        Kind::Move32 => match second {
            Kind::Move64 | Kind::Add64 | Kind::Sub64 | Kind::Shl64 | Kind::Shr64 | Kind::Mul64 => {
                with64!(Move<u32>)
            }
            _ => with32!(Move<u32>),
        },
        Kind::Constant32 => match second {
            Kind::Move64 => with64!(Constant<u32>),
            _ => with32!(Constant<u32>),
        },
        Kind::Add32 => with32!(Registers<u32, Add>),
        Kind::Sub32 => with32!(Registers<u32, Sub>),
        Kind::And32 => with32!(Registers<u32, And>),
        Kind::Or32 => with32!(Registers<u32, Or>),
        Kind::Xor32 => with32!(Registers<u32, Xor>),
        Kind::AddImm32 => with32!(Immediate<u32, Add>),
        Kind::AndImm32 => with32!(Immediate<u32, And>),
        Kind::XorImm32 => with32!(Immediate<u32, Xor>),
        Kind::Shl32 => with32!(Turn<u32, Shl>),
        Kind::Shr32 => with32!(Turn<u32, Shr>),
        Kind::Rol32 => with32!(Turn<u32, Rol>),
        Kind::Ror32 => with32!(Turn<u32, Ror>),
        Kind::Zero8 => match second {
            Kind::Move64 | Kind::Add64 | Kind::Sub64 | Kind::Shl64 => with64!(Extend<u8, false>),
            _ => with32!(Extend<u8, false>),
        },
        Kind::Move64 => with64!(Move<u64>),
        Kind::Add64 => with64!(Registers<u64, Add>),
        Kind::Sub64 => with64!(Registers<u64, Sub>),
        Kind::And64 => with64!(Registers<u64, And>),
        Kind::Or64 => with64!(Registers<u64, Or>),
        Kind::Xor64 => with64!(Registers<u64, Xor>),
        Kind::AddImm64 => with64!(Immediate<u64, Add>),
        Kind::AndImm64 => with64!(Immediate<u64, And>),
        Kind::Shl64 => with64!(Turn<u64, Shl>),
        Kind::Shr64 => with64!(Turn<u64, Shr>),
        Kind::Mul64 => with64!(Times<u64>),
        Kind::Sign32 => with64!(Extend<u32, true>),
        _ => return None,
    })
}

/// The op of one step.
pub(in crate::software) fn one_op(step: &Step, live: bool, empty: Op) -> Op {
    let run = one_handler(step.kind, live);
    Op { run, base: step.to, index: step.a, reg: step.b, disp: step.imm, ..empty }
}

/// The op of two steps, if there is one. The first one's flags are not looked at, and the second one's only if `live`.
pub(in crate::software) fn two_op(first: &Step, second: &Step, live: bool, empty: Op) -> Option<Op> {
    let run = two_handler(first.kind, second.kind, live)?;
    let imm = packed(second);
    Some(Op { run, imm, ..one_op(first, false, empty) })
}

/// The op of four moves of one size.
pub(in crate::software) fn four_moves_op(moves: &[Step; 4], empty: Op) -> Option<Op> {
    let [a, b, c, d] = moves;
    let run: Handler = match a.kind {
        Kind::Move32 => four_moves::<u32>,
        Kind::Move64 => four_moves::<u64>,
        _ => return None,
    };
    if moves.iter().any(|other| other.kind != a.kind) {
        return None;
    }
    let imm = u64::from(u32::from_le_bytes([c.to, c.a, d.to, d.a]));
    Some(Op { run, base: a.to, index: a.a, reg: b.to, scale: b.a, imm, ..empty })
}
