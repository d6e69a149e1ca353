//! A bit flipped in the backup's guest: the digests find it, the report names what differs, the primary goes on.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Launcher, Ledger, Load, Random, Settings, Shape};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a pair whose backup has this fault; waits for the report, which must have one of these words, and for the
/// primary going on alone.
fn diverges(bed: &Bed, fault: &str, any_of: &[&str]) -> Launcher {
    let pair = bed.start_with(&["--fault", fault]);
    let said = |line: &str| line.contains("diverged") && any_of.iter().any(|word| line.contains(word));
    let report = pair.stderr.wait_for(0, LIMIT, said);
    let report = report
        .unwrap_or_else(|| panic!("no report of the divergence with any of {any_of:?}:\n{}", pair.said()));
    eprintln!("{fault}: {}", report.text);
    assert!(report.text.contains("ended with code 5"), "{}", report.text);
    assert_eq!(pair.wait_takeover(0, LIMIT).silent_ms, None, "the primary was never silent\n{}", pair.said());
    pair
}

/// A position of every digest schedule: a multiple of each power of two that the interval may be.
const DIGEST: u64 = 1 << 26;

/// A register is flipped where the next digest is taken, so that no instruction can make good for it.
#[test]
fn register() {
    // Work for an hour: it does not end before the test does.
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1_000_000, exit: 0 }));
    for (number, name) in [(3, "rbx"), (12, "r12")] {
        let pair = diverges(&bed, &format!("flip-bit:{DIGEST}:r{number}"), &[&format!("register {name}")]);
        let status = bed.status();
        assert_eq!((status.live(), status.replicas.len()), (1, 1), "{}", status.json);
        pair.stop();
        bed.assert_clean();
    }
}

/// A byte of memory that nobody uses: it stays wrong until the digests come to its page.
#[test]
fn memory() {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1_000_000, exit: 0 }));
    let pair = diverges(&bed, "flip-bit:1000000:m0x80010", &["memory page 0x80000"]);
    let status = bed.status();
    assert_eq!((status.live(), status.replicas.len()), (1, 1), "{}", status.json);
    pair.stop();
    bed.assert_clean();
}

/// A guest that sleeps most of the time is compared too; and its clients notice nothing when the backup stops.
#[test]
fn under_load() {
    let mut random = Random::new("divergence");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    // The kernel has booted by then, and serves.
    let mut pair = bed.start_with(&["--fault", "flip-bit:900000:m0x80010"]);
    let mut client = pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "k", Shape::default(), &mut random).expect("the clients connect");
    let alone = pair.wait_takeover(0, LIMIT);
    assert!(pair.stderr.text().contains("memory page 0x80000"), "{}", pair.said());
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let mut ledger = Ledger::default();
    ledger.add(&record);
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let status = bed.status();
    assert_eq!((status.live(), status.replicas.len()), (1, 1), "{}", status.json);
    assert_eq!(status.generation, alone.generation, "{}", status.json);
    pair.stop();
    bed.assert_clean();
}

#[test]
fn a_fault_that_is_no_fault_is_refused() {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1, exit: 0 }));
    for fault in
        ["flip-bit", "flip-bit:x:r1", "flip-bit:1:r99", "flip-bit:1:q1", "other:1:r1", "flip-bit:1:m"]
    {
        let run = bed.run(&["--config", "pair.toml", "--fault", fault]);
        assert_eq!(run.code, Some(2), "{fault}: {}", run.stderr);
        assert!(run.stderr.contains("--fault"), "{fault}: {}", run.stderr);
    }
    bed.assert_clean();
}
