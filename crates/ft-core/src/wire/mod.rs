//! Frames between two replicas: versioned, checked, bounded.
//!
//! Every frame is a header of 20 bytes, a payload and, in a pair that has a key, a tag. On the log connection frames follow each
//! other; a heartbeat is one datagram. Decoders are total: whatever the bytes, they give a frame or a [`WireError`], without
//! panic and without allocating more than the bytes could fill.
//!
//! | bytes of the header | |
//! |---|---|
//! | 0 to 3 | magic |
//! | 4, 5 | version |
//! | 6 | kind |
//! | 7 | bit 0: a tag follows the payload; the others are 0 |
//! | 8 to 11 | length of the payload |
//! | 12 to 15 | CRC-32 of the header before it |
//! | 16 to 19 | CRC-32 of the payload |
//!
//! The header has a checksum of its own for the length's sake: bytes that a damaged length asks for may never come, and while two sides
//! wait for each other nothing else would tell.
//!
//! # The key of a pair
//!
//! With a key (`[replicas] key`) each frame ends with 16 bytes: the first half of HMAC-SHA256 over `ft-vm replicas 1` and a zero
//! byte, the header and the payload. Then a side believes nothing that has no right tag: a datagram is dropped and counted, a
//! connection is closed, and neither ends a replica, whether it starts or runs. What that keeps away, from whom:
//!
//! * *Somebody who reaches the addresses, or speaks in the peer's name*, and has no key: whatever he says is refused. He still may
//!   connect first and be silent; that keeps the peer out for as long as a connection without a hello is borne.
//! * *Somebody who has recorded frames*, of this session or of earlier ones, and sends them again. The [`Stamp`] of a log frame, an
//!   acknowledgement or a message of a copying has the session and the process of its sender, both random: outside its session it
//!   is dropped, and inside it, in one TCP connection, there is nobody else. A [`Hello`] says what a replica *is*, so an old one
//!   must not pass for a new one (its disks would be taken for what they were): it carries a number of its sender's for this
//!   connection and the one that it heard from the other side, and counts only if that is right ([`Nonces`]). Before there was
//!   such a hello nothing else on a connection counts either. A generation that is heard of was really won, whenever that was
//!   said. What is left are heartbeats of the current session: they make a peer that is dead look alive, which delays a takeover
//!   where the host fell silent without its connection being closed, for as long as they are repeated. They release nothing and
//!   take nothing over, so they cannot make two live replicas.
//! * *Somebody between the two* can also cut them off from each other, as a broken network does: the tie-breaker decides then.
//!   A wrong byte in the log connection ends it, as a closed one. And he can read: frames are not encrypted.
//!
//! Tags come after the CRC, so damage and a stranger are told apart. A side without a key refuses what has a tag, and says why.

mod bytes;
mod frame;
mod records;
mod stream;

pub use frame::{
    Ack, Copies, Copy, CpuLeaf, Frame, Heartbeat, Hello, LogFrame, Nonces, PeerRole, Refusal, Stamp, Used,
};
pub use stream::FrameReader;

use ft_policies::key::SHORT;

use crate::output::MAX_DISK_DATA;

/// The version of this protocol. Sides of different versions refuse each other.
pub const VERSION: u16 = 5;

/// Bytes of a header.
pub const HEADER: usize = 20;

/// Bytes of a tag.
pub const TAG: usize = SHORT;

/// The longest payload.
pub const MAX_PAYLOAD: usize = 2 * MAX_DISK_DATA;

/// The cost of records that one frame is filled with (one record may be larger).
pub const FRAME_BUDGET: u64 = 64 * 1024;

/// What is wrong with bytes received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not this protocol.
    #[error("not a frame of this protocol")]
    Magic,
    /// Another version of it.
    #[error("the peer speaks version {0} of the protocol, this side version {VERSION}")]
    Version(u16),
    /// A payload longer than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes is longer than any can be")]
    TooLong(u32),
    /// The checksum does not match.
    #[error("checksum error")]
    Checksum,
    /// It has no tag, and this side has a key.
    #[error(
        "the peer does not have this pair's key: what it says is not signed. Give it a copy of this side's, and name it in \
         [replicas] key there"
    )]
    Untagged,
    /// Its tag is another key's.
    #[error(
        "the peer does not have this pair's key: what it says is signed with another one. Give both sides a copy of one \
         ([replicas] key)"
    )]
    OtherKey,
    /// It has a tag, and this side has no key.
    #[error(
        "this side does not have the pair's key: what the peer says is signed with one. Give this side a copy, and name it in \
         [replicas] key"
    )]
    Tagged,
    /// The content makes no sense.
    #[error("malformed frame ({0})")]
    Malformed(&'static str),
}
