//! One seat of the pair, and the process on it: `ft_core::Replica` and a small, faithful model of what the runtime puts around it
//! (`crates/runtime/src/replica`).
//!
//! A process has the runtime's threads. Each is a step function; a step does *one* thing (one call of the protocol, one effect, one
//! output), and before its next step any other thread may have its turn. What the runtime does under its `outside` lock is one
//! thread here: the order of effects and outputs is kept, and everything else may come between two of them.
//!
//! - [`vcpu`]: the thread that runs the guest, [`live`] and [`follow`] its two loops;
//! - [`outside`]: effects and released outputs;
//! - [`link`]: the log connection's reader and writer;
//! - [`events`]: the event loop, datagrams and timers;
//! - [`disks`]: the disk requests, with the real schedule;
//! - [`copies`]: the exchange and the stamps of a pair with separate disks, [`person`] who promotes where that takes one;
//! - [`life`]: starts, deaths, pauses, ends; [`twin`] is another process of one identity.

pub mod copies;
pub mod disks;
pub mod events;
pub mod fence;
pub mod follow;
pub mod life;
pub mod link;
pub mod live;
pub mod outside;
pub mod person;
pub mod twin;
pub mod vcpu;

use std::collections::VecDeque;
use std::sync::Arc;

use ft_core::input::Input;
use ft_core::mutation::{Mutation, mutated};
use ft_core::output::OutputBody;
use ft_core::{Event, Lsn, Mode, Nanos, Replica};
use ft_runtime::replica::copies::{Copies, Exchange};

use crate::guest::Guest;
use crate::guest::reference::Journal;
use crate::register::Calls;
use crate::shape::{Ambient, MS};
use crate::world::World;
use crate::world::queue::Happening;
use disks::Disks;
use vcpu::Vcpu;

/// The threads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Runs the guest.
    Vcpu,
    /// Performs effects and releases outputs.
    Outside,
    /// Writes the log connection.
    Writer,
    /// Reads it.
    Reader,
    /// The event loop.
    Loop,
    /// Fences, and what may take long.
    Chores,
}

const THREADS: usize = 6;

/// What an output is, in the gate (`ft-runtime`, `replica/shared.rs`).
#[derive(Debug)]
pub enum Held {
    /// Itself.
    Output(OutputBody),
    /// A write that waits in the disk's schedule.
    Write(u64),
}

/// When a thread has its next turn.
#[derive(Debug, Default, Clone, Copy)]
pub struct Slot {
    at: Option<Nanos>,
    token: u64,
    /// Its turn came while the process was stopped.
    missed: bool,
}

/// A process on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Exiting {
    /// Its exit code.
    pub code: u8,
    /// In order: what the guest has asked of the disk is done first.
    pub orderly: bool,
}

/// A process's own end of a log connection.
#[derive(Debug, Clone, Copy)]
pub struct LinkEnd {
    /// Which.
    pub id: u64,
    /// Shut down by this side; its reader has not noticed yet.
    pub shut: bool,
}

/// A chore (`ft-runtime`, `replica/chores.rs`).
#[derive(Debug, Clone)]
pub enum Chore {
    /// Cut the old primary off.
    Fence(u64),
    /// Stamp the own copies live in this generation; the rest of the fence comes after.
    StampLive(u64),
    /// A process of the peer's was heard.
    PeerHeard,
    /// The exchange of copies begins in this session, and this side's are the ones that count.
    CopyFrom(u64),
    /// The other side's are.
    CopyTo(u64),
    /// The other side says something in it.
    CopyMessage(u64, Vec<u8>),
    /// It is off.
    CopyOff,
}

