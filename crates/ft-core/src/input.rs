//! What a guest can observe that is not a function of its own state.
//!
//! An [`Input`] is applied to a machine at the position where it stands. Live, inputs come from back-ends and from the
//! host's clock; on a backup they come from the log. The log is cut here, at the device back-ends and never at the CPU, so
//! a machine that replays can go live at any position.

use serde::{Deserialize, Serialize};

/// An input of the deterministic machine. Its effect depends on the machine's state and on nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// From here on guest time is computed from this anchor. Timers that become due fire at once.
    Anchor(Anchor),
    /// A disk request that the guest made is done.
    DiskDone(DiskDone),
    /// A batch of frames received: one interrupt and one record for all of them.
    NetRx(NetRx),
    /// Bytes typed at the console.
    Console(Vec<u8>),
    /// The answer to [`crate::output::OutputBody::Entropy`].
    Entropy {
        /// Number of the request.
        request: u64,
        /// Random bytes of the host.
        bytes: Vec<u8>,
    },
    /// The power button: asks the guest to shut down.
    PowerButton,
    /// What the calendar shows, in seconds since 1970: sets the real-time clock. Once, before the guest's first instruction.
    Date(u64),
}

/// Guest time from a position on: `time + (((p - position) * rate) >> 32)` nanoseconds, `position` being where the anchor
/// is applied. Guest time never goes back: a machine takes max(computed, `time`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Guest nanoseconds since power-on at the anchor's position.
    pub time: u64,
    /// Nanoseconds per instruction, 32.32 fixed point.
    pub rate: u64,
}

/// How a disk request ended, as virtio-blk tells it (virtio 1.2, section 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskStatus {
    /// VIRTIO_BLK_S_OK
    Ok,
    /// VIRTIO_BLK_S_IOERR
    IoError,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported,
}

/// Completion of a disk request at a logged position. Guest memory changes here and only here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDone {
    /// Index of the disk in the config.
    pub disk: u16,
    /// Number of the request on that disk, from 0 in submission order.
    pub request: u64,
    /// Result. A failed read changes no guest memory.
    pub status: DiskStatus,
    /// The bytes read, from the bounce buffer; empty for other requests.
    pub data: Vec<u8>,
}

/// Frames for one network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRx {
    /// Index of the device in the config.
    pub nic: u16,
    /// The switch's sequence number of the last frame; what the switch may forget once this record is acknowledged. 0 if the
    /// back-end does not number frames.
    pub switch_seq: u64,
    /// Ethernet frames without FCS, in order of arrival.
    pub frames: Vec<Vec<u8>>,
}
