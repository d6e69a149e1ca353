//! String instructions. A REP runs in chunks that end at the first page boundary of either operand; each chunk counts as
//! one instruction and is a boundary at which interrupts are taken.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::general::compare;
use super::operand::segment_number;
use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::Fault;
use crate::software::flags::{DF, TF};
use crate::software::tlb::{Place, is_canonical, mask};

const RCX: u8 = 8;
const RSI: usize = 6;
const RDI: usize = 7;

/// What one string instruction is about.
struct Parts {
    size: usize,
    /// Bytes of an address.
    width: usize,
    segment: usize,
}

fn address_width(i: &Instruction) -> usize {
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 8,
            _ => {}
        }
    }
    8
}

impl Parts {
    fn of(i: &Instruction) -> Self {
        let segment = i.memory_segment();
        Self {
            size: i.memory_size().size(),
            width: address_width(i),
            segment: if segment == Register::None { 3 } else { segment_number(segment) },
        }
    }
}

impl Cpu {
    fn source(&mut self, p: &Parts) -> u64 {
        self.address_vector = 13;
        self.in_segment(p.segment, self.gpr[RSI] & mask(p.width), p.size as u64)
    }

    fn destination(&mut self, p: &Parts) -> u64 {
        self.address_vector = 13;
        self.in_segment(0, self.gpr[RDI] & mask(p.width), p.size as u64)
    }

    fn step(&mut self, p: &Parts, register: usize, count: u64) {
        let bytes = count.wrapping_mul(p.size as u64);
        let bytes = if self.system_flags & DF != 0 { bytes.wrapping_neg() } else { bytes };
        let value = self.gpr[register].wrapping_add(bytes);
        self.set_at(register as u8 * 8, p.width, value);
    }

    /// Elements from `address` on (in the direction of DF) that lie in its page; at least 1.
    fn elements_in_page(&self, address: u64, size: usize) -> u64 {
        let offset = address & 0xFFF;
        let size = size as u64;
        let fit = if self.system_flags & DF == 0 {
            (4096 - offset) / size
        } else if offset + size <= 4096 {
            offset / size + 1
        } else {
            1
        };
        fit.max(1)
    }

    /// The longest chunk that may run now.
    fn chunk(&self, p: &Parts, addresses: &[u64]) -> u64 {
        let mut most = self.gpr[1] & mask(p.width);
        // One at a time where something may happen between two, or where an offset may leave its segment or wrap.
        let flat = |segment: usize| {
            let s = &self.s.segments[segment];
            p.width == 4 && s.base == 0 && s.limit == u32::MAX || self.long64() && p.width == 8
        };
        if self.system_flags & TF != 0 || self.watch != 0 || !flat(p.segment) || !flat(0) {
            most = most.min(1);
        }
        for address in addresses {
            most = most.min(self.elements_in_page(*address, p.size));
        }
        most
    }

    fn after_chunk(&mut self, p: &Parts, done: u64, stop: bool) -> Flow {
        let left = (self.gpr[1] & mask(p.width)).wrapping_sub(done);
        self.set_at(RCX, p.width, left);
        if left == 0 || stop { Flow::Next } else { Flow::Repeat }
    }
}

fn repeated(i: &Instruction) -> bool {
    i.has_rep_prefix() || i.has_repne_prefix()
}

/// MOVS.
pub(in crate::software) fn movs(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let (from, to) = (c.source(&p), c.destination(&p));
    if !repeated(i) {
        c.check_read(from, p.size)?;
        c.check_write(to, p.size)?;
        let value = c.read(from, p.size)?;
        c.write(to, p.size, value)?;
        c.step(&p, RSI, 1);
        c.step(&p, RDI, 1);
        return Ok(Flow::Next);
    }
    if c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let mut count = c.chunk(&p, &[from, to]);
    let within = |address: u64| (address & 0xFFF) + p.size as u64 <= 4096;
    let mut done = false;
    if c.watch == 0 && within(from) && within(to) && is_canonical(from) && is_canonical(to) {
        let view = c.view;
        let source = c.place(view, from, false)?;
        let target = c.place(view, to, true)?;
        if let (Place::Ram(source), Place::Ram(target)) = (source, target) {
            copy(c, source, target, count as usize, p.size);
            done = true;
        }
    }
    if !done {
        // Across a page boundary, or a device: one element.
        count = 1;
        c.check_read(from, p.size)?;
        c.check_write(to, p.size)?;
        let value = c.read(from, p.size)?;
        c.write(to, p.size, value)?;
    }
    c.step(&p, RSI, count);
    c.step(&p, RDI, count);
    Ok(c.after_chunk(&p, count, false))
}

/// Copies elements one after the other in the direction of DF, with the effect of overlaps.
fn copy(c: &mut Cpu, source: *mut u8, target: *mut u8, count: usize, size: usize) {
    let bytes = count * size;
    let down = c.system_flags & DF != 0;
    let back = if down { bytes - size } else { 0 };
    let (low_source, low_target) = (source.wrapping_sub(back), target.wrapping_sub(back));
    c.code_store(low_target, bytes);
    let (s, t) = (low_source as usize, low_target as usize);
    let smears = if down { t < s && t + bytes > s } else { s < t && s + bytes > t };
    // SAFETY: both ranges lie in one page of RAM each.
    unsafe {
        if !smears {
            std::ptr::copy(low_source, low_target, bytes);
            return;
        }
        for n in 0..count {
            let n = if down { count - 1 - n } else { n } * size;
            let mut element = [0_u8; 8];
            std::ptr::copy_nonoverlapping(low_source.add(n), element.as_mut_ptr(), size);
            std::ptr::copy_nonoverlapping(element.as_ptr(), low_target.add(n), size);
        }
    }
}

