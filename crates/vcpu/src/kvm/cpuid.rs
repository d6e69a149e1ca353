//! What CPUID says under KVM: the project's model without its counters, cut to what the host has.
//!
//! The counters are hidden because stock KVM cannot make RDTSC deterministic, XSAVE because a digest would have to know its area; AVX,
//! RDRAND and RDSEED are not in the model. Both sides of a pair must arrive at the same table.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Lack;
use crate::software::cpuid::cpuid as model;

/// One leaf of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// EAX before.
    pub leaf: u32,
    /// ECX before.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX after.
    pub values: [u32; 4],
}

/// The leaves that the guest finds; any other is zero. The last basic one is there although it is zero: KVM answers with it for
/// leaves above (as Intel's processors do).
const LEAVES: [u32; 15] = [
    0,
    1,
    6,
    7,
    LAST_BASIC,
    0x4000_0000,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];
const LAST_BASIC: u32 = 0x16;

/// TSC-deadline, XSAVE.
const HIDDEN_1C: u32 = 1 << 24 | 1 << 26;
/// TSC.
const HIDDEN_1D: u32 = 1 << 4;
/// TSC_ADJUST.
const HIDDEN_7B: u32 = 1 << 1;
/// RDTSCP.
const HIDDEN_EXT_D: u32 = 1 << 27;

/// Features that are the devices' or the MSR model's, not the host CPU's: the hypervisor bit; MSR, APIC, MTRR, PAT;
/// ARCH_CAPABILITIES.
const OURS_1C: u32 = 1 << 31;
const OURS_1D: u32 = 1 << 5 | 1 << 9 | 1 << 12 | 1 << 16;
const OURS_7D: u32 = 1 << 29;

/// What no guest can do without: FPU, PAE, CMPXCHG8B, CMOV, FXSAVE, SSE, SSE2; long mode, no-execute.
const NEEDED_1D: u32 = 1 | 1 << 6 | 1 << 8 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;
const NEEDED_EXT_D: u32 = 1 << 20 | 1 << 29;

/// The table of a host that supports `host`, which is what KVM_GET_SUPPORTED_CPUID gives.
pub(super) fn table(host: &[kvm_cpuid_entry2]) -> Result<Vec<Leaf>, Lack> {
    let supported = |leaf: u32| {
        let found = host.iter().find(|entry| (entry.function, entry.index) == (leaf, 0));
        found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    };
    let table: Vec<Leaf> = LEAVES
        .into_iter()
        .map(|leaf| {
            let [mut a, mut b, mut c, mut d] = model(leaf, 0, 0);
            let [host_a, host_b, host_c, host_d] = supported(leaf);
            match leaf {
                1 => {
                    c &= (host_c | OURS_1C) & !HIDDEN_1C;
                    d &= (host_d | OURS_1D) & !HIDDEN_1D;
                }
                7 => {
                    // The subleaves, and the control of speculation, whose MSRs would be the host's.
                    a = 0;
                    b &= host_b & !HIDDEN_7B;
                    d &= OURS_7D;
                }
                LAST_BASIC | 0x8000_0007 => (a, b, c, d) = (0, 0, 0, 0),
                0x8000_0001 => {
                    c &= host_c;
                    d &= host_d & !HIDDEN_EXT_D;
                }
                0x8000_0008 if host_a & 0xFF != 0 => a = a & !0xFF | (a & 0xFF).min(host_a & 0xFF),
                _ => {}
            }
            Leaf { leaf, subleaf: 0, values: [a, b, c, d] }
        })
        .collect();
    let has =
        |leaf, needed| table.iter().any(|known| known.leaf == leaf && known.values[3] & needed == needed);
    if !has(1, NEEDED_1D) || !has(0x8000_0001, NEEDED_EXT_D) {
        return Err(Lack::Processor);
    }
    Ok(table)
}

/// The table as KVM takes it.
pub(super) fn entries(table: &[Leaf]) -> Result<CpuId, Lack> {
    let entries: Vec<_> = table
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.leaf,
            index: leaf.subleaf,
            flags: if leaf.leaf == 7 { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: leaf.values[0],
            ebx: leaf.values[1],
            ecx: leaf.values[2],
            edx: leaf.values[3],
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| Lack::Processor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Vec<kvm_cpuid_entry2> {
        let all = |function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        [1, 7, 0x8000_0001, 0x8000_0008].map(all).to_vec()
    }

    fn values(table: &[Leaf], leaf: u32) -> [u32; 4] {
        table.iter().find(|known| known.leaf == leaf).unwrap().values
    }

    #[test]
    fn counters_are_hidden_and_the_rest_is_the_model() {
        let table = table(&everything()).unwrap();
        for known in &table {
            let full = model(known.leaf, 0, 0);
            for (mine, full) in known.values.iter().zip(full) {
                assert_eq!(mine & !full, 0, "leaf {:#x} has more than the model", known.leaf);
            }
        }
        assert_eq!(values(&table, 1)[3], model(1, 0, 0)[3] & !HIDDEN_1D);
        assert_eq!(values(&table, 1)[2], model(1, 0, 0)[2] & !HIDDEN_1C);
        assert_eq!(values(&table, 0x8000_0007), [0; 4]);
        // XSAVE, OSXSAVE, AVX, RDRAND.
        assert_eq!(values(&table, 1)[2] & (0b111 << 26 | 1 << 30), 0);
        // RDSEED.
        assert_eq!(values(&table, 7)[1] & 1 << 18, 0);
    }

    #[test]
    fn the_host_cuts_the_table() {
        let mut host = everything();
        // No SSE4.2, no SMAP, 36 bits of address.
        host[0].ecx &= !(1 << 20);
        host[1].ebx &= !(1 << 20);
        host[3].eax = 36;
        let table = table(&host).unwrap();
        assert_eq!(values(&table, 1)[2] & 1 << 20, 0);
        assert_eq!(values(&table, 7)[1] & 1 << 20, 0);
        assert_eq!(values(&table, 0x8000_0008)[0] & 0xFF, 36);
        host[2].edx &= !(1 << 29);
        assert!(matches!(super::table(&host), Err(Lack::Processor)));
    }
}
