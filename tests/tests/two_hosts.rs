//! A pair of which each replica has a host of its own, and a launcher of its own: nobody there can kill the other's process. What a
//! deposed primary still writes to the shared disk comes late, and must do no harm.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ft_e2e::{
    Bed, BlkRun, DiskPolicy, Guest, Launcher, Random, Settings, Status, alive, check_crashed_image,
    check_image, full, rounds,
};

const LIMIT: Duration = Duration::from_secs(60);
const SHARED: [DiskPolicy; 2] = [DiskPolicy::SHARED, DiskPolicy::SHARED_READ_BY_BOTH];
const ALL: [DiskPolicy; 4] = [
    DiskPolicy::SHARED,
    DiskPolicy::SHARED_READ_BY_BOTH,
    DiskPolicy::SEPARATE,
    DiskPolicy::SEPARATE_READ_BY_BOTH,
];
/// Requests of replica a's before some of them are late.
const PROMPT: u64 = 1_500;
/// Operations that may have been submitted after the last line that came through.
const UNSEEN: u64 = 10_000;
/// A guest that goes by what is on the disk already: for a start that follows another.
const READER: &str = "vm.cmdline=\"mode=randread ops=200 depth=4\"";
/// The same without an end in sight.
const LONG_READER: &str = "vm.cmdline=\"mode=randread ops=3000000 depth=4\"";
/// What the live replica says when nothing is kept apart any more.
const BACK: &str =
    "blocks that the old primary could still have written are back on their disks: its process is gone";

/// A pair on two hosts.
struct Pair {
    bed: Bed,
    a: Launcher,
    b: Launcher,
    /// The first processes of the two replicas.
    first: [u32; 2],
}

fn bed(policy: DiskPolicy, cmdline: &str) -> Option<Bed> {
    let guest = Guest::Blk { cmdline: cmdline.to_owned(), disks: 1 };
    let timeout = Duration::from_secs(1);
    Bed::on_two_hosts(&Settings { timeout, ..Settings::with_disk(guest, policy) })
}

/// Replica b comes first, and waits. Then nothing that `start-alone` is about can happen while replica a starts.
fn start(bed: Bed, more: &[&str]) -> Pair {
    let b = bed.start_one("b", more);
    let status = wait_state(&bed, "b", "waiting");
    let a = bed.start_one("a", more);
    // Not asked for with `status`: a guest that is soon done may be gone by then.
    let first = [a.wait_primary(LIMIT), pid(&status, "b")];
    Pair { bed, a, b, first }
}

fn wait_state(bed: &Bed, replica: &str, state: &str) -> Status {
    bed.wait_status(&format!("{replica} is {state}"), LIMIT, |status| is(status, replica, state))
}

fn is(status: &Status, replica: &str, state: &str) -> bool {
    status.replica(replica).is_some_and(|replica| replica.state == state)
}

fn pid(status: &Status, replica: &str) -> u32 {
    status.replica(replica).unwrap_or_else(|| panic!("no replica {replica} in {}", status.json)).pid
}

/// The number after a word at the beginning of a line of the guest's.
fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.split(' ').next()?.parse().ok()
}

impl Pair {
    fn said(&self) -> String {
        let (a, b) = (self.a.said(), self.b.said());
        let console: Vec<String> = self.bed.console().into_iter().map(|line| line.text).collect();
        format!("=== replica a\n{a}\n=== replica b\n{b}\n=== console\n{}", console.join("\n"))
    }

    fn wait_done(&self, least: u64) {
        let done =
            self.bed.wait_console(LIMIT, |line| number(line, "done ").is_some_and(|done| done >= least));
        assert!(done, "the guest does not get so far\n{}", self.said());
    }

    fn wait_said_by_b(&self, text: &str) {
        let line = self.b.stderr.wait_for(0, LIMIT, |line| line.contains(text));
        assert!(line.is_some(), "{text:?} was not said\n{}", self.said());
    }

    /// The guest verified all that it read and found the disk to be right in the end; every line is on the console once.
    fn assert_complete(&self, seed: u64, ops: u64) {
        let run = BlkRun::of(&self.bed.console(), "");
        run.check_complete(seed, ops).unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
    }

    fn assert_image(&self, replica: &str, seed: u64, ops: u64) {
        check_image(&self.bed.image(0, replica), seed, ops)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
    }

    /// The disk holds all that the guest was told is durable, and nothing that it never wrote.
    fn assert_crashed_image(&self, seed: u64, run: &BlkRun) {
        assert!(run.durable > 0 && run.errors == 0, "{}", self.said());
        check_crashed_image(&self.bed.image(0, "b"), seed, run.durable, run.submitted + UNSEEN)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
    }

