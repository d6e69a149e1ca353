//! Instructions of 16- and 32-bit code only: decimal adjustment, SALC, BOUND, and far pointers.

use iced_x86::{Instruction, Mnemonic};

use super::operand::segment_number;
use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::{BR, DE, Fault};
use crate::software::flags::{AF, CF};

/// AAA and AAS.
pub(in crate::software) fn adjust_ascii(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let ax = c.gpr[0] as u16;
    let adjust = ax & 15 > 9 || c.flags.bits() & AF != 0;
    let result = match (adjust, i.mnemonic()) {
        (false, _) => ax,
        (true, Mnemonic::Aaa) => ax.wrapping_add(0x106),
        (true, _) => ax.wrapping_sub(0x106),
    } & 0xFF0F;
    c.set_at(0, 2, result.into());
    c.flags.result(result as u8, if adjust { AF | CF } else { 0 });
    Ok(Flow::Next)
}

/// AAM and AAD.
pub(in crate::software) fn adjust_product(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let base = i.immediate8();
    let [al, ah] = (c.gpr[0] as u16).to_le_bytes();
    let result = if i.mnemonic() == Mnemonic::Aam {
        if base == 0 {
            return Err(Fault::new(DE));
        }
        [al % base, al / base]
    } else {
        [al.wrapping_add(ah.wrapping_mul(base)), 0]
    };
    c.set_at(0, 2, u16::from_le_bytes(result).into());
    c.flags.result(result[0], 0);
    Ok(Flow::Next)
}

/// DAA and DAS.
pub(in crate::software) fn adjust_decimal(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let old = c.gpr[0] as u8;
    let bits = c.flags.bits();
    let (old_carry, half) = (bits & CF != 0, old & 15 > 9 || bits & AF != 0);
    let subtract = i.mnemonic() == Mnemonic::Das;
    let mut al = old;
    let mut carry = false;
    let step = |al: u8, by: u8| if subtract { al.overflowing_sub(by) } else { al.overflowing_add(by) };
    if half {
        let (result, out) = step(al, 6);
        al = result;
        carry = old_carry || out;
    }
    if old > 0x99 || old_carry {
        al = step(al, 0x60).0;
        carry = true;
    } else if !subtract {
        carry = false;
    }
    c.set_at(0, 1, al.into());
    c.flags.result(al, if half { AF } else { 0 } | if carry { CF } else { 0 });
    Ok(Flow::Next)
}

/// SALC, which has no page in the manuals: AL = 0xFF if CF is set, else 0.
pub(in crate::software) fn carry_to_al(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    let value = if c.flags.cf() { 0xFF } else { 0 };
    c.set_at(0, 1, value);
    Ok(Flow::Next)
}

/// BOUND.
pub(in crate::software) fn bound(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let size = i.op0_register().size();
    let signed = |value: u64| if size == 2 { i64::from(value as i16) } else { i64::from(value as i32) };
    let at = c.linear(i);
    c.check_read(at, 2 * size)?;
    let lower = c.read(at, size)?;
    let next = c.linear_from(i, size as u64, size as u64);
    let upper = c.read(next, size)?;
    let index = signed(c.register(i.op0_register()));
    if index < signed(lower) || index > signed(upper) { Err(Fault::new(BR)) } else { Ok(Flow::Next) }
}

/// LDS, LES, LFS, LGS, LSS: a segment register and a general register from memory.
pub(in crate::software) fn load_pointer(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let register = i.op0_register();
    let size = register.size();
    let segment = match i.mnemonic() {
        Mnemonic::Lds => iced_x86::Register::DS,
        Mnemonic::Les => iced_x86::Register::ES,
        Mnemonic::Lfs => iced_x86::Register::FS,
        Mnemonic::Lgs => iced_x86::Register::GS,
        _ => iced_x86::Register::SS,
    };
    let at = c.linear(i);
    let offset = c.read(at, size)?;
    let next = c.linear_from(i, size as u64, 2);
    let selector = c.read(next, 2)? as u16;
    c.load_segment(segment_number(segment), selector)?;
    c.set_register(register, offset);
    Ok(if segment == iced_x86::Register::SS { Flow::Boundary } else { Flow::Next })
}
