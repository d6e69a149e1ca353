//! A witness with keys: what a stranger, a pair with another key and a witness with none can do to each other, which is nothing.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ft_policies::key::{Key, Keys};
use ft_policies::tie_breaker::Witness;
use ft_policies::tie_breaker::witness::wire::{Ask, Reply, Request, Said};
use ft_policies::tie_breaker::witness::{ServeError, Server};
use ft_policies::{Answer, Config, Register, ReplicaId, Who};
use proptest::prelude::*;

use common::{NOBODY, state};

fn a(incarnation: u64) -> Who {
    Who { replica: ReplicaId::A, incarnation, config: 7 }
}

/// The number of the pair of a name.
fn pair(name: &str) -> u128 {
    let text = format!(
        "[vm]\nname='{name}'\nkernel='builtin:cpu'\n[replicas]\na='127.0.0.1:1'\nb='127.0.0.1:2'\n[tie-breaker.shared-disk]\npath='g'\n"
    );
    Config::parse(Path::new("/nowhere/x.toml"), text.as_bytes(), &[]).unwrap().pair_id()
}

/// A witness that knows `every` for every pair and `kv` for the pair of that name.
struct Bed {
    folder: tempfile::TempDir,
    server: Server,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = |name: &str| {
            let path = folder.path().join(name);
            Key::make(&path).unwrap();
            fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let text = format!("{}\n{} kv\n{} db\n", line("every"), line("kv"), line("db"));
        line("stranger");
        let keys = folder.path().join("keys");
        fs::write(&keys, text).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let server = Server::start(
            "127.0.0.1:0".parse().unwrap(),
            &folder.path().join("state"),
            Some(Keys::load(&keys).unwrap()),
            {
                let told = Arc::clone(&told);
                move |line| told.lock().unwrap().push(line.to_owned())
            },
        )
        .unwrap();
        Self { folder, server, told }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn key(&self, name: &str) -> Key {
        Key::load(&self.folder.path().join(name)).unwrap()
    }

    fn register(&self, name: &str, key: Option<&str>) -> Witness {
        Witness::new(self.server.address(), pair(name), key.map(|key| self.key(key)))
    }
}

/// Sends lines, ends the sending side, and gives the lines that come back.
fn send(address: SocketAddr, bytes: &[u8]) -> Vec<Said<Reply>> {
    let mut connection = TcpStream::connect(address).unwrap();
    // The witness may have had enough before it has everything.
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap().lines().map(|line| Reply::decode(line.as_bytes()).unwrap()).collect()
}

#[test]
fn a_key_is_good_for_its_pairs_only() {
    let bed = Bed::new();
    for (name, key, good) in [
        ("kv", "kv", true),
        ("kv", "every", true),
        ("db", "db", true),
        ("other", "every", true),
        ("db", "kv", false),
        ("kv", "db", false),
        ("other", "kv", false),
        ("kv", "stranger", false),
    ] {
        let register = bed.register(name, Some(key));
        let read = register.read();
        assert_eq!(read.is_ok(), good, "{name} with {key}: {read:?}");
        if let Err(error) = read {
            let said = error.to_string();
            for words in [
                "refuses this pair's key: ",
                "--keys file has no such key for this vm.name",
                "start the witness again",
            ] {
                assert!(said.contains(words), "{words}: {said}");
            }
            assert_eq!(register.advance(0, &a(1)), Answer::Unavailable(error));
        }
    }
    assert_eq!(bed.register("kv", Some("kv")).advance(0, &a(1)), Answer::Won);
    assert_eq!(
        bed.register("kv", Some("every")).advance(0, &a(1)),
        Answer::Won,
        "keys may be changed in between"
    );
    assert_eq!(bed.register("db", Some("db")).read(), Ok(NOBODY));
    let told = bed.told.lock().unwrap();
    assert_eq!(told.len(), 1, "strangers fill no log: {told:?}");
    assert!(told[0].starts_with("a request from 127.0.0.1 is denied: "), "{told:?}");
}

#[test]
fn both_have_keys_or_neither() {
    let bed = Bed::new();
    let before = fs::read(bed.state()).unwrap();
    let keyless = bed.register("kv", None);
    let said = keyless.read().unwrap_err().to_string();
    assert!(
        said.contains("it refuses this pair, which has no key: this witness answers only with a key: add "),
        "{said}"
    );
    assert!(matches!(keyless.advance(0, &a(1)), Answer::Unavailable(_)));
    assert_eq!(fs::read(bed.state()).unwrap(), before);

    let state = bed.folder.path().join("other state");
    let server = Server::start("127.0.0.1:0".parse().unwrap(), &state, None, |_| {}).unwrap();
    let keyed = Witness::new(server.address(), pair("kv"), Some(bed.key("kv")));
    let said = keyed.read().unwrap_err().to_string();
    assert!(said.contains("this witness has no keys: start it with --keys FILE"), "{said}");
    assert!(matches!(keyed.advance(0, &a(1)), Answer::Unavailable(_)));
    assert_eq!(Witness::new(server.address(), pair("kv"), None).read(), Ok(NOBODY));
}

#[test]
fn without_keys_only_this_machine_is_listened_to() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.3:7100"] {
        let error = Server::start(address.parse().unwrap(), &state, None, |_| {}).unwrap_err();
        assert!(matches!(error, ServeError::NoKeys { .. }));
        let said = error.to_string();
        for words in [address, "ft-vm key pair.key", "--keys FILE", "[tie-breaker.witness]"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!state.exists());
    }
}