/// A process.
pub struct Process {
    /// Its random number.
    pub incarnation: u64,
    /// The protocol.
    pub core: Replica<Held>,
    /// The guest.
    pub guest: Guest,
    /// Every input that the guest had.
    pub journal: Journal,
    /// The thread that runs it.
    pub vcpu: Vcpu,
    /// Its disk requests.
    pub disks: Disks,
    /// Its own copies of the disk, if the pair has such.
    pub copies: Option<Arc<Copies>>,
    /// The exchange of a session.
    pub exchange: Option<(u64, Exchange)>,
    /// Where the guest ended, or was stopped.
    pub end: Option<u64>,
    /// When the peer was last heard, and whether that was its last word.
    pub beat: Option<(Nanos, bool)>,
    /// The generation to which a person has promoted it.
    pub promoted: u64,
    /// Inputs that have arrived.
    pub inputs: VecDeque<Input>,
    /// The switch's number of the last frame that is known here.
    pub seen: u64,
    /// The log connection.
    pub link: Option<LinkEnd>,
    /// Connections that nobody has accepted yet.
    pub accepting: VecDeque<u64>,
    /// The socket was full.
    pub blocked: bool,
    /// Datagrams in the socket.
    pub datagrams: VecDeque<Vec<u8>>,
    /// Its calls of the register.
    pub calls: Calls,
    /// Chores that wait.
    pub chores: VecDeque<Chore>,
    /// What is known of the peer's processes: the last one heard, and those that are gone.
    pub peers: (Option<u64>, Vec<u64>),
    /// Outputs of this turn that went out: the last one, and whether it was the end.
    pub released: Option<(Lsn, bool)>,
    /// The file of blocks kept apart that it knows; 0 is none.
    pub apart: u64,
    /// Disk requests whose turn came while the process was stopped.
    pub flights_missed: Vec<u64>,
    slots: [Slot; THREADS],
    /// It is stopped.
    pub paused: bool,
    /// The thread that runs the guest gets nowhere; true if it seems to be asleep.
    pub wedged: Option<bool>,
    /// Its guest runs so many times slower.
    pub slow: u64,
    /// Its disk requests fail, take long.
    pub disk_trouble: (bool, bool),
    /// Nobody takes its outputs.
    pub crowded: bool,
    /// Its thread for what goes out has found no effect, and looks for outputs next.
    pub no_effects: bool,
    /// It is about to be gone.
    pub exiting: Option<Exiting>,
    /// When the event loop last had its turn, on the host's clock.
    pub looked: Nanos,
    /// It dies soon after it has asked the tie-breaker; the number says how soon.
    pub asker: Option<u64>,
    /// The end of so many steps from now.
    pub doom: Option<(u32, Doom)>,
}

/// What comes of a doomed process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// It dies.
    Death,
    /// It is stopped; the fault that did it ends that.
    Pause,
}

/// A seat: a host's clock and what runs there.
pub struct Seat {
    /// The clock.
    pub clock: crate::world::clock::Clock,
    /// The process.
    pub process: Option<Box<Process>>,
    /// How its processes ended: incarnation and exit code; `None` is a crash.
    pub ends: Vec<(u64, Option<u8>)>,
}

impl Process {
    /// The digest of its guest, as the log carries it.
    fn digest(&self) -> u64 {
        let gate = if mutated(Mutation::GateInDigest) { self.core.view().gate.0 as u64 } else { 0 };
        self.guest.digest() ^ gate
    }
}

impl World {
    /// The process on a seat.
    pub fn process(&self, node: usize) -> Option<&Process> {
        self.seats[node].process.as_deref()
    }

    /// The same, to be changed.
    pub fn process_mut(&mut self, node: usize) -> Option<&mut Process> {
        self.seats[node].process.as_deref_mut()
    }

    /// The process whose thread has its turn: there is one.
    pub(crate) fn at(&mut self, node: usize) -> &mut Process {
        self.seats[node].process.as_deref_mut().expect("a thread that has its turn has a process")
    }

    /// What a seat's clock shows.
    pub fn local(&self, node: usize) -> Nanos {
        self.seats[node].clock.at(self.now)
    }

    /// How long a thread takes until it does the next thing.
    pub(crate) fn grain(&mut self) -> Nanos {
        if self.busy && self.random.chance(30) {
            return self.random.below(6_000_000);
        }
        500 + self.random.below(15_000)
    }

