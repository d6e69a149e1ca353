//! The checking client: several connections, each of which knows what the right replies are.
//!
//! * A *writer* SETs keys of its own and remembers the last acknowledged value of each.
//! * A *counter* INCRs a key of its own: the replies must be 1, 2, 3, ... with no gap and no repeat.
//! * A *reader* GETs keys that some writer has an acknowledgement for: an older value, or none, is a lost write.
//!
//! All keep a random number of requests in flight and stay on their one TCP connection whatever happens behind it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Random, Reply, Resp};

/// A writer begins again with its first key after this many: bounds the guest's memory, and tests overwriting.
const KEYS: u64 = 2_000;
/// The longest that any reply may take.
const REPLY: Duration = Duration::from_secs(15);

/// How many connections of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections that SET.
    pub writers: usize,
    /// Connections that INCR.
    pub counters: usize,
    /// Connections that GET.
    pub readers: usize,
    /// Most requests in flight on each.
    pub depth: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { writers: 2, counters: 2, readers: 1, depth: 8 }
    }
}

/// What the guest has acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    values: BTreeMap<String, String>,
}

impl Ledger {
    /// The number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds what a load has got acknowledged. Its requests are all answered, so each value is exact.
    pub fn add(&mut self, record: &Record) {
        self.values.extend(record.acknowledged.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Asks a guest for every key. The error names the keys that are lost or wrong.
    pub fn verify(&self, client: &mut Resp) -> Result<(), String> {
        let mut wrong = Vec::new();
        let all: Vec<_> = self.values.iter().collect();
        for some in all.chunks(200) {
            let mut bytes = Vec::new();
            for (key, _) in some {
                Resp::encode(&mut bytes, &[b"GET", key.as_bytes()]);
            }
            client.send(&bytes)?;
            for (key, value) in some {
                match client.reply()? {
                    Reply::Bulk(Some(found)) if found == value.as_bytes() => {}
                    Reply::Bulk(found) => {
                        let found = found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                        wrong.push(format!("{key}: acknowledged {value:?}, found {found:?}"));
                    }
                    other => return Err(format!("GET {key}: {other:?}")),
                }
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let count = wrong.len();
        wrong.truncate(10);
        Err(format!("{count} of {} acknowledged writes are lost:\n{}", all.len(), wrong.join("\n")))
    }
}

/// What a load saw.
#[derive(Clone, Debug, Default)]
pub struct Record {
    acknowledged: BTreeMap<String, String>,
    /// Replies, of all connections.
    pub replies: u64,
    /// The longest that any connection waited for a reply.
    pub silence: Duration,
}

struct Shared {
    stop: AtomicBool,
    replies: AtomicU64,
    /// Keys with an acknowledged value, of all writers, for the readers.
    written: Mutex<BTreeMap<String, u64>>,
}

/// The running checking client.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Record, String>>>,
}

impl Load {
    /// Connects and begins. `prefix` keeps this load's keys apart from every other's of the same guest.
    pub fn start(port: u16, prefix: &str, shape: Shape, random: &mut Random) -> Result<Self, String> {
        Self::start_to((Ipv4Addr::LOCALHOST, port).into(), prefix, shape, random)
    }

    /// The same to any address.
    pub fn start_to(
        address: SocketAddr,
        prefix: &str,
        shape: Shape,
        random: &mut Random,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            replies: AtomicU64::new(0),
            written: Mutex::new(BTreeMap::new()),
        });
        let mut threads = Vec::new();
        for (kind, count) in
            [(Kind::Writer, shape.writers), (Kind::Counter, shape.counters), (Kind::Reader, shape.readers)]
        {
            for number in 0..count {
                let connection = Connection {
                    kind,
                    name: format!("{prefix}:{kind:?}{number}"),
                    client: Resp::connect_to(address, REPLY)?,
                    depth: shape.depth,
                    random: Random::derived(random),
                    shared: shared.clone(),
                    record: Record::default(),
                    sent: 0,
                    answered: 0,
                };
                threads.push(std::thread::spawn(move || connection.run()));
            }
        }
        Ok(Self { shared, threads })
    }

    /// Replies so far.
    pub fn replies(&self) -> u64 {
        self.shared.replies.load(Ordering::Relaxed)
    }

    /// Waits until `more` further replies have come. An error if a connection has ended meanwhile or the time is over.
    pub fn wait_replies(&self, more: u64, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        let wanted = self.replies() + more;
        while self.replies() < wanted {
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err("a connection of the checking client has ended".into());
            }
            if Instant::now() > until {
                return Err(format!(
                    "no {more} further replies within {limit:?}, only {}",
                    self.replies() + more - wanted
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Sends nothing more, waits for the replies in flight. The error has everything that any connection found wrong.
    pub fn stop(mut self) -> Result<Record, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Record::default();
        let mut wrong = Vec::new();
        for thread in self.threads.drain(..) {
            match thread.join().expect("a connection's thread does not panic") {
                Ok(record) => {
                    all.acknowledged.extend(record.acknowledged);
                    all.replies += record.replies;
                    all.silence = all.silence.max(record.silence);
                }
                Err(error) => wrong.push(error),
            }
        }
        if wrong.is_empty() { Ok(all) } else { Err(wrong.join("\n")) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Writer,
    Counter,
    Reader,
}

/// What the reply to a request in flight must be.
enum Expected {
    /// `+OK`; the key then has this value.
    Set(String, u64),
    /// This number.
    Count(u64),
    /// The key's value, at least this.
    AtLeast(String, u64),
    /// A reader that knows of no key yet.
    Pong,
}

struct Connection {
    kind: Kind,
    name: String,
    client: Resp,
    depth: u64,
    random: Random,
    shared: Arc<Shared>,
    record: Record,
    sent: u64,
    answered: u64,
}

impl Connection {
    fn run(mut self) -> Result<Record, String> {
        let mut waiting = VecDeque::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let mut bytes = Vec::new();
            let target = 1 + self.random.below(self.depth) as usize;
            while waiting.len() < target {
                waiting.push_back(self.request(&mut bytes));
            }
            let since = Instant::now();
            self.client.send(&bytes).map_err(|error| self.failed(&error))?;
            // Not all of them: some stay in flight, so that every moment has requests behind it.
            let take = 1 + self.random.below(waiting.len() as u64);
            for _ in 0..take {
                self.receive(&mut waiting, since)?;
            }
        }
        let since = Instant::now();
        while !waiting.is_empty() {
            self.receive(&mut waiting, since)?;
        }
        Ok(self.record)
    }

    fn request(&mut self, bytes: &mut Vec<u8>) -> Expected {
        self.sent += 1;
        let number = self.sent;
        match self.kind {
            Kind::Writer => {
                let key = format!("{}:{}", self.name, number % KEYS);
                let value = number.to_string();
                Resp::encode(bytes, &[b"SET", key.as_bytes(), value.as_bytes()]);
                Expected::Set(key, number)
            }
            Kind::Counter => {
                Resp::encode(bytes, &[b"INCR", self.name.as_bytes()]);
                Expected::Count(number)
            }
            Kind::Reader => {
                let written = self.shared.written.lock().expect("no holder of this lock panics");
                let count = written.len() as u64;
                let Some((key, value)) = written.iter().nth(self.random.below(count) as usize) else {
                    Resp::encode(bytes, &[b"PING"]);
                    return Expected::Pong;
                };
                Resp::encode(bytes, &[b"GET", key.as_bytes()]);
                Expected::AtLeast(key.clone(), *value)
            }
        }
    }

    fn receive(&mut self, waiting: &mut VecDeque<Expected>, since: Instant) -> Result<(), String> {
        let reply = self.client.reply().map_err(|error| self.failed(&error))?;
        let expected = waiting.pop_front().expect("as many replies are read as requests wait");
        match (&reply, expected) {
            (Reply::Simple(text), Expected::Set(key, value)) if text == "OK" => {
                self.record.acknowledged.insert(key.clone(), value.to_string());
                self.shared.written.lock().expect("no holder of this lock panics").insert(key, value);
            }
            (Reply::Int(found), Expected::Count(count)) if u64::try_from(*found) == Ok(count) => {
                self.record.acknowledged.insert(self.name.clone(), count.to_string());
            }
            (Reply::Bulk(Some(found)), Expected::AtLeast(key, least)) => {
                let number = std::str::from_utf8(found).ok().and_then(|text| text.parse::<u64>().ok());
                if number.is_none_or(|number| number < least) {
                    return Err(self.failed(&format!("GET {key}: acknowledged {least}, found {found:?}")));
                }
            }
            (Reply::Simple(text), Expected::Pong) if text == "PONG" => {}
            (reply, Expected::Set(key, value)) => {
                return Err(self.failed(&format!("SET {key} {value}: {reply:?}")));
            }
            (reply, Expected::Count(count)) => {
                return Err(self.failed(&format!("INCR: the reply must be {count}, but is {reply:?}")));
            }
            (reply, Expected::AtLeast(key, least)) => {
                return Err(self.failed(&format!("GET {key}: acknowledged {least}, found {reply:?}")));
            }
            (reply, Expected::Pong) => return Err(self.failed(&format!("PING: {reply:?}"))),
        }
        self.answered += 1;
        self.record.replies += 1;
        self.record.silence = self.record.silence.max(since.elapsed());
        self.shared.replies.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn failed(&self, what: &str) -> String {
        format!("{} after {} of {} replies: {what}", self.name, self.answered, self.sent)
    }
}
