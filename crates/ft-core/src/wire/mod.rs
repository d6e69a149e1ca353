//! Frames between two replicas: versioned, checked, bounded.
//!
//! Every frame is a header of 16 bytes (magic, version, kind, length, CRC-32 of header and payload) and a payload. On the
//! log connection frames follow each other; a heartbeat is one datagram. Decoders are total: whatever the bytes, they give a
//! frame or a [`WireError`], without panic and without allocating more than the bytes could fill.

mod bytes;
mod frame;
mod records;

pub use frame::{
    Ack, Copies, Copy, Frame, FrameReader, Heartbeat, Hello, LogFrame, PeerRole, Refusal, Stamp, Used,
};

use crate::output::MAX_DISK_DATA;

/// The version of this protocol. Sides of different versions refuse each other.
pub const VERSION: u16 = 3;

/// Bytes of a header.
pub const HEADER: usize = 16;

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
    /// The content makes no sense.
    #[error("malformed frame ({0})")]
    Malformed(&'static str),
}
