//! `kill -9` of the primary, with each kind of disk.

use ft_e2e::Random;

use super::MACHINES;
use crate::bench::failover::{self, Silence};
use crate::bench::grid::{Figure, Grid};
use crate::bench::{Effort, median};

pub(super) fn measure(effort: &Effort, grid: &mut Grid) {
    let mut random = Random::new("failover with each kind of disk");
    let mut all = vec![Vec::new(); MACHINES.len()];
    for _ in 0..effort.kills {
        for (silences, machine) in all.iter_mut().zip(MACHINES) {
            // A new pair for each: of two disks one is behind after a failover.
            silences.extend(machine.policy.map(|policy| failover::kill_once(policy, &mut random)));
        }
    }
    let each = |of: fn(&Silence) -> f64, what: fn(&mut [f64]) -> f64| -> Vec<f64> {
        all.iter().map(|silences| what(&mut silences.iter().map(of).collect::<Vec<_>>())).collect()
    };
    let longest = |numbers: &mut [f64]| numbers.iter().copied().fold(f64::NAN, f64::max);
    let (launcher, client) = (|silence: &Silence| silence.launcher_ms, |silence: &Silence| silence.client_ms);
    grid.group("failover", format!("kill -9 of the primary, {} kills each", effort.kills));
    let mut row = |key, what, aim, anchor, values| {
        grid.add(&Figure { key, what, unit: "ms", aim, anchor }, values);
    };
    let anchor = "[FT 2010] seconds; [Remus] 1 s; restart-based HA: 2 minutes";
    row("ms", "silence, median", "< 20", anchor, each(launcher, median));
    row("max_ms", "silence, longest", "", "", each(launcher, longest));
    row("client_ms", "longest wait of a client, median", "", "", each(client, median));
    row("client_max_ms", "longest wait of a client, longest", "", "", each(client, longest));
}
