//! The guest's console on the launcher's side: its output exactly once, whoever is live, and its input.
//!
//! Replicas say at which offset of all that the guest has ever written their bytes stand. A new primary repeats what it
//! cannot know to be written; the launcher writes each offset once. Writing happens in a thread of its own, because a
//! terminal or a pipe may stand still for as long as it likes: the LAN and the fence must not.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ft_policies::{ConsoleInput, ConsoleOutput};
use vmm_sys_util::eventfd::EventFd;

use super::keyboard::{Keyboard, STOP_KEY};

/// Bytes waiting to be written beyond which the live replica is not read from.
const QUEUE_BYTES: usize = 4 << 20;
/// Bytes of input in one message.
const INPUT_CHUNK: usize = 4096;
/// Messages of input that wait.
const INPUT_QUEUE: usize = 8;

/// The console's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the console's output to `{path}`: {source}")]
pub struct ConsoleError {
    path: String,
    source: io::Error,
}

enum Sink {
    /// Standard output: bytes follow each other.
    Stream(Box<dyn Write + Send>),
    /// The offset `base` in the file is the guest's offset 0: the launcher appends to what there is.
    File { file: File, base: u64 },
}

impl Sink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(out) => {
                out.write_all(bytes)?;
                out.flush()
            }
            Self::File { file, base } => file.write_all_at(bytes, *base + offset),
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    writing: bool,
    closed: bool,
    /// Writing failed: nothing is written any more, since bytes after a hole would be worse than none.
    broken: bool,
    /// Why, until somebody was told.
    failure: Option<io::Error>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    wake: EventFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's console output.
pub(crate) struct Output {
    /// The first offset that was not written.
    next: u64,
    /// What comes before the first bytes was another launcher's to write.
    may_begin_later: bool,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// What became of a replica's console bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Written, as far as they were new.
    Yes,
    /// Written, but this many bytes before them never came.
    AfterGap(u64),
    /// The offsets overflow.
    Malformed,
}

impl Output {
    /// Opens the output. `wake` is told when there is room again after [`Output::full`], and when writing failed.
    pub(crate) fn open(output: &ConsoleOutput, wake: EventFd) -> Result<Self, ConsoleError> {
        let sink = match output {
            ConsoleOutput::Stdout => Sink::Stream(Box::new(io::stdout())),
            ConsoleOutput::File(path) => {
                let open = || {
                    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
                    let metadata = file.metadata()?;
                    if !metadata.is_file() {
                        return Err(io::Error::other("it is not a regular file"));
                    }
                    Ok(Sink::File { base: metadata.len(), file })
                };
                open().map_err(|source| ConsoleError { path: path.display().to_string(), source })?
            }
        };
        Ok(Self::with(sink, wake))
    }

    fn with(sink: Sink, wake: EventFd) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), wake });
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || write_all(&theirs, sink))
            .expect("a thread can be started");
        Self { next: 0, may_begin_later: false, shared, writer: Some(writer) }
    }

    /// The guest was perhaps live elsewhere before, and its console is written there up to then.
    pub(crate) fn may_begin_later(&mut self) {
        self.may_begin_later = true;
    }

    /// Console bytes of the live replica.
    pub(crate) fn accept(&mut self, offset: u64, bytes: Vec<u8>) -> Accepted {
        let Some(end) = offset.checked_add(bytes.len() as u64).filter(|&end| end <= i64::MAX as u64) else {
            return Accepted::Malformed;
        };
        if end <= self.next {
            return Accepted::Yes;
        }
        if std::mem::take(&mut self.may_begin_later) {
            self.next = self.next.max(offset);
        }
        let gap = offset.saturating_sub(self.next);
        // What is known goes no further than the bytes, whose length is a usize.
        let known = self.next.saturating_sub(offset) as usize;
        self.next = end;
        let mut queue = self.shared.lock();
        if !queue.broken {
            queue.bytes += bytes.len() - known;
            queue.waiting.push_back((offset + known as u64, bytes[known..].to_vec()));
            self.shared.changed.notify_all();
        }
        if gap == 0 { Accepted::Yes } else { Accepted::AfterGap(gap) }
    }

    /// So much is waiting that no more should be taken.
    pub(crate) fn full(&self) -> bool {
        self.shared.lock().bytes > QUEUE_BYTES
    }

    /// Why writing failed, once.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.shared.lock().failure.take()
    }

    /// Waits until all is written, or until `limit` has passed (a terminal that stands still). True if all is.
    pub(crate) fn finish(mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.changed.notify_all();
        while (queue.writing || !queue.waiting.is_empty()) && !queue.broken {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let complete = !queue.broken;
        drop(queue);
        if let Some(writer) = self.writer.take() { complete & writer.join().is_ok() } else { complete }
    }
}

