//! What earlier runs left behind is not taken for this one's: a start says what it finds, and ends where no waiting would help.

use std::fs;
use std::time::Duration;

use ft_e2e::{Bed, DiskPolicy, Guest, Reply, Settings};

const LIMIT: Duration = Duration::from_secs(60);
const START: &[&str] = &["--config", "pair.toml"];
const CHECK: &[&str] = &["check", "pair.toml"];
const OTHER_CONFIG: &str = "under another config";

/// A start that serves, and what it said on standard error.
fn serves(bed: &Bed, more: &[&str]) -> String {
    let mut pair = bed.start_with(more);
    let mut client = pair.wait_service(bed.port());
    assert_eq!(client.call(&["SET", "a", "1"]), Ok(Reply::Simple("OK".into())), "{}", pair.said());
    let said = pair.stderr.text();
    pair.stop();
    bed.assert_clean();
    said
}

#[test]
fn the_register_of_another_pair_ends_a_start() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    serves(&bed, &[]);
    let disk = fs::read(bed.image(0, "a")).expect("the image is readable");
    bed.edit("name = \"", "name = \"new-");
    let run = bed.run(START);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    for part in [
        "belongs to another pair",
        "this one is `new-",
        "begin anew: with both replicas stopped",
        "nothing was started",
    ] {
        assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
    }
    assert_eq!(run.stderr.lines().filter(|line| line.starts_with("ft-vm: ")).count(), 1, "{}", run.stderr);
    assert!(!run.stderr.contains("replica a"), "no replica ran: {}", run.stderr);
    bed.assert_clean();
    assert!(fs::read(bed.image(0, "a")).expect("the image is readable") == disk);
    let check = bed.run(CHECK);
    assert_eq!(check.code, Some(2), "{}", check.stderr);
    // Under its old name it goes on, and under the new one when it begins anew.
    bed.edit("name = \"new-", "name = \"");
    let said = serves(&bed, &[]);
    assert!(said.contains(" in generation 2 "), "{said}");
    bed.edit("name = \"", "name = \"new-");
    let register = bed.path().join("generation");
    assert!(register.is_dir(), "the tests' configs have it there");
    fs::rename(&register, bed.path().join("old")).expect("the folder is writable");
    let said = serves(&bed, &[]);
    assert!(said.contains(" in generation 1 "), "{said}");
}

#[test]
fn a_damaged_register_ends_a_start() {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1, exit: 0 }));
    assert_eq!(bed.run(START).code, Some(0));
    let entry = bed.path().join("generation").join(format!("generation.{:020}", 1));
    let content = fs::read(&entry).expect("generation 1 was won");
    fs::write(&entry, &content[1..]).expect("the folder is writable");
    let run = bed.run(START);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("is not an intact generation entry"), "{}", run.stderr);
    assert!(run.stderr.contains("nothing was started"), "{}", run.stderr);
    bed.assert_clean();
    fs::write(&entry, &content).expect("the folder is writable");
    assert_eq!(bed.run(START).code, Some(0), "brought back as it was");
}

/// It runs, and says once that the register knows of another config: until that one has won a generation.
#[test]
fn a_changed_config_is_named_once() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let other = ["--set", "pacing={lag-feedback={target=\"7 ms\"}}"];
    let said = serves(&bed, &[]);
    assert!(!said.contains(OTHER_CONFIG), "{said}");
    let said = serves(&bed, &other);
    assert_eq!(
        said.matches("is in generation 1, which replica a won under another config").count(),
        1,
        "{said}"
    );
    assert!(said.contains("harmless if the config was changed since then"), "{said}");
    let said = serves(&bed, &other);
    assert!(!said.contains(OTHER_CONFIG), "{said}");
    // Without fault tolerance nobody asks the register.
    let said = serves(&bed, &["--solo"]);
    assert!(!said.contains(OTHER_CONFIG), "{said}");
}

/// The tie-breaker's store is brought back from an old copy: the stamps know better, and nothing is started.
#[test]
fn an_old_copy_of_the_register_starts_nothing() {
    let guest = Guest::Blk { cmdline: "mode=randwrite ops=300 depth=4".into(), disks: 1 };
    let mut bed = Bed::new(&Settings::with_disk(guest, DiskPolicy::SEPARATE));
    let state = bed.path().join("witness.state");
    assert_eq!(bed.start().exit_code(LIMIT), 0);
    let old = fs::read(&state).expect("the witness has a state");
    assert_eq!(bed.start().exit_code(LIMIT), 0);
    let check = bed.run(CHECK);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert!(check.stderr.contains("is stamped `live` in generation 2"), "{}", check.stderr);
    assert!(!check.stderr.contains("warning"), "{}", check.stderr);

    bed.witness_mut().kill();
    let new = fs::read(&state).expect("the witness has a state");
    fs::write(&state, &old).expect("the folder is writable");
    bed.witness_mut().restart();
    let check = bed.run(CHECK);
    assert_eq!(check.code, Some(2), "{}", check.stderr);
    let ahead = "is stamped `live` in generation 2, and the tie-breaker is in 1";
    assert!(check.stderr.contains(ahead), "{}", check.stderr);
    let images = ["a", "b"].map(|replica| fs::read(bed.image(0, replica)).expect("the image is readable"));
    let mut pair = bed.start_with(&["--set", "replicas.start-alone=\"1 s\""]);
    let lines = [ahead, "nothing is started", "start-alone has passed"];
    for part in lines {
        let line = pair.stderr.wait_for(0, LIMIT, |line| line.contains(part));
        assert!(line.is_some(), "{part:?} is not in {}", pair.said());
    }
    pair.signal(libc::SIGTERM);
    pair.exit_code(LIMIT);
    assert!(!pair.stderr.text().contains("is primary"), "{}", pair.said());
    bed.assert_clean();
    let after = ["a", "b"].map(|replica| fs::read(bed.image(0, replica)).expect("the image is readable"));
    assert!(images == after, "nothing ran");

    bed.witness_mut().kill();
    fs::write(&state, &new).expect("the folder is writable");
    bed.witness_mut().restart();
    assert_eq!(bed.start().exit_code(LIMIT), 0);
}

/// The same without a copy of the new one: the way out that the message names keeps the content.
#[test]
fn what_is_said_of_a_lost_register_is_right() {
    let guest = Guest::Blk { cmdline: "mode=randwrite ops=300 depth=4".into(), disks: 1 };
    let mut bed = Bed::new(&Settings::with_disk(guest, DiskPolicy::SEPARATE));
    assert_eq!(bed.start().exit_code(LIMIT), 0);
    bed.witness_mut().kill();
    fs::remove_file(bed.path().join("witness.state")).expect("the witness has a state");
    bed.witness_mut().restart();
    let check = bed.run(CHECK);
    assert_eq!(check.code, Some(2), "{}", check.stderr);
    assert!(check.stderr.contains("and the tie-breaker is in 0"), "{}", check.stderr);
    let content = fs::read(bed.image(0, "a")).expect("the image is readable");
    fs::write(bed.image(0, "b"), &content).expect("the folder is writable");
    for replica in ["a", "b"] {
        let mut stamp = bed.image(0, replica).into_os_string();
        stamp.push(".ft");
        fs::remove_file(stamp).expect("it was stamped");
    }
    let reader = ["--set", "vm.cmdline=\"mode=randread ops=300 depth=4\""];
    assert_eq!(bed.start_with(&reader).exit_code(LIMIT), 0);
    for replica in ["a", "b"] {
        assert!(fs::read(bed.image(0, replica)).expect("the image is readable") == content, "{replica}");
    }
}
