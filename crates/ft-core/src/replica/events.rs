//! What goes into a [`super::Replica`], and what comes out.

use ft_policies::{Answer, RegisterState, Unavailable};

use super::Divergence;
use crate::record::OutputClass;
use crate::wire::Copies;
use crate::{Lsn, Nanos};

/// Something that happened outside.
#[derive(Debug)]
pub enum Event<'a> {
    /// The process is ready: sockets are bound, disks are open, the machine is built.
    Start,
    /// The log connection stands. One at a time: the last one was [`Event::Disconnected`] before.
    Connected,
    /// Bytes from the log connection.
    Received(&'a [u8]),
    /// The log connection is gone, in words.
    Disconnected(String),
    /// A datagram from the peer's address.
    Datagram(&'a [u8]),
    /// The time of [`super::Replica::poll_timeout`] has come.
    Timeout,
    /// Answer to [`Effect::ReadRegister`].
    Register(Result<RegisterState, Unavailable>),
    /// Answer to [`Effect::Ask`]; expiry of its deadline is `Unavailable`.
    Answer {
        /// The ask's `from`.
        from: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Answer to [`Effect::Fence`]: nothing of the old primary's can reach a shared disk any more.
    Fenced {
        /// The generation of the question.
        generation: u64,
    },
    /// The pending disk requests have been issued again ([`super::Mode::Reissue`]).
    DisksReissued,
    /// The copies of separate disks are the same on both sides ([`Effect::CopyFrom`]).
    Copied {
        /// The exchange.
        session: u64,
    },
    /// They cannot be made the same.
    CopyRefused {
        /// The exchange.
        session: u64,
        /// Why, in words.
        reason: String,
    },
    /// The peer says in the exchange what makes no sense, in words: it is lost.
    CopyBroken {
        /// The exchange.
        session: u64,
        /// What, in words.
        reason: String,
    },
    /// What this side's own copies are worth has changed.
    Copies(Copies),
    /// The backup's machine differs from the primary's.
    Diverged(Divergence),
    /// This side's own disk has failed it, in words: it ends, and its peer goes on.
    DiskFailed(String),
    /// The operator wants the pair to stop.
    Stop,
}

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read the register.
    ReadRegister,
    /// Ask the register for generation `from + 1`.
    Ask {
        /// The generation that this side knows.
        from: u64,
    },
    /// Remember this, durably: the tie-breaker is a person, and each side has a register of its own.
    Learn(RegisterState),
    /// Cut the old primary off from the shared disks.
    Fence {
        /// The generation that was won.
        generation: u64,
    },
    /// This replica is live: move the guest's address here. Outputs are released after this only.
    Live {
        /// The generation.
        generation: u64,
        /// It took over from a primary that was lost.
        takeover: bool,
        /// It has no backup.
        alone: bool,
        /// Nanoseconds since the peer was last heard; 0 at the first start.
        silent: Nanos,
        /// Why, in words.
        reason: String,
    },
    /// The inbound frames up to this switch number are in acknowledged records (or there is no backup).
    RxAcknowledged {
        /// Generation.
        generation: u64,
        /// Last number.
        seq: u64,
    },
    /// The backup has the data of a read that [`super::Replica::read_followed`] or [`super::Replica::read_logged`] told of.
    ReadFinished {
        /// The disk.
        disk: u16,
        /// The request.
        request: u64,
    },
    /// Both sides' copies of separate disks are to become the same; this side's are the ones that count. The exchange
    /// ([`super::Replica::send_copy`], [`Effect::CopyMessage`]) ends with [`Event::Copied`] or [`Event::CopyRefused`] here.
    CopyFrom {
        /// The exchange.
        session: u64,
    },
    /// The other side's are the ones that count.
    CopyTo {
        /// The exchange.
        session: u64,
    },
    /// A message of that exchange has come.
    CopyMessage {
        /// The exchange.
        session: u64,
        /// The message.
        message: Vec<u8>,
    },
    /// The exchange is off: the peer was lost.
    CopyOff,
    /// The peer was heard as this process; or it said, as its last word, that this process has closed its disks.
    Peer {
        /// Which process.
        incarnation: u64,
        /// Those were its last words.
        gone: bool,
    },
    /// Send this datagram to the peer's address, provided that the thread that runs the guest is at work.
    Heartbeat(Vec<u8>),
    /// Close the log connection, if there is one. No [`Event::Disconnected`] is due for it.
    CloseLink,
    /// A line for the operator.
    Notice(String),
    /// End the process at once; what is in [`super::Replica::poll_transmit`] is sent if that needs no waiting.
    Halt {
        /// Why.
        exit: Exit,
        /// The same, in words.
        message: String,
    },
    /// The guest's end, or a stop, is complete on this side.
    End,
}

/// Why a replica ends on its own; the number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It cannot go on.
    Failure = 1,
    /// The other side has the next generation.
    LostTieBreaker = 3,
    /// Its machine is not the primary's.
    Divergence = 5,
    /// The peer speaks another version, has another config or another guest.
    Mismatch = 6,
}

/// An output that may go out now. To be performed in the order in which they are given, then told with
/// [`super::Replica::released`].
#[derive(Debug)]
pub struct Released<O> {
    /// LSN of its marker.
    pub lsn: Lsn,
    /// Generation in which it is released.
    pub generation: u64,
    /// Its kind.
    pub class: OutputClass,
    /// Its content.
    pub payload: O,
}
