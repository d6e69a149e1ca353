//! What the threads of a replica share: the protocol behind its lock, the queue of inputs, the sockets.
//!
//! Locks are taken in this order: `outside`, `tx`, `core`. No lock is held during a call that may block for long.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::Thread;
use std::time::Instant;

use ft_core::input::NetRx;
use ft_core::output::OutputBody;
use ft_core::{Event, Mode, Nanos, Replica, Settings};
use ft_devices::backend::disk::DiskBackend;
use ft_devices::ft::DiskPolicy;
use ft_policies::{Config, NetBackend, Who};
use ft_vcpu::Kick;
use vmm_sys_util::eventfd::EventFd;

use super::Setting;
use super::addresses::Addresses;
use super::chores::Chore;
use super::control::Control;
use super::disks::{Disks, RequestId};
use super::fence::Peers;
use super::inputs::Inputs;
use super::media::Media;
use super::net;
use super::outside::Outside;
use super::pi_mutex::{PiGuard, PiMutex};
use super::prompt::is_prompt;
use super::register::Call;
use crate::launcher::messages::LanPacket;
use crate::launcher::packet::PacketSocket;

/// How long the vCPU's thread may be silent before heartbeats no longer vouch for it.
const VOUCH: Nanos = ft_core::replica::STUCK;

/// The protocol, with outputs as they are held.
pub(super) type Core = Replica<Held>;

/// An output in the gate, or kept back.
#[derive(Debug)]
pub(super) enum Held {
    /// As the machine made it.
    Output(OutputBody),
    /// A write: its data wait with the disk, where later requests find it in their way.
    Write(RequestId),
}

/// The log connection's sending side.
#[derive(Default)]
struct Tx {
    link: Option<TcpStream>,
    rest: Vec<u8>,
    sent: usize,
}

/// Why the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) code: u8,
    pub(super) message: String,
    /// Disk requests that were submitted are waited for; otherwise what has not begun is dropped.
    pub(super) orderly: bool,
}

