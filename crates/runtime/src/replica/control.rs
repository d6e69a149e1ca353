//! The control socket to the launcher: messages wait here when it does not keep up, and nothing ever blocks on it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ft_policies::ReplicaId;

use crate::launcher::messages::{FromReplica, ToReplica};
use crate::launcher::packet::PacketSocket;

/// Console bytes in one message: as JSON numbers they take up to four times as much, and a message has a bound.
const CONSOLE_CHUNK: usize = 64 * 1024;
/// Bytes of messages waiting beyond which released outputs stay in the gate: the guest stalls instead of memory filling up.
const CROWDED: usize = 1 << 20;
/// Longest message from the launcher.
const MESSAGE_MAX: usize = 1 << 20;
/// How long the last messages of a replica may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The replica's end of the control socket.
pub(super) struct Control {
    socket: PacketSocket,
    waiting: Mutex<VecDeque<Vec<u8>>>,
    bytes: AtomicUsize,
}

/// What came of reading.
pub(super) enum Received {
    Message(ToReplica),
    Nothing,
    /// The launcher is gone.
    Closed,
}

impl Control {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Arc<Self>> {
        let socket = PacketSocket::from(fd);
        set_nonblocking(&socket)?;
        let (waiting, bytes) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Arc::new(Self { socket, waiting, bytes }))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends a message, now or when the launcher reads.
    pub(super) fn send(&self, message: &FromReplica) {
        let bytes = match serde_json::to_vec(message) {
            Ok(bytes) => bytes,
            Err(error) => return eprintln!("ft-vm: a control message cannot be written: {error}"),
        };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        waiting.push_back(bytes);
        self.flush_locked(&mut waiting);
    }

    /// Sends what waits, as far as the launcher reads. True if nothing is left.
    pub(super) fn flush(&self) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.flush_locked(&mut waiting);
        waiting.is_empty()
    }

    fn flush_locked(&self, waiting: &mut VecDeque<Vec<u8>>) {
        while let Some(message) = waiting.front() {
            match self.socket.send(message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Sent; or the launcher is gone, which reading will tell.
                Ok(()) | Err(_) => {}
            }
            self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
            waiting.pop_front();
        }
    }

    /// True if messages wait.
    pub(super) fn is_blocked(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    /// True if no more outputs should be released towards the launcher now.
    pub(super) fn is_crowded(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > CROWDED
    }

    /// Waits, bounded, until everything is sent.
    pub(super) fn drain(&self) {
        let end = Instant::now() + LAST_WORDS;
        while !self.flush() && Instant::now() < end {
            wait_for(self.fd(), libc::POLLOUT, 10);
        }
    }

    pub(super) fn receive(&self) -> Received {
        let mut buffer = vec![0; MESSAGE_MAX];
        match self.socket.recv(&mut buffer) {
            Ok(Some(bytes)) => match serde_json::from_slice(bytes) {
                Ok(message) => Received::Message(message),
                // A launcher of another build: going on without understanding it helps nobody.
                Err(_) => Received::Closed,
            },
            Ok(None) => Received::Closed,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Received::Nothing
            }
            Err(_) => Received::Closed,
        }
    }

    pub(super) fn hello(&self, replica: ReplicaId, incarnation: u64) {
        let (replica, pid) = (replica.name().to_owned(), std::process::id());
        self.send(&FromReplica::Hello { replica, pid, incarnation });
    }

    pub(super) fn notice(&self, text: impl Into<String>) {
        self.send(&FromReplica::Notice(text.into()));
    }

    pub(super) fn console(&self, offset: u64, bytes: &[u8]) {
        let offsets = (offset..).step_by(CONSOLE_CHUNK);
        for (offset, chunk) in offsets.zip(bytes.chunks(CONSOLE_CHUNK)) {
            self.send(&FromReplica::Console { offset, bytes: chunk.to_vec() });
        }
    }

    pub(super) fn end(&self, code: u8, message: String) {
        self.send(&FromReplica::Ended { code, message });
    }
}

/// Makes a descriptor's own open file non-blocking.
pub(super) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain calls on a descriptor that is open as long as `fd` is borrowed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until a descriptor is ready for `what`, or for `milliseconds` (-1: without end).
pub(super) fn wait_for(fd: RawFd, what: libc::c_short, milliseconds: i32) {
    let mut poll = libc::pollfd { fd, events: what, revents: 0 };
    // SAFETY: one pollfd, which outlives the call. An error (a signal, say) is a wake-up too: the caller tries again.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
}
