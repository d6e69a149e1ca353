//! XSAVE, XRSTOR, XGETBV, XSETBV: the extended states that there are here, x87 and SSE, in the standard format (SDM
//! volume 1, chapter 13).
//!
//! Both states always count as in use, which the manual allows: what is saved never depends on what was run before.

use iced_x86::Instruction;

use super::float::MXCSR_MASK;
use crate::software::block::Flow;
use crate::software::cpu::{CR0_TS, CR4_OSXSAVE, Cpu};
use crate::software::fault::{Fault, NM};
use crate::state::X87;

/// XCR0 bits.
pub(in crate::software) const STATE_X87: u64 = 1;
pub(in crate::software) const STATE_SSE: u64 = 2;
/// The legacy area and the header.
pub(in crate::software) const AREA: u64 = 576;
const HEADER: u64 = 512;

impl Cpu {
    fn xsave_enabled(&self) -> Result<(), Fault> {
        if self.s.cr4 & CR4_OSXSAVE == 0 { Err(Fault::ud()) } else { Ok(()) }
    }

    /// The states asked for in EDX:EAX that are enabled, and where they are in memory.
    fn xsave_operands(&mut self, i: &Instruction) -> Result<(u64, u64), Fault> {
        self.xsave_enabled()?;
        if self.s.cr0 & CR0_TS != 0 {
            return Err(Fault::new(NM));
        }
        let asked = (self.gpr[0] & 0xFFFF_FFFF | self.gpr[2] << 32) & self.s.xcr0;
        let at = self.linear(i);
        if at & 63 != 0 {
            return Err(Fault::gp());
        }
        self.canonical(at, 1)?;
        Ok((asked, at))
    }
}

/// XSAVE, XSAVE64.
pub(in crate::software) fn save(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (asked, at) = c.xsave_operands(i)?;
    // The last byte first, as with FXSAVE.
    c.check_write(at.wrapping_add(AREA - 1), 1)?;
    c.check_write(at, AREA as usize)?;
    let image = c.legacy_image();
    let registers = if c.long64() { 16 } else { 8 };
    if asked & STATE_X87 != 0 {
        c.write_image(at, &image[..24])?;
        c.write_image(at.wrapping_add(32), &image[32..160])?;
    }
    if asked & STATE_SSE != 0 {
        c.write_image(at.wrapping_add(24), &image[24..32])?;
        c.write_image(at.wrapping_add(160), &image[160..160 + 16 * registers])?;
    }
    let header = at.wrapping_add(HEADER);
    let old = c.read(header, 8)?;
    c.write(header, 8, old & !asked | asked)?;
    Ok(Flow::Next)
}

/// XRSTOR, XRSTOR64.
pub(in crate::software) fn restore(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (asked, at) = c.xsave_operands(i)?;
    c.check_read(at.wrapping_add(AREA - 1), 1)?;
    c.check_read(at, AREA as usize)?;
    let header: [u8; 64] = c.read_image(at.wrapping_add(HEADER))?;
    let present = u64::from_le_bytes(std::array::from_fn(|n| header[n]));
    // No compaction, and nothing that is not enabled.
    if present & !c.s.xcr0 != 0 || header[8..24].iter().any(|byte| *byte != 0) {
        return Err(Fault::gp());
    }
    let image: [u8; 416] = c.read_image(at)?;
    let mxcsr = u32::from_le_bytes(std::array::from_fn(|n| image[24 + n]));
    if asked & STATE_SSE != 0 && mxcsr & !MXCSR_MASK != 0 {
        return Err(Fault::gp());
    }
    if asked & STATE_X87 != 0 {
        if present & STATE_X87 != 0 {
            c.load_legacy_x87(&image);
        } else {
            c.s.x87 = X87 { control: 0x37F, ..X87::default() };
        }
    }
    if asked & STATE_SSE != 0 {
        // MXCSR comes from memory whether or not the registers do.
        c.set_mxcsr(mxcsr);
        if present & STATE_SSE != 0 {
            c.load_legacy_xmm(&image);
        } else {
            let registers = if c.long64() { 16 } else { 8 };
            c.xmm[..registers].fill(0);
        }
    }
    Ok(Flow::Next)
}

/// XGETBV.
pub(in crate::software) fn get(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.xsave_enabled()?;
    if c.gpr[1] as u32 != 0 {
        return Err(Fault::gp());
    }
    c.gpr[0] = c.s.xcr0 & 0xFFFF_FFFF;
    c.gpr[2] = c.s.xcr0 >> 32;
    Ok(Flow::Next)
}

/// XSETBV.
pub(in crate::software) fn set(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.xsave_enabled()?;
    c.privileged()?;
    let value = c.gpr[0] & 0xFFFF_FFFF | c.gpr[2] << 32;
    if c.gpr[1] as u32 != 0 || value & STATE_X87 == 0 || value & !(STATE_X87 | STATE_SSE) != 0 {
        return Err(Fault::gp());
    }
    c.s.xcr0 = value;
    Ok(Flow::Next)
}
