//! Port input and output.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::software::block::Flow;
use crate::software::cpu::{CR0_PE, Cpu};
use crate::software::fault::Fault;
use crate::software::tlb::SUPERVISOR;

impl Cpu {
    /// #GP unless this privilege level may use the port (SDM volume 1, section 19.5).
    pub(in crate::software) fn check_port(&mut self, port: u16, size: usize) -> Result<(), Fault> {
        if self.s.cr0 & CR0_PE == 0 || self.cpl() <= (self.system_flags >> 12 & 3) as u8 {
            return Ok(());
        }
        let tss = self.s.tr;
        let limit = u64::from(tss.limit);
        if tss.attributes & 0x80 == 0 || limit < 0x67 {
            return Err(Fault::gp());
        }
        let map = self.read_view(SUPERVISOR, tss.base.wrapping_add(0x66), 2)?;
        let at = map + u64::from(port / 8);
        if at + 1 > limit {
            return Err(Fault::gp());
        }
        let bits = self.read_view(SUPERVISOR, tss.base.wrapping_add(at), 2)? >> (port % 8);
        if bits & ((1 << size) - 1) != 0 { Err(Fault::gp()) } else { Ok(()) }
    }

    pub(in crate::software) fn port_in(&mut self, port: u16, size: usize) -> u64 {
        let at = self.position_now();
        self.exit_request = true;
        self.watch_port(port, size);
        u64::from(self.platform().pio_read(at, port, size as u8)) & crate::software::tlb::mask(size)
    }

    pub(in crate::software) fn port_out(&mut self, port: u16, size: usize, value: u64) {
        let at = self.position_now();
        self.exit_request = true;
        self.watch_port(port, size);
        let value = value & crate::software::tlb::mask(size);
        self.platform().pio_write(at, port, size as u8, value as u32);
    }
}

/// IN and OUT.
pub(in crate::software) fn in_out(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (port, data) = if i.mnemonic() == Mnemonic::In { (1, 0) } else { (0, 1) };
    let number = if i.op_kind(port) == OpKind::Register {
        debug_assert_eq!(i.op_register(port), Register::DX);
        c.gpr[2] as u16
    } else {
        u16::from(i.immediate8())
    };
    let register = i.op_register(data);
    c.check_port(number, register.size())?;
    if i.mnemonic() == Mnemonic::In {
        let value = c.port_in(number, register.size());
        c.set_register(register, value);
    } else {
        c.port_out(number, register.size(), c.register(register));
    }
    Ok(Flow::Boundary)
}
