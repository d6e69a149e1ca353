//! The witness server: a thread for each connection, a few of them, and none for long.
//!
//! Everything that arrives is bounded: the length of a line, the time until it is whole, the number of connections. With keys
//! nothing is carried out for whoever has none ([`super::wire`]); without keys it listens on a loopback address only.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::store::{Store, StoreError};
use super::wire::{Ask, MAX_LINE, Reply, Request, Said};
use crate::key::{Key, Keys, Tag};

/// How many connections are served at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take for a request, counted from its beginning or from the answer before.
const IDLE: Duration = Duration::from_secs(5);
/// How long an answer may take to be sent: it is far smaller than a socket's buffer.
const SEND: Duration = Duration::from_secs(1);
/// The pause after a connection that could not be accepted (there are no descriptors left, say).
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How often it is told, at most, that somebody was denied: strangers must not fill a log.
const TELL_DENIED: Duration = Duration::from_secs(60);

/// Why a witness cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        error: io::Error,
    },
    /// Whoever reaches it could take a generation.
    #[error(
        "cannot listen on {address} without keys, for whoever reaches it could take a generation of any pair: make a key with \
         `ft-vm key pair.key`, put its line into a file of keys, start the witness with --keys FILE, and say key = \"pair.key\" in \
         [tie-breaker.witness] of both replicas; for a pair on one machine listen on 127.0.0.1"
    )]
    NoKeys {
        /// The address.
        address: SocketAddr,
    },
    /// No thread for it.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A witness that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: PathBuf,
    pairs: usize,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes over the state file, then listens. `tell` is given a line whenever asks begin to fail for a reason of the store, or
    /// for another one than before, and now and then when somebody is denied; it may be called from any thread.
    ///
    /// # Errors
    /// When the state cannot be used, or the address not be listened on; without keys, where others can reach it.
    pub fn start(
        address: SocketAddr,
        state: &Path,
        keys: Option<Keys>,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        if keys.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::NoKeys { address });
        }
        let store = Store::open(state)?;
        let failed = |error| ServeError::Listen { address, error };
        let listener = Arc::new(TcpListener::bind(address).map_err(failed)?);
        let address = listener.local_addr().map_err(failed)?;
        let (state, pairs) = (store.path().to_owned(), store.pairs());
        let shared = Arc::new(Shared {
            store,
            keys,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            told: Mutex::default(),
            denied_told: Mutex::default(),
            tell: Box::new(tell),
        });
        let accepting = std::thread::Builder::new()
            .name("accept".into())
            .spawn({
                let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
                move || accept(&shared, &listener)
            })
            .map_err(ServeError::Thread)?;
        Ok(Self { address, state, pairs, shared, listener, accepting: Some(accepting) })
    }

    /// Where it listens: with the port that was chosen, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The state file: absolute, without links.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// How many pairs the state had at the start.
    pub fn pairs(&self) -> usize {
        self.pairs
    }
}

impl Drop for Server {
    /// Ends in order: requests that have arrived are answered, and the state file is given up.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // SAFETY: the listener's descriptor is open as long as `self.listener` lives; shutting a listening socket down has no
        // other effect than to end its `accept`.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        // Nobody adds one any more.
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        for connection in connections.open.values() {
            // Nothing more is read; the answer to what has been read still goes out.
            let _ = connection.shutdown(Shutdown::Read);
        }
        for thread in connections.threads {
            let _ = thread.join();
        }
    }
}

struct Shared {
    store: Store,
    keys: Option<Keys>,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
    /// What was last told of the store.
    told: Mutex<String>,
    /// When it was last told that somebody was denied.
    denied_told: Mutex<Option<Instant>>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((connection, _)) => begin(shared, connection),
            Err(_) => std::thread::sleep(ACCEPT_AGAIN),
        }
    }
}

/// Gives a connection a thread, if there is room.
fn begin(shared: &Arc<Shared>, connection: TcpStream) {
    let mut connections = lock(&shared.connections);
    connections.threads.retain(|thread| !thread.is_finished());
    let ready = connection.set_write_timeout(Some(SEND)).and_then(|()| connection.set_nodelay(true));
    if connections.open.len() >= MAX_CONNECTIONS || ready.is_err() {
        drop(connections);
        let busy = Reply::Unavailable(format!("there are {MAX_CONNECTIONS} connections already"));
        let _ = (&connection).write_all(busy.encode(None).as_bytes());
        return;
    }
    let Ok(copy) = connection.try_clone() else { return };
    let number = connections.next;
    connections.next += 1;
    let thread = std::thread::Builder::new().name("connection".into()).spawn({
        let shared = Arc::clone(shared);
        move || {
            let _leaving = Leaving { shared: &shared, number };
            serve(&shared, &connection);
        }
    });
    // The lock is held: the thread cannot have taken its number out before it is in.
    if let Ok(thread) = thread {
        connections.open.insert(number, copy);
        connections.threads.push(thread);
    }
}

