//! What goes wrong with disks on one side or on both, on purpose: errors, a full file system, a disk that never answers, contents
//! that nobody wrote, and a disk that somebody else has.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Duration;

use ft_e2e::{
    BLK_SECTORS, Bed, BlkRun, DiskPolicy, Guest, Launcher, Settings, Status, Takeover, check_crashed_image,
    check_image,
};

const LIMIT: Duration = Duration::from_secs(60);
const OPS: u64 = 6_000;
const SEED: u64 = 11;
const ALL: [DiskPolicy; 4] = [
    DiskPolicy::SHARED,
    DiskPolicy::SHARED_READ_BY_BOTH,
    DiskPolicy::SEPARATE,
    DiskPolicy::SEPARATE_READ_BY_BOTH,
];
/// How the guest ends when requests failed, as the command's exit code.
const FAILED: i32 = 64 + 4;

fn bed(policy: DiskPolicy, cmdline: &str) -> Bed {
    Bed::new(&Settings::with_disk(Guest::Blk { cmdline: cmdline.to_owned(), disks: 1 }, policy))
}

fn random_ops() -> String {
    format!("ops={OPS} seed={SEED} depth=32 report=500")
}

fn start(bed: &Bed, faults: &str) -> Launcher {
    bed.start_with(&["--set", &format!("disk.0.faults={{{faults}}}")])
}

fn lost(pair: &Launcher) -> Option<Takeover> {
    pair.stderr.lines().iter().find_map(|line| Takeover::parse(&line.text, line.at))
}

fn says(pair: &Launcher, text: &str) {
    assert!(pair.stderr.text().contains(text), "{text:?} was not said:\n{}", pair.said());
}

fn assert_complete(bed: &Bed, pair: &Launcher, replica: &str) {
    let run = BlkRun::of(&pair.stdout.lines(), "");
    run.check_complete(SEED, OPS).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    check_image(&bed.image(0, replica), SEED, OPS).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
}

#[test]
fn a_read_that_fails_on_the_backup_is_run_again() {
    for policy in [DiskPolicy::SHARED_READ_BY_BOTH, DiskPolicy::SEPARATE_READ_BY_BOTH] {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "replica=\"b\", after=50, read-errors=0.1");
        assert_eq!(pair.exit_code(LIMIT), 0, "{policy}\n{}", pair.said());
        says(&pair, "a read of disk 0 failed here and not on the primary; trying again");
        pair.assert_undisturbed();
        assert_complete(&bed, &pair, "a");
        assert_complete(&bed, &pair, "b");
    }
}

/// Both guests see the error, and neither's memory changes: the digests, the last one of all of memory, say so.
#[test]
fn a_read_that_fails_on_the_primary_fails_on_both() {
    for policy in ALL {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "replica=\"a\", after=50, read-errors=0.05");
        assert_eq!(pair.exit_code(LIMIT), FAILED, "{policy}\n{}", pair.said());
        pair.assert_undisturbed();
        let run = BlkRun::of(&pair.stdout.lines(), "");
        assert!(run.errors > 0, "{policy}\n{}", pair.said());
    }
}

/// Short transfers are finished, slow ones are waited for: the guest sees nothing of either.
#[test]
fn short_and_slow_requests_are_only_slow() {
    for policy in ALL {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "short=0.3, delayed=0.02, delay=\"3 ms\"");
        assert_eq!(pair.exit_code(LIMIT), 0, "{policy}\n{}", pair.said());
        pair.assert_undisturbed();
        assert_complete(&bed, &pair, "a");
        assert_complete(&bed, &pair, "b");
    }
}

