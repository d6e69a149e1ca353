//! `guests/cpu`: the engine's speed, and what fault tolerance costs a guest that only computes.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Guest, Settings};

use super::table::Table;
use super::{Effort, both, lost_one, median};

/// Guest instructions in one round, about; only to choose the length of a run.
const PER_ROUND: f64 = 2e6;
const FOR_EVER: u64 = 1_000_000_000;

pub(crate) fn measure(effort: &Effort, table: &mut Table) {
    let speed = speed(&["--solo"], effort);
    table.add("engine_mips", "engine speed, guests/cpu, solo", speed, "M instr/s", ">= 400", "");
    let rounds = (speed * 1e6 * effort.cpu_seconds / PER_ROUND).ceil() as u64;
    let (mut alone, mut tolerant) = (Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for _ in 0..effort.repeats {
        let solo = wall(&["--solo"], rounds);
        let pair = wall(&[], rounds);
        ratios.push(solo / pair);
        alone.push(solo);
        tolerant.push(pair);
    }
    table.add(
        "cpu_solo_s",
        format!("guests/cpu, {rounds} rounds, solo, start to end"),
        median(&mut alone),
        "s",
        "",
        "",
    );
    table.add("cpu_ft_s", "the same, fault tolerant", median(&mut tolerant), "s", "", "");
    let anchor = "[FT 2010] 0.94-0.99; [KRR] 0.90";
    table.add("cpu_ft_over_solo", "speed FT / solo, guests/cpu", median(&mut ratios), "", ">= 0.98", anchor);
}

/// Million guest instructions per second of the primary, between two looks at its position.
fn speed(more: &[&str], effort: &Effort) -> f64 {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: FOR_EVER, exit: 0 }));
    let _pair = bed.start_with(more);
    let started = |status: &ft_e2e::Status| status.role("primary").is_some_and(|it| it.position > 10_000_000);
    let look = || {
        let before = Instant::now();
        let status = bed.status();
        let after = Instant::now();
        (before + (after - before) / 2, status.primary().position)
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !bed.try_status().is_ok_and(|status| started(&status)) {
        assert!(Instant::now() < until, "guests/cpu does not start: {}", _pair.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (first_at, first) = look();
    std::thread::sleep(Duration::from_secs_f64(effort.cpu_seconds));
    let (last_at, last) = look();
    (last - first) as f64 / (last_at - first_at).as_secs_f64() / 1e6
}

/// Seconds from the start of the command to its end.
fn wall(more: &[&str], rounds: u64) -> f64 {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds, exit: 0 }));
    let mut pair = bed.start_with(more);
    if more.is_empty() {
        // A pair that lost its backup on the way would be no comparison.
        both(&bed);
    }
    let code = pair.exit_code(Duration::from_secs(100));
    let took = pair.started.elapsed().as_secs_f64();
    assert_eq!(code, 0, "{}", pair.said());
    assert!(!lost_one(&pair), "the pair did not stay one: {}", pair.said());
    took
}
