//! Findings, from files that real registers, stamps and side files have written.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ft_devices::backend::file::{DiskOptions, FileMedium, Holder, Lock};
use ft_devices::backend::quarantine::{Quarantine, QuarantineOwner};
use ft_devices::backend::stamp::{CopyState, Stamp};
use ft_policies::{Answer, Who};

use super::*;
use crate::replica::fold;

const BOTH: [ReplicaId; 2] = [ReplicaId::A, ReplicaId::B];
const LIMIT: Duration = Duration::from_secs(20);
const SHARED: &str = "[[disk]]\npath = \"d.img\"\nsize = \"64 KiB\"\nsharing = \"shared\"\n[tie-breaker.shared-disk]\npath = \"g\"\n";
const SEPARATE: &str = "[[disk]]\npath = \"{replica}.img\"\nsize = \"64 KiB\"\nsharing = \"separate\"\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, name: &str, rest: &str) -> Config {
        self.config_at(name, ["127.0.0.1:7001", "127.0.0.1:7002"], rest)
    }

    fn config_at(&self, name: &str, [a, b]: [&str; 2], rest: &str) -> Config {
        let text = format!(
            "[vm]\nname = \"{name}\"\nkernel = \"builtin:kv\"\n[replicas]\na = \"{a}\"\nb = \"{b}\"\n{rest}"
        );
        Config::parse(&self.path("pair.toml"), text.as_bytes(), &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn pipe(&self, name: &str) {
        let path = std::ffi::CString::new(self.path(name).into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    /// What is there, with everything that a look could change.
    fn listing(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = entries
            .map(|path| (path.clone(), if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() }))
            .collect();
        all.sort();
        all
    }
}

fn win(config: &Config, replica: ReplicaId, from: u64, digest: u128) {
    let register = config.tie_breaker.build(&config.pair(), replica);
    assert_eq!(register.advance(from, &Who { replica, incarnation: from, config: digest }), Answer::Won);
}

fn stamp(config: &Config, path: &Path, state: CopyState, generation: u64) {
    if !path.exists() {
        fs::write(path, [1; 512]).unwrap();
    }
    Stamp { pair: config.pair_id(), generation, state, clean: None }.write(path).unwrap();
}

/// The only finding with this in it.
fn only(findings: &[Finding], part: &str) -> Finding {
    let mut found = findings.iter().filter(|finding| finding.to_string().contains(part));
    let one = found.next().unwrap_or_else(|| panic!("{part:?} is not in {findings:#?}"));
    assert_eq!(found.next(), None, "{findings:#?}");
    one.clone()
}

fn is(finding: &Finding, level: Level, at_start: AtStart) {
    assert_eq!((finding.level, finding.at_start), (level, at_start), "{finding}");
    assert_eq!(
        finding.what.lines().count() + finding.todo.iter().flat_map(|todo| todo.lines()).count(),
        1 + usize::from(finding.todo.is_some())
    );
}

fn at(config: &Config) -> Vec<Finding> {
    look(config, &BOTH, LIMIT)
}

#[test]
fn nothing_is_there_before_the_first_start() {
    let place = Place::new();
    let findings = at(&place.config("kv", SHARED));
    is(&only(&findings, "knows of no generation of kv yet"), Level::Good, AtStart::Silent);
    is(&only(&findings, "d.img is not there yet"), Level::Good, AtStart::Silent);
    assert_eq!((findings.len(), place.listing().len()), (2, 0), "{findings:#?}");
    let two_hosts = place.config_at("kv", ["192.0.2.1:7001", "192.0.2.2:7001"], SHARED);
    assert_eq!(at(&two_hosts).len(), 1, "what is not here may be there");
}

#[test]
fn who_won_under_which_config_is_told() {
    let place = Place::new();
    let config = place.config("kv", SHARED);
    win(&config, ReplicaId::A, 0, config.digest());
    let found = only(&at(&config), "is in generation 1, which replica a won under this config");
    is(&found, Level::Good, AtStart::Silent);
    win(&config, ReplicaId::B, 1, 77);
    let found = only(&at(&config), "is in generation 2, which replica b won under another config");
    is(&found, Level::Warning, AtStart::Say);
    assert!(found.to_string().contains("if another one has the name kv too"), "{found}");
}

#[test]
fn a_register_that_is_not_this_pairs_or_damaged_ends_a_start() {
    let place = Place::new();
    let (config, other) = (place.config("kv", SHARED), place.config("other", SHARED));
    win(&other, ReplicaId::A, 0, 1);
    win(&other, ReplicaId::A, 1, 1);
    let before = place.listing();
    let found = only(&at(&config), "is of `other`, and this one is `kv` (vm.name)");
    is(&found, Level::Error, AtStart::End(2));
    for part in ["begin anew", "with both replicas stopped", &place.path("g").display().to_string()] {
        assert!(found.to_string().contains(part), "{part:?} is not in {found}");
    }
    assert!(!found.to_string().contains(".ft"), "it has no separate disk: {found}");
    assert_eq!(place.listing(), before);
    let entry = |generation: u64| place.path("g").join(format!("generation.{generation:020}"));
    let first = fs::read(entry(1)).unwrap();
    fs::remove_file(entry(1)).unwrap();
    is(&only(&at(&other), "is missing although generation 2 exists"), Level::Error, AtStart::End(1));
    fs::write(entry(1), first).unwrap();
    fs::write(entry(2), "rubbish").unwrap();
    is(&only(&at(&other), "is not an intact generation entry"), Level::Error, AtStart::End(1));
}

#[test]
fn a_register_that_does_not_answer_is_no_error() {
    // Nobody accepts here: the connection is made, and stays silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let rest = format!("[tie-breaker.witness]\naddress = \"{}\"\n", silent.local_addr().unwrap());
    let config = place.config("kv", &rest);
    let begun = Instant::now();
    let findings = look(&config, &BOTH, Duration::from_millis(100));
    is(&only(&findings, "no answer within 100 ms"), Level::Warning, AtStart::Silent);
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(silent);
    is(&only(&at(&config), "cannot be reached"), Level::Warning, AtStart::Silent);
}

#[test]
fn by_hand_each_replica_has_a_register() {
    let place = Place::new();
    let config = place
        .config("kv", &format!("{SEPARATE}[tie-breaker.manual]\npath = \"kv.{{replica}}.generation\"\n"));
    assert_eq!(at(&config).iter().filter(|found| found.what.contains("knows of no generation")).count(), 2);
    win(&config, ReplicaId::A, 0, config.digest());
    win(&config, ReplicaId::B, 4, config.digest());
    stamp(&config, &place.path("b.img"), CopyState::Live, 5);
    stamp(&config, &place.path("a.img"), CopyState::Backup, 6);
    let findings = at(&config);
    is(&only(&findings, "kv.a.generation) is in generation 1"), Level::Good, AtStart::Silent);
    is(&only(&findings, "kv.b.generation) is in generation 5"), Level::Good, AtStart::Silent);
    is(&only(&findings, "a.img is stamped `backup` in generation 6"), Level::Warning, AtStart::Say);
    is(&only(&findings, "b.img is stamped `live` in generation 5"), Level::Good, AtStart::Silent);
    fs::write(place.path("kv.a.generation"), "").unwrap();
    let found = only(&at(&config), "kv.a.generation is not an intact");
    is(&found, Level::Error, AtStart::End(1));
    assert!(found.to_string().contains("remove the .ft files of both"), "{found}");
    // On two hosts the other one's file is elsewhere.
    let two_hosts = place.config_at(
        "far",
        ["192.0.2.1:7001", "192.0.2.2:7001"],
        "[tie-breaker.manual]\npath = \"far.{replica}.generation\"\n",
    );
    assert_eq!(at(&two_hosts), []);
    win(&two_hosts, ReplicaId::B, 0, two_hosts.digest());
    assert_eq!(at(&two_hosts).len(), 1);
    assert_eq!(look(&two_hosts, &[ReplicaId::A], LIMIT).len(), 1, "its own is missed");
}

/// A register in a folder stands in for any other: separate disks have none there.
fn stamped(config: &Config, register: Option<u64>) -> Vec<Finding> {
    disks::look(config, &BOTH, LIMIT).findings(config, register)
}

#[test]
fn stamps_are_compared_with_the_register() {
    let place = Place::new();
    let config = place.config("kv", &format!("{SEPARATE}[tie-breaker.witness]\naddress = \"127.0.0.1:1\"\n"));
    assert_eq!(
        stamped(&config, Some(0)).iter().filter(|found| found.what.ends_with("is not there yet")).count(),
        2
    );
    fs::write(place.path("b.img"), [0; 512]).unwrap();
    is(&only(&stamped(&config, Some(0)), "b.img has no stamp"), Level::Good, AtStart::Silent);
    stamp(&config, &place.path("a.img"), CopyState::Live, 3);
    stamp(&config, &place.path("b.img"), CopyState::Incomplete, 3);
    let findings = stamped(&config, Some(3));
    is(&only(&findings, "a.img is stamped `live` in generation 3"), Level::Good, AtStart::Silent);
    is(&only(&findings, "b.img is stamped `incomplete`"), Level::Warning, AtStart::Say);
    let found = only(
        &stamped(&config, Some(2)),
        "a.img is stamped `live` in generation 3, and the tie-breaker is in 2",
    );
    is(&found, Level::Error, AtStart::Say);
    assert!(found.to_string().contains("remove the .ft files of both"), "{found}");
    // Not known is not behind.
    is(&only(&stamped(&config, None), "a.img is stamped"), Level::Good, AtStart::Silent);
    is(&only(&stamped(&config, Some(9)), "an earlier one"), Level::Good, AtStart::Silent);
}

#[test]
fn a_stamp_that_is_none_of_this_pairs_is_named() {
    let place = Place::new();
    let rest = format!("{SEPARATE}[tie-breaker.witness]\naddress = \"127.0.0.1:1\"\n");
    let (config, other) = (place.config("kv", &rest), place.config("other", &rest));
    stamp(&other, &place.path("a.img"), CopyState::Live, 3);
    is(&only(&stamped(&config, None), "a.img belongs to another pair"), Level::Error, AtStart::Silent);
    fs::write(place.path("a.img.ft"), "rubbish").unwrap();
    is(&only(&stamped(&config, None), "a.img.ft: is damaged"), Level::Error, AtStart::Silent);
    fs::remove_file(place.path("a.img.ft")).unwrap();
    place.pipe("a.img.ft");
    is(&only(&stamped(&config, None), "a.img.ft: is damaged"), Level::Error, AtStart::Silent);
    fs::remove_file(place.path("a.img.ft")).unwrap();
    stamp(&config, &place.path("a.img"), CopyState::Live, 3);
    fs::remove_file(place.path("a.img")).unwrap();
    is(&only(&stamped(&config, Some(3)), "a.img: is gone or empty"), Level::Error, AtStart::Silent);
}

/// Keeps a block of `d.img` apart since `generation`.
fn keep_apart(config: &Config, path: &Path, generation: u64) {
    let medium = FileMedium::open(&options(path, Lock::Member(Holder { pair: 1, incarnation: 1 }))).unwrap();
    let owner = QuarantineOwner { pair: config.pair_id(), generation, replica: ReplicaId::A, incarnation: 1 };
    let sectors = 3..5;
    Quarantine::new(Arc::new(medium), Some(path)).begin(std::slice::from_ref(&sectors), owner).unwrap();
}

fn options(path: &Path, lock: Lock) -> DiskOptions {
    let size = Some(1 << 16);
    DiskOptions { path: path.to_owned(), size, create: true, read_only: false, direct: false, lock }
}

#[test]
fn blocks_that_are_kept_apart_are_told() {
    let place = Place::new();
    let (config, other) = (place.config("kv", SHARED), place.config("other", SHARED));
    let disk = place.path("d.img");
    win(&config, ReplicaId::A, 0, config.digest());
    win(&config, ReplicaId::B, 1, config.digest());
    keep_apart(&config, &disk, 2);
    let before = place.listing();
    let found = only(&at(&config), "2 blocks of disk");
    is(&found, Level::Warning, AtStart::Silent);
    assert!(found.to_string().contains("d.img.quarantine-2 since generation 2"), "{found}");
    is(&only(&stamped(&config, Some(1)), "and the tie-breaker is in 1"), Level::Error, AtStart::Say);
    is(&only(&stamped(&other, None), "for another pair"), Level::Error, AtStart::Silent);
    assert_eq!(place.listing(), before);
    fs::write(place.path("d.img.quarantine-3"), "rubbish").unwrap();
    is(&only(&stamped(&config, Some(2)), "d.img.quarantine-3: is damaged"), Level::Error, AtStart::Silent);
    fs::remove_file(place.path("d.img.quarantine-3")).unwrap();
    place.pipe("d.img.quarantine-4");
    is(&only(&stamped(&config, Some(2)), "d.img.quarantine-4"), Level::Warning, AtStart::Silent);
}

#[test]
fn who_has_a_shared_disk_open_is_told() {
    let place = Place::new();
    let config = place.config("kv", SHARED);
    let disk = place.path("d.img");
    for (lock, part, level) in [
        (Lock::Member(Holder { pair: fold(&config), incarnation: 5 }), "in use by this pair", Level::Good),
        (
            Lock::Member(Holder { pair: fold(&config) ^ 1, incarnation: 5 }),
            "in use by another pair",
            Level::Error,
        ),
        (Lock::Alone, "in use by another machine", Level::Error),
    ] {
        let _open = FileMedium::open(&options(&disk, lock)).unwrap();
        is(&only(&at(&config), part), level, AtStart::Silent);
    }
    assert_eq!(at(&config).len(), 1);
}

#[test]
fn a_look_that_hangs_is_given_up() {
    let place = Place::new();
    place.pipe("pipe");
    let path = place.path("pipe");
    let hanging = path.clone();
    // Opening a pipe for reading waits for a writer.
    let hangs = Look::begin("the pipe".into(), Duration::from_millis(50), move || fs::read(hanging));
    assert_eq!(hangs.end().unwrap_err(), "the pipe: no answer within 50 ms");
    // So that its thread ends.
    let _ = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
}