/// Makes room for another connection, however this one ends.
struct Leaving<'s> {
    shared: &'s Shared,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        lock(&self.shared.connections).open.remove(&self.number);
    }
}

/// Answers one request after the other. Whoever sends anything else is told so and gets no second chance.
fn serve(shared: &Shared, mut connection: &TcpStream) {
    let mut received = Vec::new();
    loop {
        let Some(length) = line(connection, &mut received) else { return };
        let reply = match length {
            Ok(length) => {
                let line: Vec<u8> = received.drain(..length).collect();
                match Request::decode(&line) {
                    Ok(said) => answer(shared, connection, &said),
                    Err(error) => (Reply::Refused(error.to_string()), None),
                }
            }
            Err(TooLong) => {
                (Reply::Refused(format!("this is not a request: it has more than {MAX_LINE} bytes")), None)
            }
        };
        let (reply, signer) = (reply.0.shortened(), reply.1);
        let tag = signer.map(|(key, request)| reply.sign(key, &request));
        let sent = connection.write_all(reply.encode(tag).as_bytes());
        if sent.is_err() || matches!(reply, Reply::Refused(_) | Reply::Denied(_)) {
            return;
        }
    }
}

/// What a reply is signed with: the key, and the tag of the request.
type Signer<'k> = (&'k Key, Tag);

/// Carries a request out, if whoever sent it may ask.
fn answer<'s>(
    shared: &'s Shared,
    connection: &TcpStream,
    said: &Said<Request>,
) -> (Reply, Option<Signer<'s>>) {
    let signer = match authenticate(shared.keys.as_ref(), said) {
        Ok(signer) => signer,
        Err(reason) => {
            shared.tell_denied(connection, reason);
            return (Reply::Denied(reason.into()), None);
        }
    };
    (carry_out(shared, &said.what), signer)
}

/// The key that a request is signed with; none where this witness has none.
fn authenticate<'k>(
    keys: Option<&'k Keys>,
    said: &Said<Request>,
) -> Result<Option<Signer<'k>>, &'static str> {
    match (keys, said.tag) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("this witness has no keys: start it with --keys FILE, a file with the pair's key in it"),
        (Some(_), None) => Err("this witness answers only with a key: add [tie-breaker.witness] key = \"pair.key\", the key that \
                                is in the witness's --keys file"),
        (Some(keys), Some(tag)) => keys
            .of(said.what.pair)
            .find(|key| said.what.verify(key, &tag))
            .map(|key| Some((key, tag)))
            .ok_or("the witness's --keys file has no such key for this vm.name: put the line of the pair's key file into it, and \
                    start the witness again"),
    }
}

impl Shared {
    fn tell_denied(&self, connection: &TcpStream, reason: &str) {
        let mut told = lock(&self.denied_told);
        if told.is_none_or(|at| at.elapsed() >= TELL_DENIED) {
            *told = Some(Instant::now());
            let from =
                connection.peer_addr().map_or_else(|_| "somebody".into(), |from| from.ip().to_string());
            (self.tell)(&format!("a request from {from} is denied: {reason}"));
        }
    }
}

struct TooLong;

/// Receives until there is a whole line, and gives its length with the newline; `None` when no more comes, or not in time.
fn line(mut connection: &TcpStream, received: &mut Vec<u8>) -> Option<Result<usize, TooLong>> {
    let deadline = Instant::now() + IDLE;
    let mut searched = 0;
    loop {
        if let Some(at) = received[searched..].iter().position(|byte| *byte == b'\n') {
            return Some(Ok(searched + at + 1));
        }
        searched = received.len();
        if searched >= MAX_LINE {
            return Some(Err(TooLong));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out of nothing would be none at all.
        if left.is_zero() || connection.set_read_timeout(Some(left)).is_err() {
            return None;
        }
        let mut piece = [0; MAX_LINE];
        match connection.read(&mut piece[..MAX_LINE - searched]) {
            Ok(0) => return None,
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn carry_out(shared: &Shared, request: &Request) -> Reply {
    let pair = request.pair;
    match request.ask {
        Ask::Read => Reply::State { pair, state: shared.store.read(pair) },
        Ask::Advance { from, who } => match shared.store.advance(pair, from, who) {
            Ok(state) => Reply::State { pair, state },
            Err(error) => {
                let reason = error.to_string();
                let mut told = lock(&shared.told);
                if *told != reason {
                    (shared.tell)(&format!("no generation is given away: {reason}"));
                    told.clone_from(&reason);
                }
                Reply::Unavailable(reason)
            }
        },
    }
}
