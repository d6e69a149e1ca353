//! SSE3, SSSE3 and SSE4: everything but floating-point arithmetic and strings.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::sse_strings;
use crate::software::block::{Flow, Interpret};
use crate::software::cpu::Cpu;
use crate::software::fault::Fault;
use crate::software::flags::{CF, ZF};

/// An operation without modes or exceptions: destination and source to destination.
pub(super) type Plain = fn(u128, u128) -> u128;

macro_rules! plain {
    ($($name:ident $text:literal),* $(,)?) => {
        /// The operation of a two-operand instruction on packed integers, if it came with SSE3 or later.
        pub(super) fn plain(mnemonic: Mnemonic) -> Option<Plain> {
            Some(match mnemonic {
                $(Mnemonic::$name => {
                    fn run(a: u128, b: u128) -> u128 {
                        // SAFETY: the instruction is part of every host that we run on (x86-64-v2), and touches its two
                        // registers only.
                        unsafe {
                            let mut a = std::mem::transmute::<u128, __m128i>(a);
                            let b = std::mem::transmute::<u128, __m128i>(b);
                            asm!(
                                concat!($text, " {a}, {b}"), a = inout(xmm_reg) a, b = in(xmm_reg) b,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                            std::mem::transmute::<__m128i, u128>(a)
                        }
                    }
                    run as Plain
                })*
                _ => return None,
            })
        }

        fn simple(mnemonic: Mnemonic) -> Option<Interpret> {
            Some(match mnemonic {
                $(Mnemonic::$name => |c, i| {
                    let b = c.get_xmm(i, 1)?;
                    let number = i.op0_register().number();
                    if let Some(run) = plain(Mnemonic::$name) {
                        c.xmm[number] = run(c.xmm[number], b);
                    }
                    Ok(Flow::Next)
                },)*
                _ => return None,
            })
        }
    };
}

plain! {
    Movddup "movddup", Movshdup "movshdup", Movsldup "movsldup", Pabsb "pabsb", Pabsw "pabsw", Pabsd "pabsd",
    Phaddw "phaddw", Phaddd "phaddd", Phaddsw "phaddsw", Phsubw "phsubw", Phsubd "phsubd", Phsubsw "phsubsw",
    Pmaddubsw "pmaddubsw", Pmulhrsw "pmulhrsw", Pshufb "pshufb", Psignb "psignb", Psignw "psignw", Psignd "psignd",
    Packusdw "packusdw", Pcmpeqq "pcmpeqq", Pcmpgtq "pcmpgtq", Phminposuw "phminposuw", Pmaxsb "pmaxsb",
    Pmaxsd "pmaxsd", Pmaxud "pmaxud", Pmaxuw "pmaxuw", Pminsb "pminsb", Pminsd "pminsd", Pminud "pminud",
    Pminuw "pminuw", Pmovsxbd "pmovsxbd", Pmovsxbq "pmovsxbq", Pmovsxbw "pmovsxbw", Pmovsxdq "pmovsxdq",
    Pmovsxwd "pmovsxwd", Pmovsxwq "pmovsxwq", Pmovzxbd "pmovzxbd", Pmovzxbq "pmovzxbq", Pmovzxbw "pmovzxbw",
    Pmovzxdq "pmovzxdq", Pmovzxwd "pmovzxwd", Pmovzxwq "pmovzxwq", Pmuldq "pmuldq", Pmulld "pmulld",
}

/// The interpreter of an instruction on XMM registers, if it is one of these.
pub(in crate::software) fn select(i: &Instruction) -> Option<Interpret> {
    use Mnemonic::*;
    if let Some(run) = simple(i.mnemonic()) {
        return Some(run);
    }
    Some(match i.mnemonic() {
        Movntdqa => |c, i| {
            let at = c.linear(i);
            c.xmm[i.op0_register().number()] = c.read128(at, true)?;
            Ok(Flow::Next)
        },
        Ptest => test,
        Blendvps | Blendvpd | Pblendvb | Blendps | Blendpd | Pblendw => blend,
        Palignr | Mpsadbw | Insertps => with_control,
        Extractps | Pextrb | Pextrd | Pextrq => extract,
        Pinsrb | Pinsrd | Pinsrq => insert,
        Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64 | Pcmpistri | Pcmpistrm => sse_strings::compare,
        _ => return None,
    })
}

fn test(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let a = c.xmm[i.op0_register().number()];
    let zero = if a & b == 0 { ZF } else { 0 };
    let carry = if !a & b == 0 { CF } else { 0 };
    c.flags.set_bits(zero | carry);
    Ok(Flow::Next)
}

/// All bits of each lane whose bit in `lanes` is set.
pub(super) fn lane_mask(lanes: u32, width: u32) -> u128 {
    (0..128 / width)
        .filter(|lane| lanes >> lane & 1 == 1)
        .fold(0, |mask, lane| mask | (u128::MAX >> (128 - width)) << (lane * width))
}

/// The top bit of each lane.
fn top_bits(value: u128, width: u32) -> u32 {
    (0..128 / width).fold(0, |bits, lane| bits | ((value >> (lane * width + width - 1)) as u32 & 1) << lane)
}

fn blend(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use Mnemonic::{Blendpd, Blendps, Blendvpd, Blendvps, Pblendw};
    let b = c.get_xmm(i, 1)?;
    let variable = c.xmm[0];
    let mask = match i.mnemonic() {
        Blendps => lane_mask(i.immediate8().into(), 32),
        Blendpd => lane_mask(i.immediate8().into(), 64),
        Pblendw => lane_mask(i.immediate8().into(), 16),
        Blendvps => lane_mask(top_bits(variable, 32), 32),
        Blendvpd => lane_mask(top_bits(variable, 64), 64),
        _ => lane_mask(top_bits(variable, 8), 8),
    };
    let a = &mut c.xmm[i.op0_register().number()];
    *a = *a & !mask | b & mask;
    Ok(Flow::Next)
}

/// PALIGNR on registers of `bytes` bytes.
pub(super) fn align_right(a: u128, b: u128, bytes: u32, count: u32) -> u128 {
    let mut result = 0;
    for n in 0..bytes {
        let from = n + count;
        let byte = match from {
            _ if from < bytes => b >> (8 * from),
            _ if from < 2 * bytes => a >> (8 * (from - bytes)),
            _ => 0,
        };
        result |= (byte & 0xFF) << (8 * n);
    }
    result
}

fn with_control(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let b = c.get_xmm(i, 1)?;
    let number = i.op0_register().number();
    let a = c.xmm[number];
    let control = u32::from(i.immediate8());
    c.xmm[number] = match i.mnemonic() {
        Mnemonic::Palignr => align_right(a, b, 16, control),
        Mnemonic::Mpsadbw => {
            let byte = |value: u128, n: u32| (value >> (8 * n)) as u8;
            let (from, with) = (control & 4, 4 * (control & 3));
            (0..8).fold(0, |result, lane| {
                let sum: u32 =
                    (0..4).map(|n| u32::from(byte(a, from + lane + n).abs_diff(byte(b, with + n)))).sum();
                result | u128::from(sum) << (16 * lane)
            })
        }
        _ => {
            let from = if i.op1_kind() == OpKind::Register { control >> 6 } else { 0 };
            let to = 32 * (control >> 4 & 3);
            let value = (b >> (32 * from)) & 0xFFFF_FFFF;
            (a & !(0xFFFF_FFFF << to) | value << to) & !lane_mask(control & 15, 32)
        }
    };
    Ok(Flow::Next)
}

/// Bits of a lane that PEXTR and PINSR move, and where it is.
fn lane_of(i: &Instruction) -> (u32, u32) {
    let width = match i.mnemonic() {
        Mnemonic::Pextrb | Mnemonic::Pinsrb => 8,
        Mnemonic::Pextrq | Mnemonic::Pinsrq => 64,
        _ => 32,
    };
    (width, width * (u32::from(i.immediate8()) & (128 / width - 1)))
}

fn extract(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (width, at) = lane_of(i);
    let value = (c.xmm[i.op1_register().number()] >> at) as u64 & (u64::MAX >> (64 - width));
    c.set(i, 0, value)?;
    Ok(Flow::Next)
}

fn insert(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (width, at) = lane_of(i);
    let mask = u128::from(u64::MAX >> (64 - width)) << at;
    let value = u128::from(c.get(i, 1)?) << at;
    let a = &mut c.xmm[i.op0_register().number()];
    *a = *a & !mask | value & mask;
    Ok(Flow::Next)
}
