//! `cargo xtask bench kvm`: the KVM engine's speed, and what fault tolerance costs under it.
//!
//! It needs nothing but `ft-vm` and a `/dev/kvm` that works, and so can be copied into a machine that has one (`FT_VM_BIN` names the
//! binary there). How many instructions a round of `guests/cpu` has the software engine says, which counts them.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Guest, Load, Random, Settings, Shape};

use super::table::Table;
use super::{both, lost_one, median};

const LIMIT: Duration = Duration::from_secs(100);
const SHAPE: Shape = Shape { writers: 4, counters: 2, readers: 2, depth: 8 };
/// Rounds with which a run is long enough to say how fast it is.
const TRIAL: u64 = 200;

/// Measures and prints.
pub(crate) fn run(json: bool, quick: bool) -> Result<(), String> {
    super::build()?;
    let (repeats, seconds) = if quick { (1, 5.0) } else { (3, 10.0) };
    let mut table = Table::new();
    let place = if is_emulated() { " [nested: QEMU emulates the processor that KVM runs on]" } else { "" };

    let per_round = (last_position(6) - last_position(2)) as f64 / 4.0;
    // What a start takes is in both, and not in the difference.
    let (start, trial) = (wall(&["--solo"], 1), wall(&["--solo"], TRIAL));
    let per_second = (TRIAL - 1) as f64 / (trial - start).max(0.01);
    let rounds = ((per_second * seconds) as u64).max(TRIAL);
    let (mut speeds, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let mut took = [0.0; 2];
        for (took, more) in took.iter_mut().zip([&["--solo"][..], &[]]) {
            *took = wall(more, rounds + 1) - wall(more, 1);
        }
        speeds.push(rounds as f64 * per_round / took[0] / 1e6);
        ratios.push(took[0] / took[1]);
    }
    let what = format!("KVM engine, guests/cpu, solo{place}");
    table.add("kvm_engine_mips", what, median(&mut speeds), "M instr/s", "", "");
    let what = format!("the same, {rounds} rounds, speed FT / solo{place}");
    table.add("kvm_cpu_ft_over_solo", what, median(&mut ratios), "", "", "[FT 2010] 0.94-0.99");

    let (mut exits, mut replies, mut ratios) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    for _ in 0..repeats {
        let (alone, positions) = serve(&["--solo"], seconds);
        let (tolerant, _) = serve(&[], seconds);
        exits.push(positions);
        replies[0].push(alone);
        replies[1].push(tolerant);
        ratios.push(tolerant / alone);
    }
    let what = format!("KVM engine, guests/kv under load, solo{place}");
    table.add("kvm_exits_s", what, median(&mut exits), "exits/s", "", "");
    let clients = SHAPE.writers + SHAPE.counters + SHAPE.readers;
    let what = format!("kv, {clients} clients, up to {} requests in flight each, solo{place}", SHAPE.depth);
    table.add("kvm_kv_solo", what, median(&mut replies[0]), "ops/s", "", "");
    table.add("kvm_kv_ft", format!("the same, FT{place}"), median(&mut replies[1]), "ops/s", "", "");
    table.add("kvm_kv_ft_over_solo", format!("the same, FT / solo{place}"), median(&mut ratios), "", "", "");
    table.print(json);
    Ok(())
}

/// The processor here is QEMU's emulation of one.
fn is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
}

fn settings(guest: Guest) -> Settings {
    Settings { engine: "kvm", timeout: Duration::from_secs(5), ..Settings::new(guest) }
}

/// Instructions of a run of `guests/cpu`, as the software engine counts them.
fn last_position(rounds: u64) -> u64 {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds, exit: 0 }));
    let mut solo = bed.start_with(&["--solo"]);
    assert_eq!(solo.exit_code(LIMIT), 0, "{}", solo.said());
    let text = solo.stderr.text();
    let position =
        text.split("at position ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    position.unwrap_or_else(|| panic!("no position in what it said:\n{}", solo.said()))
}

/// Seconds from the start of the command to its end.
fn wall(more: &[&str], rounds: u64) -> f64 {
    let bed = Bed::new(&settings(Guest::Cpu { rounds, exit: 0 }));
    let mut pair = bed.start_with(more);
    let code = pair.exit_code(LIMIT);
    let took = pair.started.elapsed().as_secs_f64();
    assert_eq!(code, 0, "{}", pair.said());
    assert!(!lost_one(&pair), "the pair did not stay one: {}", pair.said());
    took
}

/// Replies and positions per second of `guests/kv` under load.
fn serve(more: &[&str], seconds: f64) -> (f64, f64) {
    let bed = Bed::new(&settings(Guest::Kv));
    let mut pair = bed.start_with(more);
    pair.wait_service(bed.port());
    if more.is_empty() {
        both(&bed);
    }
    let load =
        Load::start(bed.port(), "k", SHAPE, &mut Random::new("bench kvm")).expect("the clients connect");
    load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let look = || (Instant::now(), bed.status().primary().position, load.replies());
    let (from, first, before) = look();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (to, last, after) = look();
    load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    assert!(
        !more.is_empty() || bed.status().replicas.len() == 2,
        "the pair did not stay one: {}",
        pair.said()
    );
    pair.stop();
    let took = (to - from).as_secs_f64();
    ((after - before) as f64 / took, (last - first) as f64 / took)
}
