//! F2XM1, FYL2X, FYL2XP1, FPTAN, FPATAN, FSIN, FCOS, FSINCOS: operands, exceptions and rounding around the functions.
//!
//! The special cases are those of the tables in the SDM (volume 2, at each instruction). What an operand outside a
//! function's domain gives is open there; here it is the operand itself, as both makers have it.

use iced_x86::{Instruction, Mnemonic};

use super::wide::Wide;
use super::x87::run;
use super::x87_functions as functions;
use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::Fault;
use crate::state::X87;

type Register = [u8; 10];

/// Exceptions and condition codes in the status word.
const INVALID: u16 = 1;
const DENORMAL: u16 = 2;
const ZERO_DIVIDE: u16 = 4;
const OVERFLOW: u16 = 8;
const UNDERFLOW: u16 = 0x10;
const PRECISION: u16 = 0x20;
const STACK: u16 = 0x40;
const C1: u16 = 0x200;
const C2: u16 = 0x400;

const BIAS: i32 = 16383;
const SPECIAL: u16 = 0x7FFF;
const INTEGER_BIT: u64 = 1 << 63;
/// By how much the exponent of a result is moved that an unmasked overflow or underflow leaves.
const WRAP: i32 = 24576;

/// FADD ST(0), ST(0) and FADDP ST(1), ST(0) in the table of host instructions: they treat empty registers and NaNs as
/// the functions do.
const FADD: usize = 0;
const FADDP: usize = 6 << 6 | 1;

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Empty, a NaN, or an encoding that no x87 takes any more.
    Unusable,
    Zero,
    Denormal,
    Normal,
    Infinity,
}

#[derive(Debug, Clone, Copy)]
struct Operand {
    kind: Kind,
    negative: bool,
    value: Wide,
}

impl Operand {
    fn at(x87: &X87, st: usize) -> Self {
        let number = x87.physical(st);
        let register = x87.registers[number];
        let significand = u64::from_le_bytes(std::array::from_fn(|n| register[n]));
        let top = u16::from_le_bytes([register[8], register[9]]);
        let (exponent, negative) = (top & SPECIAL, top >> 15 == 1);
        let kind = match (exponent, significand) {
            _ if x87.tag >> number & 1 == 0 => Kind::Unusable,
            (0, 0) => Kind::Zero,
            (0, _) => Kind::Denormal,
            (SPECIAL, INTEGER_BIT) => Kind::Infinity,
            (SPECIAL, _) => Kind::Unusable,
            _ if significand & INTEGER_BIT == 0 => Kind::Unusable,
            _ => Kind::Normal,
        };
        let scale = i32::from(exponent.max(1)) - BIAS - 63;
        let value = Wide::from_integer(significand.into(), scale).with_sign(negative);
        Self { kind, negative, value }
    }

    /// Finite and not zero.
    fn is_ordinary(self) -> bool {
        matches!(self.kind, Kind::Denormal | Kind::Normal)
    }
}

/// What a function gives.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Rounded, with its sign, and exact or not.
    Value(Wide, bool),
    Zero(bool),
    Infinity(bool),
    /// Infinity by division by zero.
    Pole(bool),
    /// The operand is outside of the domain in a way that is an exception.
    Invalid,
    /// ST(0) as it is.
    Unchanged,
}

fn special(significand: u64, exponent: u16, negative: bool) -> Register {
    let mut register = [0; 10];
    register[..8].copy_from_slice(&significand.to_le_bytes());
    register[8..].copy_from_slice(&(exponent | u16::from(negative) << 15).to_le_bytes());
    register
}

fn indefinite() -> Register {
    special(3 << 62, SPECIAL, true)
}

