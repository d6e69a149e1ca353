//! The register in a real etcd: members that end, hang and come back, a store that was restored from an old copy, and what is
//! no etcd. What it has in common with the other registers is in `registers.rs`.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ft_e2e::{Etcd, can_run_etcd};
use ft_policies::{Answer, Pair, Register, RegisterState, ReplicaId, TieBreakerKind, Unavailable, Who};

use common::{NOBODY, a, b, state};

/// How long a cluster may take to be one again after a member was lost or has come back.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a call may take: less than the second that a replica gives it, and something for a busy machine.
const CALL: Duration = Duration::from_millis(2500);
const PREFIX: &str = "/ft-vm/";

fn register(endpoints: Vec<SocketAddr>) -> Box<dyn Register + Send + Sync> {
    let pair = Pair { id: 0x1234, name: "kv".to_owned() };
    TieBreakerKind::Etcd { endpoints, prefix: PREFIX.to_owned(), tls: None }.build(&pair, ReplicaId::A)
}

/// Calls until the answer is not "unavailable".
fn advance(register: &dyn Register, from: u64, who: &Who) -> Answer {
    let until = Instant::now() + LIMIT;
    loop {
        match register.advance(from, who) {
            Answer::Unavailable(error) => assert!(Instant::now() < until, "{error}"),
            answer => return answer,
        }
    }
}

fn read(register: &dyn Register) -> RegisterState {
    let until = Instant::now() + LIMIT;
    loop {
        match register.read() {
            Ok(state) => return state,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

/// Does something to the key that is not the register's own business.
fn by_hand(etcd: &Etcd, path: &str, value: Option<&str>) {
    let mut body = serde_json::json!({ "key": BASE64.encode(KEY) });
    if let Some(value) = value {
        body["value"] = BASE64.encode(value).into();
    }
    let body = body.to_string();
    let mut stream = TcpStream::connect(etcd.endpoints()[0]).unwrap();
    write!(
        stream,
        "POST /v3/kv/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let answer = answer(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

const KEY: &str = "/ft-vm/00000000000000000000000000001234/generation";

/// Askers in several threads, each for the generation after the last one it knows, while members are killed and come back.
/// Nothing is won twice, and no win is lost.
#[test]
fn of_three_members_any_may_go() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(folder.path(), 3);
    let over = AtomicBool::new(false);
    let mut wins: Vec<(u64, Who)> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4u64)
            .map(|number| {
                let (etcd, over) = (etcd.endpoints(), &over);
                scope.spawn(move || {
                    let me = if number % 2 == 0 { a(number) } else { b(number) };
                    let (register, mut from, mut wins) = (register(etcd), 0, Vec::new());
                    while !over.load(Ordering::Relaxed) {
                        match register.advance(from, &me) {
                            Answer::Won => {
                                wins.push((from + 1, me));
                                from += 1;
                            }
                            Answer::Lost(state) => from = state.generation,
                            Answer::Behind(state) => panic!("behind {from}: {state:?}"),
                            Answer::Unavailable(_) => {}
                        }
                    }
                    wins
                })
            })
            .collect();
        // Nothing in here may panic before the askers are told that it is over.
        let gone_on = (0..3).all(|member| {
            let others: Vec<_> =
                etcd.endpoints().into_iter().enumerate().filter(|(other, _)| *other != member).collect();
            let register = register(others.into_iter().map(|(_, address)| address).collect());
            etcd.kill(member);
            let (before, until) = (register.read(), Instant::now() + LIMIT);
            let known = before.map_or(0, |state| state.generation);
            let gone_on = loop {
                match register.read() {
                    Ok(state) if state.generation > known + 5 => break true,
                    _ if Instant::now() > until => break false,
                    _ => {}
                }
            };
            etcd.restart(member);
            etcd.wait_ready(member);
            gone_on
        });
        over.store(true, Ordering::Relaxed);
        assert!(gone_on, "two members of three do not go on");
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect()
    });
    let last = read(&*register(etcd.endpoints()));
    wins.sort_unstable_by_key(|(generation, _)| *generation);
    assert!(wins.windows(2).all(|pair| pair[0].0 < pair[1].0), "won twice: {wins:?}");
    let (generation, winner) = *wins.last().unwrap();
    // The last win's answer may not have come.
    assert!(last.generation >= generation, "{last:?} is behind {generation}");
    assert!(last.generation > generation || last.holder == Some(winner), "{last:?}, {winner:?}");
}

/// One that hangs costs a part of a call's time once; afterwards another one is asked first.
#[test]
fn a_member_that_hangs_is_passed_over() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 3);
    let register = register(etcd.endpoints());
    assert_eq!(advance(&*register, 0, &a(1)), Answer::Won);
    etcd.freeze(0);
    assert_eq!(advance(&*register, 1, &b(1)), Answer::Won);
    assert_eq!(advance(&*register, 1, &a(1)), Answer::Lost(state(2, b(1))));
    etcd.thaw(0);
    assert_eq!(advance(&*register, 2, &a(1)), Answer::Won);
    assert_eq!(read(&*register), state(3, a(1)));
}

