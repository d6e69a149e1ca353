//! Exits: what KVM_RUN came back with, and what the board answers.

use std::ptr::NonNull;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as HAS_BYTES, KVMIO,
    kvm_interrupt,
};
use kvm_ioctls::{Error as Errno, VcpuExit, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::msr::Kept;
use crate::{Access, Platform, Position};

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// Injects an external interrupt, which the guest takes before its next instruction. KVM must be ready for it.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), Errno> {
    let interrupt = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: the call reads one `kvm_interrupt`, which outlives it.
    if unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &interrupt) } != 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// An exit that is not served yet. What it reads is written into `kvm_run` when it is.
#[derive(Debug)]
pub(super) enum Exit {
    /// Port accesses of one instruction: `data` has a value for each.
    Pio {
        port: u16,
        input: bool,
        data: NonNull<u8>,
        len: usize,
    },
    MmioRead {
        address: u64,
        len: usize,
    },
    MmioWrite {
        address: u64,
        len: usize,
        data: [u8; 8],
    },
    MsrRead {
        msr: u32,
    },
    MsrWrite {
        msr: u32,
        value: u64,
    },
    Halt,
    /// An interrupt window or a lowered task priority.
    Boundary,
    Shutdown,
    Failed(String),
}

// SAFETY: the pointer leads into the vCPU's own mapping and is used with the vCPU only.
unsafe impl Send for Exit {}

/// What came of it.
#[derive(Debug)]
pub(super) enum Served {
    /// The instruction is to be completed.
    Access,
    Halt,
    Nothing,
    Shutdown,
    Failed(String),
}

impl Exit {
    /// Enters KVM and says what it comes back with.
    pub(super) fn next(vcpu: &mut VcpuFd) -> Result<Self, Errno> {
        Ok(match vcpu.run()? {
            VcpuExit::IoIn(port, data) => {
                Self::Pio { port, input: true, len: data.len(), data: NonNull::from(data).cast() }
            }
            VcpuExit::IoOut(port, data) => {
                Self::Pio { port, input: false, len: data.len(), data: NonNull::from(data).cast() }
            }
            VcpuExit::MmioRead(address, data) => Self::MmioRead { address, len: data.len() },
            VcpuExit::MmioWrite(address, data) => {
                let mut bytes = [0; 8];
                bytes[..data.len()].copy_from_slice(data);
                Self::MmioWrite { address, len: data.len(), data: bytes }
            }
            VcpuExit::X86Rdmsr(exit) => Self::MsrRead { msr: exit.index },
            VcpuExit::X86Wrmsr(exit) => Self::MsrWrite { msr: exit.index, value: exit.data },
            VcpuExit::Hlt => Self::Halt,
            VcpuExit::IrqWindowOpen | VcpuExit::SetTpr => Self::Boundary,
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::FailEntry(reason, _) => {
                Self::Failed(format!("the processor refuses the guest's state (reason {reason:#x})"))
            }
            VcpuExit::InternalError => Self::Failed(internal_error(vcpu)),
            other => Self::Failed(format!("an exit that this machine does not have: {other:?}")),
        })
    }

    /// The access that it is, if whether it sees the time may matter.
    pub(super) fn access(&self) -> Option<Access> {
        match self {
            Self::MmioRead { address, .. } => Some(Access::MmioRead(*address)),
            Self::MmioWrite { address, .. } => Some(Access::MmioWrite(*address)),
            Self::MsrRead { msr } => Some(Access::MsrRead(*msr)),
            Self::MsrWrite { msr, .. } => Some(Access::MsrWrite(*msr)),
            _ => None,
        }
    }

