//! What a launcher and its replica processes say to each other on one machine.
//!
//! A replica is started with two inherited descriptors (`--launcher-fds CONTROL,LAN`), both unix SOCK_SEQPACKET sockets:
//! *control* carries one JSON message ([`ToReplica`], [`FromReplica`]) per packet, *LAN* carries batches of frames
//! ([`LanPacket`]). When the control socket closes, the launcher is gone and the replica ends at once.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// From a replica to its launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromReplica {
    /// First message: sockets are bound, disks are open.
    Hello {
        /// `a` or `b`.
        replica: String,
        /// Process id.
        pid: u32,
        /// Random number of this process.
        incarnation: u64,
    },
    /// The fence (PROTOCOL "Disks"): kill and reap the other replica, answer [`ToReplica::Fenced`]. Asked after a won
    /// generation and before the first output of it.
    Fence {
        /// The generation that was won.
        generation: u64,
    },
    /// This replica is live in `generation`: the switch moves the guest's port to it, drops frames of lower generations
    /// from then on, and hands over the inbound frames that no backup has acknowledged.
    Live {
        /// The generation.
        generation: u64,
        /// Where it went on.
        position: u64,
        /// True if it took over from a lost primary; false at first start, and when a primary lost its backup.
        takeover: bool,
        /// True if it has no backup from now on.
        alone: bool,
        /// Milliseconds since it last heard of the other side, on its own clock; 0 at first start.
        silent_ms: f64,
        /// Why, in words for the operator (`connection closed`, `no heartbeat for 200 ms`, ...).
        reason: String,
        /// Number of the last inbound frame that its guest was given, by this launcher's switch or by another one: numbers go
        /// on above it.
        seen: u64,
        /// Addresses that its guest is known to use, for who must be told where it is now.
        addresses: Vec<Ipv4Addr>,
    },
    /// The record of all inbound frames up to `seq` is acknowledged by the backup (or applied, where there is none): the
    /// switch may forget them.
    RxAcknowledged {
        /// Generation of the sender.
        generation: u64,
        /// Last sequence number.
        seq: u64,
    },
    /// Released console bytes. The launcher writes each offset exactly once.
    Console {
        /// Offset of the first byte in all that the guest has ever written.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Answer to [`ToReplica::Status`].
    Status {
        /// The question's number.
        id: u64,
        /// Fields as DESIGN section 10 lists them, and more.
        status: serde_json::Value,
    },
    /// Answer to [`ToReplica::Promote`].
    Promoted {
        /// The question's number.
        id: u64,
        /// Why not, in words; nothing if it goes on.
        refused: Option<String>,
    },
    /// A line for the operator.
    Notice(String),
    /// The replica ends. The code is one of the command's exit codes; a guest's power-off is 0 or 64 + code.
    Ended {
        /// Exit code.
        code: u8,
        /// What happened, in one readable message; empty for an ordinary end.
        message: String,
    },
}

/// From the launcher to a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToReplica {
    /// The other replica's process is gone and reaped.
    Fenced {
        /// The generation of the question.
        generation: u64,
    },
    /// Asks for a status.
    Status {
        /// Returned in the answer.
        id: u64,
    },
    /// A person says that this replica is to go on alone (tie-breaker manual).
    Promote {
        /// Returned in the answer.
        id: u64,
        /// In which generation.
        generation: u64,
    },
    /// Stop the pair in order (SIGINT, SIGTERM of the launcher).
    Stop,
    /// Console input.
    ConsoleInput(Vec<u8>),
}

/// Kind byte of a LAN packet that carries frames.
pub const LAN_FRAMES: u8 = 1;

/// Most bytes in one LAN packet.
pub const LAN_PACKET_MAX: usize = 64 * 1024;

/// A batch of Ethernet frames for or from network device `nic`.
///
/// On the wire: kind (1 byte), nic (2 bytes LE), number (8 bytes LE), then each frame as length (2 bytes LE) and bytes. The
/// number is, towards a replica, the switch's sequence number of the *first* frame (they are consecutive, from 1), and
/// from a replica its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanPacket {
    /// Index of the device in the config.
    pub nic: u16,
    /// Sequence number or generation.
    pub number: u64,
    /// Frames.
    pub frames: Vec<Vec<u8>>,
}

impl LanPacket {
    /// Bytes on the wire. Frames of more than 65,535 bytes are not representable and must not be given.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(11 + self.frames.iter().map(|frame| frame.len() + 2).sum::<usize>());
        out.push(LAN_FRAMES);
        out.extend_from_slice(&self.nic.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        for frame in &self.frames {
            let len = u16::try_from(frame.len()).expect("a frame fits its length field");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(frame);
        }
        out
    }

    /// The packet in `bytes`, or `None` if it is malformed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(11)?;
        if head[0] != LAN_FRAMES {
            return None;
        }
        let nic = u16::from_le_bytes([head[1], head[2]]);
        let number = u64::from_le_bytes(head[3..11].try_into().ok()?);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk::<2>()?;
            let (frame, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            frames.push(frame.to_vec());
            rest = after;
        }
        Some(Self { nic, number, frames })
    }
}
