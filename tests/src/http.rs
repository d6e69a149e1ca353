//! A client of an HTTP server in the guest: one request at a time on a connection each, checked to the byte.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one request may take: the guest may be silent while its backup takes over.
const LIMIT: Duration = Duration::from_secs(30);

/// The body that is served at `path`.
pub fn get(port: u16, path: &str) -> Result<Vec<u8>, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(failed("connecting"))?;
    stream.set_read_timeout(Some(LIMIT)).map_err(failed("a time-out"))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).map_err(failed("asking"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed("reading the answer"))?;
    body(&answer).map(<[u8]>::to_vec)
}

/// Finds the body of an answer, all of which must have come.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    let text = String::from_utf8_lossy(answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| format!("no whole head of an answer: {text:?}"))?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        return Err(format!("not a good answer: {head:?}"));
    }
    let body = &answer[end + 4..];
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    match length.map(|length| length.trim().parse::<usize>()) {
        Some(Ok(length)) if length == body.len() => Ok(body),
        other => Err(format!("{} bytes came, and the answer says {other:?}", body.len())),
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicU64,
    moved: (Mutex<Option<String>>, Condvar),
}

/// Clients that ask for one file again and again, until they are stopped or one answer is not the expected one.
pub struct HttpLoad {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl HttpLoad {
    /// Starts so many clients.
    pub fn start(port: u16, path: &str, expected: &[u8], clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |_| {
            let (shared, path, expected) = (shared.clone(), path.to_owned(), expected.to_vec());
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let wrong = match get(port, &path) {
                        Ok(body) if body == expected => None,
                        Ok(body) => Some(format!("{} bytes that are not those of {path}", body.len())),
                        Err(error) => Some(error),
                    };
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                    let mut first = shared.moved.0.lock().expect("no holder of this lock panics");
                    if wrong.is_some() {
                        shared.stop.store(true, Ordering::Relaxed);
                        *first = first.take().or(wrong);
                    }
                    drop(first);
                    shared.moved.1.notify_all();
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    /// Waits for so many more answers; the error is the first that was wrong.
    pub fn wait_answers(&self, more: u64, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        let wanted = self.shared.answers.load(Ordering::Relaxed) + more;
        let mut wrong = self.shared.moved.0.lock().expect("no holder of this lock panics");
        loop {
            let answers = self.shared.answers.load(Ordering::Relaxed);
            if let Some(wrong) = &*wrong {
                return Err(wrong.clone());
            }
            if answers >= wanted {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} answers are missing after {limit:?}", wanted - answers));
            }
            wrong = self.shared.moved.1.wait_timeout(wrong, left).expect("no holder of this lock panics").0;
        }
    }

    /// Stops the clients; how many answers there were, or the first that was wrong.
    pub fn stop(mut self) -> Result<u64, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| "a client panicked".to_owned())?;
        }
        let wrong = self.shared.moved.0.lock().expect("no holder of this lock panics").clone();
        wrong.map_or_else(|| Ok(self.shared.answers.load(Ordering::Relaxed)), Err)
    }
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Ok(&b"hi"[..]));
        for wrong in [
            &b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi"[..],
            b"HTTP/1.0 200 OK\r\n\r\nhi",
            b"HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.0 200 OK\r\nContent-Le",
            b"",
        ] {
            assert!(body(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
