//! What the software engine implements is what it says: the list of missing forms is exact, and CPUID promises nothing
//! that is on it.

mod host;

use std::collections::BTreeSet;

use host::case::{Case, Regs};
use host::forms;
use host::guest::Guest;
use host::layout;
use host::unimplemented;
use iced_x86::CpuidFeature as F;

/// The engine's own word against the list: nothing missing that is not listed, nothing listed that works.
#[test]
fn the_list_of_missing_forms_is_exact() {
    let found = unimplemented::found(1);
    if std::env::var_os("FT_UPDATE").is_some() {
        unimplemented::write(&found);
        println!("{} forms listed", found.len());
        return;
    }
    let listed = unimplemented::listed();
    let unlisted: BTreeSet<_> = found.difference(listed).collect();
    assert!(unlisted.is_empty(), "not implemented and not listed: {unlisted:?}");
    let done: BTreeSet<_> = listed.difference(&found).collect();
    assert!(done.is_empty(), "implemented, or no form at all: take off the list (FT_UPDATE=1): {done:?}");
    println!("{} forms not implemented", found.len());
}

/// ECX and EDX of leaf 1, asked as a guest does.
fn features() -> (u64, u64) {
    let window = layout::window(2);
    let mut guest = Guest::new(window, host::engine::software);
    let mut regs = Regs { rip: window + 0x100, ..Regs::default() };
    regs.gpr[0] = 1;
    regs.gpr[4] = window + layout::DATA + 0x800;
    let case = Case { code: vec![0x0F, 0xA2], regs, data: vec![0; layout::DATA_LEN as usize] };
    let outcome = guest.run_one(&case).expect("CPUID runs");
    assert_eq!(outcome.trap, None);
    (outcome.regs.gpr[1], outcome.regs.gpr[2])
}

/// A feature that CPUID advertises has all its forms. The exceptions are what every x86-64 processor has to advertise.
#[test]
fn cpuid_promises_nothing_that_is_missing() {
    let (ecx, edx) = features();
    let baseline: [(u64, &[F]); 4] = [
        (1, &[F::FPU, F::FPU287, F::FPU387]),
        (1 << 24, &[F::FXSR]),
        (1 << 25, &[F::SSE]),
        (1 << 26, &[F::SSE2]),
    ];
    for (bit, _) in baseline {
        assert_ne!(edx & bit, 0, "no x86-64 processor lacks bit {bit:#x} of EDX");
    }
    let optional = [
        (ecx, 0, F::SSE3),
        (ecx, 9, F::SSSE3),
        (ecx, 13, F::CMPXCHG16B),
        (ecx, 19, F::SSE4_1),
        (ecx, 20, F::SSE4_2),
        (ecx, 23, F::POPCNT),
        (edx, 8, F::CX8),
        (edx, 15, F::CMOV),
        (edx, 19, F::CLFSH),
        (edx, 23, F::MMX),
    ];
    for family in unimplemented::FAMILIES {
        for code in forms::forms(family) {
            let missing = unimplemented::is_listed(code);
            for (register, bit, feature) in optional {
                // FCMOVcc needs the x87 too, and goes with it.
                let needs = code.cpuid_features().contains(&feature) && (feature != F::CMOV || family != forms::Family::X87)
                    // SSE added instructions on MMX registers; those are MMX's affair as much.
                    || feature == F::MMX && family == forms::Family::Mmx;
                assert!(
                    !(missing && needs && register >> bit & 1 == 1),
                    "CPUID advertises {feature:?}, but {code:?} is missing"
                );
            }
        }
    }
    // Nothing of the kinds that no engine here has: PCLMULQDQ, FMA, AES, XSAVE, AVX, F16C, RDRAND.
    for bit in [1, 12, 25, 26, 27, 28, 29, 30] {
        assert_eq!(ecx >> bit & 1, 0, "bit {bit} of ECX");
    }
}
