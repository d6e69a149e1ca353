//! Separate disks from one start to the next: which copy a start goes on with, when the other one is made the same, and that no
//! start destroys the only good one.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ft_e2e::{Bed, BlkRun, DiskPolicy, Guest, Random, Settings, Status, check_crashed_image, check_image};

const LIMIT: Duration = Duration::from_secs(60);
const BOTH: [DiskPolicy; 2] = [DiskPolicy::SEPARATE, DiskPolicy::SEPARATE_READ_BY_BOTH];
const OPS: u64 = 6_000;
const SEED: u64 = 21;
const BLOCK: usize = 64 << 10;
/// A guest that goes by what is on the disk already, and changes nothing.
const READER: [&str; 2] = ["--set", "vm.cmdline=\"mode=randread ops=300 depth=4\""];
/// A guest that changes it.
const WRITER: [&str; 2] = ["--set", "vm.cmdline=\"mode=randwrite ops=300 depth=4\""];
/// For a replica that is started without the other one.
const SOON: [&str; 2] = ["--set", "replicas.start-alone=\"1 s\""];

fn bed_with(policy: DiskPolicy, cmdline: &str) -> Bed {
    Bed::new(&Settings::with_disk(Guest::Blk { cmdline: cmdline.to_owned(), disks: 1 }, policy))
}

fn bed(policy: DiskPolicy) -> Bed {
    bed_with(policy, &format!("ops={OPS} seed={SEED} depth=32 report=100"))
}

/// Runs a pair to its end, which is this exit code; what it said on standard error.
fn run(bed: &Bed, more: &[&str], code: i32) -> String {
    let mut pair = bed.start_with(more);
    assert_eq!(pair.exit_code(LIMIT), code, "{}", pair.said());
    bed.assert_clean();
    pair.stderr.text()
}

fn image(bed: &Bed, replica: &str) -> Vec<u8> {
    fs::read(bed.image(0, replica)).expect("the image is readable")
}

/// An image that nobody's guest made, of the size that the config says.
fn make_image(bed: &Bed, replica: &str, first: u8) {
    let bytes: Vec<u8> = (0..8 << 20).map(|index: usize| first.wrapping_add((index / 3) as u8)).collect();
    fs::write(bed.image(0, replica), bytes).expect("the folder is writable");
}

/// Where the stamp of a copy is.
fn stamp_path(bed: &Bed, replica: &str) -> PathBuf {
    let mut name = bed.image(0, replica).into_os_string();
    name.push(".ft");
    name.into()
}

/// The stamp; nothing if there is none.
fn stamp(bed: &Bed, replica: &str) -> String {
    fs::read_to_string(stamp_path(bed, replica)).unwrap_or_default()
}

fn has_stamp(bed: &Bed, replica: &str, state: &str, generation: u64, clean: bool) {
    let stamp = stamp(bed, replica);
    let line = |wanted: String| stamp.lines().any(|line| line == wanted);
    assert!(line(format!("state = \"{state}\"")), "{replica} is not {state}:\n{stamp}");
    assert!(line(format!("generation = {generation}")), "{replica} is not of {generation}:\n{stamp}");
    let lines = ["clean-generation", "clean-position", "clean-mtime-ns"];
    let count = lines.iter().filter(|name| stamp.contains(**name)).count();
    assert_eq!(count, if clean { 3 } else { 0 }, "{replica}:\n{stamp}");
}

/// What the replica says whose copy was made the same.
fn copied(to: &str, from: &str) -> String {
    format!("replica {to}: 1 of this side's disks were brought up to date from replica {from}'s")
}

fn assert_same(bed: &Bed) {
    assert!(image(bed, "a") == image(bed, "b"), "the two images differ");
}