/// Cuts a mantissa to 64 bits, dropping `extra` more; says whether it was rounded up and whether anything was lost.
fn cut(mantissa: u128, extra: u32, negative: bool, rounding: u16, exact: bool) -> (u128, bool, bool) {
    let drop = 64 + extra;
    if drop >= 128 {
        // Less than half of the smallest number (or, with 128, less than that number).
        let half = drop == 128 && mantissa >> 127 == 1;
        let up = match rounding {
            0 => half && (mantissa << 1 != 0 || !exact),
            1 => negative,
            2 => !negative,
            _ => false,
        };
        return (u128::from(up), up, true);
    }
    let kept = mantissa >> drop;
    let rest = mantissa << (128 - drop);
    let lost = rest != 0 || !exact;
    let up = lost
        && match rounding {
            0 => rest > 1 << 127 || (rest == 1 << 127 && (kept & 1 == 1 || !exact)),
            1 => negative,
            2 => !negative,
            _ => false,
        };
    (kept + u128::from(up), up, lost)
}

/// Rounds a number that is not zero as the control word says; the status bits that come of it.
fn round(value: Wide, exact: bool, control: u16) -> (Register, u16) {
    let (rounding, negative) = (control >> 10 & 3, value.negative);
    let mut exponent = value.exponent + BIAS;
    let mut status = 0;
    let mut extra = 0;
    // Tiny is what is below the normal numbers after rounding to 64 bits (SDM volume 1, section 4.9.1.5).
    let tiny =
        exponent < 0 || exponent == 0 && cut(value.mantissa, 0, negative, rounding, exact).0 >> 64 == 0;
    if tiny {
        if control & UNDERFLOW == 0 {
            exponent += WRAP;
            status |= UNDERFLOW;
        } else {
            extra = (1 - exponent).unsigned_abs().min(1000);
        }
    }
    let (mut significand, up, lost) = cut(value.mantissa, extra, negative, rounding, exact);
    if significand >> 64 != 0 {
        significand >>= 1;
        exponent += 1;
    }
    if extra > 0 {
        // A denormal that was rounded up to the smallest normal number has that exponent.
        exponent = i32::from(significand >> 63 != 0);
        if lost {
            status |= UNDERFLOW;
        }
    }
    if lost {
        status |= PRECISION;
    }
    if up {
        status |= C1;
    }
    if exponent >= i32::from(SPECIAL) {
        status |= OVERFLOW;
        if control & OVERFLOW == 0 {
            exponent -= WRAP;
        } else {
            status |= PRECISION;
            let to_infinity = rounding == 0 || rounding == if negative { 1 } else { 2 };
            return if to_infinity {
                (special(INTEGER_BIT, SPECIAL, negative), status | C1)
            } else {
                (special(u64::MAX, SPECIAL - 1, negative), status & !C1)
            };
        }
    }
    (special(significand as u64, exponent as u16, negative), status)
}

/// The state in work.
struct Work {
    x87: X87,
}

impl Work {
    fn set(&mut self, st: usize, register: Register) {
        let number = self.x87.physical(st);
        self.x87.registers[number] = register;
        self.x87.tag |= 1 << number;
    }

    fn move_top(&mut self, by: u16) {
        let top = (self.x87.status >> 11).wrapping_add(by) & 7;
        self.x87.status = self.x87.status & !0x3800 | top << 11;
    }

    fn pop(&mut self) {
        let number = self.x87.physical(0);
        self.x87.tag &= !(1 << number);
        self.move_top(1);
    }

    fn push(&mut self, register: Register) {
        self.move_top(7);
        self.set(0, register);
    }

    /// Notes exceptions; true if one of them that comes before a result is unmasked, so that there is none.
    fn note(&mut self, exceptions: u16) -> bool {
        self.x87.status |= exceptions;
        exceptions & (INVALID | DENORMAL | ZERO_DIVIDE) & !self.x87.control != 0
    }

    /// The result in bits, or `None` if an unmasked exception means that there is none.
    fn result(&mut self, answer: Answer, denormal: bool) -> Option<Register> {
        let (register, exceptions) = match answer {
            Answer::Invalid => (indefinite(), INVALID),
            Answer::Pole(negative) => (special(INTEGER_BIT, SPECIAL, negative), ZERO_DIVIDE),
            Answer::Infinity(negative) => (special(INTEGER_BIT, SPECIAL, negative), 0),
            Answer::Zero(negative) => (special(0, 0, negative), 0),
            Answer::Unchanged => (self.x87.registers[self.x87.physical(0)], PRECISION),
            Answer::Value(value, exact) => round(value, exact, self.x87.control),
        };
        let denormal = denormal && !matches!(answer, Answer::Invalid | Answer::Pole(_));
        let before = exceptions & (INVALID | ZERO_DIVIDE) | if denormal { DENORMAL } else { 0 };
        if self.note(before) {
            return None;
        }
        self.note(exceptions);
        Some(register)
    }

