//! SSE floating point: each operation is one block of assembly under the guest's rounding and denormal modes, with all
//! exceptions masked; which of them the guest wants to see is decided afterwards (SDM volume 1, section 11.5).

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::size_of_operand;
use super::sse_later::lane_mask;
use crate::software::block::{Flow, Interpret};
use crate::software::cpu::Cpu;
use crate::software::fault::{Fault, XM};
use crate::software::flags::{CF, PF, ZF};

/// MXCSR: the exception flags, those found before a result is computed, underflow, precision, the masks, flush to zero.
const FLAGS: u32 = 0x3F;
const BEFORE: u32 = 0x07;
const UNDERFLOW: u32 = 0x10;
const PRECISION: u32 = 0x20;
const MASKS: u32 = 0x1F80;
const FLUSH: u32 = 0x8000;
/// CR4: the guest handles #XM.
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// An operation on the host: destination, source, MXCSR; result and MXCSR afterwards.
pub(super) type Operation = fn(u128, u128, u32) -> (u128, u32);

/// One instruction with operands `{a}` (destination) and `{b}`.
macro_rules! native {
    ($text:expr) => {{
        fn run(a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
            let mut words = [mxcsr, 0];
            // SAFETY: the instruction is part of every host that we run on (x86-64-v2) and touches the two registers
            // and MXCSR only, which is restored.
            unsafe {
                let mut a = std::mem::transmute::<u128, __m128i>(a);
                asm!(
                    "stmxcsr [{words} + 4]", "ldmxcsr [{words}]", $text, "stmxcsr [{words}]", "ldmxcsr [{words} + 4]",
                    words = in(reg) words.as_mut_ptr(), a = inout(xmm_reg) a,
                    b = in(xmm_reg) std::mem::transmute::<u128, __m128i>(b), options(nostack),
                );
                (std::mem::transmute::<__m128i, u128>(a), words[0])
            }
        }
        run as Operation
    }};
}

/// The same with a general register as destination, `{r}`.
macro_rules! native_to_general {
    ($text:expr) => {{
        fn run(_: u128, b: u128, mxcsr: u32) -> (u128, u32) {
            let mut words = [mxcsr, 0];
            let r: u64;
            // SAFETY: as above, with a general register.
            unsafe {
                asm!(
                    "stmxcsr [{words} + 4]", "ldmxcsr [{words}]", $text, "stmxcsr [{words}]", "ldmxcsr [{words} + 4]",
                    words = in(reg) words.as_mut_ptr(), r = out(reg) r,
                    b = in(xmm_reg) std::mem::transmute::<u128, __m128i>(b), options(nostack),
                );
            }
            (r.into(), words[0])
        }
        run as Operation
    }};
}

/// The same with a general register as source, `{b}`.
macro_rules! native_from_general {
    ($text:expr) => {{
        fn run(a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
            let mut words = [mxcsr, 0];
            // SAFETY: as above, with a general register.
            unsafe {
                let mut a = std::mem::transmute::<u128, __m128i>(a);
                asm!(
                    "stmxcsr [{words} + 4]", "ldmxcsr [{words}]", $text, "stmxcsr [{words}]", "ldmxcsr [{words} + 4]",
                    words = in(reg) words.as_mut_ptr(), a = inout(xmm_reg) a, b = in(reg) b as u64, options(nostack),
                );
                (std::mem::transmute::<__m128i, u128>(a), words[0])
            }
        }
        run as Operation
    }};
}

/// The same with flags as result.
macro_rules! native_to_flags {
    ($text:expr) => {{
        fn run(a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
            let mut words = [mxcsr, 0];
            let flags: u16;
            // SAFETY: as above; the flags are an output.
            unsafe {
                asm!(
                    "stmxcsr [{words} + 4]", "ldmxcsr [{words}]", $text, "lahf", "stmxcsr [{words}]",
                    "ldmxcsr [{words} + 4]",
                    words = in(reg) words.as_mut_ptr(), a = in(xmm_reg) std::mem::transmute::<u128, __m128i>(a),
                    b = in(xmm_reg) std::mem::transmute::<u128, __m128i>(b), out("ax") flags, options(nostack),
                );
            }
            ((flags >> 8).into(), words[0])
        }
        run as Operation
    }};
}

