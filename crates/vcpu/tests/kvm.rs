//! The KVM engine, where the host's /dev/kvm works well enough; elsewhere each test says why it was skipped.

use ft_vcpu::kvm;

/// True where the engine can be tested.
fn works(test: &str) -> bool {
    match kvm::probe() {
        Ok(_) => true,
        Err(lack) => {
            println!("skipped: {test}: {lack}");
            false
        }
    }
}

#[test]
fn probe_says_what_it_found() {
    if works("probe") {
        println!("/dev/kvm works: {:?}", kvm::probe());
    }
}
