//! The witness: what its state file survives, what it tells apart, and what strangers on the network can do to it. What it has
//! in common with other registers is in `registers.rs`.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ft_policies::tie_breaker::Witness;
use ft_policies::tie_breaker::witness::server::MAX_CONNECTIONS;
use ft_policies::tie_breaker::witness::store::StoreError;
use ft_policies::tie_breaker::witness::wire::{Ask, MAX_LINE, Reply, Request, Said};
use ft_policies::tie_breaker::witness::{ServeError, Server};
use ft_policies::{Answer, Register, RegisterState, Unavailable};
use proptest::prelude::*;

use common::{NOBODY, a, b, state};

const PAIR: u128 = 0x1234;

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn serve(path: &Path) -> Server {
    Server::start(any_port(), path, None, |_| {}).unwrap()
}

fn refused(path: &Path) -> StoreError {
    match Server::start(any_port(), path, None, |_| {}) {
        Err(ServeError::Store(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} is served", path.display()),
    }
}

fn bed() -> (tempfile::TempDir, PathBuf, Server, Witness) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let server = serve(&path);
    let register = Witness::new(server.address(), PAIR, None);
    (folder, path, server, register)
}

#[test]
fn many_pairs_do_not_know_of_each_other() {
    let (_folder, path, server, _) = bed();
    let registers: Vec<_> = (0..20).map(|pair| Witness::new(server.address(), pair << 100, None)).collect();
    for (number, register) in registers.iter().enumerate() {
        for generation in 0..number as u64 {
            assert_eq!(register.advance(generation, &a(generation)), Answer::Won);
        }
    }
    drop(server);
    let server = serve(&path);
    assert_eq!(server.pairs(), 19, "one has no generation yet");
    for number in 0..20u64 {
        let register = Witness::new(server.address(), u128::from(number) << 100, None);
        let holder = number.checked_sub(1).map(a);
        assert_eq!(register.read(), Ok(RegisterState { generation: number, holder }));
    }
}

#[test]
fn a_person_can_read_the_state() {
    let (_folder, path, _server, register) = bed();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    assert_eq!(register.advance(1, &b(0xbeef)), Answer::Won);
    let text = fs::read_to_string(path).unwrap();
    let line =
        "pair 00000000000000000000000000001234 generation 2 replica b incarnation 000000000000beef config ";
    assert!(text.contains(line), "{text}");
}

#[test]
fn one_state_has_one_witness() {
    let (folder, path, server, register) = bed();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link, &folder.path().join("./state")] {
        let error = refused(name);
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("in use by another witness"), "{error}");
    }
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    drop(server);
    // By way of the link, which stays one.
    let server = serve(&link);
    assert_eq!(Witness::new(server.address(), PAIR, None).advance(1, &b(2)), Answer::Won);
    drop(server);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(Witness::new(serve(&path).address(), PAIR, None).read(), Ok(state(2, b(2))));
}