/// One member of three gives nothing away: it cannot know what the others did. What was asked meanwhile is decided later, once.
#[test]
fn without_a_majority_nothing_is_given() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(folder.path(), 3);
    let register = register(etcd.endpoints());
    assert_eq!(advance(&*register, 0, &a(1)), Answer::Won);
    etcd.kill(0);
    etcd.kill(1);
    for me in [a(1), b(1), a(1), b(1)] {
        let began = Instant::now();
        let Answer::Unavailable(error) = register.advance(1, &me) else { panic!("one member decided") };
        assert!(began.elapsed() < CALL, "{:?}", began.elapsed());
        let said = error.to_string();
        let endpoints = etcd.endpoints();
        for word in
            ["the tie-breaker cannot be reached: etcd: ", "reading the generation", "Connection refused"]
        {
            assert!(said.contains(word), "{said}");
        }
        for endpoint in endpoints {
            assert!(said.contains(&endpoint.to_string()), "{said}");
        }
    }
    assert!(register.read().is_err());
    etcd.restart(0);
    etcd.wait_ready(0);
    let (one, other) = (advance(&*register, 1, &a(1)), advance(&*register, 1, &b(1)));
    assert_eq!((one, other), (Answer::Won, Answer::Lost(state(2, a(1)))));
}

/// A transaction whose answer did not come, and was carried out: the same asker has won, whomever it asks next; another one
/// has not.
#[test]
fn an_answer_that_is_lost_is_found_again() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1);
    let real = etcd.endpoints()[0];
    // Passes on everything, and nothing back after the first answer of each connection: that one is of the read.
    let deaf = serve(move |mut client| {
        let mut upstream = TcpStream::connect(real).unwrap();
        for turn in 0..2 {
            let Some(request) = request(&mut client) else { return };
            upstream.write_all(&request).unwrap();
            let answer = answer(&mut upstream);
            if turn == 0 {
                client.write_all(&answer).unwrap();
            }
        }
        let _ = client.read(&mut [0]);
    });
    let through = register(vec![deaf]);
    let Answer::Unavailable(error) = through.advance(0, &a(1)) else { panic!("nothing was answered") };
    assert!(error.to_string().contains("asking for the next generation: no answer within"), "{error}");
    let direct = register(vec![real]);
    assert_eq!(direct.read(), Ok(state(1, a(1))), "it was carried out");
    assert_eq!(through.advance(0, &a(1)), Answer::Won);
    assert_eq!(through.advance(0, &a(2)), Answer::Lost(state(1, a(1))));
    // In one call: the first endpoint loses the answer, the second one is asked again.
    assert_eq!(register(vec![deaf, real]).advance(1, &b(5)), Answer::Won);
    assert_eq!(direct.read(), Ok(state(2, b(5))));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}

