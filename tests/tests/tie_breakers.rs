//! Tie-breakers that fail: full, read-only, gone, restored from an old copy. Nobody goes on without an answer, what is said names
//! the cause and what to do, and once the tie-breaker is mended exactly one replica goes on.

use std::fs;
use std::time::Duration;

use ft_e2e::{Bed, DiskPolicy, Guest, Launcher, Reply, STORE, Settings, Status, Store, StoreFault, Takeover};

const LIMIT: Duration = Duration::from_secs(30);
const FAULTS: [(StoreFault, &str, &str); 2] = [
    (StoreFault::Full, "No space left on device", "; make room on that file system"),
    (StoreFault::ReadOnly, "Read-only file system", "; mount that file system for writing again"),
];

/// Who is killed, and who goes on.
const LOSSES: [(&str, &str); 2] = [("a", "b"), ("b", "a")];

fn takeovers(pair: &Launcher) -> Vec<Takeover> {
    pair.stderr.lines().iter().filter_map(|line| Takeover::parse(&line.text, line.at)).collect()
}

fn pid(status: &Status, replica: &str) -> u32 {
    status.replica(replica).unwrap_or_else(|| panic!("no replica {replica} in {}", status.json)).pid
}

/// Waits until the guest answers and there are two.
fn wait_pair(bed: &Bed, pair: &mut Launcher) -> Status {
    let mut client = pair.wait_service(bed.port());
    assert_eq!(client.call(&["SET", "before", "1"]), Ok(Reply::Simple("OK".into())));
    bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2)
}

/// Waits for a line with all of these words.
fn wait_line(pair: &Launcher, words: &[&str]) -> String {
    let wanted = |line: &str| words.iter().all(|word| line.contains(word));
    let line = pair.stderr.wait_for(0, LIMIT, wanted);
    line.unwrap_or_else(|| panic!("nobody said {words:?} within {LIMIT:?}:\n{}", pair.said())).text
}

/// Whoever is left asks, and does not go on.
fn assert_held(bed: &Bed, pair: &Launcher, survivor: &str) {
    let status = bed.wait_status("one replica is left", LIMIT, |status| status.replicas.len() == 1);
    let left =
        status.replica(survivor).unwrap_or_else(|| panic!("{} is not left: {}", survivor, status.json));
    assert!(left.state != "live" && left.state != "alone", "{}\n{}", status.json, pair.said());
    assert_eq!(takeovers(pair).len(), 0, "{}", pair.said());
}

/// Exactly one goes on, and has what was acknowledged.
fn assert_goes_on(bed: &Bed, mut pair: Launcher, survivor: &str) {
    let takeover = pair.wait_takeover(0, LIMIT);
    assert_eq!((takeover.replica.as_str(), takeover.generation), (survivor, 2), "{}", pair.said());
    let mut client = pair.wait_service(bed.port());
    assert_eq!(client.call(&["GET", "before"]), Ok(Reply::Bulk(Some(b"1".to_vec()))), "{}", pair.said());
    let status = bed.wait_status("one replica is live", LIMIT, |status| status.replicas.len() == 1);
    assert_eq!(status.generation, 2, "{}", status.json);
    assert_eq!(takeovers(&pair).len(), 1, "{}", pair.said());
    pair.stop();
    bed.assert_clean();
}

fn lose(bed: &Bed, status: &Status, replica: &str) {
    bed.signal(pid(status, replica), libc::SIGKILL);
}

#[test]
fn a_shared_disk_that_takes_nothing() {
    if !Store::possible() {
        return;
    }
    for (fault, error, remedy) in FAULTS {
        for (victim, survivor) in LOSSES {
            let bed = Bed::new(&Settings::new(Guest::Kv));
            bed.edit("path = \"generation\"", &format!("path = \"{STORE}/generation\""));
            let (mut pair, store) = bed.start_on_store();
            let status = wait_pair(&bed, &mut pair);
            store.fail(fault);
            lose(&bed, &status, victim);
            wait_line(
                &pair,
                &[survivor, "the tie-breaker gives no answer: writing ", error, remedy, "asking again"],
            );
            assert_held(&bed, &pair, survivor);
            store.mend(fault);
            assert_goes_on(&bed, pair, survivor);
        }
    }
}

fn separate() -> Settings {
    Settings { keyed: true, ..Settings::with_disk(Guest::Kv, DiskPolicy::SEPARATE) }
}

