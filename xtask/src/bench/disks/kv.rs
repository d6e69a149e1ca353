//! `guests/kv` under redis-benchmark: a guest that writes its disk and hardly ever reads it.

use ft_e2e::{Bed, DiskPolicy, Guest, Launcher, Settings};

use super::{MACHINES, Machine, Pair, Sample, Unit, Work, log_bytes, report};
use crate::bench::grid::Grid;
use crate::bench::kv::redis_benchmark;
use crate::bench::{Effort, both};

const TESTS: [&str; 2] = ["SET", "GET"];

pub(super) fn measure(effort: &Effort, grid: &mut Grid) {
    let mut samples = [const { Vec::new() }; 2].map(|none: Vec<Sample>| vec![none; MACHINES.len()]);
    for _ in 0..effort.repeats {
        for (index, machine) in MACHINES.iter().enumerate() {
            for (test, sample) in run(*machine, effort.requests).into_iter().enumerate() {
                samples[test][index].push(sample);
            }
        }
    }
    for (test, samples) in samples.iter().enumerate() {
        let (key, what) = [
            ("set", "kv SET, 50 clients, pipeline 1"),
            ("get", "kv GET, 50 clients, pipeline 1 (lag and stalls: since the start, SET included)"),
        ][test];
        let work = Work {
            key,
            what: what.to_owned(),
            speed: Unit { key: "ops_s", name: "requests/s" },
            latency: "ms",
            log: Unit { key: "log_per_request", name: "log per request" },
            aim: "",
            is_read: false,
        };
        report(grid, &work, samples);
    }
}

/// Each of [`TESTS`], on one machine.
fn run(machine: Machine, requests: u64) -> [Sample; 2] {
    let policy = machine.policy.unwrap_or(DiskPolicy::SHARED);
    let bed = Bed::new(&Settings::with_disk(Guest::Kv, policy));
    let mut pair = bed.start_with(if machine.policy.is_some() { &[] } else { &["--solo"] });
    pair.wait_service(bed.port());
    if machine.policy.is_some() {
        both(&bed);
    }
    let samples = TESTS.map(|test| one(machine, &bed, &pair, test, requests));
    pair.stop();
    samples
}

fn one(machine: Machine, bed: &Bed, pair: &Launcher, test: &str, requests: u64) -> Sample {
    let before = machine.policy.map(|_| log_bytes(&bed.status()));
    let served = redis_benchmark(bed, pair, &test.to_lowercase(), 1, requests);
    let served = served.first().unwrap_or_else(|| panic!("no {test}:\n{}", pair.said()));
    let cost = before.map(|before| {
        let after = bed.status();
        assert_eq!(after.replicas.len(), 2, "the pair did not stay one: {}", pair.said());
        Pair::of(&after, (log_bytes(&after) - before) / requests as f64)
    });
    Sample { speed: served.speed, p50: served.p50, p99: served.p99, pair: cost }
}
