//! `ft-vm witness` as a process: what it says, how it ends, and that no kill takes back what it told.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ft_policies::Key;
use ft_policies::{Answer, Pair, Register, RegisterState, ReplicaId, TieBreakerKind, Who};

const PAIR: u128 = 77;

/// A witness process; it is killed when this goes.
struct Witness {
    child: Child,
    address: SocketAddr,
    /// Its first line.
    said: String,
}

impl Witness {
    /// Kills it with signal 9.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(address: &str, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ft-vm"));
    command.args(["witness", "--listen", address, "--state"]).arg(state).stderr(Stdio::piped());
    command
}

/// Starts one; the line that it says instead of listening, where it does not.
fn try_start(address: &str, state: &Path) -> Result<Witness, String> {
    let mut child = command(address, state).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said
        .strip_prefix("ft-vm: witness listens on ")
        .and_then(|rest| rest.split_once(','))
        .and_then(|(address, _)| address.parse().ok());
    match address {
        Some(address) => Ok(Witness { child, address, said }),
        None => {
            assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
            Err(said)
        }
    }
}

fn start(address: &str, state: &Path) -> Witness {
    loop {
        match try_start(address, state) {
            Ok(witness) => break witness,
            // Its port may be the other end of a connection just now.
            Err(said) => assert!(said.contains("cannot listen"), "{said}"),
        }
    }
}

/// Ends the askers, also where the test fails.
struct Ending<'e>(&'e AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn register(address: SocketAddr) -> Box<dyn Register + Send + Sync> {
    let pair = Pair { id: PAIR, name: "kv".to_owned() };
    TieBreakerKind::Witness { address, key: None }.build(&pair, ReplicaId::A)
}

fn who(incarnation: u64) -> Who {
    Who { replica: ReplicaId::A, incarnation, config: 0 }
}

fn state(generation: u64, holder: Who) -> RegisterState {
    RegisterState { generation, holder: Some(holder) }
}

