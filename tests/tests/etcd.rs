//! Pairs whose tie-breaker is a real etcd: it decides takeovers, and while it has no majority nobody goes on.

use std::time::Duration;

use ft_e2e::{
    Bed, DiskPolicy, Guest, Ledger, Load, Random, Settings, Shape, TieBreaker, Victim, can_run_etcd,
    kill_campaign, rounds,
};

const LIMIT: Duration = Duration::from_secs(30);

fn settings(policy: DiskPolicy, members: usize) -> Settings {
    Settings { tie_breaker: TieBreaker::Etcd { members }, ..Settings::with_disk(Guest::Kv, policy) }
}

#[test]
fn kill_of_the_primary() {
    if can_run_etcd() {
        kill_campaign(&settings(DiskPolicy::SHARED, 1), Victim::Primary, rounds(2, 30));
        kill_campaign(&settings(DiskPolicy::SEPARATE, 3), Victim::Primary, rounds(1, 30));
    }
}

#[test]
fn kill_of_the_backup() {
    if can_run_etcd() {
        kill_campaign(&settings(DiskPolicy::SHARED, 3), Victim::Backup, rounds(1, 30));
    }
}

/// The etcd loses its majority and the pair its primary: the backup holds everything back and says why. When the majority is
/// back it takes over, and the clients go on where they were.
#[test]
fn without_a_majority_nobody_goes_on() {
    if !can_run_etcd() {
        return;
    }
    let mut random = Random::new("without a majority");
    let mut bed = Bed::new(&settings(DiskPolicy::SHARED, 3));
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "first", Shape::default(), &mut random).expect("the clients connect");
    load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    bed.etcd().kill(0);
    bed.etcd().kill(2);
    // As long as both replicas are there, nobody has to be asked.
    load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let from = pair.stderr.count();
    bed.signal(before.primary().pid, libc::SIGKILL);
    let cannot = |line: &str| line.contains("the tie-breaker cannot be reached: etcd: 127.0.0.1:");
    let line = pair.stderr.wait_for(from, LIMIT, cannot);
    let line = line.unwrap_or_else(|| panic!("nobody says why nobody goes on\n{}", pair.said())).text;
    for endpoint in bed.etcd().endpoints() {
        assert!(line.contains(&endpoint.to_string()), "{line}");
    }
    assert!(line.contains("asking again until it answers"), "{line}");
    let meanwhile = bed.status();
    assert_eq!(meanwhile.live(), 0, "{}", meanwhile.json);
    assert!(!pair.stderr.text().contains(" took over in "), "{}", pair.said());

    bed.etcd().restart(0);
    let takeover = pair.wait_takeover(from, LIMIT);
    assert_eq!(takeover.replica, before.backup().replica, "{}", takeover.line);
    assert_eq!(takeover.generation, before.generation + 1, "{}", takeover.line);
    load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let mut ledger = Ledger::default();
    ledger.add(&record);
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("after the takeover: {error}\n{}", pair.said()));
    eprintln!("{line}\n{}", takeover.line);
    pair.stop();
    bed.assert_clean();
}

/// A pair that finds no etcd waits, says so, and starts when it is there.
#[test]
fn a_start_waits_for_the_etcd() {
    if !can_run_etcd() {
        return;
    }
    let mut bed = Bed::new(&settings(DiskPolicy::SHARED, 1));
    bed.etcd().kill(0);
    let mut pair = bed.start();
    let cannot = |line: &str| line.contains("the tie-breaker cannot be reached: etcd: 127.0.0.1:");
    let line = pair.stderr.wait_for(0, LIMIT, cannot);
    let line = line.unwrap_or_else(|| panic!("nobody says what is waited for\n{}", pair.said())).text;
    assert!(line.contains("Connection refused") && line.contains("trying again"), "{line}");
    bed.etcd().restart(0);
    pair.wait_service(bed.port());
    pair.stop();
    bed.assert_clean();
}
