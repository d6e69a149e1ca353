//! Which cases may run on the host: those that touch nothing of the test's own process, and have a defined result.

use iced_x86::{FlowControl, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess, OpKind, Register};

use super::case::Mode;
use super::forms::Family;
use super::place::Placer;

impl Placer<'_> {
    /// Every access lies in the window and not on the code, or at an address that faults anywhere.
    pub(super) fn is_safe(&mut self) -> bool {
        let instruction = self.instruction;
        let harmless = |address: u64, len: u64, this: &Self| {
            let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
            this.is_data(address, len) || !canonical(address) && !canonical(address.wrapping_add(len))
        };
        match instruction.mnemonic() {
            Mnemonic::Shld | Mnemonic::Shrd => {
                let size = if instruction.op0_kind() == OpKind::Register {
                    instruction.op0_register().size()
                } else {
                    instruction.memory_size().size()
                };
                let by_cl = instruction.op2_kind() == OpKind::Register;
                let count = if by_cl { self.case.regs.gpr[1] as u8 } else { instruction.immediate8() };
                // The result is undefined.
                if size == 2 && count & 31 > 16 {
                    return false;
                }
            }
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
                // The flags must be those that `values` wrote.
                let rsp = self.case.regs.gpr[4];
                return self.is_writable(rsp, 8);
            }
            Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
                // Registers that are the address too may ask for what only the host has.
                let asked = self.case.regs.gpr[0] & 0xFFFF_FFFF | self.case.regs.gpr[2] << 32;
                if asked & !3 != 0 {
                    return false;
                }
            }
            Mnemonic::Ret => {
                let rsp = self.case.regs.gpr[4];
                return self.is_writable(rsp, 8);
            }
            Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Retf => {
                let rsp = self.case.regs.gpr[4];
                return self.is_writable(rsp, 40);
            }
            _ => {}
        }
        if self.mode() == Mode::Compat && matches!(instruction.memory_segment(), Register::CS | Register::FS)
        {
            // Code cannot be written, and the host's FS is the C library's.
            return false;
        }
        let stores_gs = instruction.op_count() == 2 && instruction.op1_register() == Register::GS;
        if stores_gs && self.case.regs.gs_base != 0 {
            return false;
        }
        if self.family() == Some(Family::Far) {
            // 64-bit code may call 32-bit code, which has half a stack pointer.
            let far = self.case.regs.gpr[4] >> 32 != 0;
            let target = u64::from(instruction.far_branch32());
            let own = self.case.regs.rip..self.case.regs.rip + 16;
            if far || instruction.op0_kind() == OpKind::FarBranch32 && own.contains(&target) {
                return false;
            }
        }
        if let Some(address) = self.operand {
            // Of operands beyond 64 KiB with 16-bit addresses, processors wrap the parts as they like.
            let end = (address.wrapping_sub(self.case.regs.gs_base) & 0xFFFF) + 600;
            let short = instruction.memory_base().size() == 2 || instruction.memory_displ_size() == 2;
            let size = instruction.memory_size().size();
            if short && end > 0x1_0000 && (size > 4 || self.family() == Some(Family::State)) {
                return false;
            }
            // Which of two pages that both fault is looked at first depends on the states asked for.
            let last_page = self.read_only_end();
            if self.family() == Some(Family::State) && address < last_page && address + 576 > last_page {
                return false;
            }
            // A selector must be one that was chosen.
            if self.family() == Some(Family::Segment)
                && self.is_data(address, 1)
                && !self.is_writable(address, 8)
            {
                return false;
            }
        }
        if matches!(instruction.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall)
            && instruction.op0_kind() == OpKind::Memory
            && !self.operand.is_some_and(|address| self.is_writable(address, 8))
        {
            return false;
        }
        if instruction.is_string_instruction() {
            return true;
        }
        let bit_test =
            matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
                && instruction.op1_kind() == OpKind::Register;
        if bit_test && let Some(address) = self.operand {
            let register = instruction.op1_register();
            let value = self.value_of(register);
            let offset = match register.size() {
                2 => i64::from(value as i16) >> 4 << 1,
                4 => i64::from(value as i32) >> 5 << 2,
                _ => value as i64 >> 6 << 3,
            };
            let place = address.wrapping_add(offset as u64) & self.mode().mask();
            return harmless(place, register.size() as u64, self);
        }
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        info.used_memory().iter().all(|used| {
            if matches!(used.access(), OpAccess::None | OpAccess::NoMemAccess) {
                return true;
            }
            let address = used.virtual_address(0, |register, _, _| Some(self.value_of(register)));
            let address = address.map(|address| address & self.mode().mask());
            let len = match used.memory_size() {
                _ if self.family() == Some(Family::State) => 576,
                MemorySize::Unknown => 64,
                size => size.size() as u64,
            };
            address.is_some_and(|address| harmless(address, len, self))
        })
    }
}
