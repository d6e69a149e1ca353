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

/// The type of each kind, by its name.
pub(super) mod step {
    use super::{
        Add, And, Constant, Extend, Immediate, Move, Or, Registers, Rol, Ror, Sar, Shl, Shr, Sub, Swap,
        Times, Turn, Xor,
    };

    pub(in super::super) type Move32 = Move<u32>;
    pub(in super::super) type Move64 = Move<u64>;
    pub(in super::super) type Constant32 = Constant<u32>;
    pub(in super::super) type Constant64 = Constant<u64>;
    pub(in super::super) type Add32 = Registers<u32, Add>;
    pub(in super::super) type Add64 = Registers<u64, Add>;
    pub(in super::super) type Sub32 = Registers<u32, Sub>;
    pub(in super::super) type Sub64 = Registers<u64, Sub>;
    pub(in super::super) type And32 = Registers<u32, And>;
    pub(in super::super) type And64 = Registers<u64, And>;
    pub(in super::super) type Or32 = Registers<u32, Or>;
    pub(in super::super) type Or64 = Registers<u64, Or>;
    pub(in super::super) type Xor32 = Registers<u32, Xor>;
    pub(in super::super) type Xor64 = Registers<u64, Xor>;
    pub(in super::super) type AddImm32 = Immediate<u32, Add>;
    pub(in super::super) type AddImm64 = Immediate<u64, Add>;
    pub(in super::super) type AndImm32 = Immediate<u32, And>;
    pub(in super::super) type AndImm64 = Immediate<u64, And>;
    pub(in super::super) type OrImm32 = Immediate<u32, Or>;
    pub(in super::super) type OrImm64 = Immediate<u64, Or>;
    pub(in super::super) type XorImm32 = Immediate<u32, Xor>;
    pub(in super::super) type XorImm64 = Immediate<u64, Xor>;
    pub(in super::super) type Shl32 = Turn<u32, Shl>;
    pub(in super::super) type Shl64 = Turn<u64, Shl>;
    pub(in super::super) type Shr32 = Turn<u32, Shr>;
    pub(in super::super) type Shr64 = Turn<u64, Shr>;
    pub(in super::super) type Sar32 = Turn<u32, Sar>;
    pub(in super::super) type Sar64 = Turn<u64, Sar>;
    pub(in super::super) type Rol32 = Turn<u32, Rol>;
    pub(in super::super) type Rol64 = Turn<u64, Rol>;
    pub(in super::super) type Ror32 = Turn<u32, Ror>;
    pub(in super::super) type Ror64 = Turn<u64, Ror>;
    pub(in super::super) type Mul32 = Times<u32>;
    pub(in super::super) type Mul64 = Times<u64>;
    pub(in super::super) type Swap32 = Swap<u32>;
    pub(in super::super) type Swap64 = Swap<u64>;
    pub(in super::super) type Zero8 = Extend<u8, false>;
    pub(in super::super) type Zero16 = Extend<u16, false>;
    pub(in super::super) type Sign32 = Extend<u32, true>;
}

/// The handler of one step.
fn one_handler(kind: Kind, live: bool) -> Handler {
    macro_rules! table {
        ($($kind:ident)*) => {
            match kind {
                $(Kind::$kind if live => one::<step::$kind, true> as Handler,)*
                $(Kind::$kind => one::<step::$kind, false>,)*
            }
        };
    }
    table!(
        Move32 Move64 Constant32 Constant64 Add32 Add64 Sub32 Sub64 And32 And64 Or32 Or64 Xor32
        Xor64 AddImm32 AddImm64 AndImm32 AndImm64 OrImm32 OrImm64 XorImm32 XorImm64 Shl32 Shl64
        Shr32 Shr64 Sar32 Sar64 Rol32 Rol64 Ror32 Ror64 Mul32 Mul64 Swap32 Swap64 Zero8 Zero16
        Sign32
    )
}

/// The handler of two steps in one op, for the kinds that often come together.
fn two_handler(first: Kind, second: Kind, live: bool) -> Option<Handler> {
    macro_rules! table {
        ($first:ident: $($second:ident)*) => {
            match second {
                $(Kind::$second if live => two::<step::$first, step::$second, true> as Handler,)*
                $(Kind::$second => two::<step::$first, step::$second, false>,)*
                _ => return None,
            }
        };
    }
    macro_rules! with32 {
        ($first:ident) => {
            table!(
                $first: Move32 Constant32 Add32 Sub32 And32 Or32 Xor32 AddImm32 AndImm32 XorImm32 Shl32
                    Shr32 Rol32 Ror32 Zero8 Move64 AddImm64
            )
        };
    }
    macro_rules! with64 {
        ($first:ident) => {
            table!(
                $first: Move64 Constant32 Add64 Sub64 And64 Or64 Xor64 AddImm64 AndImm64 Shl64 Shr64
                    Mul64 Zero8 Sign32 Move32 AddImm32
            )
        };
    }
    Some(match first {
        Kind::Move32 => match second {
            Kind::Move64 | Kind::Add64 | Kind::Sub64 | Kind::Shl64 | Kind::Shr64 | Kind::Mul64 => {
                with64!(Move32)
            }
            _ => with32!(Move32),
        },
        Kind::Constant32 => match second {
            Kind::Move64 => with64!(Constant32),
            _ => with32!(Constant32),
        },
        Kind::Add32 => with32!(Add32),
        Kind::Sub32 => with32!(Sub32),
        Kind::And32 => with32!(And32),
        Kind::Or32 => with32!(Or32),
        Kind::Xor32 => with32!(Xor32),
        Kind::AddImm32 => with32!(AddImm32),
        Kind::AndImm32 => with32!(AndImm32),
        Kind::XorImm32 => with32!(XorImm32),
        Kind::Shl32 => with32!(Shl32),
        Kind::Shr32 => with32!(Shr32),
        Kind::Rol32 => with32!(Rol32),
        Kind::Ror32 => with32!(Ror32),
        Kind::Zero8 => match second {
            Kind::Move64 | Kind::Add64 | Kind::Sub64 | Kind::Shl64 => with64!(Zero8),
            _ => with32!(Zero8),
        },
        Kind::Move64 => with64!(Move64),
        Kind::Add64 => with64!(Add64),
        Kind::Sub64 => with64!(Sub64),
        Kind::And64 => with64!(And64),
        Kind::Or64 => with64!(Or64),
        Kind::Xor64 => with64!(Xor64),
        Kind::AddImm64 => with64!(AddImm64),
        Kind::AndImm64 => with64!(AndImm64),
        Kind::Shl64 => with64!(Shl64),
        Kind::Shr64 => with64!(Shr64),
        Kind::Mul64 => with64!(Mul64),
        Kind::Sign32 => with64!(Sign32),
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
