//! Every kind of disk, with the guest that knows what a disk must hold (`guests/blk`) and with `guests/kv`: under `kill -9`,
//! undisturbed, with requests that race, and after a crash of everything.

use std::time::Duration;

use ft_e2e::{
    BLK_SECTORS, Bed, BlkRun, DiskPolicy, Guest, Launcher, Random, Settings, Takeover, Victim,
    check_crashed_image, check_image, kill_campaign, marked, rounds,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Each scenario with each kind of disk.
macro_rules! with_every_disk {
    ($($scenario:ident),*) => { $(
        mod $scenario {
            use super::DiskPolicy;

            #[test]
            fn shared() {
                super::$scenario(DiskPolicy::SHARED);
            }
            #[test]
            fn shared_read_by_both() {
                super::$scenario(DiskPolicy::SHARED_READ_BY_BOTH);
            }
            #[test]
            fn separate() {
                super::$scenario(DiskPolicy::SEPARATE);
            }
            #[test]
            fn separate_read_by_both() {
                super::$scenario(DiskPolicy::SEPARATE_READ_BY_BOTH);
            }
        }
    )* };
}

with_every_disk!(kill_of_the_primary, kill_of_the_backup, undisturbed, races, races_under_a_kill, crash, kv);

fn settings(policy: DiskPolicy, cmdline: &str, disks: usize) -> Settings {
    Settings::with_disk(Guest::Blk { cmdline: cmdline.to_owned(), disks }, policy)
}

/// Kills a replica a random moment after the guest has said what `is_time` waits for.
fn kill(
    bed: &Bed,
    pair: &Launcher,
    victim: Victim,
    random: &mut Random,
    is_time: impl Fn(&str) -> bool,
) -> Takeover {
    let [primary, backup] = pair.wait_roles(LIMIT);
    let ((_, dies), (stays, _)) = match victim {
        Victim::Primary => (primary, backup),
        Victim::Backup => (backup, primary),
    };
    assert!(
        pair.stdout.wait_for(0, LIMIT, is_time).is_some(),
        "the guest does not get to its kill:\n{}",
        pair.said()
    );
    std::thread::sleep(random.time(Duration::from_millis(30)));
    bed.signal(dies, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    assert_eq!(takeover.replica, stays, "{}", takeover.line);
    takeover
}

fn kill_of_the_primary(policy: DiskPolicy) {
    kills(policy, Victim::Primary, rounds(2, 50));
}

fn kill_of_the_backup(policy: DiskPolicy) {
    kills(policy, Victim::Backup, rounds(1, 20));
}

/// The guest never notices: every read finds what was written last, every line is on the console once, and the disk of the
/// survivor is the one that the operations make.
fn kills(policy: DiskPolicy, victim: Victim, rounds: u32) {
    // Two seconds.
    const OPS: u64 = 20_000;
    let mut random = Random::new("disks under kills");
    for round in 0..rounds {
        let seed = random.below(1 << 32);
        let depth = 1 + random.below(64);
        let cmdline = format!("ops={OPS} seed={seed} depth={depth} report=100");
        let bed = Bed::new(&settings(policy, &cmdline, 1));
        let mut pair = bed.start();
        // Far enough from the end that the kill comes before it.
        let least = random.below(OPS / 2);
        let takeover = kill(&bed, &pair, victim, &mut random, |line| {
            BlkRun::operation(line, "done").is_some_and(|done| done >= least)
        });
        eprintln!("{policy}, round {round}, {cmdline}: {}", takeover.line);
        assert_eq!(pair.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
        let run = BlkRun::of(&pair.stdout.lines(), "");
        run.check_complete(seed, OPS).unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        check_image(&bed.image(0, &takeover.replica), seed, OPS)
            .unwrap_or_else(|error| panic!("{cmdline}: {error}\n{}", pair.said()));
        bed.assert_clean();
    }
}

/// Two disks at once and nobody dies: after the power-off every image is the one that the operations make, of both replicas.
fn undisturbed(policy: DiskPolicy) {
    const OPS: u64 = 3_000;
    const SEED: u64 = 1_000;
    let cmdline = format!("disks=all ops={OPS} seed={SEED} depth=32 report=500");
    let bed = Bed::new(&settings(policy, &cmdline, 2));
    let mut pair = bed.start();
    assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
    pair.assert_undisturbed();
    for (disk, seed) in [(0, SEED), (1, SEED + 1)] {
        let run = BlkRun::of(&pair.stdout.lines(), &format!("disk {disk}: "));
        run.check_complete(seed, OPS).unwrap_or_else(|error| panic!("disk {disk}: {error}\n{}", pair.said()));
        for replica in ["a", "b"] {
            check_image(&bed.image(disk, replica), seed, OPS)
                .unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        }
    }
    bed.assert_clean();
}

/// Requests that meet on the disk and in memory: what is promised holds, and what is left open is the same on both sides, or
/// the digests would find it.
fn races(policy: DiskPolicy) {
    let bed = Bed::new(&settings(policy, "mode=races ops=1000 seed=3", 1));
    let mut pair = bed.start();
    assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
    pair.assert_undisturbed();
    assert!(pair.stdout.text().contains("races: 1000 rounds, hash "), "{}", pair.said());
    bed.assert_clean();
}

/// The same with a kill in the middle: requests in flight are issued again, and a read among them must not find what a later
/// write, which the old primary has done already, put there.
fn races_under_a_kill(policy: DiskPolicy) {
    const RACES: u64 = 2_000;
    let mut random = Random::new("races under a kill");
    for round in 0..rounds(1, 50) {
        let cmdline = format!("mode=races ops={RACES} seed={} report=50", random.below(1 << 32));
        let bed = Bed::new(&settings(policy, &cmdline, 1));
        let mut pair = bed.start();
        let least = random.below(RACES / 2);
        let takeover = kill(&bed, &pair, Victim::Primary, &mut random, |line| {
            let race =
                line.strip_prefix("races: round ").and_then(|rest| rest.split(',').next()?.parse().ok());
            race.is_some_and(|race: u64| race >= least)
        });
        eprintln!("{policy}, round {round}, {cmdline}: {}", takeover.line);
        assert_eq!(pair.exit_code(LIMIT), 0, "{cmdline}\n{}", pair.said());
        assert!(pair.stdout.text().contains(&format!("races: {RACES} rounds, hash ")), "{}", pair.said());
        bed.assert_clean();
    }
}

/// The launcher is killed, and both replicas with it: what the guest was told is durable is on the disk, and the rest is
/// whatever some of the later operations left.
fn crash(policy: DiskPolicy) {
    /// Operations that may have been submitted after the last line that came through.
    const UNSEEN: u64 = 10_000;
    let mut random = Random::new("crash");
    for round in 0..rounds(2, 30) {
        let seed = random.below(1 << 32);
        let bed = Bed::new(&settings(policy, &format!("mode=hold seed={seed} depth=32 report=100"), 1));
        let mut pair = bed.start();
        pair.wait_roles(LIMIT);
        // The first flushes may cover nothing.
        let is_something = |line: &str| line.starts_with("flush ") && !line.ends_with(" covers 0");
        let begun = pair.stdout.wait_for(0, LIMIT, is_something);
        assert!(begun.is_some(), "nothing gets durable:\n{}", pair.said());
        std::thread::sleep(random.time(Duration::from_millis(1500)));
        pair.kill(Duration::from_secs(5));
        let run = BlkRun::of(&pair.stdout.lines(), "");
        eprintln!(
            "{policy}, round {round}, seed {seed}: {} durable, {} submitted",
            run.durable, run.submitted
        );
        assert_eq!(run.errors, 0, "{}", pair.said());
        assert!(run.durable <= run.submitted && run.durable > 0, "{}", pair.said());
        // The disk that the guest was told about. Of the other replica's it is only known that nobody else wrote to it: the
        // backup has received the log, which is enough to go on, but not to have carried it out.
        let durable = |replica| if policy.is_separate() && replica == "b" { 0 } else { run.durable };
        for replica in ["a", "b"] {
            let image = bed.image(0, replica);
            check_crashed_image(&image, seed, durable(replica), run.submitted + UNSEEN)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", pair.said()));
        }
        assert!(marked(bed.mark()).is_empty(), "something is left");
    }
}

/// `guests/kv` under load: see [`kill_campaign`]. What a pair with a config that says nothing about disks does is in
/// `failover.rs`, and longer.
fn kv(policy: DiskPolicy) {
    let settings = Settings::with_disk(Guest::Kv, policy);
    kill_campaign(&settings, Victim::Primary, rounds(1, 50));
    kill_campaign(&settings, Victim::Backup, rounds(1, 20));
}

/// The harness and the guest mean the same disk.
#[test]
fn sizes_agree() {
    let bed = Bed::new(&settings(DiskPolicy::SHARED, "ops=10", 1));
    let mut solo = bed.start_solo_on("a");
    assert_eq!(solo.exit_code(LIMIT), 0, "{}", solo.said());
    let length = std::fs::metadata(bed.image(0, "a")).expect("the image is there").len();
    assert_eq!(length, BLK_SECTORS * 512);
    check_image(&bed.image(0, "a"), 1, 10).unwrap_or_else(|error| panic!("{error}\n{}", solo.said()));
    bed.assert_clean();
}
