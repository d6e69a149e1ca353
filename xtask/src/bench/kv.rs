//! `guests/kv` under redis-benchmark: what fault tolerance costs a guest that serves, and what the log costs.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Guest, Launcher, RedisBenchmark, Served, Settings, Status};

use super::table::Table;
use super::{Effort, both, median, peak_memory};

const TESTS: [&str; 3] = ["SET", "GET", "INCR"];
const LIMIT: Duration = Duration::from_secs(100);

fn start(more: &[&str]) -> (Bed, Launcher) {
    let settings = Settings { timeout: Duration::from_secs(2), ..Settings::new(Guest::Kv) };
    let bed = Bed::new(&settings);
    let mut pair = bed.start_with(more);
    pair.wait_service(bed.port());
    (bed, pair)
}

/// What redis-benchmark says of each of the tests in a list with commas, 50 clients.
pub(crate) fn redis_benchmark(
    bed: &Bed,
    pair: &Launcher,
    tests: &str,
    pipeline: u64,
    requests: u64,
) -> Vec<Served> {
    let arguments = [
        "-t",
        tests,
        "-c",
        "50",
        "-r",
        "10000",
        "-P",
        &pipeline.to_string(),
        "-n",
        &requests.to_string(),
        "--csv",
    ];
    let said = RedisBenchmark::start(bed.port(), &arguments).finish(LIMIT);
    let said = said.unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    Served::all(&said)
}

/// Requests per second of each of [`TESTS`].
fn throughput(bed: &Bed, pair: &Launcher, pipeline: u64, requests: u64) -> [f64; 3] {
    let served = redis_benchmark(bed, pair, "set,get,incr", pipeline, requests);
    TESTS.map(|test| {
        let found = served.iter().find(|served| served.test == test);
        found.unwrap_or_else(|| panic!("no {test} in {served:?}")).speed
    })
}

fn log_bytes(status: &Status) -> f64 {
    status.primary().number("log_bytes")
}

pub(crate) fn measure(effort: &Effort, table: &mut Table) {
    for (pipeline, requests) in [(1, effort.requests), (16, effort.requests * 4)] {
        compare(effort, table, pipeline, requests);
    }
    log(effort, table);
}

fn compare(effort: &Effort, table: &mut Table, pipeline: u64, requests: u64) {
    let mut solo_all = [const { Vec::new() }; 3];
    let mut pair_all = [const { Vec::new() }; 3];
    let mut mips = Vec::new();
    for _ in 0..effort.repeats {
        for (more, all) in [(&["--solo"][..], &mut solo_all), (&[][..], &mut pair_all)] {
            let (bed, pair) = start(more);
            let (from, before) = (Instant::now(), bed.status().primary().position);
            for (test, speed) in throughput(&bed, &pair, pipeline, requests).into_iter().enumerate() {
                all[test].push(speed);
            }
            if !more.is_empty() {
                mips.push(
                    (bed.status().primary().position - before) as f64 / from.elapsed().as_secs_f64() / 1e6,
                );
            }
            pair.stop();
        }
    }
    let (keys, anchor): ([[&str; 3]; 3], _) = if pipeline == 1 {
        (
            [
                ["set_solo", "set_ft", "set_ft_over_solo"],
                ["get_solo", "get_ft", "get_ft_over_solo"],
                ["incr_solo", "incr_ft", "incr_ft_over_solo"],
            ],
            "[FT 2010] 0.94-0.99 (not limited by latency)",
        )
    } else {
        (
            [
                ["set16_solo", "set16_ft", "set16_ft_over_solo"],
                ["get16_solo", "get16_ft", "get16_ft_over_solo"],
                ["incr16_solo", "incr16_ft", "incr16_ft_over_solo"],
            ],
            "",
        )
    };
    for (test, name) in TESTS.iter().enumerate() {
        let mut ratios: Vec<f64> =
            solo_all[test].iter().zip(&pair_all[test]).map(|(solo, pair)| pair / solo).collect();
        let [solo_key, pair_key, ratio_key] = keys[test];
        let what = format!("kv {name}, 50 clients, pipeline {pipeline}");
        table.add(solo_key, format!("{what}, solo"), median(&mut solo_all[test]), "ops/s", "", "");
        table.add(pair_key, format!("{what}, FT"), median(&mut pair_all[test]), "ops/s", "", "");
        table.add(ratio_key, format!("{what}, FT / solo"), median(&mut ratios), "", "", anchor);
    }
    let key = if pipeline == 1 { "kv_mips" } else { "kv16_mips" };
    let what = format!("engine speed, guests/kv, solo, pipeline {pipeline}");
    table.add(key, what, median(&mut mips), "M instr/s", if pipeline == 1 { "" } else { ">= 200" }, "");
}

/// Bandwidth of the log, lag and output delay; and memory, of the same pair in the end.
fn log(effort: &Effort, table: &mut Table) {
    let (bed, pair) = start(&[]);
    let first = both(&bed);
    let from = Instant::now();
    std::thread::sleep(effort.idle);
    let idle = (log_bytes(&bed.status()) - log_bytes(&first)) * 8.0 / 1e3 / from.elapsed().as_secs_f64();
    table.add("log_idle_kbit_s", "log, guest idle", idle, "kbit/s", "< 50", "[FT 2010] 500-1500");

    let before = bed.status();
    let from = Instant::now();
    throughput(&bed, &pair, 1, effort.requests);
    let took = from.elapsed().as_secs_f64();
    let after = bed.status();
    assert_eq!(after.replicas.len(), 2, "the pair did not stay one: {}", pair.said());
    let bytes = log_bytes(&after) - log_bytes(&before);
    let requests = (effort.requests * TESTS.len() as u64) as f64;
    let anchor = "[FT 2010] 1500-18000";
    table.add(
        "log_load_kbit_s",
        "log, kv under load (set, get, incr)",
        bytes * 8.0 / 1e3 / took,
        "kbit/s",
        "",
        anchor,
    );
    table.add("log_bytes_s", "the same", bytes / took, "bytes/s", "", "");
    table.add("log_bytes_request", "log per request", bytes / requests, "bytes", "", "");
    let primary = after.primary();
    let anchor = "[FT 2010] typically under 100 ms";
    table.add("lag_p50_ms", "execution lag, median", primary.number("lag/p50"), "ms", "", anchor);
    table.add("lag_p99_ms", "execution lag, p99", primary.number("lag/p99"), "ms", "", "");
    table.add("delay_p50_ms", "output delay, median", primary.number("output_delay_ms/p50"), "ms", "", "");
    table.add("delay_p99_ms", "output delay, p99", primary.number("output_delay_ms/p99"), "ms", "", "");
    table.add("stalls", "times the guest stalled on the log", primary.number("stalls"), "", "", "");
    table.add("memory_launcher_mib", "peak memory, launcher", peak_memory(pair.pid()), "MiB", "", "");
    table.add(
        "memory_primary_mib",
        "peak memory, primary (guest: 64 MiB)",
        peak_memory(primary.pid),
        "MiB",
        "",
        "",
    );
    table.add("memory_backup_mib", "peak memory, backup", peak_memory(after.backup().pid), "MiB", "", "");
    pair.stop();
}
