//! Chooses registers so that an instruction's operands lie where a test wants them: in the data, across its page
//! borders, behind its end, or at an address that no program can have.

use iced_x86::{Code, FlowControl, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::case::{Case, Mode, Regs};
use super::draw::code_selector;
use super::forms::{self, Family};
use super::layout::{CODE_LEN, DATA, DATA_LEN, READ_ONLY_LEN, WINDOW};
use super::rng::Rng;

/// Changes the registers and data of `case` to fit `instruction`. False if the instruction could touch anything of the
/// host's outside the window, or would be a case without a defined result.
pub(crate) fn place(rng: &mut Rng, instruction: &Instruction, case: &mut Case, window: u64) -> bool {
    let mut placer = Placer { rng, instruction, case, window, operand: None };
    placer.registers();
    placer.memory();
    placer.values();
    placer.selectors();
    if placer.mode() == Mode::Compat {
        placer.case.regs.gpr.iter_mut().for_each(|register| *register &= 0xFFFF_FFFF);
    }
    placer.is_safe()
}

/// A case in work.
pub(super) struct Placer<'a> {
    rng: &'a mut Rng,
    pub(super) instruction: &'a Instruction,
    pub(super) case: &'a mut Case,
    window: u64,
    /// Address of the explicit memory operand.
    pub(super) operand: Option<u64>,
}