/// The backup's copy is of no more use: it gives up, and the guest goes on without a backup.
#[test]
fn a_write_that_fails_on_the_backups_copy_only_ends_the_backup() {
    for faults in ["write-errors=0.01", "flush-errors=0.2"] {
        let bed = bed(DiskPolicy::SEPARATE, &random_ops());
        let mut pair = start(&bed, &format!("replica=\"b\", after=100, {faults}"));
        assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
        says(&pair, "a write to this side's copy of disk 0 failed that succeeded on the primary");
        let lost = lost(&pair).unwrap_or_else(|| panic!("{}", pair.said()));
        assert_eq!(lost.replica, "a", "{}", lost.line);
        assert_eq!(lost.silent_ms, None, "the primary never stopped: {}", lost.line);
        assert_complete(&bed, &pair, "a");
    }
}

/// The better copy goes on, and the guest sees no error at all.
#[test]
fn a_write_that_fails_on_the_primarys_copy_only_ends_the_primary() {
    for policy in [DiskPolicy::SEPARATE, DiskPolicy::SEPARATE_READ_BY_BOTH] {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "replica=\"a\", after=100, write-errors=0.01");
        assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
        says(&pair, "a write to this side's copy of disk 0 failed");
        assert_eq!(lost(&pair).map(|lost| lost.replica), Some("b".to_owned()), "{}", pair.said());
        assert_complete(&bed, &pair, "b");
    }
}

/// One disk: its errors are the guest's, whoever is live.
#[test]
fn a_write_of_a_shared_disk_that_fails_is_the_guests_to_know() {
    for policy in [DiskPolicy::SHARED, DiskPolicy::SHARED_READ_BY_BOTH] {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "after=100, write-errors=0.02, flush-errors=0.1");
        assert_eq!(pair.exit_code(LIMIT), FAILED, "{policy}\n{}", pair.said());
        pair.assert_undisturbed();
    }
}

/// With separate disks the primary's failure costs it its place first; the last copy's failures are the guest's.
#[test]
fn writes_that_fail_on_both_copies_reach_the_guest() {
    let bed = bed(DiskPolicy::SEPARATE, &random_ops());
    let mut pair = start(&bed, "after=100, write-errors=0.02");
    assert_eq!(pair.exit_code(LIMIT), FAILED, "{}", pair.said());
    assert!(lost(&pair).is_some(), "{}", pair.said());
}

/// A file system without room: the guest has an error, and the pair stays one.
#[test]
fn a_full_file_system_is_an_error_of_the_guests_and_no_more() {
    let bed = bed(DiskPolicy::SHARED, &random_ops());
    let mount = bed.path().join("small");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "small"]).arg(&mount).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("not run: mounting a small file system takes root");
        return;
    }
    bed.edit("path = \"disk.img\"", "path = \"small/disk.img\"");
    let mut pair = bed.start();
    let code = pair.wait(LIMIT).and_then(|status| status.code());
    let unmounted = Command::new("umount").arg(&mount).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "nothing may be left that uses it");
    assert_eq!(code, Some(FAILED), "{}", pair.said());
    pair.assert_undisturbed();
    assert!(BlkRun::of(&pair.stdout.lines(), "").errors > 0, "{}", pair.said());
}

/// A backup whose disk never answers is stuck, and a stuck backup does not stop the service.
#[test]
fn a_backup_whose_disk_hangs_does_not_stop_the_service() {
    for policy in [DiskPolicy::SHARED_READ_BY_BOTH, DiskPolicy::SEPARATE] {
        let bed = bed(policy, &random_ops());
        let mut pair = start(&bed, "replica=\"b\", after=200, delayed=1, delay=\"60 s\"");
        let lost = pair.wait_takeover(0, LIMIT);
        assert_eq!(lost.replica, "a", "{}", lost.line);
        assert_eq!(pair.exit_code(LIMIT), 0, "{policy}\n{}", pair.said());
        assert_complete(&bed, &pair, "a");
    }
}