#[test]
fn nothing_is_served_from_a_damaged_state() {
    let (folder, path, server, register) = bed();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    drop(server);
    let whole = fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    for (bytes, what) in [
        (Vec::new(), "it is empty"),
        (whole[..whole.len() - 1].to_vec(), "checksum"),
        (vec![0xff; 100], "not text"),
        (b"generation 7".to_vec(), "does not begin"),
        (text.replace("witness 2", "witness 3").into_bytes(), "another version"),
        (text.replace("generation 1", "generation 7").into_bytes(), "checksum"),
        (text.replace("generation 1", "generation 0").into_bytes(), "line 4 is unreadable"),
        (text.replace("replica a", "replica c").into_bytes(), "line 4 is unreadable"),
        (vec![b'x'; 24 << 20], "too long"),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = refused(&path);
        let said = error.to_string();
        assert!(matches!(error, StoreError::Damaged { .. }) && said.contains(what), "{what}: {said}");
        assert!(said.contains("state is not an intact state of a witness"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused(&path).to_string().contains("not a regular file"));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    assert_eq!(
        Witness::new(serve(&path).address(), PAIR, None).read(),
        Ok(state(1, a(1))),
        "and no lock stays"
    );
    assert!(refused(&folder.path().join("no/such/folder/state")).to_string().contains("finding the folder"));
    assert!(refused(Path::new("/")).to_string().contains("not a regular file"));
}

#[test]
fn an_older_copy_of_the_state_is_behind() {
    let (folder, path, server, register) = bed();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(register.advance(1, &b(2)), Answer::Won);
    assert_eq!(register.advance(2, &a(3)), Answer::Won);
    drop(server);
    fs::rename(&copy, &path).unwrap();
    let server = serve(&path);
    let register = Witness::new(server.address(), PAIR, None);
    assert_eq!(register.advance(3, &a(3)), Answer::Behind(state(1, a(1))));
    assert_eq!(
        register.read(),
        Ok(state(1, a(1))),
        "what was asked for by one who knows better is not made up"
    );
}

/// A file system that takes nothing (full, read-only): nothing is won, nothing changes, and everybody is told why.
#[test]
fn a_state_that_cannot_be_written_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let told = Arc::new(Mutex::new(Vec::new()));
    let server = Server::start(any_port(), &path, None, {
        let told = Arc::clone(&told);
        move |reason| told.lock().unwrap().push(reason.to_owned())
    })
    .unwrap();
    let register = Witness::new(server.address(), PAIR, None);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    let before = fs::read(&path).unwrap();
    // Where the new state would be written there is something else.
    let obstacle = folder.path().join(format!("state.tmp.{}", std::process::id()));
    fs::create_dir(&obstacle).unwrap();
    for _ in 0..3 {
        let Answer::Unavailable(error) = register.advance(1, &b(2)) else { panic!("no state was written") };
        let said = error.to_string();
        for word in ["the witness at 127.0.0.1:", "making ", "state.tmp.", "directory"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(matches!(error, Unavailable::Witness { .. }));
        assert_eq!(register.read(), Ok(state(1, a(1))), "reading goes on");
        assert_eq!(register.advance(0, &a(1)), Answer::Won, "and so does what needs no change");
    }
    assert_eq!(told.lock().unwrap().len(), 1, "the same reason is told once: {told:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(register.advance(1, &a(9)), Answer::Won, "nobody had won it");
}

#[test]
fn what_a_killed_witness_was_writing_is_removed() {
    let (folder, path, server, register) = bed();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    drop(server);
    fs::write(folder.path().join("state.tmp.7"), "ft-vm wit").unwrap();
    for other in ["state.tmp", "state.tmp.x", "other.tmp.7", "state.tmp.7.old"] {
        fs::write(folder.path().join(other), "not mine").unwrap();
    }
    let server = serve(&path);
    assert_eq!(Witness::new(server.address(), PAIR, None).read(), Ok(state(1, a(1))));
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["other.tmp.7", "state", "state.lock", "state.tmp", "state.tmp.7.old", "state.tmp.x"]);
}

/// Sends bytes, ends the sending side, and gives whatever comes back.
fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(address).unwrap();
    // The witness may have had enough before it has everything.
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    answer
}

#[test]
fn one_connection_may_ask_many_times() {
    let (_folder, _path, server, _) = bed();
    let ask = |ask| Request::new(PAIR, ask).unwrap().encode(None);
    let lines =
        [ask(Ask::Read), ask(Ask::Advance { from: 0, who: a(1) }), ask(Ask::Advance { from: 1, who: b(1) })]
            .concat();
    let answers = String::from_utf8(send(server.address(), lines.as_bytes())).unwrap();
    let answers: Vec<_> = answers.lines().map(|line| Reply::decode(line.as_bytes()).unwrap().what).collect();
    let says = |state| Reply::State { pair: PAIR, state };
    assert_eq!(answers, [says(NOBODY), says(state(1, a(1))), says(state(2, b(1)))]);
}

#[test]
fn rubbish_is_refused_and_ends_the_connection() {
    let (_folder, _path, server, register) = bed();
    let good = Request::new(PAIR, Ask::Advance { from: 0, who: a(1) }).unwrap().encode(None);
    for (line, word) in [
        ("\n".to_owned(), "not a request"),
        ("GET / HTTP/1.1\r\n".into(), "not a request"),
        ("{\"version\":9}\n".into(), "version 9"),
    ] {
        let answer = send(server.address(), format!("{line}{good}").as_bytes());
        let line = answer.strip_suffix(b"\n").unwrap_or(&answer);
        let Ok(Said { what: Reply::Refused(reason), .. }) = Reply::decode(line) else { panic!("{answer:?}") };
        assert!(reason.contains(word), "{reason}");
    }
    // Half a request is none.
    assert_eq!(send(server.address(), &good.as_bytes()[..good.len() - 1]), b"");
    assert_eq!(send(server.address(), b""), b"");
    // More than a line may have; the answer may be lost when the connection is closed before all was read.
    send(server.address(), &vec![b'x'; 1 << 20]);
    let exactly = send(server.address(), &vec![b'x'; MAX_LINE]);
    assert!(
        matches!(Reply::decode(&exactly), Ok(Said { what: Reply::Refused(reason), .. }) if reason.contains("more than 4096"))
    );
    assert_eq!(register.read(), Ok(NOBODY), "and nothing has happened");
}

#[test]
fn connections_are_few_and_silent_ones_end() {
    let (_folder, _path, server, register) = bed();
    let mut silent: Vec<_> =
        (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let said = loop {
        match register.read() {
            Err(error) => break error.to_string(),
            // The others are still on their way to their threads.
            Ok(_) => std::thread::yield_now(),
        }
    };
    assert!(said.contains("64 connections already") || said.contains("closed the connection"), "{said}");
    // One that ends makes room.
    drop(silent.pop());
    while register.read().is_err() {
        std::thread::yield_now();
    }
    // One that says nothing, or never ends its line, is closed from the other side.
    silent[0].write_all(b"{\"version\":").unwrap();
    for mut connection in silent {
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
}

/// Somebody who listens at the witness's address and is none.
fn impostor(answer: impl Fn(TcpStream) + Send + 'static) -> Witness {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            answer(connection.unwrap());
        }
    });
    Witness::new(address, PAIR, None)
}

