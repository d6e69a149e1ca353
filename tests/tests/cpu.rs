//! The guest that computes: exit codes, the right answer, and the same console with and without fault tolerance.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Settings};

const LIMIT: Duration = Duration::from_secs(60);

fn checksum(rounds: u64) -> String {
    format!("{:016x}", ft_guests::cpu_checksum(rounds))
}

#[test]
fn exit_codes() {
    const ROUNDS: u64 = 20;
    for (exit, code) in [(0, 0), (1, 65), (7, 71), (63, 127)] {
        for more in [&[][..], &["--solo"][..]] {
            let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: ROUNDS, exit }));
            let mut pair = bed.start_with(more);
            assert_eq!(pair.exit_code(LIMIT), code, "exit={exit} {more:?}\n{}", pair.said());
            assert!(pair.stdout.text().contains(&checksum(ROUNDS)), "{}", pair.said());
            bed.assert_clean();
        }
    }
}

/// The same console, byte for byte, with both replicas and with none, and the number that the host computes.
#[test]
fn same_console() {
    const ROUNDS: u64 = 150;
    let mut consoles = Vec::new();
    for more in [&[][..], &["--solo"][..]] {
        let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: ROUNDS, exit: 0 }));
        let mut pair = bed.start_with(more);
        assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
        consoles.push(pair.stdout.bytes());
        bed.assert_clean();
    }
    assert_eq!(String::from_utf8_lossy(&consoles[0]), String::from_utf8_lossy(&consoles[1]));
    assert!(String::from_utf8_lossy(&consoles[0]).contains(&checksum(ROUNDS)));
}

/// Killed in the middle: the answer is the same, and printed once.
#[test]
fn killed_in_the_middle() {
    // Two million instructions each: a few seconds.
    const KILLED: u64 = 1000;
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: KILLED, exit: 5 }));
    let mut pair = bed.start();
    let before = bed.wait_status("both at work", LIMIT, |status| {
        status.replicas.len() == 2 && status.replicas.iter().all(|replica| replica.position > 20_000_000)
    });
    bed.signal(before.primary().pid, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    eprintln!("{}", takeover.line);
    assert_eq!(pair.exit_code(LIMIT), 69, "{}", pair.said());
    let console = pair.stdout.text();
    assert_eq!(console.matches(&checksum(KILLED)).count(), 1, "{}", pair.said());
    bed.assert_clean();
}
