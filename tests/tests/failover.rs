//! `kill -9` of a replica at random moments ([`kill_campaign`]), of the launcher, and of everything.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Ledger, Load, Random, Settings, Shape, Victim, kill_campaign, rounds};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn kill_of_the_primary() {
    kill_campaign(&Settings::new(Guest::Kv), Victim::Primary, rounds(5, 100));
}

#[test]
fn kill_of_the_backup() {
    kill_campaign(&Settings::new(Guest::Kv), Victim::Backup, rounds(3, 100));
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
    pair.kill(Duration::from_secs(5));
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
