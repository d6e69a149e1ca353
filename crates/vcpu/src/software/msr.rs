//! Model-specific registers.

use super::cpu::{CR0_PG, Cpu, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE};
use super::tlb::is_canonical;
use crate::msr::{TSC, TSC_ADJUST, TSC_AUX, constant, ignores_writes, read_mtrr, write_mtrr};

const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
/// IBRS, STIBP, SSBD, BHI_DIS_S.
const SPEC_CTRL_EXISTING: u64 = 0b111 | 1 << 10;

/// The value of an MSR, if it exists.
pub(super) fn read(c: &mut Cpu, at: u64, msr: u32) -> Option<u64> {
    if let Some(value) = read_mtrr(&c.s.mtrr, msr) {
        return Some(value);
    }
    Some(match msr {
        TSC => c.platform().tsc(at).wrapping_add(c.s.tsc_adjust),
        TSC_ADJUST => c.s.tsc_adjust,
        SPEC_CTRL => c.s.spec_ctrl,
        0x174..=0x176 => c.s.sysenter[(msr - 0x174) as usize],
        0x277 => c.s.pat,
        0xC000_0080 => c.s.efer,
        0xC000_0081 => c.s.star,
        0xC000_0082 => c.s.lstar,
        0xC000_0083 => c.s.cstar,
        0xC000_0084 => c.s.sfmask,
        0xC000_0100 => c.s.segments[4].base,
        0xC000_0101 => c.s.segments[5].base,
        0xC000_0102 => c.s.kernel_gs_base,
        TSC_AUX => c.s.tsc_aux,
        _ => return constant(msr).or_else(|| c.platform().msr_read(at, msr)),
    })
}

/// Writes an MSR; false if it does not exist or does not take the value.
pub(super) fn write(c: &mut Cpu, at: u64, msr: u32, value: u64) -> bool {
    let canonical = is_canonical(value);
    if write_mtrr(&mut c.s.mtrr, msr, value) || ignores_writes(msr) {
        return true;
    }
    match msr {
        TSC => {
            let now = c.platform().tsc(at);
            c.s.tsc_adjust = value.wrapping_sub(now);
        }
        TSC_ADJUST => c.s.tsc_adjust = value,
        SPEC_CTRL if value & !SPEC_CTRL_EXISTING == 0 => c.s.spec_ctrl = value,
        SPEC_CTRL => return false,
        // The barrier has nothing to act on.
        PRED_CMD if value & !1 == 0 => {}
        PRED_CMD => return false,
        0x174 => c.s.sysenter[0] = value,
        0x175 | 0x176 => {
            if !canonical {
                return false;
            }
            c.s.sysenter[(msr - 0x174) as usize] = value;
        }
        0x277 => {
            let valid = value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
            if !valid {
                return false;
            }
            c.s.pat = value;
        }
        0xC000_0080 => {
            let old = c.s.efer;
            if value & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) != 0
                || ((old ^ value) & EFER_LME != 0 && c.s.cr0 & CR0_PG != 0)
            {
                return false;
            }
            c.s.efer = value & !EFER_LMA | old & EFER_LMA;
            if (old ^ value) & EFER_NXE != 0 {
                c.flush_tlbs(false);
            }
            c.update_mode();
        }
        0xC000_0081 => c.s.star = value,
        0xC000_0084 => c.s.sfmask = value & 0xFFFF_FFFF,
        TSC_AUX => c.s.tsc_aux = value & 0xFFFF_FFFF,
        0xC000_0082 | 0xC000_0083 | 0xC000_0100..=0xC000_0102 => {
            if !canonical {
                return false;
            }
            match msr {
                0xC000_0082 => c.s.lstar = value,
                0xC000_0083 => c.s.cstar = value,
                0xC000_0100 => c.s.segments[4].base = value,
                0xC000_0101 => c.s.segments[5].base = value,
                _ => c.s.kernel_gs_base = value,
            }
        }
        _ => {
            c.exit_request = true;
            return c.platform().msr_write(at, msr, value);
        }
    }
    true
}