    /// One operand, one result in its place.
    fn unary(&mut self, function: fn(Operand) -> Answer) {
        let operand = Operand::at(&self.x87, 0);
        if operand.kind == Kind::Unusable {
            self.x87 = run(&self.x87, FADD, &mut [0; 16], &mut 0);
            return;
        }
        let answer = function(operand);
        if let Some(register) = self.result(answer, operand.kind == Kind::Denormal) {
            self.set(0, register);
        }
    }

    /// ST(0) and ST(1), and one result in place of both.
    fn binary(&mut self, function: fn(Operand, Operand) -> Answer) {
        let (x, y) = (Operand::at(&self.x87, 0), Operand::at(&self.x87, 1));
        if x.kind == Kind::Unusable || y.kind == Kind::Unusable {
            self.x87 = run(&self.x87, FADDP, &mut [0; 16], &mut 0);
            return;
        }
        let denormal = x.kind == Kind::Denormal || y.kind == Kind::Denormal;
        if let Some(register) = self.result(function(x, y), denormal) {
            self.pop();
            self.set(0, register);
        }
    }

    /// True if ST(0) is an angle that can be worked on; if not, what comes of that is done.
    fn angle(&mut self) -> bool {
        self.x87.status &= !C2;
        let operand = Operand::at(&self.x87, 0);
        if operand.is_ordinary() && operand.value.exponent >= 63 {
            self.x87.status |= C2;
            return false;
        }
        true
    }

    /// FPTAN and FSINCOS: the second result is pushed.
    fn pair(&mut self, function: fn(Operand) -> (Answer, Answer)) {
        self.x87.status &= !C2;
        let operand = Operand::at(&self.x87, 0);
        let empty = self.x87.tag >> self.x87.physical(0) & 1 == 0;
        let full = self.x87.tag >> self.x87.physical(7) & 1 == 1;
        if full || empty {
            self.x87.status |= if full && !empty { C1 } else { 0 };
            if !self.note(INVALID | STACK) {
                self.set(0, indefinite());
                self.push(indefinite());
            }
            return;
        }
        if operand.kind == Kind::Unusable {
            self.x87 = run(&self.x87, FADD, &mut [0; 16], &mut 0);
            if self.x87.status & INVALID & !self.x87.control == 0 {
                let nan = self.x87.registers[self.x87.physical(0)];
                self.push(nan);
            }
            return;
        }
        if !self.angle() {
            return;
        }
        let denormal = operand.kind == Kind::Denormal;
        let (first, second) = function(operand);
        let Some(first) = self.result(first, denormal) else { return };
        let Some(second) = self.result(second, denormal) else { return };
        self.set(0, first);
        self.push(second);
    }
}

fn sine(x: Operand) -> Answer {
    sine_and_cosine(x).0
}

fn cosine(x: Operand) -> Answer {
    sine_and_cosine(x).1
}

fn sine_and_cosine(x: Operand) -> (Answer, Answer) {
    match x.kind {
        Kind::Zero => (Answer::Zero(x.negative), Answer::Value(Wide::ONE, true)),
        Kind::Infinity => (Answer::Invalid, Answer::Invalid),
        _ => {
            let (sine, cosine) = functions::sine_cosine(x.value);
            (Answer::Value(sine, false), Answer::Value(cosine, false))
        }
    }
}

fn tangent(x: Operand) -> (Answer, Answer) {
    let one = Answer::Value(Wide::ONE, true);
    match x.kind {
        Kind::Zero => (Answer::Zero(x.negative), one),
        Kind::Infinity => (Answer::Invalid, Answer::Invalid),
        _ => (Answer::Value(functions::tangent(x.value), false), one),
    }
}

