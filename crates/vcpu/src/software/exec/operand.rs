//! Operands of interpreted instructions, taken from their decoded form.

use iced_x86::{Instruction, OpKind, Register};

use crate::software::cpu::{Cpu, MODE_SIZE_SHIFT, RSP, SS, reg};
use crate::software::fault::Fault;
use crate::software::tlb::mask;

/// No canonical address: what an offset beyond a segment's limit becomes.
const BEYOND: u64 = 1 << 62;

/// Offset of a general register in [`Cpu`].
pub(in crate::software) fn register_offset(register: Register) -> u8 {
    let number = register.number() as u8;
    if register.is_gpr8() {
        match number {
            0..4 => number * 8,
            4..8 => (number - 4) * 8 + 1,
            _ => (number - 4) * 8,
        }
    } else {
        number * 8
    }
}

/// Number of a segment register in [`crate::CpuState::segments`].
pub(in crate::software) fn segment_number(register: Register) -> usize {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// Bytes of operand `n`.
pub(in crate::software) fn size_of_operand(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        _ => i.memory_size().size(),
    }
}

/// Bytes of the memory operand's address.
fn address_size(i: &Instruction) -> usize {
    for register in [i.memory_base(), i.memory_index()] {
        match register {
            Register::None => {}
            Register::EIP => return 4,
            Register::RIP => return 8,
            _ => return register.size(),
        }
    }
    match i.memory_displ_size() {
        2 => 2,
        4 => 4,
        _ if i.code_size() == iced_x86::CodeSize::Code64 => 8,
        _ => 4,
    }
}

impl Cpu {
    pub(in crate::software) fn register(&self, register: Register) -> u64 {
        let offset = register_offset(register);
        // SAFETY: register offsets lie in the register file.
        unsafe {
            match register.size() {
                1 => reg::<u8>(self, offset).into(),
                2 => reg::<u16>(self, offset).into(),
                4 => reg::<u32>(self, offset).into(),
                _ => reg::<u64>(self, offset),
            }
        }
    }

    pub(in crate::software) fn set_register(&mut self, register: Register, value: u64) {
        self.set_at(register_offset(register), register.size(), value);
    }

    /// Writes a register by offset and size: 32-bit writes clear the upper half.
    pub(in crate::software) fn set_at(&mut self, offset: u8, size: usize, value: u64) {
        let whole = &mut self.gpr[offset as usize / 8];
        match (size, offset & 1) {
            (1, 0) => *whole = *whole & !0xFF | value & 0xFF,
            (1, _) => *whole = *whole & !0xFF00 | (value & 0xFF) << 8,
            (2, _) => *whole = *whole & !0xFFFF | value & 0xFFFF,
            (4, _) => *whole = value & 0xFFFF_FFFF,
            _ => *whole = value,
        }
    }

    /// The offset of the memory operand in its segment.
    pub(in crate::software) fn effective(&self, i: &Instruction) -> u64 {
        let mut value = i.memory_displacement64();
        match i.memory_base() {
            Register::None => {}
            Register::RIP | Register::EIP => value = value.wrapping_add(self.gpr[17]),
            base => value = value.wrapping_add(self.register(base)),
        }
        let index = i.memory_index();
        if index != Register::None {
            value = value.wrapping_add(self.register(index).wrapping_mul(u64::from(i.memory_index_scale())));
        }
        value & mask(address_size(i))
    }

    /// The linear address of the memory operand.
    pub(in crate::software) fn linear(&mut self, i: &Instruction) -> u64 {
        self.linear_from(i, 0, i.memory_size().size() as u64)
    }

    /// The linear address of `size` bytes some way from the memory operand; the sum wraps as wide as addresses are.
    pub(in crate::software) fn linear_from(&mut self, i: &Instruction, away: u64, size: u64) -> u64 {
        let offset = self.effective(i).wrapping_add(away) & mask(address_size(i));
        let linear = self.in_segment(segment_number(i.memory_segment()), offset, size);
        if self.long64() {
            let base = i.memory_base();
            let stack = matches!(base.full_register(), Register::RSP | Register::RBP);
            let own = !matches!(i.segment_prefix(), Register::FS | Register::GS);
            self.address_vector = if stack && own { 12 } else { 13 };
        }
        linear
    }

