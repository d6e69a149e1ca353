//! The event loop: datagrams, the launcher's messages, signals, timers, and what full sockets left behind.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use event_manager::{
    EventManager, EventOps, EventSet, Events as Interest, MutEventSubscriber, SubscriberOps,
};
use ft_core::Event;
use ft_core::input::Input;
use serde_json::{Value, json};

use super::control::Received;
use super::link::Sockets;
use super::prompt::be_prompt;
use super::shared::Shared;
use crate::launcher::messages::{FromReplica, ToReplica};

const UDP: u32 = 1;
const CONTROL: u32 = 2;
const SIGNAL: u32 = 3;
const WAKE: u32 = 4;
const LOG: u32 = 5;

/// Longest wait without looking at the timers: other threads may have set earlier ones.
const LOOK_MS: u64 = 20;
/// Longest wait of a machine without a peer.
const SOLO_MS: i32 = 1000;
/// A round that takes so much longer than it waited for says that this process did not run: the host had no time for it.
const LATE: ft_core::Nanos = 15_000_000;
/// A guest that does not exit for so long holds up its inputs for longer than their senders would expect.
const HELD_UP: ft_core::Nanos = 100_000_000;
/// The longest that a peer is excused for this.
const EXCUSE: ft_core::Nanos = 500_000_000;

/// The loop, ready to run.
pub(super) struct Events {
    manager: EventManager<Loop>,
}

struct Loop {
    shared: Arc<Shared>,
    signals: OwnedFd,
    udp: Option<(UdpSocket, SocketAddr)>,
    /// A full log connection that is waited for.
    blocked: Option<TcpStream>,
    control_out: bool,
}

/// SIGTERM and SIGINT become readable here, for all threads.
pub(super) fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used, and outlives the calls.
    let fd = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        if libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Events {
    pub(super) fn new(shared: &Arc<Shared>, signals: OwnedFd, sockets: Option<&Sockets>) -> io::Result<Self> {
        let udp = match sockets {
            Some(sockets) => {
                shared.set_udp(sockets.udp.try_clone()?, sockets.peer);
                Some((sockets.udp.try_clone()?, sockets.peer))
            }
            None => None,
        };
        let mut manager = EventManager::new().map_err(|error| io::Error::other(error.to_string()))?;
        let shared = Arc::clone(shared);
        manager.add_subscriber(Loop { shared, signals, udp, blocked: None, control_out: false });
        Ok(Self { manager })
    }

    /// Runs until the replica ends. Gives its exit code.
    pub(super) fn run(mut self, shared: &Shared) -> u8 {
        be_prompt(shared);
        let mut woke = shared.now();
        loop {
            let due = shared.core().poll_timeout();
            let now = shared.now();
            let wait = match due {
                Some(at) => {
                    i32::try_from(at.saturating_sub(now).div_ceil(1_000_000).min(LOOK_MS)).unwrap_or(1)
                }
                None => SOLO_MS,
            };
            if let Err(error) = self.manager.run_with_timeout(wait) {
                shared.control.end(1, format!("the event loop failed: {error}"));
                return 1;
            }
            let now = shared.now();
            let lost = (now - woke).saturating_sub(u64::from(wait.unsigned_abs()) * 1_000_000);
            woke = now;
            if lost > LATE {
                // A host that had no time for this process had none for a peer beside it either, nor for the threads here that
                // hear of it: they get back what was lost.
                shared.core().excuse(now + lost.min(EXCUSE));
            }
            if let Some(at) = due.filter(|at| now >= *at) {
                shared.handle(Event::Timeout);
                let beat = shared.core().poll_heartbeat();
                if let Some(beat) = beat {
                    shared.heartbeat(&beat);
                }
                // What the vCPU's thread has logged and was not run to send.
                shared.transmit();
                shared.late.fetch_max(shared.now() - at, Ordering::Relaxed);
                shared.pump_if_free();
            }
            if let Some(ending) = shared.ending() {
                if !ending.orderly {
                    // Why comes first: a disk that hangs may keep the rest from ever coming.
                    shared.control.end(ending.code, ending.message.clone());
                    shared.control.flush();
                }
                shared.disks.close(ending.orderly);
                if ending.orderly {
                    stamp_clean(shared);
                    for notice in shared.media.left_apart() {
                        shared.control.notice(notice);
                    }
                }
                shared.last_words();
                if ending.orderly {
                    shared.control.end(ending.code, ending.message);
                }
                shared.control.drain();
                return ending.code;
            }
        }
    }
}

/// The guest ended in order: this side's copies of separate disks are what its guest made of them, as the other side's are.
fn stamp_clean(shared: &Shared) {
    if shared.media.copies.is_empty() || !shared.core().ended_in_order() {
        return;
    }
    let Some(position) = shared.end_position() else { return };
    let generation = shared.core().generation();
    let stamped = if shared.disks.flush_all() {
        shared.media.copies.stamp_clean(generation, position)
    } else {
        Err("not all of what the guest wrote is on the disk".to_owned())
    };
    if let Err(error) = stamped {
        shared.control.notice(format!("{error}: the next start compares the disks of both replicas"));
    }
}