fn after_the_request(reply: impl Fn() -> Vec<u8> + Send + 'static) -> Witness {
    impostor(move |mut connection| {
        let mut line = String::new();
        let _ = BufReader::new(&connection).read_line(&mut line);
        let _ = connection.write_all(&reply());
    })
}

#[test]
fn what_is_no_witness_is_unavailable() {
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let nobody = Witness::new("127.0.0.1:1".parse().unwrap(), PAIR, None);
    let says = |reply: Reply| after_the_request(move || reply.encode(None).into_bytes());
    for (register, words) in [
        (nobody, "connecting: "),
        (
            impostor(move |connection| open.lock().unwrap().push(connection)),
            "waiting for the answer: no answer within 800 ms",
        ),
        (impostor(drop), "waiting for the answer: "),
        (after_the_request(|| b"HTTP/1.1 400 Bad Request\r\n".to_vec()), "its answer is not understood"),
        (after_the_request(|| b"{\"version\":2}\n".to_vec()), "it speaks version 2"),
        (after_the_request(|| vec![b'x'; 1 << 20]), "more than 4096 bytes"),
        (after_the_request(|| vec![b'x'; 100]), "it closed the connection"),
        (
            says(Reply::State { pair: 7, state: NOBODY }),
            "it answered for pair 00000000000000000000000000000007",
        ),
        (says(Reply::Unavailable("no room".into())), ": no room"),
        (says(Reply::Refused("what?".into())), "it does not understand the request: what?"),
    ] {
        let error = register.read().unwrap_err();
        let said = error.to_string();
        assert!(said.contains(words) && said.contains("the witness at 127.0.0.1:"), "{words}: {said}");
        let Answer::Unavailable(error) = register.advance(0, &a(1)) else { panic!("{words}") };
        assert!(error.to_string().contains("the tie-breaker"), "{error}");
    }
    let stuck = says(Reply::State { pair: PAIR, state: state(3, a(1)) });
    let Answer::Unavailable(error) = stuck.advance(3, &a(1)) else { panic!("an ask always goes on") };
    assert!(error.to_string().contains("stands at generation 3 still"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_leave_the_witness_as_it_was(
        bytes in prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'{')], 0..6000)
    ) {
        let (_folder, path, server, register) = bed();
        assert_eq!(register.advance(0, &a(1)), Answer::Won);
        let before = fs::read(&path).unwrap();
        send(server.address(), &bytes);
        prop_assert_eq!(register.read(), Ok(state(1, a(1))));
        prop_assert_eq!(fs::read(&path).unwrap(), before);
    }
}