    /// Starts both again, with a guest that only reads, and waits for its end.
    fn run_reader(&mut self) {
        self.b = self.bed.start_one("b", &["--set", READER]);
        self.a = self.bed.start_one("a", &["--set", READER]);
        for code in [self.a.exit_code(LIMIT), self.b.exit_code(LIMIT)] {
            assert_eq!(code, 0, "{}", self.said());
        }
    }

    /// Stops replica a's process while it has writes under way, and waits until replica b goes on without it. The file of the blocks
    /// that the process may still write.
    fn stop_with_writes_under_way(&self) -> PathBuf {
        self.wait_done(PROMPT - 200);
        // The guest waits for requests that are late by then: it stands still.
        let mut before = None;
        self.bed.wait_status("the guest stands still", LIMIT, |status: &Status| {
            let position = status.replica("a").map(|a| a.position);
            before.replace(position) == Some(position)
        });
        self.bed.signal(self.first[0], libc::SIGSTOP);
        let takeover = self.b.wait_takeover(0, LIMIT);
        assert_eq!(takeover.replica, "b", "{}", takeover.line);
        self.quarantine()
    }

    /// What is beside the disk.
    fn side_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.bed.path()).expect("the folder is readable").flatten();
        files
            .map(|file| file.path())
            .filter(|path| path.display().to_string().contains("quarantine"))
            .collect()
    }

    /// The file of the blocks that replica b keeps apart: there must be some.
    fn quarantine(&self) -> PathBuf {
        let status = self.bed.status();
        let b = status.replica("b").unwrap_or_else(|| panic!("no b in {}", status.json));
        assert!(b.number("quarantine/0/sectors") > 0.0, "{}", status.json);
        let path = b.json.pointer("/quarantine/0/path").and_then(|path| path.as_str());
        let path = PathBuf::from(path.unwrap_or_else(|| panic!("{}", status.json)));
        assert!(path.is_file(), "{}", status.json);
        let disk = self.bed.image(0, "b");
        assert_eq!(path.parent(), fs::canonicalize(disk).expect("the disk is there").parent());
        path
    }
}

/// Nobody dies, nobody stops: the two launchers end as the guest does.
#[test]
fn undisturbed() {
    const OPS: u64 = 3_000;
    for policy in ALL {
        let Some(bed) = bed(policy, &format!("ops={OPS} seed=5 depth=32 report=100")) else { return };
        let mut pair = start(bed, &[]);
        for code in [pair.a.exit_code(LIMIT), pair.b.exit_code(LIMIT)] {
            assert_eq!(code, 0, "{policy}\n{}", pair.said());
        }
        pair.assert_complete(5, OPS);
        pair.assert_image("a", 5, OPS);
        pair.assert_image("b", 5, OPS);
        pair.bed.assert_clean();
    }
}

