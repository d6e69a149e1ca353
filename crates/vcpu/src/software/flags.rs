//! Lazy arithmetic flags, and the one function that materialises them.
//!
//! An instruction stores its operands and result, sign-extended to 64 bits, and a kind. Sign extension keeps both
//! orders, so that no formula below depends on the operand size. Flags that the manual leaves undefined have these
//! values here:
//! - AND, OR, XOR, TEST: AF = 0 (what silicon gives).
//! - Shifts: AF = 0. SHL/SHR/SAR/SHLD/SHRD by more than one: OF by the formula for one bit, applied to the last step.
//! - ROL/ROR/RCL/RCR by more than one: OF by the formula for one bit, applied to the result.
//! - MUL, IMUL: ZF, SF, PF of the low half of the product (Intel; AMD leaves them unchanged), AF = 0.
//! - DIV, IDIV: all flags unchanged.
//! - BT, BTS, BTR, BTC: OF, SF, AF, PF unchanged. BSF, BSR: CF, OF, SF, AF, PF = those of a logic operation on the result
//!   (source, if it is zero).

use super::cpu::{Cpu, Int};

/// `result = a + b`.
pub(super) const ADD: u64 = 0;
/// `result = a - b`.
pub(super) const SUB: u64 = 1;
/// CF, OF and AF are 0.
pub(super) const LOGIC: u64 = 2;
/// ZF, SF, PF from the result; CF, OF, AF as RFLAGS bits in `a`.
pub(super) const RESULT: u64 = 3;
/// All six as RFLAGS bits in `a`.
pub(super) const RAW: u64 = 4;

pub(super) const CF: u64 = 1;
pub(super) const PF: u64 = 1 << 2;
pub(super) const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
pub(super) const SF: u64 = 1 << 7;
pub(super) const TF: u64 = 1 << 8;
pub(super) const IF: u64 = 1 << 9;
pub(super) const DF: u64 = 1 << 10;
pub(super) const OF: u64 = 1 << 11;
pub(super) const IOPL: u64 = 3 << 12;
pub(super) const NT: u64 = 1 << 14;
pub(super) const RF: u64 = 1 << 16;
pub(super) const VM: u64 = 1 << 17;
pub(super) const AC: u64 = 1 << 18;
pub(super) const ID: u64 = 1 << 21;
/// The six flags that are lazy.
pub(super) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// Bits of RFLAGS that exist.
pub(super) const EXISTING: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | AC | ID | (3 << 19);

/// The state from which the arithmetic flags follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lazy {
    pub a: u64,
    pub b: u64,
    pub result: u64,
    pub kind: u64,
}

impl Lazy {
    #[inline(always)]
    pub(super) fn cf(&self) -> bool {
        match self.kind {
            SUB => self.a < self.b,
            ADD => self.result < self.a,
            LOGIC => false,
            _ => self.a & CF != 0,
        }
    }

    #[inline(always)]
    pub(super) fn zf(&self) -> bool {
        if self.kind == RAW { self.a & ZF != 0 } else { self.result == 0 }
    }

    #[inline(always)]
    pub(super) fn sf(&self) -> bool {
        if self.kind == RAW { self.a & SF != 0 } else { (self.result as i64) < 0 }
    }

    #[inline(always)]
    pub(super) fn pf(&self) -> bool {
        if self.kind == RAW { self.a & PF != 0 } else { (self.result as u8).count_ones() & 1 == 0 }
    }

    #[inline(always)]
    pub(super) fn of(&self) -> bool {
        match self.kind {
            SUB => (((self.a ^ self.b) & (self.a ^ self.result)) as i64) < 0,
            ADD => (((self.a ^ self.result) & (self.b ^ self.result)) as i64) < 0,
            LOGIC => false,
            _ => self.a & OF != 0,
        }
    }

    /// The six arithmetic flags as RFLAGS bits.
    pub(super) fn bits(&self) -> u64 {
        if self.kind == RAW {
            return self.a;
        }
        let af = match self.kind {
            ADD | SUB => (self.a ^ self.b ^ self.result) & AF,
            LOGIC => 0,
            _ => self.a & AF,
        };
        (u64::from(self.cf()) * CF)
            | (u64::from(self.pf()) * PF)
            | af
            | (u64::from(self.zf()) * ZF)
            | (u64::from(self.sf()) * SF)
            | (u64::from(self.of()) * OF)
    }

    /// Sets all six from RFLAGS bits.
    pub(super) fn set_bits(&mut self, bits: u64) {
        *self = Self { a: bits & ARITHMETIC, b: 0, result: 0, kind: RAW };
    }

    /// Replaces some of CF, OF and AF, and leaves the others as they are.
    #[inline(always)]
    pub(super) fn replace(&mut self, which: u64, bits: u64) {
        let old = match self.kind {
            ADD | SUB => {
                let mut old = (self.a ^ self.b ^ self.result) & AF;
                if which & CF == 0 {
                    old |= u64::from(self.cf()) * CF;
                }
                if which & OF == 0 {
                    old |= u64::from(self.of()) * OF;
                }
                self.kind = RESULT;
                old
            }
            LOGIC => {
                self.kind = RESULT;
                0
            }
            _ => self.a,
        };
        self.a = old & !which | bits;
    }

    #[inline(always)]
    pub(super) fn add<T: Int>(&mut self, a: T, b: T, result: T) {
        *self = Self { a: a.sext(), b: b.sext(), result: result.sext(), kind: ADD };
    }

    #[inline(always)]
    pub(super) fn sub<T: Int>(&mut self, a: T, b: T, result: T) {
        *self = Self { a: a.sext(), b: b.sext(), result: result.sext(), kind: SUB };
    }

    #[inline(always)]
    pub(super) fn logic<T: Int>(&mut self, result: T) {
        self.result = result.sext();
        self.kind = LOGIC;
    }

    /// SF, ZF, PF of `result`; CF, OF, AF as in `explicit`.
    #[inline(always)]
    pub(super) fn result<T: Int>(&mut self, result: T, explicit: u64) {
        self.a = explicit;
        self.result = result.sext();
        self.kind = RESULT;
    }
}

/// Condition `C` of Jcc, SETcc and CMOVcc (the low four bits of their opcodes).
#[inline(always)]
pub(super) fn condition<const C: u8>(lazy: &Lazy) -> bool {
    let positive = match C >> 1 {
        0 => lazy.of(),
        1 => lazy.cf(),
        2 => lazy.zf(),
        3 => {
            if lazy.kind == SUB {
                lazy.a <= lazy.b
            } else {
                lazy.cf() | lazy.zf()
            }
        }
        4 => lazy.sf(),
        5 => lazy.pf(),
        6 => {
            if lazy.kind == SUB {
                (lazy.a as i64) < lazy.b as i64
            } else {
                lazy.sf() != lazy.of()
            }
        }
        _ => {
            if lazy.kind == SUB {
                lazy.a as i64 <= lazy.b as i64
            } else {
                lazy.zf() | (lazy.sf() != lazy.of())
            }
        }
    };
    positive == (C & 1 == 0)
}

impl Cpu {
    /// RFLAGS, all of it.
    pub(super) fn rflags(&self) -> u64 {
        self.flags.bits() | self.system_flags | 2
    }

    /// Replaces RFLAGS; bits that do not exist are dropped. The caller updates the memory view if AC may change.
    pub(super) fn set_rflags(&mut self, value: u64) {
        self.flags.set_bits(value);
        self.system_flags = value & EXISTING & !ARITHMETIC;
    }
}
