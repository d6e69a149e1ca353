//! CPUID: one fixed model, never the host's. Its vendor is GenuineIntel because Linux takes the crystal clock of leaf 0x15
//! from no other.

use super::cpu::CR4_OSXSAVE;
use super::exec::xstate::{AREA, STATE_SSE, STATE_X87};
use super::paging::PHYSICAL_BITS;

/// EAX, EBX, ECX, EDX of a leaf.
pub(super) fn cpuid(leaf: u32, subleaf: u32, cr4: u64) -> [u32; 4] {
    let text = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    match leaf {
        0 => [0x16, text(b"Genu"), text(b"ntel"), text(b"ineI")],
        // Family 6, model 0x2C. CLFLUSH of 64 bytes, one logical processor.
        1 => [
            0x0002_06C2,
            0x0001_0800,
            FEATURES_C | if cr4 & CR4_OSXSAVE != 0 { OSXSAVE } else { 0 },
            FEATURES_D,
        ],
        // ARAT.
        6 => [4, 0, 0, 0],
        // FSGSBASE, TSC_ADJUST, SMEP, INVPCID, SMAP; RDPID; IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD.
        7 if subleaf == 0 => {
            [2, 1 | 1 << 1 | 1 << 7 | 1 << 10 | 1 << 20, 1 << 22, 1 << 26 | 1 << 27 | 1 << 29 | 1 << 31]
        }
        // BHI_CTRL.
        7 if subleaf == 2 => [0, 0, 0, 1 << 4],
        // XSAVE of the x87 and SSE in the standard format, and none of its variants.
        0xD if subleaf == 0 => [(STATE_X87 | STATE_SSE) as u32, AREA as u32, AREA as u32, 0],
        // TSC = crystal = 1 GHz.
        0x15 => [1, 1, 1_000_000_000, 0],
        0x16 => [1000, 1000, 1000, 0],
        0x4000_0000 => [0x4000_0000, text(b"ft-v"), text(b"m vC"), text(b"PU  ")],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        // LAHF; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
        0x8000_0001 => [0, 0, 1, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29],
        0x8000_0002 => [text(b"ft-v"), text(b"m vi"), text(b"rtua"), text(b"l CP")],
        0x8000_0003 => [text(b"U @ "), text(b"1.00"), text(b"GHz\0"), 0],
        0x8000_0006 => [0, 0, 0x0100_6040, 0],
        // Invariant TSC.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [PHYSICAL_BITS | 48 << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

/// SSE3, SSSE3, CMPXCHG16B, PCID, SSE4.1, SSE4.2, POPCNT, TSC-deadline, XSAVE, hypervisor. A feature is advertised once all its forms
/// are implemented; `tests/implemented.rs` compares both.
const FEATURES_C: u32 =
    1 | 1 << 9 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24 | 1 << 26 | 1 << 31;
/// The operating system has enabled XSAVE.
const OSXSAVE: u32 = 1 << 27;
/// FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2. FPU, FXSR, SSE and
/// SSE2 are part of every x86-64 processor and thus here even while forms of theirs are missing.
const FEATURES_D: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;