impl Placer<'_> {
    pub(super) fn mode(&self) -> Mode {
        self.case.regs.mode
    }

    pub(super) fn family(&self) -> Option<Family> {
        forms::family_in(self.instruction.code(), self.mode())
    }

    /// Where the read-only page ends.
    pub(super) fn read_only_end(&self) -> u64 {
        self.data() + DATA_LEN + READ_ONLY_LEN
    }

    fn data(&self) -> u64 {
        self.window + DATA
    }

    fn gpr(&mut self, register: Register) -> &mut u64 {
        &mut self.case.regs.gpr[register.full_register().number()]
    }

    /// Registers that an instruction uses without naming them.
    fn registers(&mut self) {
        let stack = self.data() + 0x100 + 8 * self.rng.below(0x580) + u64::from(self.rng.one_in(8));
        self.case.regs.gpr[4] = stack;
        match self.instruction.mnemonic() {
            Mnemonic::Enter | Mnemonic::Leave => {
                self.case.regs.gpr[5] = self.data() + 0x200 + 8 * self.rng.below(0x500);
            }
            Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Shld
            | Mnemonic::Shrd
                if self.rng.below(4) != 0 =>
            {
                let count = self.rng.pick(&[
                    0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 24, 27, 31, 32, 33, 34, 63, 64, 65, 127, 128, 255,
                ]);
                let rcx = &mut self.case.regs.gpr[1];
                *rcx = *rcx & !0xFF | count;
            }
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz | Mnemonic::Jecxz
                if self.rng.one_in(2) =>
            {
                let high = self.rng.next() << 32;
                self.case.regs.gpr[1] = self.rng.below(3) | if self.rng.one_in(2) { high } else { 0 };
            }
            _ => {}
        }
        if self.family() == Some(Family::State) {
            // Of the host's states those that the engine has.
            self.case.regs.gpr[0] = self.rng.pick(&[3, 3, 1, 2, 0]);
            self.case.regs.gpr[2] = 0;
        }
        if self.instruction.is_string_instruction() {
            self.string();
        }
    }

    fn string(&mut self) {
        let narrow = (0..self.instruction.op_count()).any(|operand| {
            matches!(
                self.instruction.op_kind(operand),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
            )
        });
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        let size = self.string_size();
        let high = if narrow { self.rng.next() << 32 } else { 0 };
        let count = match self.rng.below(12) {
            0 => 0,
            1 => 1,
            2 => self.rng.below(0x3000 / size),
            _ => self.rng.below(40),
        };
        if repeated {
            self.case.regs.gpr[1] = count | high;
        }
        for register in [6, 7] {
            let mut address = self.target(size as usize);
            if !self.is_data(address, 1) {
                // Beyond the window a repetition could reach something of the host's.
                address = self.data() + self.rng.below(DATA_LEN);
            }
            // Overlapping operands, a little apart in either direction.
            if register == 7 && self.rng.one_in(4) {
                let near = self.case.regs.gpr[6].wrapping_add(self.rng.below(32)).wrapping_sub(16);
                address = (near & if narrow { 0xFFFF_FFFF } else { u64::MAX })
                    .clamp(self.data(), self.data() + DATA_LEN - 1);
            }
            self.case.regs.gpr[register] = address | high;
        }
        if matches!(self.instruction.segment_prefix(), Register::FS | Register::GS) {
            let base = self.segment_base();
            self.case.regs.gpr[6] = self.case.regs.gpr[6].wrapping_sub(base);
            if narrow {
                // The sum of a 32-bit offset and the base must still be where it was.
                let offset = self.rng.next() & 0xFFFF;
                let target = self.data() + self.rng.below(DATA_LEN);
                self.set_segment_base(target - offset);
                self.case.regs.gpr[6] = offset | high;
            }
        }
    }

    fn string_size(&self) -> u64 {
        let size = (0..self.instruction.op_count())
            .find_map(|operand| match self.instruction.op_kind(operand) {
                OpKind::Register => Some(self.instruction.op_register(operand).size()),
                _ => None,
            })
            .filter(|size| *size != 0)
            .unwrap_or(self.instruction.memory_size().size());
        size.max(1) as u64
    }

    fn segment_base(&mut self) -> u64 {
        let base =
            if self.rng.one_in(2) { self.rng.below(0x7000_0000_0000) } else { self.rng.below(0x1000_0000) };
        self.set_segment_base(base);
        base
    }

    fn set_segment_base(&mut self, base: u64) {
        if self.instruction.memory_segment() == Register::FS {
            self.case.regs.fs_base = base;
        } else {
            self.case.regs.gs_base = base;
        }
    }

    /// An address for an operand of `size` bytes.
    fn target(&mut self, size: usize) -> u64 {
        let size = size.max(1) as u64;
        let data = self.data();
        let anywhere = data + self.rng.below(DATA_LEN - size + 1);
        let page = data + 0x1000 * (1 + self.rng.below(2));
        match self.rng.below(40) {
            0..=21 => anywhere & !(size.next_power_of_two() - 1),
            22..=29 => anywhere,
            30..=33 => page - 1 - self.rng.below(size.max(2) - 1),
            // Across the end of the writable data, in the read-only page, across its end, unmapped.
            34 => data + DATA_LEN - 1 - self.rng.below(size.max(2) - 1),
            35 => data + DATA_LEN + self.rng.below(READ_ONLY_LEN - size),
            36 => data + DATA_LEN + READ_ONLY_LEN - 1 - self.rng.below(size.max(2) - 1),
            37 => data - 0x2000 + self.rng.below(0x1800),
            38 => data - self.rng.below(size),
            _ if self.mode() == Mode::Compat => data - 0x1000,
            _ => (1 << 47 | self.rng.next() >> 8) & !(0xFFFF_F000_0000_0000) | 0x1234_8000_0000_0000,
        }
    }

    fn memory(&mut self) {
        let instruction = self.instruction;
        let explicit =
            (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        if !explicit
            && instruction.mnemonic() != Mnemonic::Maskmovdqu
            && instruction.mnemonic() != Mnemonic::Maskmovq
        {
            return;
        }
        if !explicit {
            let mut address = self.target(16);
            if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
                address = address.wrapping_sub(self.segment_base());
            }
            self.case.regs.gpr[7] = address;
            return;
        }
        let state = self.family() == Some(Family::State);
        let size = match instruction.memory_size() {
            _ if state => 576,
            MemorySize::Unknown => 64,
            size => size.size(),
        };
        let mut address = self.target(size);
        if instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg {
            // A locked access across cache lines makes some kernels stop the process for a while.
            address &= !(size.next_power_of_two() as u64 - 1);
        }
        if matches!(instruction.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall)
            && !self.is_writable(address, 8)
        {
            address = self.data() + 8 * self.rng.below(0x500);
        }
        if state && !self.rng.one_in(10) {
            address = self.data() + 64 * self.rng.below((DATA_LEN - 576) / 64);
        }
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let short = base.size() == 2 || index.size() == 2 || instruction.memory_displ_size() == 2;
        let narrow = base.size() == 4 || index.size() == 4 || base == Register::EIP;
        let segment = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
        let displacement = instruction.memory_displacement64();
        let fixed = base.is_ip() || (base == Register::None && index == Register::None);
        let mut offset = address;
        if segment {
            let segment_base = if short {
                let offset = if fixed { displacement } else { self.rng.below(0x1_0000) };
                address.wrapping_sub(offset) & self.mode().mask()
            } else if fixed {
                // The offset is part of the instruction, and points into the data.
                1 + self.rng.below(0x800)
            } else if narrow {
                address.wrapping_sub(self.rng.next() & 0xFFFF) & 0x7FFF_FFFF_FFFF
            } else {
                self.rng.below(0x7000_0000_0000) & self.mode().mask()
            };
            self.set_segment_base(segment_base);
            offset = address.wrapping_sub(segment_base);
        }
        if fixed {
            self.operand = self.address();
            return;
        }
        let bit_test =
            matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
                && instruction.op1_kind() == OpKind::Register;
        let rest = offset.wrapping_sub(displacement);
        let scale = u64::from(instruction.memory_index_scale());
        let (high, cut) = match (short, narrow) {
            (true, _) => (self.rng.next() << 16, 0xFFFF),
            (_, true) => (self.rng.next() << 32, 0xFFFF_FFFF),
            _ => (0, u64::MAX),
        };
        if index == Register::AL {
            // XLAT.
            let al = self.case.regs.gpr[0] & 0xFF;
            self.case.regs.gpr[3] = rest.wrapping_sub(al) & cut | high;
        } else if index == Register::None {
            *self.gpr(base) = rest & cut | high;
        } else if base == Register::None {
            *self.gpr(index) = ((rest & cut) / scale) | high;
        } else if base.full_register() == index.full_register() {
            *self.gpr(base) = ((rest & cut) / (1 + scale)) | high;
        } else {
            if self.rng.one_in(2) {
                *self.gpr(index) = self.rng.below(0x1000);
            }
            let scaled = self.gpr(index).wrapping_mul(scale);
            *self.gpr(base) = rest.wrapping_sub(scaled) & cut | high;
        }
        if bit_test {
            // The bit offset reaches up to 1 KB to either side.
            let register = instruction.op1_register();
            let aliased = register.full_register() == base.full_register()
                || register.full_register() == index.full_register();
            if !aliased {
                let bits = self.rng.below(0x4000).wrapping_sub(0x2000);
                let value =
                    if register.size() == 4 { bits & 0xFFFF_FFFF | self.rng.next() << 32 } else { bits };
                *self.gpr(register) = value;
            }
        }
        self.operand = self.address();
    }

    /// Values that make an instruction do something interesting.
    fn values(&mut self) {
        let instruction = self.instruction;
        match instruction.mnemonic() {
            Mnemonic::Div | Mnemonic::Idiv => self.dividend(),
            Mnemonic::Cmpxchg => {
                if self.rng.one_in(2) {
                    match instruction.op0_kind() {
                        OpKind::Register => {
                            let register = instruction.op0_register();
                            let value = self.value_of(register);
                            self.case.regs.gpr[0] = value;
                        }
                        _ => {
                            let accumulator = self.case.regs.gpr[0];
                            self.write_operand(&accumulator.to_le_bytes());
                        }
                    }
                }
            }
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                if self.rng.one_in(2) {
                    let half = instruction.memory_size().size() / 2;
                    let (low, high) = (self.case.regs.gpr[0], self.case.regs.gpr[2]);
                    let mut bytes = low.to_le_bytes()[..half].to_vec();
                    bytes.extend(&high.to_le_bytes()[..half]);
                    self.write_operand(&bytes);
                }
            }
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
                // TF would trap, AC would make the handler trap.
                let flags = self.rng.next() & !0x4_0100;
                let rsp = self.case.regs.gpr[4];
                self.write(rsp, &flags.to_le_bytes());
            }
            Mnemonic::Ldmxcsr => {
                let value = match self.rng.below(8) {
                    0 => self.rng.next() as u32,
                    _ => self.rng.next() as u32 & 0xFFFF,
                };
                self.write_operand(&value.to_le_bytes());
            }
            Mnemonic::Ret => {
                let target = self.code_target();
                let rsp = self.case.regs.gpr[4];
                self.write(rsp, &target.to_le_bytes());
            }
            Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Retf => self.far_frame(),
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
                if let Some(address) = self.operand {
                    let mxcsr = self.rng.next() as u32 & if self.rng.one_in(8) { u32::MAX } else { 0xFFFF };
                    self.write(address.wrapping_add(24), &mxcsr.to_le_bytes());
                }
            }
            Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
                if let Some(address) = self.operand {
                    let mxcsr = self.rng.next() as u32 & if self.rng.one_in(8) { u32::MAX } else { 0xFFFF };
                    self.write(address.wrapping_add(24), &mxcsr.to_le_bytes());
                    let mut header = [0; 64];
                    header[0] = self.rng.below(4) as u8;
                    if self.rng.one_in(8) {
                        // Refused, or a reserved byte that nobody looks at.
                        header[self.rng.pick(&[8, 15, 16, 23])] = self.rng.next() as u8;
                        // Alone, the highest bit says that the area is compacted, which the host may know.
                        header[15] |= header[15] >> 7;
                    }
                    self.write(address.wrapping_add(512), &header);
                }
            }
            Mnemonic::Jmp | Mnemonic::Call if self.family() == Some(Family::Far) => {
                let target = self.code_target() as u32;
                let selector = code_selector(self.rng, self.mode());
                self.write_operand(&target.to_le_bytes());
                if let Some(address) = self.operand {
                    self.write(address.wrapping_add(4), &selector.to_le_bytes());
                }
            }
            Mnemonic::Jmp | Mnemonic::Call => match instruction.op0_kind() {
                OpKind::Register => {
                    let target = self.code_target();
                    *self.gpr(instruction.op0_register()) = target;
                }
                OpKind::Memory => {
                    let target = self.code_target();
                    self.write_operand(&target.to_le_bytes());
                }
                _ => {}
            },
            Mnemonic::Maskmovdqu | Mnemonic::Maskmovq => {}
            _ => {
                // Fresh values at the operand, more corners than the page had.
                if self.rng.one_in(2) {
                    let bytes: Vec<u8> = (0..2).flat_map(|_| self.rng.lane().to_le_bytes()).collect();
                    let size = instruction.memory_size().size().min(16);
                    self.write_operand(&bytes[..size]);
                }
            }
        }
    }

    /// What a far return pops: mostly to 64-bit code of the same privilege, at times selectors that it must refuse.
    fn far_frame(&mut self) {
        let target = self.code_target();
        let code = u64::from(code_selector(self.rng, self.mode()));
        let mut frame = vec![target, code];
        if self.instruction.mnemonic() != Mnemonic::Retf {
            let stack =
                if self.rng.one_in(5) { self.rng.pick(&[0, 3, 0x10, 0x33, 0x1F3, 0x28]) } else { 0x2B };
            // Neither TF nor AC, see POPF.
            frame.push(self.rng.next() & !0x4_0100);
            frame.push(self.data() + 0x100 + 8 * self.rng.below(0x100));
            frame.push(stack);
        }
        let narrow = matches!(self.instruction.code(), Code::Iretd | Code::Retfd | Code::Retfd_imm16);
        let size = if narrow { 4 } else { 8 };
        let bytes: Vec<u8> = frame.iter().flat_map(|word| word.to_le_bytes()[..size].to_vec()).collect();
        let rsp = self.case.regs.gpr[4];
        self.write(rsp, &bytes);
    }

    /// Selectors for the instructions that take one: the segments that the kernels of host and guest both have, at every
    /// level asked for, and some that neither has.
    fn selectors(&mut self) {
        if self.family() != Some(Family::Segment) {
            return;
        }
        self.case.regs.loads_selectors = true;
        let selector: u16 = self.rng.pick(&[
            0x2B, 0x2B, 0x2B, 0x28, 0x23, 0x20, 0x33, 0x30, 0x10, 0x13, 0x18, 0x1B, 0, 1, 3, 0x1F3, 7, 0xFFFF,
        ]);
        let instruction = self.instruction;
        let bytes = u64::from(selector).to_le_bytes();
        match instruction.mnemonic() {
            Mnemonic::Pop => {
                let rsp = self.case.regs.gpr[4];
                self.write(rsp, &bytes);
            }
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
                let size = instruction.op0_register().size() as u64;
                if let Some(address) = self.operand {
                    self.write(address.wrapping_add(size), &bytes[..2]);
                }
            }
            Mnemonic::Arpl => {}
            _ => {
                for operand in 0..instruction.op_count() {
                    let register = instruction.op_register(operand);
                    let last = operand + 1 == instruction.op_count();
                    if instruction.op_kind(operand) == OpKind::Memory {
                        self.write_operand(&bytes[..2]);
                    } else if last && register.is_gpr() {
                        let high = self.rng.next() & !0xFFFF;
                        *self.gpr(register) = high | u64::from(selector);
                    }
                }
            }
        }
    }

    /// An address in the code pages where INT3 waits.
    fn code_target(&mut self) -> u64 {
        loop {
            let target = self.window + 16 + self.rng.below(CODE_LEN - 64);
            let end = self.case.regs.rip + 16;
            if !(self.case.regs.rip..end).contains(&target) {
                return target;
            }
        }
    }

    /// Most quotients should fit.
    fn dividend(&mut self) {
        let instruction = self.instruction;
        let register = instruction.op0_kind() == OpKind::Register;
        let size =
            if register { instruction.op0_register().size() } else { instruction.memory_size().size() };
        let signed = instruction.mnemonic() == Mnemonic::Idiv;
        let [rax, rdx] = [self.case.regs.gpr[0], self.case.regs.gpr[2]];
        if self.rng.one_in(3) {
            return;
        }
        let small = self.rng.below(4);
        if size == 1 {
            let extended = if signed { i16::from(rax as i8) as u64 } else { rax & 0xFF };
            self.case.regs.gpr[0] = rax & !0xFFFF | extended.wrapping_add(small << 8) & 0xFFFF;
            return;
        }
        let bits = 8 * size as u32;
        let negative = signed && rax >> (bits - 1) & 1 == 1;
        let high =
            (if negative { u64::MAX } else { 0 }).wrapping_add(if self.rng.one_in(2) { small } else { 0 });
        let mask = u64::MAX >> (64 - bits);
        self.case.regs.gpr[2] = rdx & !mask | high & mask;
    }

    fn write_operand(&mut self, bytes: &[u8]) {
        if let Some(address) = self.operand {
            self.write(address, bytes);
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        if self.is_writable(address, bytes.len() as u64) {
            let start = (address - self.data()) as usize;
            self.case.data[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    pub(super) fn is_writable(&self, address: u64, len: u64) -> bool {
        let data = self.data();
        (data..=data + DATA_LEN).contains(&address) && address.saturating_add(len) <= data + DATA_LEN
    }

    /// In the data or so near that what surrounds it is in the window too.
    pub(super) fn is_data(&self, address: u64, len: u64) -> bool {
        let (start, end) = (self.window + CODE_LEN, self.window + WINDOW);
        (start..end).contains(&address) && address + len <= end
    }

    fn address(&self) -> Option<u64> {
        operand_address(self.instruction, &self.case.regs)
    }

    pub(super) fn value_of(&self, register: Register) -> u64 {
        value_of(&self.case.regs, register)
    }
}

/// The linear address of the explicit memory operand.
pub(crate) fn operand_address(instruction: &Instruction, regs: &Regs) -> Option<u64> {
    let operand =
        (0..instruction.op_count()).find(|&operand| instruction.op_kind(operand) == OpKind::Memory)?;
    let address = instruction.virtual_address(operand, 0, |register, _, _| Some(value_of(regs, register)))?;
    Some(address & regs.mode.mask())
}

/// The value of a general register, or the base of a segment.
fn value_of(regs: &Regs, register: Register) -> u64 {
    match register {
        Register::FS => regs.fs_base,
        Register::GS => regs.gs_base,
        Register::ES | Register::CS | Register::SS | Register::DS => 0,
        _ => {
            let full = regs.gpr[register.full_register().number()];
            match register.size() {
                1 if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) => {
                    full >> 8 & 0xFF
                }
                1 => full & 0xFF,
                2 => full & 0xFFFF,
                4 => full & 0xFFFF_FFFF,
                _ => full,
            }
        }
    }
}