impl Cpu {
    /// Runs an operation under the guest's MXCSR and sets its flags there; the result, or #XM.
    pub(super) fn float_operation(&mut self, run: Operation, a: u128, b: u128) -> Result<u128, Fault> {
        self.float_operation_in(run, a, b, self.s.mxcsr, FLAGS)
    }

    /// The same with another rounding mode, and with some exceptions not reported.
    fn float_operation_in(
        &mut self,
        run: Operation,
        a: u128,
        b: u128,
        modes: u32,
        reported: u32,
    ) -> Result<u128, Fault> {
        let unmasked = !(self.s.mxcsr >> 7) & FLAGS;
        let mut control = modes & !FLAGS | MASKS;
        if unmasked & UNDERFLOW != 0 {
            // Flushing to zero is the answer to a masked underflow only.
            control &= !FLUSH;
        }
        let (result, after) = run(a, b, control);
        let mut flags = after & reported;
        if flags & unmasked & BEFORE != 0 {
            // No result was computed.
            flags &= BEFORE;
        } else if unmasked & UNDERFLOW != 0 {
            // Masked, an exact tiny result does not count as underflow; unmasked it does. Flushing tells it is tiny.
            flags |= run(a, b, control | FLUSH).1 & UNDERFLOW;
        }
        self.s.mxcsr |= flags;
        if flags & unmasked == 0 {
            Ok(result)
        } else if self.s.cr4 & CR4_OSXMMEXCPT != 0 {
            Err(Fault::new(XM))
        } else {
            Err(Fault::ud())
        }
    }
}

/// Destination and source in XMM registers, or the source in memory.
fn to_xmm(c: &mut Cpu, i: &Instruction, run: Operation) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let number = i.op0_register().number();
    c.xmm[number] = c.float_operation(run, c.xmm[number], b)?;
    Ok(Flow::Next)
}

fn to_general(c: &mut Cpu, i: &Instruction, narrow: Operation, wide: Operation) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let run = if i.op0_register().size() == 8 { wide } else { narrow };
    let result = c.float_operation(run, 0, b)?;
    c.set_register(i.op0_register(), result as u64);
    Ok(Flow::Next)
}

fn from_general(c: &mut Cpu, i: &Instruction, narrow: Operation, wide: Operation) -> Result<Flow, Fault> {
    let b = c.get(i, 1)?;
    let run = if size_of_operand(i, 1) == 8 { wide } else { narrow };
    let number = i.op0_register().number();
    c.xmm[number] = c.float_operation(run, c.xmm[number], b.into())?;
    Ok(Flow::Next)
}

fn to_flags(c: &mut Cpu, i: &Instruction, run: Operation) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let flags = c.float_operation(run, c.xmm[i.op0_register().number()], b)?;
    c.flags.set_bits(flags as u64 & (CF | PF | ZF));
    Ok(Flow::Next)
}

/// CMPPS and its kind.
macro_rules! predicates {
    ($c:ident, $i:ident, $text:literal) => {{
        let run = match $i.immediate8() & 7 {
            0 => native!(concat!($text, " {a}, {b}, 0")),
            1 => native!(concat!($text, " {a}, {b}, 1")),
            2 => native!(concat!($text, " {a}, {b}, 2")),
            3 => native!(concat!($text, " {a}, {b}, 3")),
            4 => native!(concat!($text, " {a}, {b}, 4")),
            5 => native!(concat!($text, " {a}, {b}, 5")),
            6 => native!(concat!($text, " {a}, {b}, 6")),
            _ => native!(concat!($text, " {a}, {b}, 7")),
        };
        to_xmm($c, $i, run)
    }};
}

/// ROUNDPS and its kind. Bits 0-1 of the immediate are a rounding mode, unless bit 2 says MXCSR's; bit 3 keeps quiet about
/// precision.
fn round(c: &mut Cpu, i: &Instruction, run: Operation) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let control = u32::from(i.immediate8());
    let mut modes = c.s.mxcsr;
    if control & 4 == 0 {
        modes = modes & !0x6000 | (control & 3) << 13;
    }
    let reported = if control & 8 != 0 { FLAGS & !PRECISION } else { FLAGS };
    let number = i.op0_register().number();
    c.xmm[number] = c.float_operation_in(run, c.xmm[number], b, modes, reported)?;
    Ok(Flow::Next)
}

