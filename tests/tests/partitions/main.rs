//! Can a partition give two primaries? Every link between two hosts and their tie-breaker is cut, in one direction or both, slowed
//! down, or answers too late, and is healed again in every order; for each kind of tie-breaker.
//!
//! What happens is judged from outside: by clients that count (a lost or doubled output is an error for them), by the switch of
//! their LAN, which sees who speaks for the guest, and by what a cold start finds on the disk. Each test prints a table.

mod arbiter;
mod scenarios;
mod stage;
mod table;

use std::time::Instant;

use ft_e2e::{TieBreaker, can_run_etcd, full, rounds};

use scenarios::{SCENARIOS, Scenario};
use stage::Stage;
use table::Table;

/// Every scenario that means something for a tie-breaker.
fn matrix(kind: TieBreaker) {
    if matches!(kind, TieBreaker::Etcd { .. }) && !can_run_etcd() {
        return;
    }
    let only = std::env::var("FT_ONLY").unwrap_or_default();
    let mut table = Table::default();
    for round in 0..rounds(1, 10) {
        for scenario in
            SCENARIOS.iter().filter(|scenario| scenario.is_for(kind) && scenario.name.contains(&only))
        {
            let Scenario { name, disk, extra, run, .. } = scenario;
            let began = Instant::now();
            let Some(mut stage) = Stage::new(kind, *disk, extra) else { return };
            let end = run(&mut stage);
            let row = stage.finish(name, end);
            if full() {
                eprintln!("{kind:?}, round {round}: {row:?} ({:.1} s)", began.elapsed().as_secs_f64());
            }
            table.add(row);
        }
    }
    print!("{}", table.print(kind));
}

#[test]
fn shared_disk() {
    matrix(TieBreaker::SharedDisk);
}

#[test]
fn witness() {
    matrix(TieBreaker::Witness);
}

#[test]
fn etcd() {
    matrix(TieBreaker::Etcd { members: 1 });
}

#[test]
fn manual() {
    matrix(TieBreaker::Manual);
}