fn write_all(shared: &Shared, mut sink: Sink) {
    let mut queue = shared.lock();
    loop {
        if let Some((offset, bytes)) = queue.waiting.pop_front() {
            queue.writing = true;
            drop(queue);
            let result = sink.write(offset, &bytes);
            queue = shared.lock();
            queue.writing = false;
            let was_full = queue.bytes > QUEUE_BYTES;
            queue.bytes -= bytes.len();
            let mut tell = was_full && queue.bytes <= QUEUE_BYTES;
            if let Err(error) = result {
                (queue.broken, queue.failure) = (true, Some(error));
                queue.waiting.clear();
                queue.bytes = 0;
                tell = true;
            }
            if tell {
                // An event descriptor refuses only a counter of 2^64 - 1.
                let _ = shared.wake.write(1);
            }
            shared.changed.notify_all();
        } else if queue.closed || queue.broken {
            return;
        } else {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What is typed (or piped) into the launcher, for the guest. Its end ends nothing.
pub(crate) struct Input {
    chunks: Option<Receiver<Vec<u8>>>,
    /// The terminal as it is while keys go to the guest.
    _keyboard: Option<Keyboard>,
}

impl Input {
    /// Reads standard input in a thread; `wake` is told of each chunk.
    pub(crate) fn start(wake: EventFd, input: ConsoleInput) -> Self {
        let keyboard = match input {
            ConsoleInput::Keys => Keyboard::take(io::stdin().as_fd()),
            ConsoleInput::Lines => None,
        };
        let keys = keyboard.is_some();
        let (give, chunks) = sync_channel(INPUT_QUEUE);
        let spawned = std::thread::Builder::new().name("console-input".into()).spawn(move || {
            block_terminal_stop();
            let mut stdin = io::stdin().lock();
            let mut buffer = [0; INPUT_CHUNK];
            loop {
                match stdin.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(len) => {
                        if keys && buffer[..len].contains(&STOP_KEY) {
                            super::keyboard::ask_to_stop();
                            continue;
                        }
                        if give.send(buffer[..len].to_vec()).is_err() {
                            return;
                        }
                        let _ = wake.write(1);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal of which this is a background job, or none at all.
                    Err(_) => return,
                }
            }
        });
        Self { chunks: spawned.is_ok().then_some(chunks), _keyboard: keyboard }
    }

    /// The next chunk, if one came.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        match self.chunks.as_ref()?.try_recv() {
            Ok(chunk) => Some(chunk),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.chunks = None;
                None
            }
        }
    }
}

/// Reading the terminal from a background job would stop the whole launcher (SIGTTIN); with the signal blocked in the
/// reading thread the read fails instead.
fn block_terminal_stop() {
    // SAFETY: `set` is initialised by sigemptyset; the other pointer is null. It cannot fail with these arguments.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTTIN);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Whether standard input is something that a person or a program types into.
pub(crate) fn stdin_is_interactive() -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the address of `stat` is given; the struct is plain data.
    let kind = unsafe {
        if libc::fstat(io::stdin().as_raw_fd(), stat.as_mut_ptr()) != 0 {
            return false;
        }
        stat.assume_init().st_mode & libc::S_IFMT
    };
    // SAFETY: a plain call on a descriptor number.
    let terminal = unsafe { libc::isatty(io::stdin().as_raw_fd()) } == 1;
    terminal || [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;

    const LIMIT: Duration = Duration::from_secs(10);

    fn wake() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn each_offset_is_written_once_after_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        std::fs::write(&path, "before ").unwrap();
        let mut output = Output::open(&ConsoleOutput::File(path.clone()), wake()).unwrap();
        assert_eq!(output.accept(0, b"hello".to_vec()), Accepted::Yes);
        // The next primary repeats, in other pieces.
        assert_eq!(output.accept(0, b"hel".to_vec()), Accepted::Yes);
        assert_eq!(output.accept(3, b"lo world".to_vec()), Accepted::Yes);
        assert_eq!(output.accept(11, Vec::new()), Accepted::Yes);
        assert_eq!(output.accept(0, b"hello world".to_vec()), Accepted::Yes);
        assert!(output.finish(LIMIT));
        assert_eq!(std::fs::read(&path).unwrap(), b"before hello world");
    }

    #[test]
    fn gaps_and_nonsense_are_noticed() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::with(Sink::File { file, base: 0 }, wake());
        assert_eq!(output.accept(3, b"x".to_vec()), Accepted::AfterGap(3));
        assert_eq!(output.accept(u64::MAX, b"xy".to_vec()), Accepted::Malformed);
        assert_eq!(output.accept(u64::MAX - 5, b"xy".to_vec()), Accepted::Malformed);
        assert!(output.finish(LIMIT));
    }

    #[test]
    fn a_console_that_stands_still_fills_a_bounded_queue() {
        let (mut reader, writer) = pipe().unwrap();
        let woken = EventFd::new(0).unwrap();
        let mut output = Output::with(Sink::Stream(Box::new(writer)), woken.try_clone().unwrap());
        let chunk = vec![b'x'; 65_536];
        let mut offset = 0;
        while !output.full() {
            assert_eq!(output.accept(offset, chunk.clone()), Accepted::Yes);
            offset += chunk.len() as u64;
            assert!(offset < 2 * QUEUE_BYTES as u64, "it is never full");
        }
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        while output.full() {
            woken.read().unwrap();
        }
        assert!(output.finish(LIMIT));
        assert_eq!(reading.join().unwrap().len() as u64, offset);
    }

    #[test]
    fn a_failed_write_is_told_once() {
        let woken = EventFd::new(0).unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut output = Output::with(Sink::Stream(Box::new(writer)), woken.try_clone().unwrap());
        output.accept(0, b"x".to_vec());
        woken.read().unwrap();
        assert_eq!(output.failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
        assert!(output.failure().is_none());
        assert_eq!(output.accept(1, b"y".to_vec()), Accepted::Yes);
        assert!(!output.finish(LIMIT), "it claims to have written everything");
    }

    #[test]
    fn only_regular_files() {
        let output = ConsoleOutput::File("/dev/null".into());
        assert!(Output::open(&output, wake()).is_err());
        let output = ConsoleOutput::File("/nowhere/at/all".into());
        assert!(Output::open(&output, wake()).err().unwrap().to_string().contains("/nowhere/at/all"));
    }
}
