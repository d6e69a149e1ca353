//! Model-specific registers that every engine has alike: which there are, and what the constant ones say.

/// IA32_TIME_STAMP_COUNTER
pub(crate) const TSC: u32 = 0x10;
/// IA32_TSC_ADJUST
pub(crate) const TSC_ADJUST: u32 = 0x3B;
/// IA32_TSC_AUX
pub(crate) const TSC_AUX: u32 = 0xC000_0103;
/// How many MTRRs there are in [`crate::CpuState::mtrr`], once one was written.
pub(crate) const MTRRS: usize = 28;

const ARCH_CAPABILITIES: u32 = 0x10A;
/// RDCL_NO, IBRS_ALL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO,
/// RFDS_NO, ITS_NO: this processor does not speculate.
const NOT_VULNERABLE: u64 = 1
    | 1 << 1
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;
/// 8 variable ranges, fixed ranges, write-combining.
const MTRR_CAPABILITIES: u64 = 0x508;

const MICROCODE: u32 = 0x8B;
const MISC_ENABLE: u32 = 0x1A0;

/// The place of an MTRR in [`crate::CpuState::mtrr`].
fn mtrr_index(msr: u32) -> Option<usize> {
    Some(match msr {
        0x2FF => 0,
        0x250 => 1,
        0x258 | 0x259 => 2 + (msr - 0x258) as usize,
        0x268..=0x26F => 4 + (msr - 0x268) as usize,
        0x200..=0x20F => 12 + (msr - 0x200) as usize,
        _ => return None,
    })
}

/// The value of an MTRR, if `msr` is one.
pub(crate) fn read_mtrr(mtrr: &[u64], msr: u32) -> Option<u64> {
    mtrr_index(msr).map(|index| mtrr.get(index).copied().unwrap_or(0))
}

/// Writes an MTRR; false if `msr` is none.
pub(crate) fn write_mtrr(mtrr: &mut Vec<u64>, msr: u32, value: u64) -> bool {
    let Some(index) = mtrr_index(msr) else { return false };
    if mtrr.len() <= index {
        mtrr.resize(MTRRS, 0);
    }
    mtrr[index] = value;
    true
}

/// True for an MSR that may be written and stays as it is.
pub(crate) fn ignores_writes(msr: u32) -> bool {
    matches!(msr, MICROCODE | MISC_ENABLE)
}

/// The value of an MSR that never changes.
pub(crate) fn constant(msr: u32) -> Option<u64> {
    Some(match msr {
        // Platform id.
        0x17 => 0,
        MICROCODE => 0,
        0xFE => MTRR_CAPABILITIES,
        ARCH_CAPABILITIES => NOT_VULNERABLE,
        // Fast strings.
        MISC_ENABLE => 1,
        _ => return None,
    })
}
