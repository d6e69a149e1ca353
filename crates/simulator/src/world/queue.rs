//! What is going to happen, by time; at one time in an order that the seed decides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ft_core::Nanos;

use crate::node::Thread;
use crate::register::{Call, Done};

/// A replica's sockets to its launcher.
#[derive(Debug, Clone, Copy)]
pub enum Socket {
    /// What it says.
    Words,
    /// The frames that it sends.
    Frames,
}

/// Something that is going to happen. A process is named by its incarnation: what was meant for one that is gone is dropped.
#[derive(Debug)]
pub enum Happening {
    /// A thread takes its next step, if it was not woken earlier since.
    Thread(usize, Thread, u64),
    /// Bytes of a connection are there, or its end is.
    Bytes {
        /// The connection.
        link: u64,
        /// Towards this seat.
        to: usize,
    },
    /// A datagram is there.
    Datagram {
        /// For this seat.
        to: usize,
        /// It.
        bytes: Vec<u8>,
    },
    /// Replica b dials.
    Dial {
        /// Its process.
        incarnation: u64,
        /// Beside its usual turns: it has lost a connection before the guest has started.
        soon: bool,
    },
    /// Nobody said on this connection who he is, for long enough.
    Patience {
        /// Whose patience.
        node: usize,
        /// The connection.
        link: u64,
    },
    /// A call reaches the register.
    Call {
        /// Whose.
        node: usize,
        /// Which process's.
        incarnation: u64,
        /// Its number.
        id: u64,
        /// It.
        call: Call,
    },
    /// The content of a generation is written whose name is there already: a deliberate mistake.
    Content {
        /// Whose.
        node: usize,
        /// Which process's.
        incarnation: u64,
        /// The call's number.
        id: u64,
        /// It.
        call: Call,
    },
    /// Its answer reaches the caller.
    Answer {
        /// Whose.
        node: usize,
        /// Which process's.
        incarnation: u64,
        /// The call's number.
        id: u64,
        /// It.
        done: Done,
    },
    /// The caller waits no longer.
    Expired {
        /// Whose.
        node: usize,
        /// Which process's.
        incarnation: u64,
        /// The call's number.
        id: u64,
    },
    /// The event loop of another process of one identity has its turn.
    Twin(u64),
    /// A disk request gets further.
    Flight(u64),
    /// The launcher has killed and reaped the old process.
    Fenced {
        /// Who asked.
        node: usize,
        /// Which process.
        incarnation: u64,
        /// In this generation.
        generation: u64,
    },
    /// The launcher reads one of this seat's sockets.
    Launcher(usize, Socket),
    /// A client sends a frame.
    Client,
    /// A fault of the plan strikes.
    Strike(usize),
    /// It ends.
    Heal(usize),
    /// A process is started on this seat, if there is none.
    Start(usize),
    /// The person of a fault of the plan looks again.
    Person(usize),
}

#[derive(Debug)]
struct Entry {
    at: Nanos,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl Queue {
    /// Adds something; `order` decides among what happens at one time.
    pub fn push(&mut self, at: Nanos, order: u64, what: Happening) {
        self.heap.push(Reverse(Entry { at, order, what }));
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|entry| entry.0.at)
    }

    /// The next thing.
    pub fn pop(&mut self) -> Option<(Nanos, Happening)> {
        self.heap.pop().map(|entry| (entry.0.at, entry.0.what))
    }
}