impl MutEventSubscriber for Loop {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut add = |fd, token, what| {
            if let Err(error) = ops.add(Interest::with_data_raw(fd, token, what)) {
                // Descriptors of our own, each added once: only a host out of memory refuses.
                self.shared.end(super::shared::Ending {
                    code: 1,
                    message: format!("the event loop cannot be set up: {error}"),
                    orderly: false,
                });
            }
        };
        add(self.shared.control.fd(), CONTROL, EventSet::IN);
        add(self.signals.as_raw_fd(), SIGNAL, EventSet::IN);
        add(self.shared.wake_events.as_raw_fd(), WAKE, EventSet::IN);
        if let Some((udp, _)) = &self.udp {
            add(udp.as_raw_fd(), UDP, EventSet::IN);
        }
    }

    fn process(&mut self, events: Interest, ops: &mut EventOps<'_>) {
        match events.data() {
            UDP => self.datagrams(),
            CONTROL => self.control(),
            SIGNAL => self.signal(),
            WAKE => {
                // Level-triggered and non-blocking: an error means that it was empty.
                let _ = self.shared.wake_events.read();
            }
            LOG => {
                if let Some(stream) = self.blocked.take() {
                    // It is registered: this cannot fail, and if it did the next try would show.
                    let _ = ops.remove(Interest::empty(&stream));
                }
            }
            _ => {}
        }
        self.shared.pump_if_free();
        self.watch_full_sockets(ops);
    }
}

impl Loop {
    fn watch_full_sockets(&mut self, ops: &mut EventOps<'_>) {
        if self.blocked.is_none()
            && let Some(stream) = self.shared.take_blocked()
            && ops.add(Interest::with_data_raw(stream.as_raw_fd(), LOG, EventSet::OUT)).is_ok()
        {
            self.blocked = Some(stream);
        }
        let wanted = !self.shared.control.flush();
        if !wanted {
            self.shared.control_blocked.store(false, Ordering::Release);
        }
        if wanted != self.control_out {
            let what = if wanted { EventSet::IN | EventSet::OUT } else { EventSet::IN };
            if ops.modify(Interest::with_data_raw(self.shared.control.fd(), CONTROL, what)).is_ok() {
                self.control_out = wanted;
            }
            if !wanted {
                // Outputs may have waited for this.
                self.shared.pump_if_free();
            }
        }
    }

    fn datagrams(&mut self) {
        let Some((udp, peer)) = &self.udp else { return };
        let mut buffer = [0; 2048];
        // Bounded: other events get their turn.
        for _ in 0..64 {
            match udp.recv_from(&mut buffer) {
                Ok((count, from)) if from == *peer => self.shared.handle(Event::Datagram(&buffer[..count])),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The peer's port is closed, say: no matter for a datagram.
                Err(_) => {}
            }
        }
    }

    fn signal(&mut self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // SAFETY: pointer and length are those of `info`.
        while unsafe { libc::read(self.signals.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) } > 0 {
            self.shared.handle(Event::Stop);
        }
        self.shared.wake_now();
    }

    fn control(&mut self) {
        loop {
            match self.shared.control.receive() {
                Received::Nothing => return,
                Received::Closed => {
                    // The launcher is gone: nothing of this pair may be left behind.
                    std::process::exit(1);
                }
                Received::Message(ToReplica::Fenced { generation }) => {
                    self.shared.handle(Event::Fenced { generation });
                }
                Received::Message(ToReplica::Stop) => {
                    self.shared.handle(Event::Stop);
                    self.shared.wake_now();
                }
                Received::Message(ToReplica::ConsoleInput(bytes)) => {
                    // Typed by a person, and the launcher sends it to the live replica only.
                    self.shared.inputs.push(Input::Console(bytes));
                    self.shared.wake_now();
                }
                Received::Message(ToReplica::Promote { id, generation }) => {
                    // Whoever was stopped, or comes late, may have heard the peer and not know it yet.
                    self.datagrams();
                    let result = self.shared.core().promote(generation, self.shared.now());
                    let refused = result.err().map(|error| error.to_string());
                    self.shared.wake_now();
                    self.shared.control.send(&FromReplica::Promoted { id, refused });
                }
                Received::Message(ToReplica::Status { id }) => {
                    let status = status(&self.shared);
                    self.shared.control.send(&FromReplica::Status { id, status });
                }
            }
            self.shared.pump_if_free();
        }
    }
}

/// Inputs that wait for a guest that has not exited for long, and for how long it has not.
fn held_up(shared: &Shared) -> Option<(usize, ft_core::Nanos)> {
    let (inputs, since) = (shared.inputs.len(), shared.between.load(Ordering::Relaxed));
    let held = shared.now().saturating_sub(since);
    (inputs > 0 && since > 0 && held >= HELD_UP).then_some((inputs, held))
}

fn status(shared: &Shared) -> Value {
    let status = shared.core().status(shared.now());
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        // A struct of numbers and names always is one.
        _ => serde_json::Map::new(),
    };
    fields.insert("replica".into(), json!(shared.me().replica.name()));
    fields.insert("pid".into(), json!(std::process::id()));
    fields.insert("paused_ms".into(), json!(shared.paused.load(Ordering::Relaxed) as f64 / 1e6));
    fields.insert("late_max_ms".into(), json!(shared.late.load(Ordering::Relaxed) as f64 / 1e6));
    fields.insert("guest_ms".into(), json!(shared.guest.load(Ordering::Relaxed) as f64 / 1e6));
    fields.insert("prompt".into(), json!(shared.prompt.load(Ordering::Relaxed)));
    fields.insert("digests".into(), json!(shared.digests.load(Ordering::Relaxed)));
    if let Some((inputs, held)) = held_up(shared) {
        fields.insert("held_up".into(), json!({ "inputs": inputs, "ms": held as f64 / 1e6 }));
    }
    let apart = shared.media.apart();
    if !apart.is_empty() {
        fields.insert("quarantine".into(), json!(apart));
    }
    if shared.solo {
        fields.insert("position".into(), json!(shared.position.load(Ordering::Relaxed)));
    }
    Value::Object(fields)
}