/// A request that is sent again has its answer again, and takes nothing from anybody.
#[test]
fn a_recorded_request_takes_nothing() {
    let bed = Bed::new();
    let (key, kv) = (bed.key("kv"), pair("kv"));
    let request = Request::new(kv, Ask::Advance { from: 0, who: a(1) }).unwrap();
    let tag = request.sign(&key);
    let line = request.encode(Some(tag));
    let signed = |reply: &Said<Reply>| reply.tag.is_some_and(|mine| reply.what.verify(&key, &tag, &mine));
    let replies = send(bed.server.address(), format!("{line}{line}").as_bytes());
    let won = Reply::State { pair: kv, state: state(1, a(1)) };
    assert!(
        replies.len() == 2 && replies.iter().all(|reply| reply.what == won && signed(reply)),
        "{replies:?}"
    );
    let other = Request::new(kv, Ask::Advance { from: 0, who: a(1) }).unwrap();
    assert_ne!(other.sign(&key), tag, "a nonce of its own");
    assert!(!replies[0].what.verify(&key, &other.sign(&key), &replies[0].tag.unwrap()));

    let register = bed.register("kv", Some("kv"));
    assert_eq!(register.advance(1, &a(2)), Answer::Won);
    let replies = send(bed.server.address(), line.as_bytes());
    assert_eq!(replies[0].what, Reply::State { pair: kv, state: state(2, a(2)) });
    assert_eq!(register.read(), Ok(state(2, a(2))));
}

/// Somebody between the pair and its witness, who passes the request on and does what he likes with the answer.
fn between(bed: &Bed, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> Witness {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, witness) = (listener.local_addr().unwrap(), bed.server.address());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(&connection).read_line(&mut line);
            let mut there = TcpStream::connect(witness).unwrap();
            let _ = there.write_all(line.as_bytes());
            let mut answer = Vec::new();
            let _ = BufReader::new(&there).read_until(b'\n', &mut answer);
            let _ = connection.write_all(&change(answer));
        }
    });
    Witness::new(address, pair("kv"), Some(bed.key("kv")))
}

#[test]
fn no_answer_of_anybody_else_is_believed() {
    let bed = Bed::new();
    let kv = pair("kv");
    let forged = move |tag| Reply::State { pair: kv, state: state(1, a(1)) }.encode(tag).into_bytes();
    // The very answer to another request.
    let old = {
        let request = Request::new(kv, Ask::Read).unwrap();
        let line = request.encode(Some(request.sign(&bed.key("kv"))));
        let reply = send(bed.server.address(), line.as_bytes()).remove(0);
        reply.what.encode(reply.tag).into_bytes()
    };
    let stranger = {
        let request = Request::new(kv, Ask::Read).unwrap();
        Reply::State { pair: kv, state: state(1, a(1)) }
            .sign(&bed.key("stranger"), &request.sign(&bed.key("stranger")))
    };
    assert_eq!(between(&bed, |answer| answer).read(), Ok(NOBODY), "who only passes on does no harm");
    for (register, words) in [
        (between(&bed, move |_| forged(None)), "is not signed with this pair's key, and not believed"),
        (between(&bed, move |_| forged(Some(stranger))), "not believed"),
        (between(&bed, move |_| old.clone()), "not believed"),
        (
            between(&bed, |_| Reply::Unavailable("call\u{1b}[31m 555".into()).encode(None).into_bytes()),
            "call\u{fffd}[31m 555 (which is not signed with this pair's key)",
        ),
    ] {
        let said = register.read().unwrap_err().to_string();
        assert!(said.contains(words), "{words}: {said}");
        assert!(matches!(register.advance(0, &a(1)), Answer::Unavailable(_)));
    }
    // The witness did hear those asks: they are won, and found so.
    assert_eq!(bed.register("kv", Some("kv")).advance(0, &a(1)), Answer::Won);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_request_is_carried_out_for_nobody(at: prop::sample::Index, to: u8, from in 0u64..2) {
        let bed = Bed::new();
        let before = fs::read(bed.state()).unwrap();
        let request = Request::new(pair("kv"), Ask::Advance { from, who: a(1) }).unwrap();
        let mut line = request.encode(Some(request.sign(&bed.key("kv")))).into_bytes();
        let at = at.index(line.len() - 1);
        prop_assume!(line[at] != to && to != b'\n');
        line[at] = to;
        for reply in send(bed.server.address(), &line) {
            prop_assert!(matches!(reply.what, Reply::Denied(_) | Reply::Refused(_)), "{:?}", reply);
            prop_assert_eq!(reply.tag, None);
        }
        prop_assert_eq!(fs::read(bed.state()).unwrap(), before);
    }

    #[test]
    fn a_changed_answer_is_not_believed(at: prop::sample::Index, to: u8) {
        let bed = Bed::new();
        let register = between(&bed, move |mut answer| {
            let at = at.index(answer.len() - 1);
            answer[at] = if answer[at] == to { to ^ 1 } else { to };
            answer
        });
        prop_assert!(register.read().is_err());
        prop_assert!(matches!(register.advance(0, &a(1)), Answer::Unavailable(_)));
    }
}
