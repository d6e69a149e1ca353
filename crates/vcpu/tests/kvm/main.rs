//! The KVM engine, where the host's /dev/kvm works well enough; elsewhere each test says that it was skipped, and why.
//!
//! [`bare`] is a long-mode guest with a board that writes everything down; `FT_SEED` and `FT_CASES` are those of the other
//! differential tests.

mod bare;
mod differential;
mod engine;
#[path = "../host/mod.rs"]
mod host;

use std::sync::{Mutex, OnceLock};

use ft_vcpu::kvm;

/// True where the engine can be tested.
fn works(test: &str) -> bool {
    // A virtual machine is there for as long as the tests run: Linux changes its own code when the first one comes and when the
    // last one goes, which QEMU, emulating several processors, does not always survive.
    static WORKS: OnceLock<Result<Mutex<kvm::KvmVcpu>, String>> = OnceLock::new();
    let make = || {
        kvm::probe()?;
        kvm::KvmVcpu::new(ft_vcpu::memory::allocate(1 << 16).map_err(kvm::Lack::Broken)?)
    };
    match WORKS.get_or_init(|| make().map(Mutex::new).map_err(|lack| lack.to_string())) {
        Ok(_) => true,
        Err(lack) => {
            println!("skipped: {test}: {lack}");
            false
        }
    }
}

/// The tiny guest makes one exit for each thing that it does, whatever the host.
#[test]
fn the_probe_counts_its_exits() {
    if works("the_probe_counts_its_exits") {
        assert_eq!(kvm::probe().unwrap(), kvm::Probed { exits: 9 });
    }
}
