//! What a process prints: kept whole, split into lines, each with the moment it came.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A complete line.
#[derive(Clone, Debug)]
pub struct Line {
    /// When its end arrived.
    pub at: Instant,
    /// The text without the line's end.
    pub text: String,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    unfinished: Vec<u8>,
    lines: Vec<Line>,
    ended: bool,
}

/// Everything from one pipe.
#[derive(Clone, Default)]
pub struct Capture(Arc<(Mutex<Kept>, Condvar)>);

impl Capture {
    /// Reads `pipe` to its end in a thread of its own.
    pub fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let into = capture.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            loop {
                match pipe.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => into.add(&chunk[..count]),
                }
            }
            into.locked().ended = true;
            into.0.1.notify_all();
        });
        capture
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.0.0.lock().expect("no holder of this lock panics")
    }

    fn add(&self, bytes: &[u8]) {
        let at = Instant::now();
        let mut kept = self.locked();
        kept.bytes.extend_from_slice(bytes);
        for byte in bytes {
            // redis-benchmark repaints its progress with '\r'.
            if matches!(byte, b'\n' | b'\r') {
                let text = String::from_utf8_lossy(&std::mem::take(&mut kept.unfinished)).into_owned();
                if !text.is_empty() {
                    kept.lines.push(Line { at, text });
                }
            } else {
                kept.unfinished.push(*byte);
            }
        }
        drop(kept);
        self.0.1.notify_all();
    }

    /// The number of lines so far: a place to search from.
    pub fn count(&self) -> usize {
        self.locked().lines.len()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.locked().lines.clone()
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.locked().bytes.clone()
    }

    /// All bytes so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The first line from number `from` on that `wanted` accepts, waiting for it. `None` if the time is over or the pipe
    /// ended without it.
    pub fn wait_for(&self, from: usize, limit: Duration, wanted: impl Fn(&str) -> bool) -> Option<Line> {
        let until = Instant::now() + limit;
        let mut next = from;
        let mut kept = self.locked();
        loop {
            while let Some(line) = kept.lines.get(next) {
                if wanted(&line.text) {
                    return Some(line.clone());
                }
                next += 1;
            }
            let left = until.saturating_duration_since(Instant::now());
            if kept.ended || left.is_zero() {
                return None;
            }
            kept = self.0.1.wait_timeout(kept, left).expect("no holder of this lock panics").0;
        }
    }

    /// Waits for the end of the pipe; whether it came in time.
    pub fn wait_end(&self, limit: Duration) -> bool {
        let (kept, _) = self
            .0
            .1
            .wait_timeout_while(self.locked(), limit, |kept| !kept.ended)
            .expect("no holder of this lock panics");
        kept.ended
    }
}
