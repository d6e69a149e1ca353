//! `guests/kv` under KVM: the same answers as under the software engine, kills under load, digests, inputs that must wait.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Ledger, Load, Random, Resp, Settings, Shape, Victim, alive, rounds};

use super::{LIMIT, both, with_kvm, works};

/// A guest in a nested virtual machine is slow: fewer requests in flight.
const SHAPE: Shape = Shape { writers: 1, counters: 1, readers: 1, depth: 4 };

/// The requests of a fixed sequence and the guest's answers.
fn answers(settings: &Settings, more: &[&str]) -> Vec<String> {
    let bed = Bed::new(settings);
    let mut vm = bed.start_with(more);
    let mut client = vm.wait_service(bed.port());
    let mut random = ft_guests::blk::Random::new(11);
    let mut answers = Vec::new();
    for number in 0..200 {
        let key = format!("key{}", random.below(20));
        let value = "v".repeat(random.below(300) as usize);
        let words: Vec<&str> = match number % 7 {
            0 | 1 => vec!["SET", &key, &value],
            2 => vec!["APPEND", &key, "more"],
            3 => vec!["INCR", "count"],
            4 => vec!["DEL", &key],
            5 => vec!["EXISTS", &key],
            _ => vec!["GET", &key],
        };
        answers.push(format!("{words:?}: {:?}", client.call(&words).expect("the guest answers")));
    }
    vm.stop();
    bed.assert_clean();
    answers
}

#[test]
fn answers_are_those_of_the_software_engine() {
    if !works("answers_are_those_of_the_software_engine") {
        return;
    }
    let software = answers(&Settings::new(Guest::Kv), &["--solo"]);
    assert_eq!(software, answers(&with_kvm(Guest::Kv), &["--solo"]));
    assert_eq!(software, answers(&with_kvm(Guest::Kv), &[]));
}

#[test]
fn kill_of_the_primary() {
    kills("kill_of_the_primary", Victim::Primary, rounds(2, 50));
}

#[test]
fn kill_of_the_backup() {
    kills("kill_of_the_backup", Victim::Backup, rounds(1, 20));
}

/// Under load: no acknowledged write is lost, no reply is wrong, no connection breaks, and digests were compared before.
fn kills(test: &str, victim: Victim, rounds: u32) {
    if !works(test) {
        return;
    }
    let mut random = Random::new(test);
    for round in 0..rounds {
        let bed = Bed::new(&with_kvm(Guest::Kv));
        let mut pair = bed.start();
        let mut client: Resp = pair.wait_service(bed.port());
        let load = Load::start(bed.port(), "k", SHAPE, &mut random).expect("the clients connect");
        load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let before = bed.wait_status("digests that are equal", LIMIT, |status| {
            both(status).is_some_and(|(_, backup)| backup.number("digests") > 1.0)
        });
        let (dies, stays) = match victim {
            Victim::Primary => (before.primary(), before.backup()),
            Victim::Backup => (before.backup(), before.primary()),
        };
        // The random moment is what this test is about; nothing is waited for.
        std::thread::sleep(random.time(Duration::from_millis(300)));
        bed.signal(dies.pid, libc::SIGKILL);
        let takeover = pair.wait_takeover(0, LIMIT);
        eprintln!("round {round}: {}", takeover.line);
        assert_eq!(takeover.replica, stays.replica, "{}", takeover.line);
        assert!(takeover.position >= before.backup().position, "{}: the guest went back", takeover.line);
        load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let mut ledger = Ledger::default();
        ledger.add(&record);
        assert!(!ledger.is_empty());
        ledger.verify(&mut client).unwrap_or_else(|error| panic!("after the kill: {error}\n{}", pair.said()));
        assert!(!alive(dies.pid), "{} was killed", dies.pid);
        assert_eq!(bed.status().live(), 1);
        pair.stop();
        // Cold, from the disk alone.
        let mut solo = bed.start_solo_on(&takeover.replica);
        let mut client = solo.wait_service(bed.port());
        ledger
            .verify(&mut client)
            .unwrap_or_else(|error| panic!("after a cold start: {error}\n{}", solo.said()));
        solo.stop();
        bed.assert_clean();
    }
}

/// Frames for a guest that does not exit wait, and `status` says so.
#[test]
fn inputs_that_must_wait_are_shown() {
    if !works("inputs_that_must_wait_are_shown") {
        return;
    }
    let mut settings = with_kvm(Guest::Cpu { rounds: 1_000_000, exit: 0 });
    settings.extra = "\n[[net]]\n[net.user]\nforward = [\"127.0.0.1:PORT -> 6379\"]\n".to_owned();
    let bed = Bed::new(&settings);
    bed.edit("PORT", &bed.port().to_string());
    let pair = bed.start();
    bed.wait_status("both at work", LIMIT, |status| both(status).is_some());
    // Somebody asks for an address that the guest never answers for.
    let _client = std::net::TcpStream::connect(("127.0.0.1", bed.port())).expect("the launcher listens");
    let status = bed.wait_status("inputs that wait", LIMIT, |status| {
        both(status).is_some_and(|(primary, _)| primary.json["held_up"]["inputs"].as_u64() > Some(0))
    });
    assert!(status.primary().json["held_up"]["ms"].as_f64().is_some_and(|ms| ms >= 100.0), "{}", status.json);
    let table = bed.run(&["status", "--config", "pair.toml"]).stdout;
    assert!(table.contains("inputs wait because the guest has not left its own code"), "{table}");
    assert_eq!(status.replicas.len(), 2, "neither side takes the other for stuck");
    drop(pair);
}