/// DPPS, DPPD: the products of the lanes that the immediate's upper half picks are summed in pairs, and its lower half says
/// which lanes get the sum. The first stage with an unmasked exception is the last one.
fn dot_product(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let number = i.op0_register().number();
    let control = u32::from(i.immediate8());
    let (width, product, sums): (_, _, &[Operation]) = if i.mnemonic() == Mnemonic::Dpps {
        let sum = native!("haddps {a}, {b}");
        (32, native!("mulps {a}, {b}"), &[sum, sum])
    } else {
        (64, native!("mulpd {a}, {b}"), &[native!("haddpd {a}, {b}")])
    };
    let picked = lane_mask(control >> 4, width);
    let mut value = c.float_operation(product, c.xmm[number] & picked, b & picked)?;
    for sum in sums {
        value = c.float_operation(*sum, value, value)?;
    }
    c.xmm[number] = value & lane_mask(control, width);
    Ok(Flow::Next)
}

/// RCPPS, RCPSS, RSQRTPS, RSQRTSS. Processors differ in these approximations; here they are the correctly rounded values,
/// with denormals as zeros, so that they are the same everywhere. No exceptions, and MXCSR does not matter.
fn approximate(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    c.float_ready = false;
    let number = i.op0_register().number();
    let root = matches!(i.mnemonic(), Mnemonic::Rsqrtps | Mnemonic::Rsqrtss);
    let lanes = if matches!(i.mnemonic(), Mnemonic::Rcpss | Mnemonic::Rsqrtss) { 1 } else { 4 };
    let mut result = c.xmm[number];
    for lane in 0..lanes {
        let shift = 32 * lane;
        let value = approximate_one((b >> shift) as u32, root);
        result = result & !(0xFFFF_FFFF << shift) | u128::from(value) << shift;
    }
    c.xmm[number] = result;
    Ok(Flow::Next)
}

fn approximate_one(bits: u32, root: bool) -> u32 {
    const SIGN: u32 = 1 << 31;
    const INFINITY: u32 = 0x7F80_0000;
    let magnitude = bits & !SIGN;
    if magnitude > INFINITY {
        return bits | 1 << 22;
    }
    if magnitude < 1 << 23 {
        return bits & SIGN | INFINITY;
    }
    if root && bits & SIGN != 0 {
        return 0xFFC0_0000;
    }
    let value = f64::from(f32::from_bits(bits));
    let result = (1.0 / if root { value.sqrt() } else { value }) as f32;
    if result.is_subnormal() { bits & SIGN } else { result.to_bits() }
}

macro_rules! select {
    ($($name:ident $text:literal),* $(,)?) => {
        fn simple(mnemonic: Mnemonic) -> Option<Interpret> {
            Some(match mnemonic {
                $(Mnemonic::$name => {
                    fn run(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
                        to_xmm(c, i, native!(concat!($text, " {a}, {b}")))
                    }
                    run as Interpret
                })*
                _ => return None,
            })
        }
    };
}

select! {
    Addps "addps", Addpd "addpd", Addss "addss", Addsd "addsd", Subps "subps", Subpd "subpd", Subss "subss",
    Subsd "subsd", Mulps "mulps", Mulpd "mulpd", Mulss "mulss", Mulsd "mulsd", Divps "divps", Divpd "divpd",
    Divss "divss", Divsd "divsd", Minps "minps", Minpd "minpd", Minss "minss", Minsd "minsd", Maxps "maxps",
    Maxpd "maxpd", Maxss "maxss", Maxsd "maxsd", Sqrtps "sqrtps", Sqrtpd "sqrtpd", Sqrtss "sqrtss",
    Sqrtsd "sqrtsd", Addsubps "addsubps", Addsubpd "addsubpd", Haddps "haddps", Haddpd "haddpd",
    Hsubps "hsubps", Hsubpd "hsubpd", Cvtdq2pd "cvtdq2pd", Cvtdq2ps "cvtdq2ps", Cvtpd2dq "cvtpd2dq",
    Cvtpd2ps "cvtpd2ps", Cvtps2dq "cvtps2dq", Cvtps2pd "cvtps2pd", Cvtsd2ss "cvtsd2ss", Cvtss2sd "cvtss2sd",
    Cvttpd2dq "cvttpd2dq", Cvttps2dq "cvttps2dq",
}

