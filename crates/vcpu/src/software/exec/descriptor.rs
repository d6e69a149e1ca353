//! Instructions that ask about descriptors without loading them: LAR, LSL, VERR, VERW, ARPL.

use iced_x86::{Instruction, Mnemonic};

use super::operand::size_of_operand;
use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::Fault;
use crate::software::flags::ZF;
use crate::state::Segment;

/// What LAR gives of the upper half of a descriptor. The manual leaves the bits of the limit open; silicon gives them.
const ACCESS_RIGHTS: u64 = 0x00FF_FF00;

impl Cpu {
    fn set_zero_flag(&mut self, zero: bool) {
        let bits = self.flags.bits() & !ZF | if zero { ZF } else { 0 };
        self.flags.set_bits(bits);
    }

    /// A selector's descriptor, if the privilege level and the selector's own may see it (SDM volume 3, section 5.10).
    fn visible_descriptor(&mut self, selector: u16) -> Result<Option<(u64, Segment)>, Fault> {
        let Some((raw, segment)) = self.descriptor_if_any(selector)? else { return Ok(None) };
        let dpl = (segment.attributes >> 5) as u8 & 3;
        let conforming = segment.attributes & 0x1C == 0x1C;
        let visible = conforming || (self.cpl() <= dpl && selector as u8 & 3 <= dpl);
        Ok(visible.then_some((raw, segment)))
    }
}

/// LAR and LSL.
pub(in crate::software) fn rights_and_limit(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let selector = c.selector_operand(i, 1)?;
    let rights = i.mnemonic() == Mnemonic::Lar;
    let long = c.long_mode();
    let found = c.visible_descriptor(selector)?.filter(|(_, segment)| {
        let kind = segment.attributes & 0x1F;
        match kind {
            // LDT, TSS, busy TSS; those of 16 bits do not exist in long mode.
            2 | 9 | 0xB => true,
            1 | 3 => !long,
            // Call gates, and task gates.
            0xC => rights,
            4 | 5 => rights && !long,
            _ => kind & 0x10 != 0,
        }
    });
    if let Some((raw, segment)) = found {
        let value = if rights { raw >> 32 & ACCESS_RIGHTS } else { segment.limit.into() };
        c.set_at(super::operand::register_offset(i.op0_register()), size_of_operand(i, 0), value);
    }
    c.set_zero_flag(found.is_some());
    Ok(Flow::Next)
}

/// VERR and VERW.
pub(in crate::software) fn verify(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let selector = c.selector_operand(i, 0)?;
    let read = i.mnemonic() == Mnemonic::Verr;
    let found = c.visible_descriptor(selector)?.is_some_and(|(_, segment)| {
        let kind = segment.attributes & 0x1F;
        // Data can be read and perhaps written, code perhaps read.
        match kind & 0x18 {
            0x10 => read || kind & 2 != 0,
            0x18 => read && kind & 2 != 0,
            _ => false,
        }
    });
    c.set_zero_flag(found);
    Ok(Flow::Next)
}

/// ARPL.
pub(in crate::software) fn adjust_level(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    // On silicon the operand is written only if it changes.
    let selector = c.get(i, 0)?;
    let least = c.get(i, 1)? & 3;
    let raise = selector & 3 < least;
    if raise {
        c.set(i, 0, selector & !3 | least)?;
    }
    c.set_zero_flag(raise);
    Ok(Flow::Next)
}
