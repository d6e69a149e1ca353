//! `cargo xtask bench`: one table, each figure from one run side by side with what it is compared with.

mod cpu;
pub(crate) mod detectors;
mod disks;
mod failover;
mod grid;
mod kv;
pub(crate) mod kvm;
pub(crate) mod linux;
mod table;

use std::time::Duration;

use ft_e2e::{Bed, Launcher, Status, Takeover};

use crate::steps::{cargo, target};
use table::Table;

/// How much is measured.
pub(crate) struct Effort {
    /// Interleaved repeats of each comparison.
    pub(crate) repeats: usize,
    /// Seconds that one run of `guests/cpu` takes.
    pub(crate) cpu_seconds: f64,
    /// Requests of one run of redis-benchmark without pipelining.
    pub(crate) requests: u64,
    /// Kills.
    pub(crate) kills: u32,
    /// The requests of a run of `guests/blk` are divided by this.
    pub(crate) disk_share: u64,
    /// How long the idle pair is watched.
    pub(crate) idle: Duration,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// All there is.
    All,
    /// The kinds of disks.
    Disks,
}

/// Builds the binary that is measured, unless `FT_VM_BIN` names one.
fn build() -> Result<(), String> {
    if std::env::var_os("FT_VM_BIN").is_some() {
        return Ok(());
    }
    let built = cargo(&["build", "--release", "--package", "ft-vm", "--bin", "ft-vm"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("building ft-vm failed".into());
    }
    // SAFETY: no other thread of this process exists yet.
    unsafe { std::env::set_var("FT_VM_BIN", target().join("release/ft-vm")) };
    Ok(())
}

/// Builds, measures, prints.
pub(crate) fn run(section: Section, json: bool, quick: bool) -> Result<(), String> {
    if !ft_e2e::have_redis_tools() {
        return Err("redis-benchmark is missing (Debian: apt install redis-tools)".into());
    }
    build()?;
    let effort = if quick {
        Effort {
            repeats: 1,
            cpu_seconds: 4.0,
            requests: 10_000,
            kills: 5,
            disk_share: 4,
            idle: Duration::from_secs(5),
        }
    } else {
        Effort {
            repeats: 3,
            cpu_seconds: 10.0,
            requests: 30_000,
            kills: 20,
            disk_share: 1,
            idle: Duration::from_secs(20),
        }
    };
    let mut table = Table::new();
    if section == Section::All {
        cpu::measure(&effort, &mut table);
        kv::measure(&effort, &mut table);
        failover::measure(&effort, &mut table);
    }
    table.add_grid(disks::measure(&effort));
    table.print(json);
    Ok(())
}

/// The median of some numbers.
pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

/// For each machine the median of a figure of its runs.
fn medians<S>(samples: &[Vec<S>], of: &dyn Fn(&S) -> f64) -> Vec<f64> {
    samples.iter().map(|runs| median(&mut runs.iter().map(of).collect::<Vec<_>>())).collect()
}

/// For each machine a figure of its runs over that of the runs of the one that `base` names for it; where it names none, this is not a
/// number. The median of the ratios within each round, not a ratio of medians: what else the host does changes from round to round.
fn against<S>(samples: &[Vec<S>], base: &dyn Fn(usize) -> Option<usize>, of: &dyn Fn(&S) -> f64) -> Vec<f64> {
    let ratio = |machine: usize| {
        let ratios =
            samples[machine].iter().zip(&samples[base(machine)?]).map(|(run, base)| of(run) / of(base));
        Some(median(&mut ratios.collect::<Vec<_>>()))
    };
    (0..samples.len()).map(|machine| ratio(machine).unwrap_or(f64::NAN)).collect()
}

/// The most memory that a process ever held, in MiB.
pub(crate) fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Whether a replica was lost on the way: what was measured then is no pair's.
fn lost_one(pair: &Launcher) -> bool {
    pair.stderr.lines().iter().any(|line| Takeover::parse(&line.text, line.at).is_some())
}

/// Waits until both replicas are there.
pub(crate) fn both(bed: &Bed) -> Status {
    bed.wait_status("both replicas", Duration::from_secs(20), |status| status.replicas.len() == 2)
}