#[test]
fn a_witness_whose_disk_takes_nothing() {
    if !Store::possible() {
        return;
    }
    for (fault, error, remedy) in FAULTS {
        for (victim, survivor) in LOSSES {
            let bed = Bed::new(&Settings { witness_on_store: true, ..separate() });
            let mut pair = bed.start();
            let status = wait_pair(&bed, &mut pair);
            let store = bed.witness().store();
            store.fail(fault);
            lose(&bed, &status, victim);
            wait_line(&pair, &[survivor, "the tie-breaker gives no answer: the witness at ", error, remedy]);
            assert_held(&bed, &pair, survivor);
            let told = |line: &str| line.contains("no generation is given away: ") && line.contains(error);
            assert!(
                bed.witness().stderr.wait_for(0, LIMIT, told).is_some(),
                "{}",
                bed.witness().stderr.text()
            );
            store.mend(fault);
            assert_goes_on(&bed, pair, survivor);
        }
    }
}

/// It is gone when it is asked, and comes back while the ask is outstanding.
#[test]
fn a_witness_that_is_away_during_a_takeover() {
    for (victim, survivor) in LOSSES {
        let mut bed = Bed::new(&separate());
        let mut pair = bed.start();
        let status = wait_pair(&bed, &mut pair);
        bed.witness_mut().kill();
        lose(&bed, &status, victim);
        wait_line(
            &pair,
            &[survivor, "the tie-breaker cannot be reached: the witness at ", "is `ft-vm witness` running"],
        );
        assert_held(&bed, &pair, survivor);
        bed.witness_mut().restart();
        assert_goes_on(&bed, pair, survivor);
    }
}

/// Somebody brings an old state back while the pair runs. The live replica notices by itself; nobody takes over from a register
/// that has forgotten what both know; with the right state back it goes on.
#[test]
fn a_witness_that_was_restored_from_an_old_copy() {
    for (victim, survivor) in LOSSES {
        let mut bed = Bed::new(&separate());
        let (state, old) = (bed.witness().state(), bed.path().join("old"));
        fs::copy(&state, &old).unwrap();
        let mut pair = bed.start();
        let status = wait_pair(&bed, &mut pair);
        let latest = bed.path().join("latest");
        bed.witness_mut().kill();
        fs::rename(&state, &latest).unwrap();
        fs::copy(&old, &state).unwrap();
        bed.witness_mut().restart();
        wait_line(
            &pair,
            &["replica a", "is in generation 0, behind this side's 1", "put its latest state back"],
        );
        lose(&bed, &status, victim);
        wait_line(
            &pair,
            &[survivor, "is in generation 0, behind 1", "everything is held back until its latest state is"],
        );
        assert_held(&bed, &pair, survivor);
        bed.witness_mut().kill();
        fs::rename(&latest, &state).unwrap();
        bed.witness_mut().restart();
        assert_goes_on(&bed, pair, survivor);
    }
}

/// A pair whose key the witness does not know does not begin; what it says names no secret.
#[test]
fn a_witness_with_another_key() {
    let bed = Bed::new(&separate());
    let key = bed.path().join("pair.key");
    let (mine, theirs) = (bed.path().join("other.key"), fs::read_to_string(&key).unwrap());
    assert_eq!(bed.run(&["key", "other.key"]).code, Some(0));
    let secret = fs::read_to_string(&mine).unwrap();
    bed.edit("key = \"pair.key\"", "key = \"other.key\"");
    let pair = bed.start();
    wait_line(
        &pair,
        &["the tie-breaker gives no answer: the witness at ", "it refuses this pair's key: ", "--keys file"],
    );
    assert!(!pair.stderr.text().contains(" is primary in "), "{}", pair.said());
    for text in [pair.said(), bed.witness().stderr.text(), format!("{:?}", bed.try_status())] {
        assert!(!text.contains(secret.trim()) && !text.contains(theirs.trim()), "a key is shown");
    }
    pair.stop();
    // The key is right at once, and open to everybody.
    bed.edit("key = \"other.key\"", "key = \"pair.key\"");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for arguments in [&["check", "pair.toml"][..], &["--config", "pair.toml"]] {
        let run = bed.run(arguments);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains("open to others") && run.stderr.contains("chmod 600"), "{}", run.stderr);
    }
    bed.assert_clean();
}
