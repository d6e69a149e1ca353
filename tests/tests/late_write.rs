//! The late write on one machine: a primary that only sleeps, with writes to the shared disk under way, is killed and reaped before
//! its successor writes. So nothing comes late, and nothing is kept apart. (On two hosts: `two_hosts.rs`.)

use std::fs;
use std::time::Duration;

use ft_e2e::{Bed, BlkRun, DiskPolicy, Guest, Random, Settings, Status, alive, check_image, rounds};

const LIMIT: Duration = Duration::from_secs(60);
/// Requests of replica a's before some of them are late.
const PROMPT: u64 = 1_500;

fn late_write(policy: DiskPolicy) {
    const OPS: u64 = 8_000;
    let mut random = Random::new("late write on one machine");
    for round in 0..rounds(1, 20) {
        let seed = random.below(1 << 32);
        let cmdline = format!("ops={OPS} seed={seed} depth=64 report=100");
        let guest = Guest::Blk { cmdline: cmdline.clone(), disks: 1 };
        let timeout = Duration::from_secs(1);
        let bed = Bed::new(&Settings { timeout, ..Settings::with_disk(guest, policy) });
        let faults = format!("disk.0.faults={{replica=\"a\", after={PROMPT}, delayed=0.5, delay=\"1 s\"}}");
        let mut pair = bed.start_with(&["--set", &faults]);
        let late = pair.stdout.wait_for(0, LIMIT, |line| {
            BlkRun::operation(line, "done").is_some_and(|done| done >= PROMPT - 200)
        });
        assert!(late.is_some(), "{cmdline}\n{}", pair.said());
        // The guest waits for requests that are late by then: it stands still.
        let mut before = None;
        let status = bed.wait_status("the guest stands still", LIMIT, |status: &Status| {
            let position = status.role("primary").map(|primary| primary.position);
            before.replace(position) == Some(position)
        });
        let old = status.primary().pid;
        bed.signal(old, libc::SIGSTOP);
        let takeover = pair.wait_takeover(0, LIMIT);
        eprintln!("{policy}, round {round}, {cmdline}: {}", takeover.line);
        assert_eq!(takeover.replica, "b", "{}", takeover.line);
        assert!(takeover.line.contains("it was killed before its successor went on"), "{}", takeover.line);
        assert!(!alive(old), "{}", pair.said());
        let status = bed.status();
        assert!(status.replica("b").is_some_and(|b| b.json.get("quarantine").is_none()), "{}", status.json);
        for file in fs::read_dir(bed.path()).expect("the folder is readable").flatten() {
            assert!(!file.file_name().to_string_lossy().contains("quarantine"), "{}", pair.said());
        }
        assert_eq!(pair.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
        let run = BlkRun::of(&pair.stdout.lines(), "");
        run.check_complete(seed, OPS).unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        check_image(&bed.image(0, "b"), seed, OPS)
            .unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        bed.assert_clean();
    }
}

#[test]
fn of_a_disk_that_the_primary_reads() {
    late_write(DiskPolicy::SHARED);
}

#[test]
fn of_a_disk_that_both_read() {
    late_write(DiskPolicy::SHARED_READ_BY_BOTH);
}
