//! Unmodified Debian Linux as the guest: it boots, its devices work, and as a pair it outlives its primary.
//!
//! The kernel and the images are made by `cargo xtask assets programs`; where they are missing, these tests say so and do not run.

mod boot;
mod kills;
mod network;
mod programs;

use std::time::Duration;

use ft_e2e::{Bed, Guest, Settings, Shell};

/// For a step that takes the guest seconds, on a machine that others use too.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a pair may run at all.
const LIFE: Duration = Duration::from_secs(3600);

fn settings(image: Option<&'static str>) -> Settings {
    Settings::new(Guest::Linux { image })
}

/// Starts the pair and waits for its shell.
fn boot(bed: &Bed, more: &[&str]) -> Shell {
    Shell::wait(bed.start_with_keyboard(more, LIFE), LIMIT)
}

/// Kills the primary of a pair that has lost nobody, and waits until the other one goes on.
fn kill_primary(bed: &Bed, pair: &ft_e2e::Launcher) {
    let [(_, primary), _] = pair.wait_roles(LIMIT);
    bed.signal(primary, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    println!("{}", takeover.line);
}