/// See the module.
pub(super) struct Shared {
    core: PiMutex<Core>,
    outside: PiMutex<Outside>,
    /// Somebody found `outside` taken, and left what there is to do to the one that has it.
    outside_wanted: AtomicBool,
    tx: PiMutex<Tx>,
    pub(super) inputs: Arc<Inputs>,
    pub(super) kick: Arc<Kick>,
    vcpu: Arc<OnceLock<Thread>>,
    pub(super) control: Arc<Control>,
    pub(super) disks: Disks,
    register: OnceLock<mpsc::Sender<Call>>,
    chores: OnceLock<mpsc::Sender<Chore>>,
    pub(super) peers: Peers,
    pub(super) pair: u128,
    udp: OnceLock<(UdpSocket, SocketAddr)>,
    pub(super) wake_events: EventFd,
    /// The log connection that the protocol knows; 0 is none.
    link: AtomicU64,
    links: AtomicU64,
    tx_blocked: AtomicBool,
    tx_wanted: AtomicBool,
    pub(super) control_blocked: AtomicBool,
    /// When the vCPU's thread last did something, or that it waits for something to do.
    alive: AtomicU64,
    parked: AtomicBool,
    /// Since when the guest is on its way between two positions, as of the last look; 0 if it stands.
    pub(super) between: AtomicU64,
    /// Where the machine stood when it was last looked at.
    pub(super) position: AtomicU64,
    /// Guest nanoseconds since power-on, as of lately.
    pub(super) guest: AtomicU64,
    /// Guest nanoseconds that were cut out of long pauses.
    pub(super) paused: AtomicU64,
    /// By how much a timer, and with it a heartbeat, was ever late: the host had no time for this process.
    pub(super) late: AtomicU64,
    /// Digests logged, or found to be equal.
    pub(super) digests: AtomicU64,
    /// The threads that must not wait for a processor do not ([`super::prompt`]).
    pub(super) prompt: AtomicBool,
    /// Number of the last inbound frame that is queued here or executed.
    seen: AtomicU64,
    /// Of a guest whose network must be told where it is.
    addresses: Option<Mutex<Addresses>>,
    /// Where the guest ended, or was stopped, in order; 0 if it did not.
    end: AtomicU64,
    /// The exit code and message that the guest's end means.
    guest_end: Mutex<Option<(u8, String)>>,
    ending: Mutex<Option<Ending>>,
    epoch: Instant,
    me: Who,
    pub(super) setting: Setting,
    pub(super) solo: bool,
    pub(super) media: Media,
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        settings: Settings,
        setting: Setting,
        control: Arc<Control>,
        lan: Arc<PacketSocket>,
        disks: Vec<DiskBackend>,
        media: Media,
    ) -> io::Result<Arc<Self>> {
        let (me, pair) = (settings.me, settings.pair);
        let (detector, pacing) = (config.detector.build(), config.pacing.build());
        let core = if setting == Setting::Solo {
            Core::solo(settings, detector, pacing)
        } else {
            Core::new(settings, detector, pacing, 0)
        };
        let inputs = Arc::new(Inputs::default());
        let kick = Arc::new(Kick::new());
        let vcpu: Arc<OnceLock<Thread>> = Arc::default();
        let policies = config.disks.iter().map(DiskPolicy::of).collect();
        let direct = setting == Setting::TwoHosts;
        let disks =
            Disks::new(disks, direct, policies, Arc::clone(&inputs), Arc::clone(&kick), Arc::clone(&vcpu))?;
        Ok(Arc::new(Self {
            core: PiMutex::new(core)?,
            outside: PiMutex::new(Outside::new(lan))?,
            outside_wanted: AtomicBool::new(false),
            tx: PiMutex::new(Tx::default())?,
            inputs,
            kick,
            vcpu,
            control,
            disks,
            register: OnceLock::new(),
            chores: OnceLock::new(),
            peers: Peers::default(),
            pair,
            udp: OnceLock::new(),
            wake_events: EventFd::new(libc::EFD_NONBLOCK)?,
            link: AtomicU64::new(0),
            links: AtomicU64::new(0),
            tx_blocked: AtomicBool::new(false),
            tx_wanted: AtomicBool::new(false),
            control_blocked: AtomicBool::new(false),
            alive: AtomicU64::new(0),
            parked: AtomicBool::new(true),
            between: AtomicU64::new(0),
            position: AtomicU64::new(0),
            guest: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            digests: AtomicU64::new(0),
            prompt: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            addresses: addresses_to_learn(config),
            end: AtomicU64::new(0),
            guest_end: Mutex::default(),
            ending: Mutex::default(),
            epoch: Instant::now(),
            me,
            setting,
            solo: setting == Setting::Solo,
            media,
        }))
    }

    pub(super) fn me(&self) -> Who {
        self.me
    }

    /// The process's clock, as the protocol counts it. Begins well above 0, so that no time before the start is negative.
    pub(super) fn now(&self) -> Nanos {
        // Nanoseconds of a process's life fit for 584 years.
        1_000_000_000 + self.epoch.elapsed().as_nanos() as u64
    }

    /// The protocol. Not to be held while anything else is locked or done.
    pub(super) fn core(&self) -> PiGuard<'_, Core> {
        self.core.lock()
    }

    /// Tells the protocol what happened, and wakes the vCPU's thread if that may change what it is to do.
    pub(super) fn handle(&self, event: Event<'_>) {
        let now = self.now();
        let mut core = self.core();
        let before = core.mode();
        core.handle(event, now);
        let after = core.mode();
        drop(core);
        if before != after {
            self.kick.set();
        }
        self.wake();
    }

    /// This side's own disk has failed it.
    pub(super) fn disk_failed(&self, message: String) {
        self.handle(Event::DiskFailed(message));
        self.pump();
    }

    pub(super) fn mode(&self) -> Mode {
        self.core().mode()
    }

    /// Does what the protocol wants done, until there is nothing more.
    pub(super) fn pump(&self) {
        self.pump_with(self.outside.lock());
        if self.outside_wanted.load(Ordering::Acquire) {
            self.pump_if_free();
        }
    }

    /// The same, but when another thread is at it, that one does this too. For the event loop: on a busy host the other may have
    /// been preempted in the middle, and the thread that sends and hears heartbeats must not stand still with it.
    pub(super) fn pump_if_free(&self) {
        self.outside_wanted.store(true, Ordering::Release);
        // Either this thread finds the lock free, or the one that lets it go finds this: see the end of `pump_with`.
        fence(Ordering::SeqCst);
        while self.outside_wanted.load(Ordering::Acquire) {
            let Some(outside) = self.outside.try_lock() else { return };
            self.outside_wanted.store(false, Ordering::Release);
            self.pump_with(outside);
        }
    }

    fn pump_with(&self, mut outside: PiGuard<'_, Outside>) {
        loop {
            let effect = self.core().poll_effect();
            if let Some(effect) = effect {
                outside.perform(self, effect);
                continue;
            }
            self.transmit();
            if !outside.release(self) && !self.core().has_effects() {
                break;
            }
        }
        if self.control.is_blocked() && !self.control_blocked.swap(true, Ordering::AcqRel) {
            self.wake_event_loop();
        }
        drop(outside);
        fence(Ordering::SeqCst);
    }

    // The log connection.

    /// A new connection. `None` if there is one already.
    pub(super) fn connected(&self, stream: &TcpStream) -> io::Result<Option<u64>> {
        {
            let mut tx = self.tx.lock();
            if tx.link.is_some() || self.link.load(Ordering::Acquire) != 0 {
                return Ok(None);
            }
            *tx = Tx { link: Some(stream.try_clone()?), ..Tx::default() };
        }
        let id = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        self.link.store(id, Ordering::Release);
        self.handle(Event::Connected);
        self.pump();
        Ok(Some(id))
    }

    /// The connection's reader has come to its end.
    pub(super) fn disconnected(&self, id: u64, reason: String) {
        if self.link.compare_exchange(id, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.close_link();
            self.handle(Event::Disconnected(reason));
            self.pump();
        }
    }

    /// Closes the log connection; its reader ends.
    pub(super) fn close_link(&self) {
        let mut tx = self.tx.lock();
        let before = std::mem::take(&mut *tx);
        if let Some(stream) = before.link {
            // An error means that it is closed already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Sends what there is to send, without waiting: what a full socket refuses goes over to the event loop.
    pub(super) fn transmit(&self) {
        self.tx_wanted.store(true, Ordering::Release);
        // Whoever is at it sends this too, and nobody waits for it: the vCPU's thread may be preempted in the middle of a send. But a
        // prompt thread, whose acknowledgement may be what the peer waits for, makes it go on by waiting.
        while self.tx_wanted.load(Ordering::Acquire) {
            let mut tx = if is_prompt() {
                self.tx.lock()
            } else {
                let Some(tx) = self.tx.try_lock() else { return };
                tx
            };
            self.tx_wanted.store(false, Ordering::Release);
            self.transmit_with(&mut tx);
        }
    }

    fn transmit_with(&self, tx: &mut Tx) {
        loop {
            if tx.link.is_none() {
                return;
            }
            if tx.sent == tx.rest.len() {
                match self.core().poll_transmit(self.now()) {
                    Some(frame) => (tx.rest, tx.sent) = (frame, 0),
                    None => return,
                }
            }
            let Tx { link: Some(stream), rest, sent } = &mut *tx else { return };
            match send_now(stream, &rest[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.tx_blocked.swap(true, Ordering::AcqRel) {
                        self.wake_event_loop();
                    }
                    return;
                }
                Err(_) => {
                    // Broken: the reader sees it too, and tells.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                    tx.link = None;
                    return;
                }
            }
        }
    }

    /// A descriptor to wait on if the log connection was full, once.
    pub(super) fn take_blocked(&self) -> Option<TcpStream> {
        if !self.tx_blocked.swap(false, Ordering::AcqRel) {
            return None;
        }
        let stream = {
            let tx = self.tx.lock();
            tx.link.as_ref().and_then(|stream| stream.try_clone().ok())
        };
        if self.tx_wanted.load(Ordering::Acquire) {
            self.transmit();
        }
        stream
    }

    // Heartbeats.

    pub(super) fn set_udp(&self, socket: UdpSocket, peer: SocketAddr) {
        // Set once, at the start.
        let _ = self.udp.set((socket, peer));
    }

    /// Sends a heartbeat, if the thread that does the work is at work.
    pub(super) fn heartbeat(&self, bytes: &[u8]) {
        let works = self.parked.load(Ordering::Acquire)
            || self.now().saturating_sub(self.alive.load(Ordering::Acquire)) < VOUCH;
        if let (true, Some((socket, peer))) = (works, self.udp.get()) {
            // A datagram may be lost anyhow; a refusal says that nobody listens there now.
            let _ = socket.send_to(bytes, peer);
        }
    }

    /// Tells the peer, as the last thing, that nothing of this process can reach a disk any more.
    pub(super) fn last_words(&self) {
        if let Some((socket, peer)) = self.udp.get() {
            // Lost, it costs the other side its certainty until this replica's next process is heard.
            let _ = socket.send_to(&self.core().last_words(), peer);
        }
    }

    /// The vCPU's thread is at work.
    pub(super) fn beat(&self) {
        self.alive.store(self.now(), Ordering::Release);
    }

    // Waking.

    pub(super) fn set_vcpu(&self) {
        // Set once, by the thread itself.
        let _ = self.vcpu.set(std::thread::current());
    }

    /// Wakes the vCPU's thread if it sleeps.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.vcpu.get() {
            thread.unpark();
        }
    }

    /// Wakes it also if it runs the guest.
    pub(super) fn wake_now(&self) {
        self.kick.set();
        self.wake();
    }

    /// The vCPU's thread sleeps until woken, at most until `until`.
    pub(super) fn park(&self, until: Nanos) {
        let now = self.now();
        if until > now {
            self.parked.store(true, Ordering::Release);
            std::thread::park_timeout(std::time::Duration::from_nanos(until - now));
            self.beat();
            self.parked.store(false, Ordering::Release);
        }
    }

    /// The vCPU's thread does what may take long, and is not to be missed meanwhile.
    pub(super) fn at_work_elsewhere<T>(&self, work: impl FnOnce() -> T) -> T {
        self.parked.store(true, Ordering::Release);
        let done = work();
        self.beat();
        self.parked.store(false, Ordering::Release);
        done
    }

    pub(super) fn wake_event_loop(&self) {
        // Only an overflowing counter is refused: then it is awake.
        let _ = self.wake_events.write(1);
    }

    // The register.

    pub(super) fn set_register(&self, sender: mpsc::Sender<Call>) {
        // Set once, at the start.
        let _ = self.register.set(sender);
    }

    pub(super) fn call_register(&self, call: Call) {
        // The thread lives as long as the process.
        if let Some(sender) = self.register.get() {
            let _ = sender.send(call);
        }
    }

    // Chores.

    pub(super) fn set_chores(&self, sender: mpsc::Sender<Chore>) {
        // Set once, at the start.
        let _ = self.chores.set(sender);
    }

    pub(super) fn chore(&self, chore: Chore) {
        // The thread lives as long as the process.
        if let Some(sender) = self.chores.get() {
            let _ = sender.send(chore);
        }
    }

    // Frames.

    /// What of a packet is new to this guest.
    pub(super) fn news(&self, packet: LanPacket) -> Option<NetRx> {
        let batch = net::unseen(packet, self.seen())?;
        self.seen_up_to(batch.switch_seq);
        Some(batch)
    }

    /// Inbound frames up to this number are known here.
    pub(super) fn seen_up_to(&self, seq: u64) {
        self.seen.fetch_max(seq, Ordering::AcqRel);
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The guest makes these frames, whether they are let out or not.
    pub(super) fn note_frames(&self, frames: &[Vec<u8>]) {
        if let Some(addresses) = &self.addresses {
            let mut addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
            frames.iter().for_each(|frame| addresses.note(frame));
        }
    }

    /// The addresses that the guest is known to use, for a network that must be told where it is.
    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        let addresses = self.addresses.as_ref();
        addresses.map_or(Vec::new(), |known| known.lock().unwrap_or_else(PoisonError::into_inner).known())
    }

    // Ends.

    /// What the guest's own end means for the exit code.
    pub(super) fn guest_ends(&self, code: u8, message: String) {
        let mut end = self.guest_end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert((code, message));
    }

    /// The guest's life is over, here.
    pub(super) fn set_end(&self, position: u64) {
        self.end.store(position, Ordering::Release);
    }

    /// Where that was, if it ever lived.
    pub(super) fn end_position(&self) -> Option<u64> {
        Some(self.end.load(Ordering::Acquire)).filter(|position| *position > 0)
    }

    pub(super) fn guest_end(&self) -> (u8, String) {
        let end = self.guest_end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone().unwrap_or_default()
    }

    /// The process is to end. The first reason counts.
    pub(super) fn end(&self, ending: Ending) {
        let mut slot = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(ending);
        drop(slot);
        self.wake_event_loop();
        self.wake_now();
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The launcher's own network moves with the guest by itself.
fn addresses_to_learn(config: &Config) -> Option<Mutex<Addresses>> {
    let tap = config.nets.first().filter(|net| matches!(net.backend, NetBackend::Tap { .. }));
    tap.map(|net| Mutex::new(Addresses::new(net.mac)))
}

fn send_now(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return stream.write(bytes);
    }
    // SAFETY: pointer and length are those of `bytes`. The socket itself is blocking, for its reader.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
