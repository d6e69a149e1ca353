//! `engine = "kvm"`: the same guests and the same config with one word changed, where the host's /dev/kvm works well enough;
//! elsewhere each test says that it was skipped, and why.

mod counter;
mod pairs;
mod service;

use std::sync::OnceLock;
use std::time::Duration;

use ft_e2e::{Bed, Guest, Replica, Settings, Status};
use ft_vcpu::kvm;

/// Shorter than the life of an `ft-vm`, so that what does not come is told before that is killed.
const LIMIT: Duration = Duration::from_secs(100);

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

/// The usual settings with one word changed.
fn with_kvm(guest: Guest) -> Settings {
    Settings { engine: "kvm", ..Settings::new(guest) }
}

/// Both replicas are at work, and the guest is: primary and backup.
fn both(status: &Status) -> Option<(&Replica, &Replica)> {
    let (primary, backup) = (status.role("primary")?, status.role("backup")?);
    (primary.position > 0 && backup.position > 0).then_some((primary, backup))
}

/// Without a /dev/kvm that works the command ends with 4, says what is missing, and what needs none.
#[test]
fn a_host_without_it_is_told_so() {
    let Err(lack) = kvm::probe() else {
        return println!("skipped: a_host_without_it_is_told_so: /dev/kvm works here");
    };
    let bed = Bed::new(&with_kvm(Guest::Cpu { rounds: 1, exit: 0 }));
    for more in [&["--config", "pair.toml"][..], &["--config", "pair.toml", "--solo"]] {
        let run = bed.run(more);
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        let lack = lack.to_string();
        for part in [&*lack, "/dev/kvm", "engine = \"software\""] {
            assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
        }
    }
    bed.assert_clean();
}