/// The interpreter of an SSE floating-point instruction, if it is one.
pub(in crate::software) fn select(i: &Instruction) -> Option<Interpret> {
    use Mnemonic::*;
    if i.op1_kind() == OpKind::Register && i.op1_register().is_mm() {
        return None;
    }
    if let Some(run) = simple(i.mnemonic()) {
        return Some(run);
    }
    Some(match i.mnemonic() {
        Cmpps => |c, i| predicates!(c, i, "cmpps"),
        Cmppd => |c, i| predicates!(c, i, "cmppd"),
        Cmpss => |c, i| predicates!(c, i, "cmpss"),
        Cmpsd if i.op0_kind() == OpKind::Register => |c, i| predicates!(c, i, "cmpsd"),
        Comiss => |c, i| to_flags(c, i, native_to_flags!("comiss {a}, {b}")),
        Comisd => |c, i| to_flags(c, i, native_to_flags!("comisd {a}, {b}")),
        Ucomiss => |c, i| to_flags(c, i, native_to_flags!("ucomiss {a}, {b}")),
        Ucomisd => |c, i| to_flags(c, i, native_to_flags!("ucomisd {a}, {b}")),
        Cvtss2si => |c, i| {
            to_general(
                c,
                i,
                native_to_general!("cvtss2si {r:e}, {b}"),
                native_to_general!("cvtss2si {r}, {b}"),
            )
        },
        Cvtsd2si => |c, i| {
            to_general(
                c,
                i,
                native_to_general!("cvtsd2si {r:e}, {b}"),
                native_to_general!("cvtsd2si {r}, {b}"),
            )
        },
        Cvttss2si => |c, i| {
            to_general(
                c,
                i,
                native_to_general!("cvttss2si {r:e}, {b}"),
                native_to_general!("cvttss2si {r}, {b}"),
            )
        },
        Cvttsd2si => |c, i| {
            to_general(
                c,
                i,
                native_to_general!("cvttsd2si {r:e}, {b}"),
                native_to_general!("cvttsd2si {r}, {b}"),
            )
        },
        Cvtsi2ss => |c, i| {
            from_general(
                c,
                i,
                native_from_general!("cvtsi2ss {a}, {b:e}"),
                native_from_general!("cvtsi2ss {a}, {b}"),
            )
        },
        Cvtsi2sd => |c, i| {
            from_general(
                c,
                i,
                native_from_general!("cvtsi2sd {a}, {b:e}"),
                native_from_general!("cvtsi2sd {a}, {b}"),
            )
        },
        Roundps => |c, i| round(c, i, native!("roundps {a}, {b}, 4")),
        Roundpd => |c, i| round(c, i, native!("roundpd {a}, {b}, 4")),
        Roundss => |c, i| round(c, i, native!("roundss {a}, {b}, 4")),
        Roundsd => |c, i| round(c, i, native!("roundsd {a}, {b}, 4")),
        Dpps | Dppd => dot_product,
        Rcpps | Rcpss | Rsqrtps | Rsqrtss => approximate,
        _ => return None,
    })
}

/// A conversion by name, for the instructions that do it on MMX registers.
pub(super) fn conversion(mnemonic: Mnemonic) -> Operation {
    match mnemonic {
        Mnemonic::Cvtpi2ps => native!("cvtdq2ps {a}, {b}"),
        Mnemonic::Cvtpi2pd => native!("cvtdq2pd {a}, {b}"),
        Mnemonic::Cvtps2pi => native!("cvtps2dq {a}, {b}"),
        Mnemonic::Cvttps2pi => native!("cvttps2dq {a}, {b}"),
        Mnemonic::Cvtpd2pi => native!("cvtpd2dq {a}, {b}"),
        _ => native!("cvttpd2dq {a}, {b}"),
    }
}