    /// The linear address of `size` bytes at an offset in a segment. Outside 64-bit mode the segment must be there and reach
    /// that far; if not, the address is one that faults with the segment's vector, which is set here.
    pub(in crate::software) fn in_segment(&mut self, segment: usize, offset: u64, size: u64) -> u64 {
        let s = &self.s.segments[segment];
        if self.long64() {
            return if segment >= 4 { offset.wrapping_add(s.base) } else { offset };
        }
        self.address_vector = if segment == SS { 12 } else { 13 };
        let last = offset + size.max(1) - 1;
        let limit = u64::from(s.limit);
        // Data that expands down lies above its limit.
        let within = if s.attributes & 0x1C == 0x14 {
            offset > limit && last <= if s.attributes & 0x4000 != 0 { 0xFFFF_FFFF } else { 0xFFFF }
        } else {
            last <= limit
        };
        if within && s.attributes & 0x80 != 0 { offset.wrapping_add(s.base) & 0xFFFF_FFFF } else { BEYOND }
    }

    /// Operand `n`, zero-extended (immediates sign-extended).
    pub(in crate::software) fn get(&mut self, i: &Instruction, n: u32) -> Result<u64, Fault> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.register(i.op_register(n))),
            OpKind::Memory => {
                let at = self.linear(i);
                self.read(at, i.memory_size().size())
            }
            _ => Ok(i.immediate(n)),
        }
    }

    /// Operand `n` as a selector: 16 bits, whatever the operand size.
    pub(in crate::software) fn selector_operand(&mut self, i: &Instruction, n: u32) -> Result<u16, Fault> {
        if i.op_kind(n) == OpKind::Memory {
            let at = self.linear(i);
            return Ok(self.read(at, 2)? as u16);
        }
        Ok(self.register(i.op_register(n)) as u16)
    }

    /// Operand `n`, which will be written: any fault of writing it happens here.
    pub(in crate::software) fn get_modify(&mut self, i: &Instruction, n: u32) -> Result<u64, Fault> {
        if i.op_kind(n) == OpKind::Memory {
            let at = self.linear(i);
            self.check_write(at, i.memory_size().size())?;
        }
        self.get(i, n)
    }

    /// Writes operand `n`.
    pub(in crate::software) fn set(&mut self, i: &Instruction, n: u32, value: u64) -> Result<(), Fault> {
        if i.op_kind(n) == OpKind::Register {
            self.set_register(i.op_register(n), value);
            return Ok(());
        }
        let at = self.linear(i);
        let size = i.memory_size().size();
        self.write(at, size, value & mask(size))
    }

    /// Bytes of the stack pointer in use.
    pub(in crate::software) fn stack_mask(&self) -> u64 {
        if self.long64() {
            u64::MAX
        } else if self.s.segments[SS].attributes & 0x4000 != 0 {
            0xFFFF_FFFF
        } else {
            0xFFFF
        }
    }

    /// Sets the stack pointer, as wide as it is.
    pub(in crate::software) fn set_stack(&mut self, value: u64) {
        match self.stack_mask() {
            0xFFFF => self.gpr[RSP] = self.gpr[RSP] & !0xFFFF | value & 0xFFFF,
            mask => self.gpr[RSP] = value & mask,
        }
    }

    /// The linear address of `size` bytes at a stack offset; where that is no address it raises #SS.
    pub(in crate::software) fn stack_address(&mut self, offset: u64, size: usize) -> u64 {
        self.address_vector = 12;
        self.in_segment(SS, offset & self.stack_mask(), size as u64)
    }

    pub(in crate::software) fn push(&mut self, size: usize, value: u64) -> Result<(), Fault> {
        let to = self.gpr[RSP].wrapping_sub(size as u64);
        let at = self.stack_address(to, size);
        self.write(at, size, value & mask(size))?;
        self.set_stack(to);
        Ok(())
    }

    /// Reads the stack at a distance from its top.
    pub(in crate::software) fn peek(&mut self, distance: u64, size: usize) -> Result<u64, Fault> {
        let at = self.stack_address(self.gpr[RSP].wrapping_add(distance), size);
        self.read(at, size)
    }

    pub(in crate::software) fn pop(&mut self, size: usize) -> Result<u64, Fault> {
        let value = self.peek(0, size)?;
        self.set_stack(self.gpr[RSP].wrapping_add(size as u64));
        Ok(value)
    }

    /// Notes something that is not implemented, for the operator.
    pub(in crate::software) fn note(&mut self, what: &str) {
        let size = [16, 32, 64][usize::from(self.mode >> MODE_SIZE_SHIFT & 3).min(2)];
        let text = format!("{what}; rip {:#x}, {size}-bit code at privilege level {}", self.rip, self.cpl());
        // Once for each place, however often a guest comes by: the position is that of the first time.
        if self.noted.len() < 256 && self.noted.insert(text.clone()) {
            let position = self.position_now();
            self.unimplemented.push(format!("{text}, position {position}"));
        }
    }
}
