//! MSRs under KVM: those of the CPU's own working are KVM's, all others leave the guest and have the values that they have in
//! the software engine. So reading the time-stamp counter's MSR is deterministic, which the instruction RDTSC is not.

use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use crate::msr::{TSC, TSC_ADJUST, TSC_AUX, constant, ignores_writes, read_mtrr, write_mtrr};
use crate::{Platform, Position};

/// What stays in KVM: runs of MSRs, first and how many. SYSENTER; PAT; EFER, STAR, LSTAR, CSTAR, SFMASK; FS, GS and kernel GS
/// base. [`SAVED`] and the system registers have them.
const KVMS: [(u32, u32); 4] = [(0x174, 3), (0x277, 1), (0xC000_0080, 5), (0xC000_0100, 3)];

/// The MSRs that are saved and restored one by one: SYSENTER CS, ESP, EIP; PAT; STAR, LSTAR, CSTAR, SFMASK; kernel GS base.
pub(super) const SAVED: [u32; 9] =
    [0x174, 0x175, 0x176, 0x277, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102];

/// Makes KVM leave all other MSRs to us.
pub(super) fn filter(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    // The kernel reads whole words.
    let bits: [[u8; 8]; 4] = KVMS.map(|(_, count)| ((1_u64 << count) - 1).to_le_bytes());
    let ranges: Vec<_> = KVMS
        .iter()
        .zip(&bits)
        .map(|((base, count), bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: *base,
            msr_count: *count,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}

/// MSRs that the guest writes and that have no effect but their value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) tsc_adjust: u64,
    pub(super) tsc_aux: u64,
    pub(super) mtrr: Vec<u64>,
}

impl Kept {
    /// The value of an MSR that is not KVM's; `None` raises #GP.
    pub(super) fn read(&self, at: Position, msr: u32, platform: &mut dyn Platform) -> Option<u64> {
        if let Some(value) = read_mtrr(&self.mtrr, msr) {
            return Some(value);
        }
        match msr {
            TSC => Some(platform.tsc(at).wrapping_add(self.tsc_adjust)),
            TSC_ADJUST => Some(self.tsc_adjust),
            TSC_AUX => Some(self.tsc_aux),
            _ => constant(msr).or_else(|| platform.msr_read(at, msr)),
        }
    }

    /// Writes one; false raises #GP.
    pub(super) fn write(&mut self, at: Position, msr: u32, value: u64, platform: &mut dyn Platform) -> bool {
        if write_mtrr(&mut self.mtrr, msr, value) || ignores_writes(msr) {
            return true;
        }
        match msr {
            TSC => self.tsc_adjust = value.wrapping_sub(platform.tsc(at)),
            TSC_ADJUST => self.tsc_adjust = value,
            TSC_AUX => self.tsc_aux = value & 0xFFFF_FFFF,
            _ => return platform.msr_write(at, msr, value),
        }
        true
    }
}
