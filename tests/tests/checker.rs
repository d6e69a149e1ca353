//! The checking client itself: it must find every kind of lie that the campaigns look for. Its server here is a thread
//! that lies on request.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ft_e2e::{Ledger, Load, Random, Reply, Resp, Shape};

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    /// Acknowledges a write that it does not keep.
    LoseWrite,
    /// Counts one step less than it should, once.
    RepeatCount,
    /// Counts one step too many, once.
    SkipCount,
    /// Closes each connection after a while.
    Close,
}

type Store = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;

fn serve(lie: Lie) -> (u16, Store) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let store = Store::default();
    let kept = store.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = kept.clone();
            std::thread::spawn(move || answer(stream, lie, &store));
        }
    });
    (port, store)
}

fn answer(stream: TcpStream, lie: Lie, store: &Store) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut requests = Resp::over(stream.try_clone().ok()?);
    let mut stream = stream;
    for number in 0_u64.. {
        // A command is an array of bulk strings, as a reply may be.
        let Ok(Reply::Array(Some(words))) = requests.reply() else { return None };
        let words: Vec<Vec<u8>> = words
            .into_iter()
            .map(|word| if let Reply::Bulk(Some(word)) = word { word } else { vec![] })
            .collect();
        let mut store = store.lock().ok()?;
        let now = number == 100;
        if now && lie == Lie::Close {
            return None;
        }
        let reply = match words[0].as_slice() {
            b"SET" => {
                if !(now && lie == Lie::LoseWrite) {
                    store.insert(words[1].clone(), words[2].clone());
                }
                "+OK\r\n".to_owned()
            }
            b"GET" => match store.get(&words[1]) {
                Some(value) => format!("${}\r\n{}\r\n", value.len(), String::from_utf8_lossy(value)),
                None => "$-1\r\n".to_owned(),
            },
            b"INCR" => {
                let value = store.entry(words[1].clone()).or_insert_with(|| b"0".to_vec());
                let step = match lie {
                    Lie::RepeatCount if now => 0,
                    Lie::SkipCount if now => 2,
                    _ => 1,
                };
                let count = String::from_utf8_lossy(value).parse::<u64>().ok()? + step;
                *value = count.to_string().into_bytes();
                format!(":{count}\r\n")
            }
            _ => "+PONG\r\n".to_owned(),
        };
        drop(store);
        stream.write_all(reply.as_bytes()).ok()?;
    }
    None
}

fn load(port: u16, shape: Shape, replies: u64) -> Result<Ledger, String> {
    let mut random = Random::new("checker");
    let load = Load::start(port, "k", shape, &mut random)?;
    let waited = load.wait_replies(replies, Duration::from_secs(10));
    let record = load.stop()?;
    waited?;
    let mut ledger = Ledger::default();
    ledger.add(&record);
    ledger.verify(&mut Resp::connect(port, Duration::from_secs(5))?)?;
    Ok(ledger)
}

const WRITER: Shape = Shape { writers: 1, counters: 0, readers: 0, depth: 8 };
const COUNTER: Shape = Shape { writers: 0, counters: 1, readers: 0, depth: 8 };

#[test]
fn the_truth_is_accepted() {
    let (port, store) = serve(Lie::None);
    let ledger = load(port, Shape::default(), 5000).expect("an honest server");
    assert_eq!(ledger.len(), store.lock().expect("no thread panics").len());
    // What was kept and is then gone, or old, is missed.
    let key = store.lock().expect("no thread panics").keys().next().expect("there are keys").clone();
    store.lock().expect("no thread panics").insert(key, b"0".to_vec());
    let error = ledger.verify(&mut Resp::connect(port, Duration::from_secs(5)).expect("it is there"));
    assert!(error.is_err_and(|error| error.starts_with("1 of ")));
}

/// Whether its end shows in reading or in writing depends on when it comes.
#[test]
fn a_closed_connection_is_named_in_writing_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let mut client = Resp::over(stream.try_clone().expect("a descriptor"));
    stream.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(client.send(b"PING\r\n"), Err("send: the connection was closed".to_owned()));
}

#[test]
fn lies_are_found() {
    for (lie, shape, says) in [
        (Lie::LoseWrite, WRITER, "acknowledged writes are lost"),
        (Lie::RepeatCount, COUNTER, "the reply must be"),
        (Lie::SkipCount, COUNTER, "the reply must be"),
        (Lie::Close, WRITER, "closed"),
        (Lie::Close, COUNTER, "closed"),
    ] {
        let (port, _) = serve(lie);
        let error = load(port, shape, 1000).expect_err("a lie");
        assert!(error.contains(says) || error.contains("reset"), "{error}");
    }
}