/// STOS.
pub(in crate::software) fn stos(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let to = c.destination(&p);
    let value = c.gpr[0] & mask(p.size);
    if !repeated(i) {
        c.write(to, p.size, value)?;
        c.step(&p, RDI, 1);
        return Ok(Flow::Next);
    }
    if c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let mut count = c.chunk(&p, &[to]);
    let mut done = false;
    if c.watch == 0 && (to & 0xFFF) + p.size as u64 <= 4096 && is_canonical(to) {
        let view = c.view;
        if let Place::Ram(target) = c.place(view, to, true)? {
            let bytes = count as usize * p.size;
            let back = if c.system_flags & DF != 0 { bytes - p.size } else { 0 };
            let low = target.wrapping_sub(back);
            c.code_store(low, bytes);
            // SAFETY: the range lies in one page of RAM.
            unsafe {
                match p.size {
                    1 => std::ptr::write_bytes(low, value as u8, bytes),
                    2 => (0..count as usize)
                        .for_each(|n| low.cast::<u16>().add(n).write_unaligned(value as u16)),
                    4 => (0..count as usize)
                        .for_each(|n| low.cast::<u32>().add(n).write_unaligned(value as u32)),
                    _ => (0..count as usize).for_each(|n| low.cast::<u64>().add(n).write_unaligned(value)),
                }
            }
            done = true;
        }
    }
    if !done {
        count = 1;
        c.write(to, p.size, value)?;
    }
    c.step(&p, RDI, count);
    Ok(c.after_chunk(&p, count, false))
}

/// LODS.
pub(in crate::software) fn lods(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let rep = repeated(i);
    if rep && c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let from = c.source(&p);
    let mut count = if rep { c.chunk(&p, &[from]) } else { 1 };
    // Only the last element of a chunk stays; the earlier ones are in the same page, so they cannot fault if it does not.
    let step = (p.size as u64).wrapping_mul(count - 1);
    let last = if c.system_flags & DF != 0 { from.wrapping_sub(step) } else { from.wrapping_add(step) };
    let view = c.view;
    let device = matches!(c.place_checked(view, from)?, Place::Mmio(_));
    let value = if device {
        count = 1;
        c.read(from, p.size)?
    } else {
        c.read(last, p.size)?
    };
    c.set_at(0, p.size, value);
    c.step(&p, RSI, count);
    if !rep {
        return Ok(Flow::Next);
    }
    Ok(c.after_chunk(&p, count, false))
}

/// CMPS and SCAS.
pub(in crate::software) fn compare_string(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let scan = matches!(i.mnemonic(), Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq);
    let rep = repeated(i);
    if rep && c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let from = if scan { 0 } else { c.source(&p) };
    let to = c.destination(&p);
    let count = match (rep, scan) {
        (false, _) => 1,
        (_, true) => c.chunk(&p, &[to]),
        (_, false) => c.chunk(&p, &[from, to]),
    };
    let mut done = 0;
    let mut stop = false;
    let down = c.system_flags & DF != 0;
    while done < count && !stop {
        let away = done * p.size as u64;
        let away = if down { away.wrapping_neg() } else { away };
        let a = if scan { c.gpr[0] & mask(p.size) } else { c.read(from.wrapping_add(away), p.size)? };
        let b = c.read(to.wrapping_add(away), p.size)?;
        compare(&mut c.flags, p.size, a, b);
        done += 1;
        stop = if i.has_repne_prefix() { a == b } else { a != b };
        if c.exit_request {
            break;
        }
    }
    if !scan {
        c.step(&p, RSI, done);
    }
    c.step(&p, RDI, done);
    if !rep {
        return Ok(Flow::Next);
    }
    Ok(c.after_chunk(&p, done, stop))
}

/// INS: one element per chunk.
pub(in crate::software) fn ins(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let rep = repeated(i);
    let port = c.gpr[2] as u16;
    c.check_port(port, p.size)?;
    if rep && c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let to = c.destination(&p);
    c.check_write(to, p.size)?;
    let value = c.port_in(port, p.size);
    c.write(to, p.size, value)?;
    c.step(&p, RDI, 1);
    Ok(if rep { c.after_chunk(&p, 1, false) } else { Flow::Next })
}

/// OUTS: one element per chunk.
pub(in crate::software) fn outs(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let p = Parts::of(i);
    let rep = repeated(i);
    let port = c.gpr[2] as u16;
    c.check_port(port, p.size)?;
    if rep && c.gpr[1] & mask(p.width) == 0 {
        return Ok(Flow::Next);
    }
    let from = c.source(&p);
    let value = c.read(from, p.size)?;
    c.port_out(port, p.size, value);
    c.step(&p, RSI, 1);
    Ok(if rep { c.after_chunk(&p, 1, false) } else { Flow::Next })
}

impl Cpu {
    fn place_checked(&mut self, view: usize, address: u64) -> Result<Place, Fault> {
        if !is_canonical(address) {
            return Err(Fault::gp());
        }
        self.place(view, address, false)
    }
}
