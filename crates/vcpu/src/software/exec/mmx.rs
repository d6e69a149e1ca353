//! MMX: the operations of XMM registers on the lower halves of the x87 registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::sse;
use super::sse_float;
use super::sse_later;
use crate::software::block::{Flow, Interpret};
use crate::software::cpu::{CR0_EM, CR0_TS, Cpu};
use crate::software::fault::{Fault, MF, NM};
use crate::software::tlb::mask;

impl Cpu {
    /// What every MMX instruction checks first.
    fn mmx_allowed(&self) -> Result<(), Fault> {
        if self.s.cr0 & CR0_EM != 0 {
            Err(Fault::ud())
        } else if self.s.cr0 & CR0_TS != 0 {
            Err(Fault::new(NM))
        } else if self.s.x87.status & 0x80 != 0 {
            Err(Fault::new(MF))
        } else {
            Ok(())
        }
    }

    /// What every MMX instruction but EMMS does to the x87: all registers are in use, the stack starts at R0.
    fn enter_mmx(&mut self) {
        self.s.x87.tag = 0xFF;
        self.s.x87.status &= !0x3800;
    }

    fn mm(&self, number: usize) -> u64 {
        let register = &self.s.x87.registers[number & 7];
        u64::from_le_bytes(std::array::from_fn(|n| register[n]))
    }

    fn set_mm(&mut self, number: usize, value: u64) {
        let register = &mut self.s.x87.registers[number & 7];
        register[..8].copy_from_slice(&value.to_le_bytes());
        register[8..].fill(0xFF);
    }

    /// Operand `n`: an MMX or general register, or memory.
    fn get_mm(&mut self, i: &Instruction, n: u32) -> Result<u64, Fault> {
        if i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm() {
            return Ok(self.mm(i.op_register(n).number()));
        }
        self.get(i, n)
    }
}

/// The interpreter of an MMX instruction, if it is one.
pub(in crate::software) fn select(i: &Instruction) -> Option<Interpret> {
    use Mnemonic::*;
    let any = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm());
    Some(match i.mnemonic() {
        Cvtpi2ps | Cvtpi2pd => to_float,
        Emms => empty,
        _ if !any => return None,
        Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi => from_float,
        Movd | Movq | Movntq | Movq2dq | Movdq2q | Pmovmskb | Pextrw => transfer,
        Pshufw | Pinsrw | Palignr => with_control,
        Maskmovq => masked_store,
        _ => operation,
    })
}

fn empty(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    c.s.x87.tag = 0;
    Ok(Flow::Next)
}

fn transfer(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    let source = i.op1_register();
    match i.mnemonic() {
        Mnemonic::Movq2dq => c.xmm[i.op0_register().number()] = c.mm(source.number()).into(),
        Mnemonic::Movdq2q => c.set_mm(i.op0_register().number(), c.xmm[source.number()] as u64),
        Mnemonic::Pmovmskb => {
            let value = c.mm(source.number());
            let bits = (0..8).fold(0, |bits, n| bits | (value >> (8 * n + 7) & 1) << n);
            c.set_register(i.op0_register(), bits);
        }
        Mnemonic::Pextrw => {
            let value = c.mm(source.number()) >> (16 * (i.immediate8() & 3)) & 0xFFFF;
            c.set_register(i.op0_register(), value);
        }
        _ => {
            let value = c.get_mm(i, 1)?;
            if i.op0_kind() == OpKind::Register && i.op0_register().is_mm() {
                c.set_mm(i.op0_register().number(), value);
            } else {
                c.set(i, 0, value)?;
            }
        }
    }
    c.enter_mmx();
    Ok(Flow::Next)
}

/// The result of a two-operand instruction, got from the 128-bit operation.
fn compute(mnemonic: Mnemonic, a: u64, b: u64) -> Option<u64> {
    use Mnemonic::*;
    let run = |mnemonic: Mnemonic, a: u128, b: u128| {
        sse::packed(mnemonic, a, b).or_else(|| sse_later::plain(mnemonic).map(|run| run(a, b)))
    };
    let (a, b) = (u128::from(a), u128::from(b));
    let both = a | b << 64;
    let result = match mnemonic {
        // The lower half of the result is made of the whole first operand, the upper half of the second.
        Packsswb | Packssdw | Packuswb | Phaddw | Phaddd | Phaddsw | Phsubw | Phsubd | Phsubsw => {
            run(mnemonic, both, both)
        }
        Punpckhbw => run(Punpcklbw, a, b).map(|value| value >> 64),
        Punpckhwd => run(Punpcklwd, a, b).map(|value| value >> 64),
        Punpckhdq => run(Punpckldq, a, b).map(|value| value >> 64),
        Pshufb => run(Pshufb, a, b & 0x8787_8787_8787_8787),
        _ => run(mnemonic, a, b),
    };
    result.map(|value| value as u64)
}

fn operation(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    let b = match i.op1_kind() {
        OpKind::Register | OpKind::Memory => c.get_mm(i, 1)?,
        _ => i.immediate8().into(),
    };
    let number = i.op0_register().number();
    match compute(i.mnemonic(), c.mm(number), b) {
        Some(value) => c.set_mm(number, value),
        None => return super::general::unimplemented(c, i),
    }
    c.enter_mmx();
    Ok(Flow::Next)
}

fn with_control(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    let b = c.get_mm(i, 1)?;
    let control = u32::from(i.immediate8());
    let number = i.op0_register().number();
    let a = c.mm(number);
    let value = match i.mnemonic() {
        Mnemonic::Pshufw => {
            (0..4).fold(0, |value, n| value | (b >> (16 * (control >> (2 * n) & 3)) & 0xFFFF) << (16 * n))
        }
        Mnemonic::Pinsrw => {
            let at = 16 * (control & 3);
            a & !(0xFFFF << at) | (b & 0xFFFF) << at
        }
        _ => sse_later::align_right(a.into(), b.into(), 8, control) as u64,
    };
    c.set_mm(number, value);
    c.enter_mmx();
    Ok(Flow::Next)
}

fn masked_store(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    let (value, select) = (c.mm(i.op1_register().number()), c.mm(i.op2_register().number()));
    c.store_bytes(i, 8, value.into(), select.into())?;
    c.enter_mmx();
    Ok(Flow::Next)
}

/// CVTPI2PS, CVTPI2PD. From memory they leave the x87 alone.
fn to_float(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let register = i.op1_kind() == OpKind::Register;
    if register {
        c.mmx_allowed()?;
    }
    let b = c.get_mm(i, 1)?;
    let result = c.float_operation(sse_float::conversion(i.mnemonic()), 0, b.into())?;
    let a = &mut c.xmm[i.op0_register().number()];
    *a = if i.mnemonic() == Mnemonic::Cvtpi2ps {
        *a & !u128::from(u64::MAX) | result & u128::from(u64::MAX)
    } else {
        result
    };
    if register {
        c.enter_mmx();
    }
    Ok(Flow::Next)
}

/// CVTPS2PI, CVTTPS2PI, CVTPD2PI, CVTTPD2PI.
fn from_float(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.mmx_allowed()?;
    let single = matches!(i.mnemonic(), Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi);
    let b = c.get_xmm(i, 1)? & if single { u128::from(mask(8)) } else { u128::MAX };
    let result = c.float_operation(sse_float::conversion(i.mnemonic()), 0, b)?;
    c.set_mm(i.op0_register().number(), result as u64);
    c.enter_mmx();
    Ok(Flow::Next)
}