    /// Lets the board answer. `at` is the position after the instruction.
    pub(super) fn serve(
        self,
        vcpu: &mut VcpuFd,
        kept: &mut Kept,
        platform: &mut dyn Platform,
        at: Position,
    ) -> Served {
        match self {
            Self::Pio { port, input, data, len } => {
                // SAFETY: the exit was a port access, so this is the part of the union that KVM filled in.
                let size = usize::from(unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io }.size);
                // SAFETY: KVM gave `len` bytes here, beside the structure itself and mapped as long as the vCPU; nothing else
                // refers to them, and KVM was not entered since.
                let data = unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), len) };
                for value in data.chunks_exact_mut(size.clamp(1, 4)) {
                    let size = value.len();
                    if input {
                        let read = platform.pio_read(at, port, size as u8).to_le_bytes();
                        value.copy_from_slice(&read[..size]);
                    } else {
                        let mut bytes = [0; 4];
                        bytes[..size].copy_from_slice(value);
                        platform.pio_write(at, port, size as u8, u32::from_le_bytes(bytes));
                    }
                }
                Served::Access
            }
            Self::MmioRead { address, len } => {
                let mut data = [0; 8];
                for (offset, size) in pieces(len) {
                    let value = platform.mmio_read(at, address + offset as u64, size as u8).to_le_bytes();
                    data[offset..offset + size].copy_from_slice(&value[..size]);
                }
                // The exit was an MMIO access, so this is the part of the union that KVM reads.
                vcpu.get_kvm_run().__bindgen_anon_1.mmio.data = data;
                Served::Access
            }
            Self::MmioWrite { address, len, data } => {
                for (offset, size) in pieces(len) {
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&data[offset..offset + size]);
                    platform.mmio_write(at, address + offset as u64, size as u8, u64::from_le_bytes(value));
                }
                Served::Access
            }
            Self::MsrRead { msr } => {
                let value = kept.read(at, msr, platform);
                let run = vcpu.get_kvm_run();
                // The exit was an MSR access, so this is the part of the union that KVM reads.
                run.__bindgen_anon_1.msr.error = u8::from(value.is_none());
                run.__bindgen_anon_1.msr.data = value.unwrap_or(0);
                Served::Access
            }
            Self::MsrWrite { msr, value } => {
                let taken = kept.write(at, msr, value, platform);
                vcpu.get_kvm_run().__bindgen_anon_1.msr.error = u8::from(!taken);
                Served::Access
            }
            Self::Halt => Served::Halt,
            Self::Boundary => Served::Nothing,
            Self::Shutdown => Served::Shutdown,
            Self::Failed(why) => Served::Failed(why),
        }
    }
}

/// An access of 1 to 8 bytes in the sizes that a board knows: offset and size of each.
fn pieces(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let len = len.min(8);
    let size = if len.is_power_of_two() { len } else { 1 };
    (0..len).step_by(size).map(move |offset| (offset, size))
}

fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit was an internal error, so this is the part of the union that KVM filled in.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
    if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
        let known = (internal.ndata as usize).min(internal.data.len());
        let bytes = instruction_bytes(&internal.data[..known]);
        let text: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = if text.is_empty() { "it does not say which".into() } else { text.join(" ") };
        return format!("KVM cannot emulate the instruction at {rip:#x} ({text})");
    }
    format!("KVM has an internal error {} at {rip:#x}", internal.suberror)
}

/// The instruction that was not emulated, out of what KVM tells of it: flags; a byte with how many bytes of the instruction
/// follow it, and these (Linux's `Documentation/virt/kvm/api.rst`, KVM_EXIT_INTERNAL_ERROR). None if it tells none.
fn instruction_bytes(data: &[u64]) -> Vec<u8> {
    let [flags, words @ ..] = data else { return Vec::new() };
    let mut bytes = words.iter().flat_map(|word| word.to_le_bytes());
    match bytes.next() {
        Some(count) if flags & u64::from(HAS_BYTES) != 0 => bytes.take(count.min(15).into()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::instruction_bytes;

    #[test]
    fn an_instruction_is_told_without_its_length() {
        let data = [1, 0x0403_0201_58F2_0F03, 0x0C0B_0A09_0807_0605, 0xFFFF];
        assert_eq!(instruction_bytes(&data), [0x0F, 0xF2, 0x58]);
        assert_eq!(instruction_bytes(&[1, u64::MAX, u64::MAX, 0]), [0xFF; 15]);
        assert!(instruction_bytes(&[0, 0x03]).is_empty(), "KVM does not tell it");
        assert!(instruction_bytes(&[1]).is_empty());
        assert!(instruction_bytes(&[]).is_empty());
    }
}