fn assert_images(bed: &Bed) {
    for replica in ["a", "b"] {
        check_image(&bed.image(0, replica), SEED, OPS).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn first_use_makes_both() {
    let bed = bed(DiskPolicy::SEPARATE);
    let said = run(&bed, &[], 0);
    assert!(!said.contains("brought up to date"), "there was nothing to copy: {said}");
    assert_images(&bed);
    has_stamp(&bed, "a", "live", 1, true);
    has_stamp(&bed, "b", "backup", 1, true);
}

#[test]
fn first_use_copies_what_replica_a_has() {
    for policy in BOTH {
        let bed = bed(policy);
        make_image(&bed, "a", 1);
        let before = image(&bed, "a");
        let said = run(&bed, &READER, 0);
        assert!(said.contains(&copied("b", "a")), "{said}");
        assert!(image(&bed, "a") == before && image(&bed, "b") == before, "{policy}");
        has_stamp(&bed, "b", "backup", 1, true);
    }
}

/// What is there on replica b alone would have to be overwritten with nothing: refused, however often it is tried.
#[test]
fn first_use_keeps_what_only_replica_b_has() {
    let bed = bed(DiskPolicy::SEPARATE);
    make_image(&bed, "b", 1);
    let before = image(&bed, "b");
    for _ in 0..2 {
        let said = run(&bed, &READER, 1);
        let differ = "the two copies differ (first in the 65536 bytes from 0 on)";
        for part in [differ, "put its file in the place of this one", "remove it there"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(image(&bed, "b") == before);
        assert_eq!(stamp(&bed, "b"), "");
    }
    // What the message asks for, in the way that keeps the content.
    fs::copy(bed.image(0, "b"), bed.image(0, "a")).unwrap();
    run(&bed, &READER, 0);
    assert!(image(&bed, "a") == before && image(&bed, "b") == before);
}

#[test]
fn first_use_of_two_copies_takes_them_if_they_are_equal() {
    let bed = bed(DiskPolicy::SEPARATE);
    for replica in ["a", "b"] {
        make_image(&bed, replica, 1);
    }
    let before = image(&bed, "a");
    let said = run(&bed, &READER, 0);
    assert!(!said.contains("brought up to date"), "{said}");
    assert!(image(&bed, "a") == before && image(&bed, "b") == before);
}

#[test]
fn first_use_of_two_copies_that_differ_is_refused() {
    let bed = bed(DiskPolicy::SEPARATE);
    make_image(&bed, "a", 1);
    make_image(&bed, "b", 1);
    // In the last sector only.
    let last = image(&bed, "b").len() as u64 - 1;
    let file = fs::OpenOptions::new().write(true).open(bed.image(0, "b")).unwrap();
    file.write_all_at(&[77], last).unwrap();
    let before = ["a", "b"].map(|replica| image(&bed, replica));
    for _ in 0..2 {
        let said = run(&bed, &READER, 1);
        assert!(said.contains("the two copies differ (first in the 65536 bytes from 8323072 on)"), "{said}");
        assert_eq!(
            ["a", "b"].map(|replica| image(&bed, replica) == before[usize::from(replica == "b")]),
            [true; 2]
        );
    }
}

/// The disk is the one of whoever was live last. The other one's is behind, and is brought up to date.
#[test]
fn after_a_takeover_the_other_copy_counts() {
    let mut random = Random::new("copies after a takeover");
    for policy in BOTH {
        let bed = bed(policy);
        take_over(&bed, &mut random);
        assert_ne!(image(&bed, "a"), image(&bed, "b"), "replica a's copy is behind");
        has_stamp(&bed, "a", "live", 1, false);
        has_stamp(&bed, "b", "live", 2, true);

        let mut pair = bed.start_with(&READER);
        let [primary, backup] = pair.wait_roles(LIMIT);
        assert_eq!((primary.0.as_str(), backup.0.as_str()), ("b", "a"), "{}", pair.said());
        assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
        assert!(pair.stderr.text().contains(&copied("a", "b")), "{}", pair.said());
        assert_images(&bed);
        has_stamp(&bed, "b", "live", 3, true);
        has_stamp(&bed, "a", "backup", 3, true);

        // And on from there.
        let said = run(&bed, &WRITER, 0);
        assert!(!said.contains("brought up to date"), "{said}");
        assert_same(&bed);
    }
}

/// Runs the guest to its end; replica a is killed on the way.
fn take_over(bed: &Bed, random: &mut Random) {
    let mut pair = bed.start();
    let [primary, _] = pair.wait_roles(LIMIT);
    let least = random.below(OPS / 3);
    let line = pair
        .stdout
        .wait_for(0, LIMIT, |line| BlkRun::operation(line, "done").is_some_and(|done| done >= least));
    assert!(line.is_some(), "{}", pair.said());
    bed.signal(primary.1, libc::SIGKILL);
    assert_eq!(pair.wait_takeover(0, LIMIT).replica, "b");
    assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
    check_image(&bed.image(0, "b"), SEED, OPS).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
}

/// Each replica started by hand, without the other one: only the one whose copy counts starts the guest.
#[test]
fn a_replica_alone_starts_only_with_the_copy_that_counts() {
    let mut random = Random::new("copies of one replica");
    let bed = bed(DiskPolicy::SEPARATE);
    take_over(&bed, &mut random);
    let stale = image(&bed, "a");
    waits(&bed, "a", "are not those of generation 2");
    assert!(image(&bed, "a") == stale);

    let mut b = bed.start_with(&[&["--replica", "b"][..], &READER, &SOON].concat());
    assert_eq!(b.exit_code(LIMIT), 0, "{}", b.said());
    assert!(b.stderr.text().contains("replica b goes on alone in generation 3"), "{}", b.said());

    // By hand both, replica b last: its copy counts all the same.
    let mut a = bed.start_with(&[&["--replica", "a"][..], &READER].concat());
    let mut b = bed.start_with(&[&["--replica", "b"][..], &READER].concat());
    assert_eq!((a.exit_code(LIMIT), b.exit_code(LIMIT)), (0, 0), "{}\n{}", a.said(), b.said());
    assert!(a.stderr.text().contains(&copied("a", "b")), "{}", a.said());
    assert!(b.stderr.text().contains("is primary in generation 4"), "{}", b.said());
    assert_images(&bed);
}

/// A replica that is started alone says why it does not start the guest, and waits on.
fn waits(bed: &Bed, replica: &str, why: &str) {
    let one = bed.start_with(&[&["--replica", replica][..], &READER, &SOON].concat());
    let line = one.stderr.wait_for(0, LIMIT, |line| line.contains("start-alone has passed"));
    let line = line.unwrap_or_else(|| panic!("{}", one.said()));
    assert!(line.text.contains(why), "{}", line.text);
    let status = bed.status();
    let state = status.replica(replica).map(|replica| replica.state.clone());
    assert_eq!(state.as_deref(), Some("waiting"), "{}", status.json);
    one.stop();
}

/// Both are killed: the next start goes on with replica a's copy, which has all that the guest was told is durable.
#[test]
fn after_a_crash_the_copies_are_made_the_same() {
    for policy in BOTH {
        let bed = bed_with(policy, &format!("mode=hold seed={SEED} depth=32 report=100"));
        let mut pair = bed.start();
        let flushed = |line: &str| BlkRun::operation(line, "flush").is_some_and(|flush| flush > 1000);
        assert!(pair.stdout.wait_for(0, LIMIT, flushed).is_some(), "{}", pair.said());
        pair.kill(LIMIT);
        let crashed = BlkRun::of(&pair.stdout.lines(), "");
        has_stamp(&bed, "a", "live", 1, false);
        has_stamp(&bed, "b", "backup", 1, false);
        run(&bed, &READER, 0);
        check_crashed_image(&bed.image(0, "a"), SEED, crashed.durable, crashed.submitted + 10_000)
            .unwrap_or_else(|error| panic!("{policy}: {error}\n{}", pair.said()));
        assert_same(&bed);
        has_stamp(&bed, "a", "live", 2, true);
        has_stamp(&bed, "b", "backup", 2, true);
    }
}

/// After a stop in order nothing is compared, unless a copy was changed since.
#[test]
fn after_a_stop_in_order_nothing_is_compared() {
    let bed = bed_with(DiskPolicy::SEPARATE, &format!("mode=hold seed={SEED} depth=32 report=100"));
    let pair = bed.start();
    let line = pair.stdout.wait_for(0, LIMIT, |line| line.starts_with("flush "));
    assert!(line.is_some(), "{}", pair.said());
    pair.stop();
    for (replica, state) in [("a", "live"), ("b", "backup")] {
        has_stamp(&bed, replica, state, 1, true);
    }
    assert_same(&bed);
    let clean = image(&bed, "a");

    // A change that nobody could know of stays: proof that nobody looked.
    let file = fs::OpenOptions::new().write(true).open(bed.image(0, "b")).unwrap();
    let changed = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"changed behind everybody's back", 5 * BLOCK as u64).unwrap();
    file.set_modified(changed).unwrap();
    let said = run(&bed, &READER, 0);
    assert!(!said.contains("brought up to date"), "{said}");
    assert!(image(&bed, "a") == clean && image(&bed, "b") != clean);

    // One that shows is found and undone, wherever it is.
    file.write_all_at(b"changed by hand", 100 * BLOCK as u64).unwrap();
    let said = run(&bed, &READER, 0);
    assert!(said.contains(&copied("b", "a")), "{said}");
    assert!(image(&bed, "a") == clean && image(&bed, "b") == clean);

    // The live one is the one that counts, also where it is the one that was changed.
    let file = fs::OpenOptions::new().write(true).open(bed.image(0, "a")).unwrap();
    file.write_all_at(b"changed by hand", 100 * BLOCK as u64).unwrap();
    let said = run(&bed, &READER, 0);
    assert!(said.contains(&copied("b", "a")), "{said}");
    assert!(image(&bed, "a") != clean);
    assert_same(&bed);
}

/// A copy of which nothing is known for certain is not used, and the operator is told what to do.
#[test]
fn a_stamp_that_is_damaged_or_of_another_pair_is_refused() {
    let bed = bed(DiskPolicy::SEPARATE);
    run(&bed, &READER, 0);
    for replica in ["a", "b"] {
        let (path, good) = (stamp_path(&bed, replica), stamp(&bed, replica));
        let before = ["a", "b"].map(|replica| image(&bed, replica));
        let file = format!("disk.{replica}.img.ft");
        let damaged = good.replace("state = ", "state= ");
        let newer = good.replace("format = 1", "format = 2");
        for (text, parts) in [
            (damaged.as_str(), ["is damaged", "Remove the file together with the disk"]),
            ("", ["is damaged", "Remove the file together with the disk"]),
            (newer.as_str(), ["has format 2", "use the ft-vm that wrote it"]),
        ] {
            assert_ne!(text, good);
            fs::write(&path, text).unwrap();
            let said = run(&bed, &READER, 1);
            for part in [file.as_str(), parts[0], parts[1]] {
                assert!(said.contains(part), "{part:?} is not in {said}");
            }
            assert_eq!(stamp(&bed, replica), text);
            assert!(["a", "b"].map(|replica| image(&bed, replica)) == before);
        }
        fs::write(&path, &good).unwrap();
    }
    // The disks of a pair of another name.
    bed.edit(&format!("name = \"{}\"", bed.mark()), "name = \"another\"");
    let said = run(&bed, &READER, 1);
    assert!(said.contains("the disk belongs to another pair"), "{said}");
}

/// A copy that is gone is not a copy of nothing: what is known of it is not said of an empty file in its place, which would then be
/// copied over the good one.
#[test]
fn a_copy_that_is_gone_does_not_take_the_other_one_with_it() {
    let bed = bed(DiskPolicy::SEPARATE);
    run(&bed, &[], 0);
    let good = image(&bed, "a");
    for replica in ["b", "a"] {
        let path = bed.image(0, replica);
        for empty in [false, true] {
            fs::remove_file(&path).unwrap();
            if empty {
                fs::write(&path, "").unwrap();
            }
            let said = run(&bed, &READER, 1);
            for part in ["is gone or empty, and is in use by this pair", "put it back", ".img.ft"] {
                assert!(said.contains(part), "{part:?} is not in {said}");
            }
            assert_eq!(path.exists(), empty);
            if !empty {
                fs::write(&path, &good).unwrap();
            }
        }
        fs::remove_file(stamp_path(&bed, replica)).unwrap();
        if replica == "b" {
            // It is the backup's: made again.
            let said = run(&bed, &READER, 0);
            assert!(said.contains(&copied("b", "a")), "{said}");
            assert_images(&bed);
        }
    }
    // The live one's loss is the operator's to decide on: nobody else can know that the other one is as new.
    for _ in 0..2 {
        let said = run(&bed, &READER, 1);
        assert!(
            said.contains(
                "one of them has a new disk where the other has one in use: bring the missing one back"
            ),
            "{said}"
        );
        assert!(image(&bed, "b") == good, "the only good copy is gone");
    }
    fs::rename(bed.image(0, "b"), bed.image(0, "a")).unwrap();
    for replica in ["a", "b"] {
        fs::remove_file(stamp_path(&bed, replica)).unwrap();
    }
    let said = run(&bed, &READER, 0);
    assert!(said.contains(&copied("b", "a")), "{said}");
    assert_images(&bed);
}

/// A copy that was being made when its replica ended is of no use: it is made again, and no guest is ever started with it.
#[test]
fn a_copy_that_was_not_finished_is_made_again() {
    const SIZE: usize = 256 << 20;
    let bed = bed(DiskPolicy::SEPARATE);
    bed.edit("size = \"8 MiB\"", "size = \"256 MiB\"");
    let bytes: Vec<u8> = (0..SIZE).map(|index| 1 + (index / BLOCK % 100) as u8).collect();
    fs::write(bed.image(0, "a"), &bytes).unwrap();
    let mut pair = bed.start_with(&READER);
    let both = bed.wait_status("both", LIMIT, |status: &Status| status.replicas.len() == 2);
    let b = both.replica("b").map(|b| b.pid).expect("both are there");
    let until = Instant::now() + LIMIT;
    while !stamp(&bed, "b").contains("state = \"incomplete\"") {
        assert!(Instant::now() < until, "{}", pair.said());
        std::thread::sleep(Duration::from_millis(1));
    }
    bed.signal(b, libc::SIGKILL);
    assert_eq!(pair.exit_code(LIMIT), 1, "{}", pair.said());
    has_stamp(&bed, "b", "incomplete", 1, false);
    assert!(image(&bed, "b") != bytes, "it was killed too late");

    waits(&bed, "b", "are incomplete");
    has_stamp(&bed, "b", "incomplete", 1, false);

    let said = run(&bed, &READER, 0);
    assert!(said.contains(&copied("b", "a")), "{said}");
    assert!(image(&bed, "a") == bytes && image(&bed, "b") == bytes);
    has_stamp(&bed, "a", "live", 2, true);
    has_stamp(&bed, "b", "backup", 2, true);
}
