//! A campaign of `kill -9` at random moments against `guests/kv`, with redis-benchmark and the checking client running.
//!
//! Never an acknowledged write lost (asked of the running guest, and again after a cold start from the disk), `INCR`
//! replies without gap or repeat, no connection reset, exactly one live replica in the end.

use std::time::{Duration, Instant};

use crate::{Bed, Ledger, Load, Random, RedisBenchmark, Settings, Shape, Takeover, alive, have_redis_tools};

const LIMIT: Duration = Duration::from_secs(20);
/// Rounds on one disk: then a new one, so that a long campaign does not fill the guest's memory.
const ROUNDS_PER_DISK: u32 = 10;

/// Which replica is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The one whose outputs the world sees.
    Primary,
    /// The other one.
    Backup,
}

/// Kills a replica in each of `rounds` rounds and checks everything that must hold; panics if something does not. `settings`
/// are those of a pair that runs `guests/kv`.
pub fn kill_campaign(settings: &Settings, victim: Victim, rounds: u32) {
    assert!(have_redis_tools(), "redis-benchmark and redis-cli are missing: install the package redis-tools");
    let mut random = Random::new("failover");
    let mut silences = Vec::new();
    let mut done = 0;
    // Of two disks one is behind after a failover. Bringing it up again is another matter than surviving.
    let per_disk = if settings.disk.is_separate() { 1 } else { ROUNDS_PER_DISK };
    while done < rounds {
        let bed = Bed::new(settings);
        let mut ledger = Ledger::default();
        let mut survivor = String::new();
        for _ in 0..per_disk.min(rounds - done) {
            let takeover = round(&bed, victim, done, &mut ledger, &mut random);
            assert_eq!(takeover.silent_ms.is_some(), victim == Victim::Primary);
            silences.extend(takeover.silent_ms);
            survivor = takeover.replica;
            done += 1;
        }
        // Cold, from the disk alone: the last time too.
        let mut pair = if settings.disk.is_separate() { bed.start_solo_on(&survivor) } else { bed.start() };
        let mut client = pair.wait_service(bed.port());
        ledger
            .verify(&mut client)
            .unwrap_or_else(|error| panic!("after a cold start: {error}\n{}", pair.said()));
        pair.stop();
        bed.assert_clean();
    }
    if silences.is_empty() {
        return eprintln!("{rounds} rounds: the primary never stopped");
    }
    silences.sort_by(f64::total_cmp);
    let (median, most) = (silences[silences.len() / 2], silences[silences.len() - 1]);
    eprintln!("{rounds} rounds: silence as the launcher says, median {median:.1} ms, most {most:.1} ms");
}

fn round(bed: &Bed, victim: Victim, number: u32, ledger: &mut Ledger, random: &mut Random) -> Takeover {
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("after a cold start: {error}\n{}", pair.said()));

    let load = Load::start(bed.port(), &format!("round{number}"), Shape::default(), random)
        .expect("the clients connect");
    let mut benchmark = RedisBenchmark::forever(bed.port(), 10);
    load.wait_replies(50, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    let (dies, stays) = match victim {
        Victim::Primary => (before.primary(), before.backup()),
        Victim::Backup => (before.backup(), before.primary()),
    };
    assert_eq!(before.live(), 1, "{}", before.json);
    let from = pair.stderr.count();
    // The random moment is what this test is about; nothing is waited for.
    std::thread::sleep(random.time(Duration::from_millis(1200)));
    bed.signal(dies.pid, libc::SIGKILL);
    let killed = Instant::now();

    let takeover = pair.wait_takeover(from, LIMIT);
    eprintln!(
        "round {number}, {:.1} ms after the kill: {}",
        (takeover.at - killed).as_secs_f64() * 1e3,
        takeover.line
    );
    assert!(
        takeover.generation > before.generation,
        "{} came after generation {}",
        takeover.line,
        before.generation
    );
    assert!(takeover.position >= before.backup().position, "{}: the guest went back", takeover.line);
    assert_eq!(takeover.replica, stays.replica, "{}", takeover.line);
    let went_on = load.wait_replies(200, LIMIT).and_then(|()| benchmark.wait_result(LIMIT));
    let benchmark = went_on.and_then(|()| benchmark.stop());
    let record = load.stop();
    let record = benchmark.and(record).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    ledger.add(&record);
    assert!(!ledger.is_empty());
    // On a connection that was open all the time, of the guest that runs.
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("after the kill: {error}\n{}", pair.said()));

    let after = bed.status();
    assert_eq!(after.live(), 1, "{}", after.json);
    assert_eq!(after.primary().pid, stays.pid, "{}", after.json);
    assert_eq!(after.generation, takeover.generation, "{}", after.json);
    assert!(!alive(dies.pid), "{} was killed", dies.pid);
    pair.stop();
    bed.assert_clean();
    takeover
}