/// The backup reads its own copy, and finds what the primary did not: it says so, names the place, and never goes live.
#[test]
fn a_copy_that_somebody_changed_is_found_by_the_first_read_of_it() {
    let bed = bed(DiskPolicy::SEPARATE_READ_BY_BOTH, "mode=randread size=4096 ops=2000000 depth=4 seed=1");
    let mut pair = bed.start();
    let before = bed.wait_status("both replicas", LIMIT, |status: &Status| status.role("backup").is_some());
    let image = fs::OpenOptions::new().write(true).open(bed.image(0, "b")).unwrap();
    let garbage = vec![0xa5_u8; 1 << 20];
    for offset in (0..BLK_SECTORS * 512).step_by(garbage.len()) {
        image.write_all_at(&garbage, offset).unwrap();
    }
    let lost = pair.wait_takeover(0, LIMIT);
    assert_eq!(lost.replica, "a", "{}", lost.line);
    says(&pair, "this side read other data than the primary: disk 0, request");
    says(&pair, "ended with code 5");
    assert!(ft_e2e::alive(before.primary().pid));
    pair.signal(libc::SIGTERM);
    assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
}

/// Power fails on both hosts: what the guest was told to be durable is there, of each write that was not either nothing, or all,
/// or a part; and nothing else has changed.
#[test]
fn what_a_power_failure_leaves_is_what_was_flushed() {
    for policy in [DiskPolicy::SEPARATE, DiskPolicy::SEPARATE_READ_BY_BOTH] {
        let bed = bed(policy, &format!("mode=hold seed={SEED} depth=32 report=100"));
        let mut pair = start(&bed, "lose-unflushed=true");
        let begun = pair
            .stdout
            .wait_for(0, LIMIT, |line| BlkRun::operation(line, "flush").is_some_and(|flush| flush > 2000));
        assert!(begun.is_some(), "{}", pair.said());
        pair.kill(Duration::from_secs(5));
        let run = BlkRun::of(&pair.stdout.lines(), "");
        assert!(run.durable > 0, "{}", pair.said());
        let far = run.submitted + 100_000;
        for (replica, durable) in [("a", run.durable), ("b", 0)] {
            check_crashed_image(&bed.image(0, replica), SEED, durable, far)
                .unwrap_or_else(|error| panic!("{policy}: {error}\n{}", pair.said()));
        }
    }
}

/// A disk of a live pair is nobody else's: not another pair's, not a machine's without fault tolerance.
#[test]
fn a_disk_in_use_is_refused_to_others() {
    for policy in [DiskPolicy::SHARED, DiskPolicy::SEPARATE] {
        let bed = bed(policy, &format!("mode=hold seed={SEED} report=1000"));
        let pair = bed.start();
        bed.wait_status("both replicas", LIMIT, |status: &Status| status.role("backup").is_some());
        let text = fs::read_to_string(bed.config()).unwrap();
        let (a, b) = (bed.ports.get(1), bed.ports.get(2));
        let other = text
            .replace(bed.mark(), "another")
            .replace(&format!("127.0.0.1:{a}"), &format!("127.0.0.1:{}", bed.ports.get(3)))
            .replace(&format!("127.0.0.1:{b}"), &format!("127.0.0.1:{}", bed.ports.get(4)))
            .replace("path = \"generation\"", "path = \"other-generation\"");
        fs::write(bed.path().join("other.toml"), other).unwrap();
        let run = bed.run(&["--config", "other.toml"]);
        // Members of a pair have a shared disk together, and know one of another pair by its lock.
        let (code, why) = if policy == DiskPolicy::SHARED {
            (6, "is in use by another pair")
        } else {
            (1, "is in use by another machine")
        };
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        assert!(run.stderr.contains(why), "{}", run.stderr);
        if policy == DiskPolicy::SHARED {
            let run = bed.run(&["--config", "other.toml", "--solo"]);
            assert_eq!(run.code, Some(1), "{}", run.stderr);
            assert!(run.stderr.contains("is in use by another machine"), "{}", run.stderr);
        }
        pair.stop();
    }
}