/// The angle of the point with `x` from ST(0) and `y` from ST(1).
fn arc_tangent(x: Operand, y: Operand) -> Answer {
    let pi = functions::PI;
    let three_quarters = pi.sub(pi.scale(-2));
    let angle = match (y.kind, x.kind) {
        (Kind::Infinity, Kind::Infinity) if x.negative => three_quarters,
        (Kind::Infinity, Kind::Infinity) => pi.scale(-2),
        (Kind::Infinity, _) => pi.scale(-1),
        (Kind::Zero, _) | (_, Kind::Infinity) if x.negative => pi,
        (Kind::Zero, _) | (_, Kind::Infinity) => return Answer::Zero(y.negative),
        (_, Kind::Zero) => pi.scale(-1),
        _ => {
            let angle = functions::arc_tangent(y.value.abs(), x.value.abs());
            if x.negative { pi.sub(angle) } else { angle }
        }
    };
    Answer::Value(angle.with_sign(y.negative), false)
}

/// `y * log2(x)`.
fn y_log2_x(x: Operand, y: Operand) -> Answer {
    if x.kind == Kind::Zero {
        return match y.kind {
            Kind::Zero => Answer::Invalid,
            Kind::Infinity => Answer::Infinity(!y.negative),
            _ => Answer::Pole(!y.negative),
        };
    }
    if x.negative {
        return Answer::Invalid;
    }
    if x.kind == Kind::Infinity {
        return if y.kind == Kind::Zero { Answer::Invalid } else { Answer::Infinity(y.negative) };
    }
    let log = functions::log2(x.value);
    match y.kind {
        Kind::Infinity if log.is_zero() => Answer::Invalid,
        Kind::Infinity => Answer::Infinity(y.negative != log.negative),
        Kind::Zero => Answer::Zero(y.negative != log.negative),
        _ if log.is_zero() => Answer::Zero(y.negative),
        _ => Answer::Value(y.value.mul(log), x.value.mantissa << 1 == 0),
    }
}

/// `y * log2(x + 1)`.
fn y_log2_x_plus_1(x: Operand, y: Operand) -> Answer {
    let sign = x.negative != y.negative;
    match (x.kind, y.kind) {
        (Kind::Infinity, _) if x.negative => Answer::Invalid,
        (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity) => Answer::Invalid,
        (Kind::Zero, _) | (_, Kind::Zero) => Answer::Zero(sign),
        (Kind::Infinity, _) | (_, Kind::Infinity) => Answer::Infinity(sign),
        _ if x.negative && x.value.exponent >= 0 => Answer::Unchanged,
        _ => Answer::Value(y.value.mul(functions::log2_plus_1(x.value)), false),
    }
}

/// `2^x - 1`.
fn exp2_minus_1(x: Operand) -> Answer {
    match x.kind {
        Kind::Zero => Answer::Zero(x.negative),
        Kind::Infinity if x.negative => Answer::Value(Wide::ONE.negate(), true),
        Kind::Infinity => Answer::Infinity(false),
        _ if x.value == Wide::ONE.negate() => Answer::Value(Wide::ONE.scale(-1).negate(), true),
        _ if x.value.exponent >= 0 => Answer::Unchanged,
        _ => Answer::Value(functions::exp2_minus_1(x.value), false),
    }
}

/// All eight.
pub(in crate::software) fn function(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_waits()?;
    // The functions may use the host's own floating point.
    c.float_ready = false;
    let mut work = Work { x87: c.s.x87 };
    work.x87.status &= !C1;
    match i.mnemonic() {
        Mnemonic::F2xm1 => work.unary(exp2_minus_1),
        Mnemonic::Fyl2x => work.binary(y_log2_x),
        Mnemonic::Fyl2xp1 => work.binary(y_log2_x_plus_1),
        Mnemonic::Fpatan => work.binary(arc_tangent),
        Mnemonic::Fptan => work.pair(tangent),
        Mnemonic::Fsincos => work.pair(sine_and_cosine),
        name => {
            if work.angle() {
                work.unary(if name == Mnemonic::Fsin { sine } else { cosine });
            }
        }
    }
    c.commit_x87(i, work.x87);
    Ok(Flow::Next)
}