    /// A thread has its turn at the latest after this time.
    pub(crate) fn wake(&mut self, node: usize, thread: Thread, after: Nanos) {
        let late = thread == Thread::Loop && self.shape.has(Ambient::Late);
        let late = if late { self.random.between(20, 40) * MS } else { 0 };
        let at = self.now.saturating_add(after).saturating_add(late);
        self.tokens += 1;
        let token = self.tokens;
        let Some(process) = self.seats[node].process.as_deref_mut() else { return };
        let slot = &mut process.slots[thread as usize];
        if slot.missed || slot.at.is_some_and(|known| known <= at) {
            return;
        }
        (slot.at, slot.token) = (Some(at), token);
        self.schedule(at - self.now, Happening::Thread(node, thread, token));
    }

    /// The same, soon.
    pub(crate) fn wake_soon(&mut self, node: usize, thread: Thread) {
        let grain = self.grain();
        self.wake(node, thread, grain);
    }

    /// A thread's turn has come.
    pub(crate) fn turn(&mut self, node: usize, thread: Thread, token: u64) {
        let Some(process) = self.process_mut(node) else { return };
        let slot = &mut process.slots[thread as usize];
        if slot.token != token || slot.at.is_none() {
            return;
        }
        slot.at = None;
        if process.paused {
            process.slots[thread as usize].missed = true;
            return;
        }
        self.counters.steps += 1;
        match thread {
            Thread::Vcpu => self.vcpu_turn(node),
            Thread::Outside => self.outside_turn(node),
            Thread::Writer => self.writer_turn(node),
            Thread::Reader => self.reader_turn(node),
            Thread::Loop => self.loop_turn(node),
            Thread::Chores => self.chores_turn(node),
        }
        self.stepped(node);
        self.doomed(node);
    }

    /// Tells the protocol what happened, and wakes who may have something to do.
    pub(crate) fn handle(&mut self, node: usize, event: Event<'_>) {
        let now = self.local(node);
        let process = self.at(node);
        let before = process.core.mode();
        process.core.handle(event, now);
        let changed = process.core.mode() != before;
        if changed || process.vcpu.parked {
            self.wake_soon(node, Thread::Vcpu);
        }
        self.pump(node);
    }

    /// Something may have to go out.
    pub(crate) fn pump(&mut self, node: usize) {
        self.wake_soon(node, Thread::Outside);
        self.wake_soon(node, Thread::Writer);
    }

    /// The thread that runs the guest may have something to do.
    pub(crate) fn unpark(&mut self, node: usize) {
        if self.process(node).is_some_and(|process| process.vcpu.parked) {
            self.wake_soon(node, Thread::Vcpu);
        }
    }

    /// An input has arrived.
    pub(crate) fn input(&mut self, node: usize, input: Input) {
        if let Some(process) = self.process_mut(node) {
            process.inputs.push_back(input);
            self.unpark(node);
        }
    }

    /// After every step: what the timers and the checkers want to know.
    pub(crate) fn stepped(&mut self, node: usize) {
        let Some(process) = self.process(node) else { return };
        let due = process.core.poll_timeout();
        if let Some(due) = due.filter(|_| process.exiting.is_none()) {
            let after = self.seats[node].clock.until(due, self.now);
            self.wake(node, Thread::Loop, after);
        }
        self.look(node);
    }

    /// The mode of a process.
    pub(crate) fn mode(&self, node: usize) -> Mode {
        self.process(node).map_or(Mode::Over, |process| process.core.mode())
    }

    /// One way through the network.
    pub(crate) fn latency(&mut self) -> Nanos {
        let usual = self.shape.latency + self.random.below(self.shape.latency / 4 + 1);
        if self.shape.has(Ambient::Jitter) && !self.calm && self.random.chance(8) {
            return usual + self.random.below(40 * crate::shape::MS);
        }
        usual
    }
}