/// A store that was restored from an old copy is behind what the winners know, and says so; it gives nothing away twice to
/// whoever knows better.
#[test]
fn a_restored_store_is_behind() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(folder.path(), 1);
    let register = register(etcd.endpoints());
    assert_eq!(advance(&*register, 0, &a(1)), Answer::Won);
    etcd.kill(0);
    let old = folder.path().join("old");
    copy(etcd.data(0), &old);
    etcd.restart(0);
    etcd.wait_ready(0);
    assert_eq!(advance(&*register, 1, &b(1)), Answer::Won);
    etcd.kill(0);
    std::fs::remove_dir_all(etcd.data(0)).unwrap();
    copy(&old, etcd.data(0));
    etcd.restart(0);
    etcd.wait_ready(0);
    assert_eq!(register.read(), Ok(state(1, a(1))));
    assert_eq!(register.advance(2, &a(1)), Answer::Behind(state(1, a(1))));
    assert_eq!(register.advance(2, &b(1)), Answer::Behind(state(1, a(1))));
    // An empty one, too.
    etcd.kill(0);
    std::fs::remove_dir_all(etcd.data(0)).unwrap();
    etcd.restart(0);
    etcd.wait_ready(0);
    assert_eq!(register.advance(1, &a(1)), Answer::Behind(NOBODY));
}

/// What somebody else wrote to the key, or took away from it.
#[test]
fn what_is_no_entry_is_told() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1);
    let register = register(etcd.endpoints());
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    let foreign = Pair { id: 0x77, name: "other".to_owned() };
    let endpoints = etcd.endpoints();
    let others = TieBreakerKind::Etcd { endpoints, prefix: PREFIX.to_owned(), tls: None }
        .build(&foreign, ReplicaId::A);
    assert_eq!(others.read(), Ok(NOBODY), "each pair has a key of its own");
    assert_eq!(others.advance(0, &b(1)), Answer::Won);
    assert_eq!(register.read(), Ok(state(1, a(1))));

    let check = |words: &str| {
        let error = register.read().unwrap_err();
        assert!(matches!(error, Unavailable::EtcdKey { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(words) && said.contains(KEY), "{words}: {said}");
        assert_eq!(register.advance(1, &a(1)), Answer::Unavailable(error));
    };
    by_hand(&etcd, "put", Some("hello"));
    check("it does not begin as one");
    by_hand(&etcd, "put", Some(""));
    check("it is empty");
    let entry = "ft-vm generation 2\npair = 00000000000000000000000000000077\nname = other\ngeneration = 1\nreplica = \
                 b\nincarnation = 0000000000000001\nconfig = 00000000000000000000000000000000\n";
    let entry = format!("{entry}crc = {:08x}\n", crc32fast::hash(entry.as_bytes()));
    by_hand(&etcd, "put", Some(&entry));
    check("it is the entry of pair 00000000000000000000000000000077 (`other`)");
    by_hand(&etcd, "deleterange", None);
    assert_eq!(register.advance(1, &a(1)), Answer::Behind(NOBODY));
}

/// Somebody who listens and is no etcd: what each connection gets is up to `each`.
fn serve(each: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let each = std::sync::Arc::new(each);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let each = std::sync::Arc::clone(&each);
            std::thread::spawn(move || each(connection.unwrap()));
        }
    });
    address
}

/// One message of HTTP with a length, whole; `None` at the end.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.split_once("content-length:").map(|(_, tail)| tail.lines().next().unwrap().trim());
            let length: usize = length.expect("a message with its length").parse().unwrap();
            if body.len() >= length {
                return Some(bytes);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    message(stream)
}

