//! The tie-breaker `manual`: nobody goes on alone before a person says so, with the real command.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Launcher, Ledger, Load, Random, Settings, Shape, Status, TieBreaker};

const LIMIT: Duration = Duration::from_secs(20);
/// What `ft-vm status` has for a replica that waits for a person.
const WAITS: &str = "waits_for_promotion";

fn settings() -> Settings {
    let timeout = Duration::from_millis(500);
    Settings { tie_breaker: TieBreaker::Manual, timeout, ..Settings::new(Guest::Kv) }
}

/// The generation in which a replica would go on.
fn waits(status: &Status, replica: &str) -> Option<u64> {
    status.replica(replica)?.json[WAITS].as_u64()
}

fn wait_waiting(bed: &Bed, replica: &str) -> u64 {
    let status = bed.wait_status(WAITS, LIMIT, |status| waits(status, replica).is_some());
    waits(&status, replica).expect("it was waited for")
}

/// Promotes a replica as soon as it does not hear its peer any more: before, it is refused with the reason.
fn promote(bed: &Bed, pair: &Launcher, replica: &str, generation: u64) {
    let until = std::time::Instant::now() + LIMIT;
    loop {
        let run = bed.promote(replica);
        if run.code == Some(0) {
            assert_eq!(run.stderr, format!("ft-vm: replica {replica} goes on in generation {generation}\n"));
            return;
        }
        assert!(run.code == Some(1) && run.stderr.contains("was heard"), "{}", run.stderr);
        assert!(std::time::Instant::now() < until, "{}\n{}", run.stderr, pair.said());
    }
}

#[test]
fn a_person_lets_the_survivor_go_on() {
    let mut random = Random::new("promote");
    for victim in ["a", "b"] {
        let bed = Bed::new(&settings());
        let mut pair = bed.start();
        let mut client = pair.wait_service(bed.port());
        let status = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
        let run = bed.promote("b");
        assert_eq!(run.code, Some(1));
        assert!(
            run.stderr.contains("nothing waits for a decision: replica b is following"),
            "{}",
            run.stderr
        );

        let load =
            Load::start(bed.port(), "load", Shape::default(), &mut random).expect("the clients connect");
        load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let survivor = if victim == "a" { "b" } else { "a" };
        bed.signal(status.replica(victim).expect("it runs").pid, libc::SIGKILL);
        assert_eq!(wait_waiting(&bed, survivor), 2, "{}", pair.said());
        let said = pair.stderr.wait_for(0, LIMIT, |line| line.contains("waits for a person"));
        assert!(said.is_some(), "{}", pair.said());
        assert!(
            !pair.said().contains("took over") && !pair.said().contains("goes on alone"),
            "{}",
            pair.said()
        );
        promote(&bed, &pair, survivor, 2);
        let takeover = pair.wait_takeover(0, LIMIT);
        assert_eq!((takeover.replica.as_str(), takeover.generation), (survivor, 2), "{}", takeover.line);
        load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let mut ledger = Ledger::default();
        ledger.add(&record);
        ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        pair.stop();

        // Both remember: the next start is in the next generation, the survivor's again, and needs nobody.
        let mut pair = bed.start();
        let mut client = pair.wait_service(bed.port());
        ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let status = bed.status();
        assert_eq!(status.generation, 3, "{}", status.json);
        assert_eq!(status.primary().replica, survivor, "{}", status.json);
        pair.stop();
        bed.assert_clean();
    }
}

/// A promotion is refused while the other replica is heard, and by a pair whose tie-breaker is another one.
#[test]
fn refused() {
    let bed = Bed::new(&settings());
    let run = bed.promote("a");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("nothing runs"), "{}", run.stderr);
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let run = bed.run(&["promote", "--config", "pair.toml"]);
    assert!(run.code == Some(1) && run.stderr.contains("nothing waits for a decision"), "{}", run.stderr);
    pair.stop();
    bed.assert_clean();
    drop(bed);

    let bed = Bed::new(&Settings::new(Guest::Kv));
    let run = bed.promote("a");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("has [tie-breaker.shared-disk], which decides by itself"), "{}", run.stderr);
}
