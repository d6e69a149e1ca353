//! `cargo xtask bench disks`: what each kind of disk costs. The same work on a guest alone and on the four kinds of pair, one
//! after the other, again and again.

mod blk;
mod kv;
mod silence;

use ft_e2e::{DiskPolicy, Status};

use super::grid::{Column, Figure, Grid};
use super::{Effort, against, medians};

/// A machine that is measured.
#[derive(Clone, Copy)]
struct Machine {
    key: &'static str,
    name: &'static str,
    /// `None`: without a backup.
    policy: Option<DiskPolicy>,
}

const MACHINES: [Machine; 5] = [
    Machine { key: "solo", name: "solo", policy: None },
    Machine { key: "shared", name: "shared", policy: Some(DiskPolicy::SHARED) },
    Machine { key: "shared_backup", name: "shared/backup", policy: Some(DiskPolicy::SHARED_READ_BY_BOTH) },
    Machine { key: "separate", name: "separate", policy: Some(DiskPolicy::SEPARATE) },
    Machine {
        key: "separate_backup",
        name: "separate/backup",
        policy: Some(DiskPolicy::SEPARATE_READ_BY_BOTH),
    },
];

const TITLE: &str =
    "Disks: shared by both replicas or separate, read by the primary or (/backup) by the backup too";

/// What a piece of work is called, and in what it is counted.
struct Work {
    key: &'static str,
    what: String,
    speed: Unit,
    /// Of a request's time: `us` or `ms`.
    latency: &'static str,
    log: Unit,
    /// What the log may cost.
    aim: &'static str,
    /// The paper's figures are about reads.
    is_read: bool,
}

/// Part of a key, and what a person reads.
#[derive(Clone, Copy)]
struct Unit {
    key: &'static str,
    name: &'static str,
}

/// One machine's run of a piece of work.
#[derive(Clone, Copy)]
struct Sample {
    speed: f64,
    p50: f64,
    p99: f64,
    /// With a backup.
    pair: Option<Pair>,
}

/// What a run cost a pair. Lag and stalls are those since its start.
#[derive(Clone, Copy)]
struct Pair {
    /// Per unit of the work.
    log: f64,
    lag_p50: f64,
    lag_p99: f64,
    stalls: f64,
}

impl Pair {
    fn of(status: &Status, log: f64) -> Self {
        let primary = status.primary();
        Self {
            log,
            lag_p50: primary.number("lag/p50"),
            lag_p99: primary.number("lag/p99"),
            stalls: primary.number("stalls"),
        }
    }
}

/// Bytes of log that the primary has sent.
fn log_bytes(status: &Status) -> f64 {
    status.primary().number("log_bytes")
}

/// All of it.
pub(crate) fn measure(effort: &Effort) -> Grid {
    let columns = MACHINES.iter().map(|machine| Column { key: machine.key, name: machine.name });
    let mut grid = Grid::new(TITLE, columns.collect());
    blk::measure(effort, &mut grid);
    kv::measure(effort, &mut grid);
    silence::measure(effort, &mut grid);
    grid
}

/// The rows of a piece of work: medians of `samples`, which has for each machine its runs.
fn report(grid: &mut Grid, work: &Work, samples: &[Vec<Sample>]) {
    let medians = |of: &dyn Fn(&Sample) -> f64| medians(samples, of);
    let pairs = |of: &dyn Fn(&Pair) -> f64| medians(&|sample| sample.pair.as_ref().map_or(f64::NAN, of));
    let against =
        |base: &dyn Fn(usize) -> Option<usize>, of: &dyn Fn(&Sample) -> f64| against(samples, base, of);
    let solo = |machine: usize| MACHINES[machine].policy.map(|_| 0);
    // The one before it in the list shares the disk in the same way.
    let reads_on_primary = |machine: usize| {
        let policy = MACHINES[machine].policy?;
        (policy.reads == ft_e2e::Reads::Backup).then(|| machine - 1)
    };
    let speed = |sample: &Sample| sample.speed;
    let rate = |sample: &Sample| sample.pair.map_or(f64::NAN, |pair| pair.log * sample.speed);

    grid.group(work.key, work.what.clone());
    let mut row = |key, what, unit, aim, anchor, values| {
        grid.add(&Figure { key, what, unit, aim, anchor }, values);
    };
    row(work.speed.key, "throughput", work.speed.name, "", "", medians(&speed));
    let anchor = "[FT 2010] 0.94-0.99; [KRR] 0.90";
    row("over_solo", "throughput FT / solo", "", "", anchor, against(&solo, &speed));
    if work.is_read {
        let anchor = "[FT 2010] 0.96, 0.99";
        let values = against(&reads_on_primary, &speed);
        row("reads_over_primary", "throughput / reads on the primary", "", "", anchor, values);
        let anchor = "[FT 2010] 0.25 (12 to 3 Mbit/s), 0.44 (18 to 8)";
        let values = against(&reads_on_primary, &rate);
        row("log_over_primary", "log bandwidth / reads on the primary", "", "", anchor, values);
    }
    let name = work.latency;
    let [p50, p99] = if name == "ms" { ["p50_ms", "p99_ms"] } else { ["p50_us", "p99_us"] };
    row(p50, "latency of a request, median", name, "", "", medians(&|sample| sample.p50));
    row(p99, "latency of a request, p99", name, "", "", medians(&|sample| sample.p99));
    row(work.log.key, work.log.name, "bytes", work.aim, "", pairs(&|pair| pair.log));
    let anchor = "[FT 2010] typically under 100 ms";
    row("lag_p50_ms", "execution lag, median", "ms", "", anchor, pairs(&|pair| pair.lag_p50));
    row("lag_p99_ms", "execution lag, p99", "ms", "", "", pairs(&|pair| pair.lag_p99));
    row("stalls", "times the guest stalled on the log", "", "", "", pairs(&|pair| pair.stalls));
}