fn answer(stream: &mut TcpStream) -> Vec<u8> {
    message(stream).expect("an answer of the etcd")
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers every request with this, and keeps the connection.
fn says(reply: String) -> SocketAddr {
    serve(move |mut client| {
        while request(&mut client).is_some() {
            if client.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Sends this again and again after the first request, without an end.
fn endless(begin: &'static str, piece: &'static [u8], pause: Duration) -> SocketAddr {
    serve(move |mut client| {
        if request(&mut client).is_none() || client.write_all(begin.as_bytes()).is_err() {
            return;
        }
        while client.write_all(piece).is_ok() {
            // The pace of a slow sender is what this is about.
            std::thread::sleep(pause);
        }
    })
}

fn silent() -> SocketAddr {
    serve(|mut client| {
        let _ = client.read_to_end(&mut Vec::new());
    })
}

/// A port at which nobody listens.
fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Whoever answers what no etcd does, or too much of it, or never: the call ends in time, and says who it was and what it did.
#[test]
fn what_is_no_etcd_is_unavailable() {
    let quick = Duration::ZERO;
    let header = r#""header":{"cluster_id":"7","member_id":"1","revision":"1","raft_term":"1"}"#;
    let wrong_key = format!(
        r#"{{{header},"kvs":[{{"key":"b3RoZXI=","create_revision":"1","mod_revision":"1","version":"1","value":"eA=="}}],"count":"1"}}"#
    );
    let deep = "[".repeat(10_000);
    let no_leader = r#"{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}"#;
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (what, endpoint, words) in [
        ("nobody", closed(), "Connection refused"),
        ("silence", silent(), "no answer within "),
        ("an end", serve(drop), ""),
        ("not HTTP", says("SSH-2.0-OpenSSH_9.2\r\n".to_owned()), ""),
        ("a page", says(http("200 OK", "<html></html>")), "is not etcd's"),
        ("nothing", says(http("200 OK", "")), "is not etcd's"),
        ("an empty object", says(http("200 OK", "{}")), "missing field `header`"),
        ("a deep answer", says(http("200 OK", &deep)), "is not etcd's"),
        ("another key", says(http("200 OK", &wrong_key)), "answered with \"other\""),
        ("a large answer", says(http("200 OK", &" ".repeat(20_000))), "more than 16384 bytes"),
        ("no leader", says(http("503 Service Unavailable", no_leader)), "etcdserver: no leader"),
        ("another path", says(http("404 Not Found", "404 page not found\n")), "HTTP status 404"),
        (
            "elsewhere",
            says("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned()),
            "HTTP status 307",
        ),
        ("an endless answer", endless("HTTP/1.1 200 OK\r\n\r\n", &[b' '; 4096], quick), "more than 16384 bytes"),
        (
            "endless chunks",
            endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", quick),
            "",
        ),
        ("endless lines", endless(HEAD, b"X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n", quick), ""),
        ("endless promises", endless("", b"HTTP/1.1 100 Continue\r\n\r\n", quick), ""),
        ("a slow answer", endless("HTTP/1.1 200 OK\r\n\r\n", b" ", Duration::from_millis(20)), "no answer within "),
        ("slow lines", endless(HEAD, b"X-A: b\r\n", Duration::from_millis(20)), "no answer within "),
    ] {
        let register = register(vec![endpoint]);
        let began = Instant::now();
        let error = register.read().unwrap_err();
        let took = began.elapsed();
        assert!(took < CALL, "{what}: {took:?}");
        let said = error.to_string();
        println!("{what}: {} ms: {said}", took.as_millis());
        assert!(said.contains(words) && said.contains(&endpoint.to_string()), "{what}: {said}");
        assert!(said.contains("the tie-breaker cannot be reached: etcd: ") && said.len() < 1000, "{what}: {said}");
        let Answer::Unavailable(_) = register.advance(0, &a(1)) else { panic!("{what} decided") };
    }
}

/// A right answer to the read and a wrong one to the transaction.
#[test]
fn a_transaction_that_changes_nothing_is_unavailable() {
    let header = r#""header":{"cluster_id":"7","member_id":"1","revision":"1","raft_term":"1"}"#;
    for (second, words) in [
        (format!("{{{header}}}"), "does not end with the key"),
        (
            format!(
                r#"{{{header},"succeeded":true,"responses":[{{"response_put":{{}}}},{{"response_range":{{}}}}]}}"#
            ),
            "the register stands at generation 0 still",
        ),
    ] {
        let first = format!("{{{header}}}");
        let endpoint = serve(move |mut client| {
            for reply in [&first, &second] {
                if request(&mut client).is_none()
                    || client.write_all(http("200 OK", reply).as_bytes()).is_err()
                {
                    return;
                }
            }
        });
        let Answer::Unavailable(error) = register(vec![endpoint]).advance(0, &a(1)) else {
            panic!("{words}")
        };
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// Whoever is first in the list and does not answer leaves time for the others, however many they are; and whoever answered
/// is first next time.
#[test]
fn dead_endpoints_leave_time_for_a_live_one() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1);
    let real = etcd.endpoints()[0];
    let garbage = says(http("200 OK", "{}"));
    let register = register(vec![silent(), closed(), garbage, silent(), real]);
    assert_eq!(advance(&*register, 0, &a(1)), Answer::Won);
    let began = Instant::now();
    assert_eq!(register.read(), Ok(state(1, a(1))));
    assert!(
        began.elapsed() < Duration::from_millis(390),
        "a dead endpoint was asked first: {:?}",
        began.elapsed()
    );
}
