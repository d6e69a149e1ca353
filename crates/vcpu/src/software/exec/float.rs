//! Floating-point state: FXSAVE, FXRSTOR, MXCSR, and the x87 control instructions.

use iced_x86::{Instruction, Mnemonic};

use crate::software::block::Flow;
use crate::software::cpu::{CR0_EM, CR0_MP, CR0_TS, Cpu};
use crate::software::fault::{Fault, MF, NM};
use crate::state::X87;

/// Bits of MXCSR that exist.
pub(super) const MXCSR_MASK: u32 = 0xFFFF;

impl Cpu {
    pub(super) fn x87_allowed(&self) -> Result<(), Fault> {
        if self.s.cr0 & (CR0_EM | CR0_TS) != 0 { Err(Fault::new(NM)) } else { Ok(()) }
    }
}

/// The status word with ES and B as its exception flags and the masks make them.
pub(super) fn summarised(status: u16, control: u16) -> u16 {
    let pending = status & !control & 0x3F != 0;
    status & !0x8080 | if pending { 0x8080 } else { 0 }
}

impl Cpu {
    /// Sets MXCSR: what the host's has collected no longer counts.
    pub(super) fn set_mxcsr(&mut self, value: u32) {
        self.s.mxcsr = value;
        self.float_ready = false;
    }

    /// The image of FXSAVE: the pointers to the last instruction and operand are always 0.
    pub(super) fn legacy_image(&self) -> [u8; 416] {
        let x87 = self.s.x87;
        let mut image = [0_u8; 416];
        image[0..2].copy_from_slice(&x87.control.to_le_bytes());
        image[2..4].copy_from_slice(&x87.status.to_le_bytes());
        image[4] = x87.tag;
        image[24..28].copy_from_slice(&self.s.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for n in 0..8 {
            image[32 + 16 * n..42 + 16 * n].copy_from_slice(&x87.registers[x87.physical(n)]);
        }
        for n in 0..16 {
            image[160 + 16 * n..176 + 16 * n].copy_from_slice(&self.xmm[n].to_le_bytes());
        }
        image
    }

    /// Reads an image, or a part of one, in words of 8 bytes.
    pub(super) fn read_image<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Fault> {
        let mut image = [0; N];
        for (n, chunk) in (0..).zip(image.chunks_exact_mut(8)) {
            let from = self.wrap(at.wrapping_add(8 * n));
            chunk.copy_from_slice(&self.read(from, 8)?.to_le_bytes());
        }
        Ok(image)
    }

    /// Writes an image, or a part of one, in words of 8 bytes.
    pub(super) fn write_image(&mut self, at: u64, image: &[u8]) -> Result<(), Fault> {
        for (n, chunk) in (0..).zip(image.chunks_exact(8)) {
            let to = self.wrap(at.wrapping_add(8 * n));
            self.write(to, 8, u64::from_le_bytes(std::array::from_fn(|byte| chunk[byte])))?;
        }
        Ok(())
    }

    /// Loads the x87 from an image.
    pub(super) fn load_legacy_x87(&mut self, image: &[u8; 416]) {
        let word = |n: usize| u16::from_le_bytes([image[n], image[n + 1]]);
        let mut x87 =
            X87 { control: word(0) & 0x1F3F | 0x40, status: word(2), tag: image[4], ..X87::default() };
        x87.status = summarised(x87.status, x87.control);
        for n in 0..8 {
            x87.registers[x87.physical(n)].copy_from_slice(&image[32 + 16 * n..42 + 16 * n]);
        }
        self.s.x87 = x87;
    }

    /// Loads the XMM registers that the mode has from an image.
    pub(super) fn load_legacy_xmm(&mut self, image: &[u8; 416]) {
        let registers = if self.long64() { 16 } else { 8 };
        for n in 0..registers {
            self.xmm[n] = u128::from_le_bytes(std::array::from_fn(|byte| image[160 + 16 * n + byte]));
        }
    }
}

/// FXSAVE, FXSAVE64.
pub(in crate::software) fn fxsave(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_allowed()?;
    let at = c.linear(i);
    c.canonical(at, 1)?;
    if at & 15 != 0 {
        return Err(Fault::gp());
    }
    let image = c.legacy_image();
    let used = if c.long64() { 416 } else { 288 };
    // All of the image must be there, whatever part of it is used. The last byte is looked at first, as AMD's do.
    let last = c.wrap(at.wrapping_add(511));
    c.check_write(last, 1)?;
    c.check_write(at, 512)?;
    c.write_image(at, &image[..used])?;
    Ok(Flow::Next)
}

/// FXRSTOR, FXRSTOR64.
pub(in crate::software) fn fxrstor(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_allowed()?;
    let at = c.linear(i);
    c.canonical(at, 1)?;
    if at & 15 != 0 {
        return Err(Fault::gp());
    }
    let last = c.wrap(at.wrapping_add(511));
    c.check_read(last, 1)?;
    c.check_read(at, 512)?;
    let image: [u8; 416] = c.read_image(at)?;
    let mxcsr = u32::from_le_bytes(std::array::from_fn(|n| image[24 + n]));
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(Fault::gp());
    }
    c.load_legacy_x87(&image);
    c.load_legacy_xmm(&image);
    c.set_mxcsr(mxcsr);
    Ok(Flow::Next)
}

/// LDMXCSR, STMXCSR.
pub(in crate::software) fn mxcsr(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if i.mnemonic() == Mnemonic::Stmxcsr {
        let value = c.s.mxcsr;
        c.set(i, 0, value.into())?;
        return Ok(Flow::Next);
    }
    let value = c.get(i, 0)? as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(Fault::gp());
    }
    c.set_mxcsr(value);
    Ok(Flow::Next)
}

/// FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW.
pub(in crate::software) fn x87_control(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    if i.mnemonic() == Mnemonic::Fldcw {
        c.x87_waits()?;
    } else {
        c.x87_allowed()?;
    }
    match i.mnemonic() {
        Mnemonic::Fninit => {
            c.s.x87.control = 0x37F;
            c.s.x87.status = 0;
            c.s.x87.tag = 0;
        }
        Mnemonic::Fnclex => c.s.x87.status &= 0x7F00,
        Mnemonic::Fldcw => {
            let value = c.get(i, 0)? as u16;
            c.s.x87.control = value & 0x1F3F | 0x40;
            c.s.x87.status = summarised(c.s.x87.status, c.s.x87.control);
        }
        Mnemonic::Fnstcw => {
            let value = c.s.x87.control;
            c.set(i, 0, value.into())?;
        }
        Mnemonic::Fnstsw => {
            let value = c.s.x87.status;
            c.set(i, 0, value.into())?;
        }
        _ => {}
    }
    Ok(Flow::Next)
}

/// FWAIT.
pub(in crate::software) fn wait(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    if c.s.cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS {
        Err(Fault::new(NM))
    } else if c.s.x87.status & 0x80 != 0 {
        Err(Fault::new(MF))
    } else {
        Ok(Flow::Next)
    }
}
