//! `guests/blk`: reads and writes as fast as they go, on an image full of random bytes.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use ft_e2e::{Bed, BlkBench, DiskPolicy, Guest, Random, Settings};

use super::{MACHINES, Machine, Pair, Sample, Unit, Work, log_bytes, report};
use crate::bench::Effort;
use crate::bench::grid::Grid;

const LIMIT: Duration = Duration::from_secs(100);
const IMAGE_BYTES: usize = 64 << 20;
/// How long the guest waits for a look at it, in milliseconds: it is stopped when it was looked at.
const LINGER: u32 = 20_000;

/// What the guest is told.
struct Mode {
    key: &'static str,
    what: &'static str,
    mode: &'static str,
    size: u64,
    depth: u64,
    ops: u64,
    is_read: bool,
}

const MODES: [Mode; 4] = [
    Mode {
        key: "seqread",
        what: "sequential reads, 64 KiB, depth 8",
        mode: "seqread",
        size: 65536,
        depth: 8,
        ops: 32_000,
        is_read: true,
    },
    Mode {
        key: "randread",
        what: "random reads, 4 KiB, depth 8",
        mode: "randread",
        size: 4096,
        depth: 8,
        ops: 150_000,
        is_read: true,
    },
    Mode {
        key: "randread1",
        what: "random reads, 4 KiB, depth 1",
        mode: "randread",
        size: 4096,
        depth: 1,
        ops: 100_000,
        is_read: true,
    },
    Mode {
        key: "seqwrite",
        what: "sequential writes, 64 KiB, depth 8, and a flush",
        mode: "seqwrite",
        size: 65536,
        depth: 8,
        ops: 24_000,
        is_read: false,
    },
];

pub(super) fn measure(effort: &Effort, grid: &mut Grid) {
    let image = random_bytes();
    // What the log of a machine costs before the first request: the start of the guest, and the comparison of the copies.
    let boot: Vec<f64> = MACHINES
        .iter()
        .map(|machine| {
            if machine.policy.is_some() {
                run(*machine, "mode=seqread size=512 ops=1", &image).1
            } else {
                0.0
            }
        })
        .collect();
    for mode in &MODES {
        let &Mode { key, what, mode, size, depth, ops, is_read } = mode;
        let ops = ops / effort.disk_share;
        let cmdline = format!("mode={mode} size={size} depth={depth} ops={ops}");
        let mut samples = vec![Vec::new(); MACHINES.len()];
        for _ in 0..effort.repeats {
            for (index, machine) in MACHINES.iter().enumerate() {
                let (mut sample, log) = run(*machine, &cmdline, &image);
                if let Some(pair) = &mut sample.pair {
                    pair.log = (log - boot[index]) / (size * ops) as f64;
                }
                samples[index].push(sample);
            }
        }
        let log = if is_read {
            Unit { key: "log_per_byte", name: "log per byte read" }
        } else {
            Unit { key: "log_per_byte", name: "log per byte written" }
        };
        let work = Work {
            key,
            what: what.to_owned(),
            speed: Unit { key: "mb_s", name: "MB/s" },
            latency: "us",
            log,
            aim: if is_read { "< 1.05, /backup < 0.02" } else { "" },
            is_read,
        };
        report(grid, &work, &samples);
    }
}

/// One run, from a new image. Gives the bytes of all its log beside it.
fn run(machine: Machine, cmdline: &str, image: &[u8]) -> (Sample, f64) {
    let cmdline = format!("{cmdline} linger={LINGER}");
    let policy = machine.policy.unwrap_or(DiskPolicy::SHARED);
    let bed = Bed::new(&Settings::with_disk(Guest::Blk { cmdline, disks: 1 }, policy));
    bed.edit("size = \"8 MiB\"", "size = \"64 MiB\"");
    let both: &[&str] = if policy.is_separate() { &["a", "b"] } else { &["a"] };
    for replica in both {
        // Written back here, and not while the guest is measured.
        let file =
            File::create(bed.image(0, replica)).and_then(|mut file| file.write_all(image).map(|()| file));
        file.and_then(|file| file.sync_all()).expect("there is room for an image");
    }
    let pair = bed.start_with(if machine.policy.is_some() { &[] } else { &["--solo"] });
    let line = pair.stdout.wait_for(0, LIMIT, |line| BlkBench::parse(line).is_some());
    let line = line.unwrap_or_else(|| panic!("the guest does not say how long it took:\n{}", pair.said()));
    let bench = BlkBench::parse(&line.text).expect("it was accepted just now");
    let (cost, log) = if machine.policy.is_some() {
        let status = bed.status();
        let is_pair = status.replicas.len() == 2 && status.primary().state == "live";
        assert!(is_pair, "the pair did not stay one: {}\n{}", status.json, pair.said());
        (Some(Pair::of(&status, f64::NAN)), log_bytes(&status))
    } else {
        (None, 0.0)
    };
    pair.stop();
    let speed = bench.bytes() as f64 / (bench.took + bench.flush) as f64;
    (Sample { speed, p50: bench.p50 as f64, p99: bench.p99 as f64, pair: cost }, log)
}

/// So that nothing on the way can make less of them.
fn random_bytes() -> Vec<u8> {
    let mut random = Random::new("image");
    (0..IMAGE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}
