//! Descriptors and segment registers (SDM volume 3, sections 3.4 and 3.5).

use super::cpu::{CS, Cpu, SS};
use super::fault::{Fault, GP, NP, STACK};
use super::tlb::SUPERVISOR;
use crate::state::Segment;

/// The segment that 8 bytes of a descriptor table describe.
fn parse(raw: u64, selector: u16) -> Segment {
    let attributes = (raw >> 40 & 0xF0FF) as u16;
    let limit = (raw & 0xFFFF | raw >> 32 & 0xF_0000) as u32;
    let limit = if attributes & 0x8000 != 0 { limit << 12 | 0xFFF } else { limit };
    let base = raw >> 16 & 0xFF_FFFF | raw >> 32 & 0xFF00_0000;
    Segment { selector, base, limit, attributes }
}

impl Cpu {
    /// The linear address of a selector's descriptor.
    fn descriptor_address(&self, selector: u16, size: u64, error: u32) -> Result<u64, Fault> {
        let offset = u64::from(selector & 0xFFF8);
        let (base, limit) = if selector & 4 == 0 {
            (self.s.gdtr.base, u64::from(self.s.gdtr.limit))
        } else if self.s.ldtr.attributes & 0x80 != 0 {
            (self.s.ldtr.base, u64::from(self.s.ldtr.limit))
        } else {
            return Err(Fault::with_code(GP, error));
        };
        if offset + size - 1 > limit {
            return Err(Fault::with_code(GP, error));
        }
        Ok(self.wrap(base.wrapping_add(offset)))
    }

    /// Reads a descriptor: its address, its bytes and what they say.
    pub(super) fn descriptor(&mut self, selector: u16, external: u32) -> Result<(u64, u64, Segment), Fault> {
        let error = u32::from(selector & 0xFFFC) | external;
        let at = self.descriptor_address(selector, 8, error)?;
        self.address_vector = GP;
        let raw = self.read_view(SUPERVISOR, at, 8)?;
        Ok((at, raw, parse(raw, selector)))
    }

    /// A selector's descriptor (its bytes, and what they say) if there is one; faults come from memory only.
    pub(super) fn descriptor_if_any(&mut self, selector: u16) -> Result<Option<(u64, Segment)>, Fault> {
        if selector & 0xFFFC == 0 {
            return Ok(None);
        }
        let Ok(at) = self.descriptor_address(selector, 8, 0) else { return Ok(None) };
        self.address_vector = GP;
        let raw = self.read_view(SUPERVISOR, at, 8)?;
        Ok(Some((raw, parse(raw, selector))))
    }

    fn set_accessed(&mut self, at: u64, raw: u64) -> Result<(), Fault> {
        if raw >> 40 & 1 == 0 {
            self.write_view(SUPERVISOR, at.wrapping_add(5), 1, (raw >> 40 & 0xFF) | 1)?;
        }
        Ok(())
    }

    /// A present code segment's descriptor, for a transfer; its privilege is for the caller to check.
    pub(super) fn code_descriptor(&mut self, selector: u16, external: u32) -> Result<(Segment, u64), Fault> {
        let error = u32::from(selector & 0xFFFC) | external;
        if selector & 0xFFFC == 0 {
            return Err(Fault::with_code(GP, external));
        }
        let (at, raw, mut segment) = self.descriptor(selector, external)?;
        if segment.attributes & 0x18 != 0x18 {
            return Err(Fault::with_code(GP, error));
        }
        if segment.attributes & 0x80 == 0 {
            return Err(Fault::with_code(NP, error));
        }
        if self.long_mode() && segment.attributes & 0x6000 == 0x6000 {
            return Err(Fault::with_code(GP, error));
        }
        let long = self.long_mode() && segment.attributes & 0x2000 != 0;
        if !long && (segment.base != 0 || segment.attributes & 0x4000 == 0) {
            self.note("code segment with a base, or of 16 bits");
            return Err(Fault::with_code(GP, error));
        }
        self.set_accessed(at, raw)?;
        segment.attributes |= 1;
        Ok((segment, raw))
    }

    /// Loads ES, SS, DS, FS or GS.
    pub(super) fn load_segment(&mut self, number: usize, selector: u16) -> Result<(), Fault> {
        debug_assert_ne!(number, CS);
        let segment = self.data_segment(number, selector, self.cpl())?;
        self.s.segments[number] = segment;
        if number == SS {
            self.update_mode();
        }
        Ok(())
    }

    /// What loading ES, SS, DS, FS or GS at a privilege level would give.
    pub(super) fn data_segment(&mut self, number: usize, selector: u16, cpl: u8) -> Result<Segment, Fault> {
        let error = u32::from(selector & 0xFFFC);
        let rpl = selector as u8 & 3;
        if error == 0 {
            if number != SS {
                return Ok(Segment { selector, ..Segment::default() });
            }
            let code64 = self.long_mode() && self.s.segments[CS].attributes & 0x2000 != 0;
            if !code64 || cpl == 3 || rpl != cpl {
                return Err(Fault::gp());
            }
            return Ok(Segment { selector, attributes: u16::from(cpl) << 5, ..Segment::default() });
        }
        let (at, raw, mut segment) = self.descriptor(selector, 0)?;
        let kind = segment.attributes & 0x1F;
        let dpl = (segment.attributes >> 5) as u8 & 3;
        if number == SS {
            if rpl != cpl || dpl != cpl || kind & 0x1A != 0x12 {
                return Err(Fault::with_code(GP, error));
            }
            if segment.attributes & 0x80 == 0 {
                return Err(Fault::with_code(STACK, error));
            }
        } else {
            let readable = kind & 0x18 == 0x10 || kind & 0x1A == 0x1A;
            let conforming = kind & 0x1C == 0x1C;
            if !readable || (!conforming && (rpl > dpl || cpl > dpl)) {
                return Err(Fault::with_code(GP, error));
            }
            if segment.attributes & 0x80 == 0 {
                return Err(Fault::with_code(NP, error));
            }
        }
        self.set_accessed(at, raw)?;
        segment.attributes |= 1;
        Ok(segment)
    }

    /// The descriptor of a TSS or LDT of a given type, 16 bytes long in long mode.
    pub(super) fn system_segment(&mut self, selector: u16, kind: u16) -> Result<(u64, u64, Segment), Fault> {
        let error = u32::from(selector & 0xFFFC);
        if selector & 4 != 0 || error == 0 {
            return Err(Fault::with_code(GP, error));
        }
        let size = if self.long_mode() { 16 } else { 8 };
        self.descriptor_address(selector, size, error)?;
        let (at, raw, mut segment) = self.descriptor(selector, 0)?;
        if segment.attributes & 0x1F != kind {
            return Err(Fault::with_code(GP, error));
        }
        if segment.attributes & 0x80 == 0 {
            return Err(Fault::with_code(NP, error));
        }
        if self.long_mode() {
            segment.base |= self.read_view(SUPERVISOR, at.wrapping_add(8), 4)? << 32;
        }
        Ok((at, raw, segment))
    }

    /// Sets CS and with it the privilege level. SS must agree afterwards.
    pub(super) fn set_code(&mut self, segment: Segment, cpl: u8) {
        self.s.segments[CS] = Segment { selector: segment.selector & 0xFFFC | u16::from(cpl), ..segment };
        self.update_mode();
    }
}
