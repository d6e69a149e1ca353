//! SIGSTOP of a replica past the time-out: it is not dead, it only looks so. The survivor goes on behind the launcher's
//! fence; what the stopped process would still do must never be seen.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Ledger, Load, Random, Settings, Shape, rounds};

const LIMIT: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    Settings { timeout: Duration::from_millis(500), ..Settings::new(Guest::Kv) }
}

#[test]
fn stopped_primary() {
    let mut random = Random::new("stopped primary");
    for number in 0..rounds(2, 20) {
        let bed = Bed::new(&settings());
        let mut pair = bed.start();
        let mut client = pair.wait_service(bed.port());
        let load = Load::start(bed.port(), "k", Shape { writers: 4, ..Shape::default() }, &mut random);
        let load = load.expect("the clients connect");
        load.wait_replies(50, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
        let from = pair.stderr.count();
        std::thread::sleep(random.time(Duration::from_millis(500)));
        bed.signal(before.primary().pid, libc::SIGSTOP);

        let takeover = pair.wait_takeover(from, LIMIT);
        eprintln!("round {number}: {}", takeover.line);
        // The line comes after going live, which comes after the fence.
        assert!(
            !ft_e2e::alive(before.primary().pid),
            "the stopped primary outlives the fence\n{}",
            pair.said()
        );
        load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let mut ledger = Ledger::default();
        ledger.add(&record);
        ledger
            .verify(&mut client)
            .unwrap_or_else(|error| panic!("of the survivor: {error}\n{}", pair.said()));
        let after = bed.status();
        assert_eq!((after.live(), after.primary().pid), (1, before.backup().pid), "{}", after.json);

        // Nothing in order: the disk is all there is. Then without any fault tolerance.
        pair.kill(Duration::from_secs(5));
        drop(pair);
        let mut solo = bed.start_with(&["--solo"]);
        let mut client = solo.wait_service(bed.port());
        ledger
            .verify(&mut client)
            .unwrap_or_else(|error| panic!("from the disk alone: {error}\n{}", solo.said()));
        solo.stop();
        bed.assert_clean();
    }
}

/// A sick backup never ends the service.
#[test]
fn stopped_backup() {
    let mut random = Random::new("stopped backup");
    let bed = Bed::new(&settings());
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "k", Shape::default(), &mut random).expect("the clients connect");
    load.wait_replies(50, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    let from = pair.stderr.count();
    bed.signal(before.backup().pid, libc::SIGSTOP);
    let alone = pair.wait_takeover(from, LIMIT);
    eprintln!("{}", alone.line);
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    // If the launcher has not ended it, it now finds itself deposed, and ends by itself.
    if ft_e2e::alive(before.backup().pid) {
        bed.signal(before.backup().pid, libc::SIGCONT);
    }
    let after = bed.wait_status("one replica", LIMIT, |status| status.replicas.len() == 1);
    assert_eq!((after.live(), after.primary().pid), (1, before.primary().pid), "{}", after.json);
    assert!(after.generation > before.generation);
    load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    eprintln!("longest wait for a reply: {:?}", record.silence);
    let mut ledger = Ledger::default();
    ledger.add(&record);
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    pair.stop();
    bed.assert_clean();
}

/// A stop that is shorter than the time-out is no failure: the same two replicas go on.
#[test]
fn short_stops() {
    let mut random = Random::new("short stops");
    let bed = Bed::new(&Settings { timeout: Duration::from_secs(3), ..Settings::new(Guest::Kv) });
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let load = Load::start(bed.port(), "k", Shape::default(), &mut random).expect("the clients connect");
    load.wait_replies(50, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    for pid in [before.primary().pid, before.backup().pid] {
        bed.signal(pid, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(300));
        bed.signal(pid, libc::SIGCONT);
        load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    }
    load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let after = bed.status();
    assert_eq!(after.generation, before.generation, "{}", after.json);
    assert_eq!(after.primary().pid, before.primary().pid);
    assert_eq!(after.backup().pid, before.backup().pid);
    pair.stop();
    bed.assert_clean();
}

/// The guest's end waits until the backup has acknowledged it, and its release until the primary runs. Whatever sleeps meanwhile,
/// the guest does nothing more: both sides end as one.
#[test]
fn a_guests_end_that_takes_long() {
    // The primary gives up a backup that does nothing for two seconds: on a busy machine that may come first.
    for _ in 0..5 {
        let settings = Settings {
            timeout: Duration::from_secs(20),
            ..Settings::new(Guest::Cpu { rounds: 30, exit: 0 })
        };
        let bed = Bed::new(&settings);
        let mut pair = bed.start();
        let [(_, primary), (_, backup)] = pair.wait_roles(LIMIT);
        bed.signal(backup, libc::SIGSTOP);
        let mut end = 0;
        bed.wait_status("the guest is at its end", LIMIT, |status| {
            let position = status.role("primary").map_or(0, |primary| primary.position);
            std::mem::replace(&mut end, position) == position && position > 0
        });
        bed.signal(primary, libc::SIGSTOP);
        bed.signal(backup, libc::SIGCONT);
        bed.wait_status("the backup has executed all", LIMIT, |status| {
            status.replica("b").is_none_or(|backup| backup.position >= end)
        });
        bed.signal(primary, libc::SIGCONT);
        assert_eq!(pair.exit_code(LIMIT), 0, "{}", pair.said());
        bed.assert_clean();
        let said = pair.stderr.text();
        if !said.contains("goes on alone") {
            assert!(!said.contains("ended with code"), "{}", pair.said());
            return;
        }
    }
    panic!("the backup was given up each time");
}
