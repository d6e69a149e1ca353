//! `kill -9` of a replica at random moments, with redis-benchmark and the checking client running.
//!
//! Never an acknowledged write lost (asked of the running guest, and again after a cold start from the disk), `INCR`
//! replies without gap or repeat, no connection reset, exactly one live replica in the end.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Guest, Ledger, Load, Random, RedisBenchmark, Settings, Shape, have_redis_tools, rounds};

const LIMIT: Duration = Duration::from_secs(20);
/// Rounds on one disk: then a new one, so that a long campaign does not fill the guest's memory.
const ROUNDS_PER_DISK: u32 = 10;

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Primary,
    Backup,
}

fn campaign(victim: Victim, rounds: u32) {
    assert!(have_redis_tools(), "redis-benchmark and redis-cli are missing: install the package redis-tools");
    let mut random = Random::new("failover");
    let mut silences = Vec::new();
    let mut done = 0;
    while done < rounds {
        let bed = Bed::new(&Settings::new(Guest::Kv));
        let mut ledger = Ledger::default();
        for _ in 0..ROUNDS_PER_DISK.min(rounds - done) {
            let silent = round(&bed, victim, done, &mut ledger, &mut random);
            assert_eq!(silent.is_some(), victim == Victim::Primary);
            silences.extend(silent);
            done += 1;
        }
        // Cold, from the disk alone: the last time too.
        let mut pair = bed.start();
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

fn round(bed: &Bed, victim: Victim, number: u32, ledger: &mut Ledger, random: &mut Random) -> Option<f64> {
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
    assert!(!ft_e2e::alive(dies.pid), "{} was killed", dies.pid);
    pair.stop();
    bed.assert_clean();
    takeover.silent_ms
}

#[test]
fn kill_of_the_primary() {
    campaign(Victim::Primary, rounds(5, 100));
}

#[test]
fn kill_of_the_backup() {
    campaign(Victim::Backup, rounds(3, 100));
}

/// The launcher is the fence and the network: when it is killed, both replicas end at once, nothing stays behind, and the
/// next start finds every acknowledged write.
#[test]
fn kill_of_the_launcher() {
    let mut random = Random::new("kill of the launcher");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "first", Shape::default(), &mut random).expect("the clients connect");
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let mut ledger = Ledger::default();
    ledger.add(&record);
    ledger.verify(&mut client).expect("the writes are there");
    pair.signal(libc::SIGKILL);
    // The replicas hold the launcher's pipes: this is their end too.
    pair.wait(Duration::from_secs(5))
        .unwrap_or_else(|| panic!("the replicas outlive their launcher\n{}", pair.said()));
    drop(pair);

    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("after a cold start: {error}\n{}", pair.said()));
    pair.stop();
    bed.assert_clean();
}

/// Two faults are more than a pair survives: it says so, leaves nothing behind, and the disk has every acknowledged write.
#[test]
fn kill_of_both() {
    let mut random = Random::new("kill of both");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "first", Shape::default(), &mut random).expect("the clients connect");
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    bed.signal(before.primary().pid, libc::SIGKILL);
    pair.wait_takeover(0, LIMIT);
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let mut ledger = Ledger::default();
    ledger.add(&record);
    bed.signal(before.backup().pid, libc::SIGKILL);
    assert_eq!(pair.exit_code(Duration::from_secs(5)), 1, "{}", pair.said());
    assert!(pair.stderr.text().contains("both replicas are gone"), "{}", pair.said());
    drop(pair);
    bed.assert_clean();

    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("after a cold start: {error}\n{}", pair.said()));
    pair.stop();
    bed.assert_clean();
}