/// The guest never notices. What it left apart from a shared disk, for fear of a process that never said that it was gone, is back
/// after the next start of both.
#[test]
fn kill_of_the_primary() {
    const OPS: u64 = 15_000;
    let mut random = Random::new("kill on two hosts");
    for policy in ALL {
        for round in 0..rounds(1, 20) {
            let seed = random.below(1 << 32);
            let cmdline = format!("ops={OPS} seed={seed} depth=32 report=100");
            let Some(bed) = bed(policy, &cmdline) else { return };
            let mut pair = start(bed, &[]);
            pair.wait_done(random.below(OPS / 3));
            pair.bed.signal(pair.first[0], libc::SIGKILL);
            let takeover = pair.b.wait_takeover(0, LIMIT);
            assert_eq!(takeover.replica, "b", "{}", takeover.line);
            eprintln!("{policy}, round {round}, {cmdline}: {}", takeover.line);
            assert_eq!(pair.a.exit_code(LIMIT), 1, "{}", pair.said());
            assert_eq!(pair.b.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
            pair.assert_complete(seed, OPS);
            let apart = !pair.side_files().is_empty();
            assert!(!apart || !policy.is_separate(), "{}", pair.said());
            if apart {
                pair.wait_said_by_b("and not on the disk: its old primary is not known to be gone");
                pair.run_reader();
                pair.wait_said_by_b(BACK);
                assert!(pair.side_files().is_empty(), "{}", pair.said());
            }
            pair.assert_image("b", seed, OPS);
            pair.bed.assert_clean();
        }
    }
}

/// The wire between the hosts is cut: both are there, and the tie-breaker on the disk lets one go on. The guest never notices.
#[test]
fn a_wire_that_is_cut() {
    const OPS: u64 = 15_000;
    let mut random = Random::new("a wire that is cut");
    for _ in 0..rounds(1, 20) {
        for policy in either(&mut random) {
            let seed = random.below(1 << 32);
            let cmdline = format!("ops={OPS} seed={seed} depth=32 report=100");
            let Some(bed) = bed(policy, &cmdline) else { return };
            let mut pair = start(bed, &[]);
            pair.wait_done(random.below(OPS / 3));
            pair.bed.hosts().set_wire(false);
            let mut codes = [pair.a.exit_code(LIMIT), pair.b.exit_code(LIMIT)];
            eprintln!("{policy}, {cmdline}: exit codes {codes:?}");
            codes.sort_unstable();
            assert_eq!(codes, [0, 3], "{cmdline}\n{}", pair.said());
            pair.assert_complete(seed, OPS);
            pair.bed.hosts().set_wire(true);
            pair.run_reader();
            assert!(pair.side_files().is_empty(), "{}", pair.said());
            pair.assert_image("a", seed, OPS);
            pair.bed.assert_clean();
        }
    }
}

fn late(policy: DiskPolicy, cmdline: &str) -> Option<Pair> {
    let bed = bed(policy, cmdline)?;
    // For a start that finds the other replica stopped.
    bed.edit("start-alone = \"30 s\"", "start-alone = \"2 s\"");
    let faults = format!("disk.0.faults={{replica=\"a\", after={PROMPT}, delayed=0.5, delay=\"1 s\"}}");
    Some(start(bed, &["--set", &faults]))
}

/// A primary that only slept wakes up, and its writes reach the disk after the other replica went live. That goes on with the
/// blocks that can be struck apart from the disk, until the old one has found out and said that it is gone.
fn late_write(policy: DiskPolicy) {
    let mut random = Random::new("late write");
    let mut struck = 0;
    for round in 0.. {
        // The requests that slept may all have been reads: such a round shows nothing.
        if struck == rounds(1, 20) {
            return;
        }
        assert!(round < struck + 10, "nothing ever comes late");
        let Some(late) = late_write_once(policy, random.below(1 << 32)) else { return };
        eprintln!("{policy}, round {round}: {late} sectors were written late");
        struck += u32::from(late > 0);
    }
}

/// One round: how many sectors were written late.
fn late_write_once(policy: DiskPolicy, seed: u64) -> Option<usize> {
    const OPS: u64 = 30_000;
    let cmdline = format!("ops={OPS} seed={seed} depth=64 report=100");
    let mut pair = late(policy, &cmdline)?;
    let side = pair.stop_with_writes_under_way();
    let [old, new] = pair.first;
    // While nobody else writes, so that what changes is the old primary's doing.
    pair.bed.signal(new, libc::SIGSTOP);
    let disk = pair.bed.image(0, "a");
    let before = fs::read(&disk).expect("the disk is readable");
    pair.bed.signal(old, libc::SIGCONT);
    assert_eq!(pair.a.exit_code(LIMIT), 3, "{cmdline}\n{}", pair.said());
    let after = fs::read(&disk).expect("the disk is readable");
    assert!(side.is_file(), "{cmdline}\n{}", pair.said());
    pair.bed.signal(new, libc::SIGCONT);
    pair.wait_said_by_b(BACK);
    assert!(pair.side_files().is_empty(), "{cmdline}\n{}", pair.said());
    assert_eq!(pair.b.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
    pair.assert_complete(seed, OPS);
    pair.assert_image("b", seed, OPS);
    pair.bed.assert_clean();
    Some(before.chunks(512).zip(after.chunks(512)).filter(|(before, after)| before != after).count())
}

#[test]
fn late_write_of_a_disk_that_the_primary_reads() {
    late_write(DiskPolicy::SHARED);
}

#[test]
fn late_write_of_a_disk_that_both_read() {
    late_write(DiskPolicy::SHARED_READ_BY_BOTH);
}

/// Both policies of shared disks, or one of them: what follows does not depend on it.
fn either(random: &mut Random) -> Vec<DiskPolicy> {
    let one = [SHARED[random.below(2) as usize]];
    if full() { SHARED.to_vec() } else { one.to_vec() }
}

/// A guest that goes on until it is stopped.
fn holding(random: &mut Random) -> (u64, String) {
    let seed = random.below(1 << 32);
    (seed, format!("mode=hold seed={seed} depth=32 report=100"))
}

/// Waits until the guest has flushed something since it is replica b's.
fn wait_flush(pair: &Pair) {
    let submitted = BlkRun::of(&pair.bed.console(), "").submitted;
    let flushed = |line: &str| number(line, "flush ").is_some_and(|flush| flush > submitted);
    assert!(pair.bed.wait_console(LIMIT, flushed), "no flush completes\n{}", pair.said());
}

/// A process that was killed while it slept never says that it is gone. That its replica's next process is heard says so too.
#[test]
fn an_old_primary_without_a_last_word() {
    let mut random = Random::new("without a last word");
    for policy in SHARED {
        let (seed, cmdline) = holding(&mut random);
        let Some(mut pair) = late(policy, &cmdline) else { return };
        let side = pair.stop_with_writes_under_way();
        pair.bed.signal(pair.first[0], libc::SIGKILL);
        assert_eq!(pair.a.exit_code(LIMIT), 1, "{}", pair.said());
        wait_flush(&pair);
        assert!(side.is_file(), "nobody knows that it is gone\n{}", pair.said());
        pair.a = pair.bed.start_one("a", &[]);
        assert_eq!(pair.a.exit_code(LIMIT), 1, "{}", pair.said());
        assert!(pair.a.stderr.text().contains("the guest is running already"), "{}", pair.said());
        pair.wait_said_by_b(BACK);
        assert!(pair.side_files().is_empty(), "{}", pair.said());
        pair.b.signal(libc::SIGTERM);
        assert_eq!(pair.b.exit_code(LIMIT), 0, "{}", pair.said());
        pair.assert_crashed_image(seed, &BlkRun::of(&pair.bed.console(), ""));
        pair.bed.assert_clean();
    }
}

/// Everything is killed while blocks are apart from the disk: the next start finds them, and brings them back.
#[test]
fn a_crash_while_blocks_are_kept_apart() {
    let mut random = Random::new("crash on two hosts");
    for policy in either(&mut random) {
        let (seed, cmdline) = holding(&mut random);
        let Some(mut pair) = late(policy, &cmdline) else { return };
        let side = pair.stop_with_writes_under_way();
        wait_flush(&pair);
        for process in pair.first {
            pair.bed.signal(process, libc::SIGKILL);
        }
        for code in [pair.a.exit_code(LIMIT), pair.b.exit_code(LIMIT)] {
            assert_eq!(code, 1, "{}", pair.said());
        }
        let run = BlkRun::of(&pair.bed.console(), "");
        assert!(side.is_file(), "{}", pair.said());
        pair.run_reader();
        pair.wait_said_by_b(BACK);
        assert!(pair.side_files().is_empty(), "{}", pair.said());
        pair.assert_crashed_image(seed, &run);
        pair.bed.assert_clean();
    }
}

/// The old primary still sleeps with the disk open: a start must not believe that nobody writes there. When it is gone the guest
/// goes on, with the blocks apart until it is known.
#[test]
fn a_start_while_the_old_primary_sleeps() {
    let mut random = Random::new("start beside a sleeper");
    for policy in either(&mut random) {
        let (seed, cmdline) = holding(&mut random);
        let Some(mut pair) = late(policy, &cmdline) else { return };
        let side = pair.stop_with_writes_under_way();
        wait_flush(&pair);
        pair.bed.signal(pair.first[1], libc::SIGKILL);
        assert_eq!(pair.b.exit_code(LIMIT), 1, "{}", pair.said());
        let run = BlkRun::of(&pair.bed.console(), "");

        pair.b = pair.bed.start_one("b", &[]);
        assert_eq!(pair.b.exit_code(LIMIT), 1, "{}", pair.said());
        let refused =
            "an earlier process of this pair still has it open and may write it; end that process first";
        assert!(pair.b.stderr.text().contains(refused), "{}", pair.said());
        assert!(alive(pair.first[0]) && side.is_file(), "{}", pair.said());

        pair.bed.signal(pair.first[0], libc::SIGCONT);
        assert_eq!(pair.a.exit_code(LIMIT), 3, "{}", pair.said());
        pair.b = pair.bed.start_one("b", &["--set", LONG_READER]);
        wait_state(&pair.bed, "b", "alone");
        assert_eq!(pair.quarantine(), side);
        pair.a = pair.bed.start_one("a", &["--set", LONG_READER]);
        assert_eq!(pair.a.exit_code(LIMIT), 1, "{}", pair.said());
        pair.wait_said_by_b(BACK);
        assert!(pair.side_files().is_empty(), "{}", pair.said());
        pair.b.signal(libc::SIGTERM);
        assert_eq!(pair.b.exit_code(LIMIT), 0, "{}", pair.said());
        pair.assert_crashed_image(seed, &run);
        pair.bed.assert_clean();
    }
}
