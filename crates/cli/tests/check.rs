//! `ft-vm check` of a right config: what earlier runs have left behind, told apart, with nothing changed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ft_devices::backend::file::{DiskOptions, FileMedium, Lock};
use ft_devices::backend::quarantine::{Quarantine, QuarantineOwner};
use ft_devices::backend::stamp::{CopyState, Stamp};
use ft_policies::{Answer, Config, ReplicaId, Who};

const SHARED: &str =
    "[[disk]]\npath = \"d.img\"\nsize = \"64 KiB\"\n[tie-breaker.shared-disk]\npath = \"g\"\n";
const SEPARATE: &str = "[[disk]]\npath = \"{replica}.img\"\nsize = \"64 KiB\"\nsharing = \"separate\"\n";
/// Every look has a second, and there are two steps; the rest is a busy machine.
const SOON: Duration = Duration::from_secs(15);

struct Place(tempfile::TempDir);

impl Place {
    fn new(rest: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.rewrite("kv", rest);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn rewrite(&self, name: &str, rest: &str) {
        let text = format!(
            "[vm]\nname = \"{name}\"\nkernel = \"builtin:kv\"\n[replicas]\na = \"127.0.0.1:7001\"\nb = \"127.0.0.1:7002\"\n{rest}"
        );
        fs::write(self.path("pair.toml"), text).unwrap();
    }

    fn config(&self) -> Config {
        Config::load(&self.path("pair.toml"), &[]).unwrap()
    }

    fn win(&self, from: u64) {
        let config = self.config();
        let who = Who { replica: ReplicaId::A, incarnation: from, config: config.digest() };
        let register = config.tie_breaker.build(&config.pair(), ReplicaId::A);
        assert_eq!(register.advance(from, &who), Answer::Won);
    }

    fn pipe(&self, name: &str) {
        let path = std::ffi::CString::new(self.path(name).into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    /// All files, with their content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let content = if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if path.is_dir() {
                    folders.push(path.clone());
                }
                files.push((path, content));
            }
        }
        files.sort();
        files
    }

    /// Checks: this exit code, all of these parts in what it says, and that it changes nothing. What it says after `ok`.
    fn check(&self, code: i32, parts: &[&str]) -> String {
        let before = self.files();
        let begun = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_ft-vm"))
            .args(["check".as_ref(), self.path("pair.toml").as_os_str()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(begun.elapsed() < SOON, "it took {:?}: {said}", begun.elapsed());
        assert_eq!(output.status.code(), Some(code), "{said}");
        let first = format!("{}: ok\n", self.path("pair.toml").display());
        let rest = said.strip_prefix(&first).unwrap_or_else(|| panic!("{said}"));
        for part in parts {
            assert!(rest.contains(part), "{part:?} is not in {said}");
        }
        assert_eq!(rest.contains("error: "), code != 0, "{said}");
        assert!(output.stdout.is_empty());
        assert_eq!(self.files(), before);
        rest.to_owned()
    }
}

#[test]
fn nothing_is_there_yet() {
    let place = Place::new(SHARED);
    let said = place.check(0, &["knows of no generation of kv yet", "d.img is not there yet"]);
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn the_register_of_another_pair_or_config() {
    let place = Place::new(SHARED);
    place.win(0);
    let said = place.check(0, &["is in generation 1, which replica a won under this config"]);
    assert!(!said.contains("warning"), "{said}");
    place.rewrite("kv", &format!("{SHARED}[pacing.none]\n"));
    place.check(0, &["warning: ", "under another config", "both replicas have the same", "(vm.name)"]);
    place.rewrite("other", SHARED);
    let folder = place.path("g").display().to_string();
    place.check(2, &["error: ", "is of `kv`, and this one is `other`", "move the folder", &folder]);
    // What it says to do is right.
    fs::rename(place.path("g"), place.path("old")).unwrap();
    place.check(0, &["knows of no generation of other yet"]);
}

#[test]
fn a_damaged_register() {
    let place = Place::new(SHARED);
    place.win(0);
    let entry = place.path("g").join(format!("generation.{:020}", 1));
    fs::write(&entry, "").unwrap();
    place.check(
        2,
        &["is not an intact generation entry (it is empty)", "begin anew: with both replicas stopped"],
    );
    fs::remove_file(&entry).unwrap();
    place.pipe(&format!("g/generation.{:020}", 1));
    place.check(2, &["it is not a regular file"]);
}

#[test]
fn a_witness_that_is_not_there() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place =
        Place::new(&format!("[tie-breaker.witness]\naddress = \"{}\"\n", silent.local_addr().unwrap()));
    place.check(
        0,
        &["warning: the tie-breaker cannot be reached", "no answer within", "a start waits until it answers"],
    );
    drop(silent);
    place.check(0, &["warning: the tie-breaker cannot be reached"]);
}

/// A witness process; it is killed when this goes.
struct Witness(Child);

impl Witness {
    /// With its address.
    fn start(state: &Path) -> (Self, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ft-vm"));
        command.args(["witness", "--listen", "127.0.0.1:0", "--state"]).arg(state).stderr(Stdio::piped());
        let mut witness = Self(command.spawn().unwrap());
        let mut said = String::new();
        BufReader::new(witness.0.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        let address = said.strip_prefix("ft-vm: witness listens on ").and_then(|rest| rest.split_once(','));
        let address = address.unwrap_or_else(|| panic!("{said}")).0.to_owned();
        (witness, address)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stamps_of_another_generation_or_pair() {
    let state = tempfile::tempdir().unwrap();
    let (_witness, address) = Witness::start(&state.path().join("state"));
    let place = Place::new(&format!("{SEPARATE}[tie-breaker.witness]\naddress = \"{address}\"\n"));
    let stamp = |name: &str, pair: u128, state: CopyState, generation: u64| {
        fs::write(place.path(name), vec![1; 1 << 16]).unwrap();
        Stamp { pair, generation, state, clean: None }.write(&place.path(name)).unwrap();
    };
    let pair = place.config().pair_id();
    (0..3).for_each(|from| place.win(from));
    stamp("a.img", pair, CopyState::Live, 3);
    stamp("b.img", pair, CopyState::Backup, 3);
    let said = place
        .check(0, &["a.img is stamped `live` in generation 3", "b.img is stamped `backup` in generation 3"]);
    assert!(!said.contains("warning"), "{said}");
    stamp("b.img", pair, CopyState::Incomplete, 3);
    place.check(0, &["warning: disk", "b.img is stamped `incomplete`", "start both replicas"]);
    stamp("b.img", pair, CopyState::Live, 4);
    place.check(
        2,
        &[
            "b.img is stamped `live` in generation 4, and the tie-breaker is in 3",
            "remove the .ft files of both",
        ],
    );
    stamp("b.img", pair + 1, CopyState::Live, 1);
    place.check(2, &["b.img belongs to another pair", "remove the .ft files of both"]);
}

#[test]
fn blocks_that_are_kept_apart() {
    let place = Place::new(SHARED);
    (0..2).for_each(|from| place.win(from));
    let disk = place.path("d.img");
    let keep_apart = |generation: u64| {
        let options = DiskOptions {
            path: disk.clone(),
            size: Some(1 << 16),
            create: true,
            read_only: false,
            direct: false,
            lock: Lock::Alone,
        };
        let medium = Arc::new(FileMedium::open(&options).unwrap());
        let pair = place.config().pair_id();
        let owner = QuarantineOwner { pair, generation, replica: ReplicaId::B, incarnation: generation };
        let sectors = 3..5;
        Quarantine::new(medium, Some(&disk)).begin(std::slice::from_ref(&sectors), owner).unwrap();
    };
    keep_apart(2);
    place.check(
        0,
        &[
            "warning: 2 blocks of disk",
            "d.img.quarantine-2 since generation 2",
            "the two files belong together",
        ],
    );
    keep_apart(3);
    place.check(2, &["since generation 3, and the tie-breaker is in 2"]);
}

#[test]
fn pipes_in_the_place_of_files() {
    let place =
        Place::new(&format!("{SEPARATE}[tie-breaker.manual]\npath = \"kv.{{replica}}.generation\"\n"));
    for name in ["kv.a.generation", "a.img", "b.img.ft"] {
        place.pipe(name);
    }
    fs::write(place.path("b.img"), vec![1; 1 << 16]).unwrap();
    place.check(2, &["kv.a.generation is not an intact generation entry", "b.img.ft: is damaged"]);
    let place = Place::new(SHARED);
    place.pipe("d.img");
    place.pipe("d.img.quarantine-1");
    place.check(0, &["warning: disk", "d.img.quarantine-1"]);
}