#[test]
fn a_witness_says_where_it_is_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    for (signal, pairs) in [(libc::SIGTERM, "0 pairs"), (libc::SIGINT, "1 pair")] {
        let mut witness = start("127.0.0.1:0", &path);
        let place = path.canonicalize().unwrap();
        let line = format!(
            "ft-vm: witness listens on {}, state in {}, {pairs}, no keys: anyone on this machine may ask\n",
            witness.address,
            place.display()
        );
        assert_eq!(witness.said, line);
        assert_eq!(register(witness.address).advance(0, &who(1)), Answer::Won);
        // SAFETY: the process is a child of this one that nobody has waited for yet.
        unsafe { libc::kill(witness.child.id().try_into().unwrap(), signal) };
        assert_eq!(witness.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn what_it_cannot_serve_it_says_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let first = start("127.0.0.1:0", &path);
    let refused = |address: &str, path: &Path| {
        try_start(address, path).map(|witness| witness.said.clone()).unwrap_err()
    };
    let said = refused("127.0.0.1:0", &path);
    assert!(said.contains("in use by another witness"), "{said}");
    let said = refused(&first.address.to_string(), &folder.path().join("another"));
    assert!(said.contains(&format!("cannot listen on {}", first.address)), "{said}");
    let damaged = folder.path().join("damaged");
    std::fs::write(&damaged, "ft-vm witness 2\n").unwrap();
    let said = refused("127.0.0.1:0", &damaged);
    assert!(said.contains("not an intact state of a witness"), "{said}");
    let said = refused("127.0.0.1:0", Path::new("/nowhere/at/all"));
    assert!(said.contains("finding the folder /nowhere/at"), "{said}");
}

#[test]
fn a_key_is_what_lets_others_in() {
    let folder = tempfile::tempdir().unwrap();
    let ft_vm = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_ft-vm"))
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    let (code, said) = ft_vm(&["key", "pair.key"]);
    assert_eq!(code, Some(0), "{said}");
    let secret = std::fs::read_to_string(folder.path().join("pair.key")).unwrap();
    let silent = |said: &str| assert!(!said.contains(&secret.trim()[..16]), "a key is shown: {said}");
    silent(&said);
    let (code, said) = ft_vm(&["key", "pair.key"]);
    assert!(code == Some(1) && said.contains("never overwritten"), "{code:?} {said}");
    assert_eq!(std::fs::read_to_string(folder.path().join("pair.key")).unwrap(), secret);

    let (code, said) = ft_vm(&["witness", "--listen", "0.0.0.0:0", "--state", "state"]);
    assert!(code == Some(2) && said.contains("cannot listen on 0.0.0.0:0 without keys"), "{code:?} {said}");
    for (keys, words) in [
        ("none.keys", "opening none.keys: No such file"),
        ("open.keys", "chmod 600 open.keys"),
        ("bad.keys", "bad.keys, line 2: a key is 64"),
    ] {
        if keys != "none.keys" {
            let path = folder.path().join(keys);
            std::fs::write(&path, format!("# a\nx{secret}")).unwrap();
            let mode = if keys == "open.keys" { 0o644 } else { 0o600 };
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let (code, said) = ft_vm(&["witness", "--listen", "127.0.0.1:0", "--state", "state", "--keys", keys]);
        assert!(code == Some(2) && said.contains(words), "{words}: {code:?} {said}");
        silent(&said);
    }

    let mut command = command("0.0.0.0:0", &folder.path().join("state"));
    let mut child = command.arg("--keys").arg(folder.path().join("pair.key")).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let witness = Witness {
        address: said
            .split_once("0.0.0.0:")
            .unwrap()
            .1
            .split_once(',')
            .unwrap()
            .0
            .parse()
            .map(local)
            .unwrap(),
        child,
        said,
    };
    assert!(witness.said.ends_with("0 pairs, 1 key\n"), "{}", witness.said);
    silent(&witness.said);
    let key = Key::load(&folder.path().join("pair.key")).unwrap();
    let pair = Pair { id: PAIR, name: "kv".to_owned() };
    let keyed =
        TieBreakerKind::Witness { address: witness.address, key: Some(key) }.build(&pair, ReplicaId::A);
    assert_eq!(keyed.advance(0, &who(1)), Answer::Won);
    let said = register(witness.address).read().unwrap_err().to_string();
    assert!(said.contains("this witness answers only with a key"), "{said}");
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Several askers for one generation after the other while the witness is killed again and again. Nobody is told of a win that
/// another one has, and what was told stays true.
#[test]
fn no_kill_takes_back_what_was_told() {
    const KILLS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut witness = start("127.0.0.1:0", &path);
    let address = witness.address;
    let (winners, ended) = (Mutex::new(BTreeMap::<u64, Who>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let askers = [0, 1, 2, 3].map(|asker| {
            let (winners, ended) = (&winners, &ended);
            scope.spawn(move || {
                let register = register(address);
                let (mut known, mut incarnation) = (0, asker);
                while !ended.load(Ordering::Relaxed) {
                    let me = who(incarnation);
                    match register.advance(known, &me) {
                        Answer::Won => {
                            let before = winners.lock().unwrap().insert(known + 1, me);
                            assert_eq!(before, None, "generation {} was won twice", known + 1);
                            known += 1;
                            // The next one is another process's.
                            incarnation += 4;
                        }
                        Answer::Lost(state) => {
                            assert!(state.generation > known);
                            known = state.generation;
                        }
                        Answer::Behind(state) => panic!("{state:?} was told after generation {known}"),
                        // The ask stays outstanding, for the same incarnation.
                        Answer::Unavailable(_) => std::thread::yield_now(),
                    }
                }
            })
        });
        let _ending = Ending(&ended);
        for kill in 0..KILLS {
            // A kill in the middle of something, and not before anything happened.
            while winners.lock().unwrap().len() < (kill + 1) * 5 {
                assert!(askers.iter().all(|asker| !asker.is_finished()), "an asker has failed");
                std::thread::yield_now();
            }
            witness.kill();
            witness = start(&address.to_string(), &path);
        }
    });
    let register = register(address);
    let last = register.read().unwrap();
    for (generation, winner) in winners.into_inner().unwrap() {
        assert!(generation <= last.generation, "generation {generation} was told and is gone");
        let expected = if generation == last.generation { Answer::Won } else { Answer::Lost(last) };
        assert_eq!(register.advance(generation - 1, &winner), expected);
    }
    assert_eq!(register.advance(last.generation, &who(u64::MAX)), Answer::Won);
    assert_eq!(register.read(), Ok(state(last.generation + 1, who(u64::MAX))));
}
