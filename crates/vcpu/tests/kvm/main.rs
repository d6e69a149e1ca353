//! The KVM engine, where the host's /dev/kvm works well enough; elsewhere each test says that it was skipped, and why.
//!
//! [`bare`] is a long-mode guest with a board that writes everything down, [`interruptions`] a host that leaves the guest often;
//! `FT_SEED` and `FT_CASES` are those of the other differential tests.

mod bare;
mod differential;
mod engine;
#[path = "../host/mod.rs"]
mod host;
mod interruptions;

use std::sync::OnceLock;

use ft_vcpu::kvm;

/// True where the engine can be tested.
///
/// # Panics
/// Where it cannot, and `FT_KVM=required` says that it must.
fn works(test: &str) -> bool {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    match WORKS.get_or_init(|| kvm::probe().map(drop).map_err(|lack| lack.to_string())) {
        Ok(()) => true,
        Err(lack) => {
            assert!(std::env::var_os("FT_KVM").is_none_or(|word| word != "required"), "{test}: {lack}");
            println!("skipped: {test}: {lack}");
            false
        }
    }
}

/// The processor that KVM runs on here is QEMU's emulation of one.
fn host_is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
}

/// The tiny guest makes one exit for each thing that it does, whatever the host.
#[test]
fn the_probe_counts_its_exits() {
    if works("the_probe_counts_its_exits") {
        assert_eq!(kvm::probe().unwrap(), kvm::Probed { exits: 9 });
    }
}
