//! Guests that say at their end whether all was right: alone and as a pair, undisturbed and under kills.

use ft_e2e::{Bed, BlkRun, Guest, Random, Settings, Victim, check_image, rounds};

use super::{LIMIT, both, with_kvm, works};

fn checksum(rounds: u64) -> String {
    format!("{:016x}", ft_guests::cpu_checksum(rounds))
}

/// The same console under both engines, byte for byte, alone and as a pair, and the same exit code.
#[test]
fn the_console_is_that_of_the_software_engine() {
    if !works("the_console_is_that_of_the_software_engine") {
        return;
    }
    const ROUNDS: u64 = 20;
    let guest = Guest::Cpu { rounds: ROUNDS, exit: 7 };
    let mut consoles = Vec::new();
    for (settings, more) in [
        (Settings::new(guest.clone()), &["--solo"][..]),
        (with_kvm(guest.clone()), &["--solo"]),
        (with_kvm(guest), &[]),
    ] {
        let bed = Bed::new(&settings);
        let mut vm = bed.start_with(more);
        assert_eq!(vm.exit_code(LIMIT), 71, "{}", vm.said());
        vm.assert_undisturbed();
        consoles.push(String::from_utf8_lossy(&vm.stdout.bytes()).into_owned());
        bed.assert_clean();
    }
    assert!(consoles[0].contains(&checksum(ROUNDS)), "{}", consoles[0]);
    assert_eq!(consoles[0], consoles[1]);
    assert_eq!(consoles[0], consoles[2]);
}

/// A guest that computes for long between two exits: the backup runs beside it, is not taken for stuck, and takes over.
#[test]
fn a_guest_that_does_not_exit_survives_its_primary() {
    if !works("a_guest_that_does_not_exit_survives_its_primary") {
        return;
    }
    const ROUNDS: u64 = 800;
    let bed = Bed::new(&with_kvm(Guest::Cpu { rounds: ROUNDS, exit: 5 }));
    let mut pair = bed.start();
    // It is on its way, and both sides know where to.
    let before = bed.wait_status("both at work", LIMIT, |status| both(status).is_some());
    bed.signal(before.primary().pid, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    eprintln!("{}", takeover.line);
    assert_eq!(pair.exit_code(LIMIT), 69, "{}", pair.said());
    assert_eq!(pair.stdout.text().matches(&checksum(ROUNDS)).count(), 1, "{}", pair.said());
    bed.assert_clean();
}

/// The guest that knows the answer to every request of its disk, and what the disk must hold: the same operations leave the
/// same disk under both engines.
#[test]
fn disks_are_what_the_operations_make() {
    if !works("disks_are_what_the_operations_make") {
        return;
    }
    const OPS: u64 = 1_000;
    const SEED: u64 = 5;
    let guest = Guest::Blk { cmdline: format!("ops={OPS} seed={SEED} depth=16 report=200"), disks: 1 };
    for more in [&["--solo"][..], &[]] {
        let bed = Bed::new(&with_kvm(guest.clone()));
        let mut vm = bed.start_with(more);
        assert_eq!(vm.exit_code(LIMIT), 0, "{}", vm.said());
        vm.assert_undisturbed();
        let run = BlkRun::of(&vm.stdout.lines(), "");
        run.check_complete(SEED, OPS).unwrap_or_else(|error| panic!("{error}\n{}", vm.said()));
        check_image(&bed.image(0, "a"), SEED, OPS).unwrap_or_else(|error| panic!("{error}\n{}", vm.said()));
        bed.assert_clean();
    }
}

#[test]
fn disks_survive_their_primary() {
    kills("disks_survive_their_primary", Victim::Primary, rounds(2, 50));
}

#[test]
fn disks_survive_their_backup() {
    kills("disks_survive_their_backup", Victim::Backup, rounds(1, 20));
}

/// The guest never notices: every read finds what was written last, every line is on the console once.
fn kills(test: &str, victim: Victim, rounds: u32) {
    if !works(test) {
        return;
    }
    const OPS: u64 = 3_000;
    let mut random = Random::new(test);
    for round in 0..rounds {
        let seed = random.below(1 << 32);
        let cmdline = format!("ops={OPS} seed={seed} depth=16 report=100");
        let bed = Bed::new(&with_kvm(Guest::Blk { cmdline: cmdline.clone(), disks: 1 }));
        let mut pair = bed.start();
        let [primary, backup] = pair.wait_roles(LIMIT);
        let ((_, dies), (stays, _)) = match victim {
            Victim::Primary => (primary, backup),
            Victim::Backup => (backup, primary),
        };
        let least = random.below(OPS / 2);
        let is_time = |line: &str| BlkRun::operation(line, "done").is_some_and(|done| done >= least);
        let came = pair.stdout.wait_for(0, LIMIT, is_time);
        assert!(came.is_some(), "the guest does not get to its kill:\n{}", pair.said());
        bed.signal(dies, libc::SIGKILL);
        let takeover = pair.wait_takeover(0, LIMIT);
        eprintln!("round {round}, {cmdline}: {}", takeover.line);
        assert_eq!(takeover.replica, stays, "{}", takeover.line);
        assert_eq!(takeover.silent_ms.is_some(), victim == Victim::Primary, "{}", takeover.line);
        assert_eq!(pair.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
        let run = BlkRun::of(&pair.stdout.lines(), "");
        run.check_complete(seed, OPS).unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        check_image(&bed.image(0, &takeover.replica), seed, OPS)
            .unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        bed.assert_clean();
    }
}

/// A bit flipped in the backup's guest is found by the digests, as under the software engine, and the message says what the
/// usual cause is.
#[test]
fn a_flipped_bit_is_found() {
    if !works("a_flipped_bit_is_found") {
        return;
    }
    let cmdline = "mode=hold seed=3 depth=8 report=0".to_owned();
    let bed = Bed::new(&with_kvm(Guest::Blk { cmdline, disks: 1 }));
    let pair = bed.start_with(&["--fault", "flip-bit:500:m0x80010"]);
    let report = pair.stderr.wait_for(0, LIMIT, |line| line.contains("diverged"));
    let report = report.unwrap_or_else(|| panic!("no report of the divergence:\n{}", pair.said()));
    for part in ["memory page 0x80000", "ended with code 5", "RDTSC", "engine = \"software\""] {
        assert!(report.text.contains(part), "no {part:?} in {}", report.text);
    }
    assert_eq!(pair.wait_takeover(0, LIMIT).silent_ms, None, "the primary was never silent\n{}", pair.said());
    pair.stop();
    bed.assert_clean();
}
