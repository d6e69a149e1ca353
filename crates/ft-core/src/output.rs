//! What a machine asks of the world outside.
//!
//! Device models inside the machine only ever *say* what they want done; whether it is done now, held until the backup has
//! acknowledged it (the Output Rule), or kept back on a backup, is decided outside by the FT layers.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::record::OutputClass;

/// An output and the position after the instruction that made it: a machine that stands there has made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where it was made.
    pub position: u64,
    /// What it is.
    pub body: OutputBody,
}

/// The kinds of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputBody {
    /// Frames sent with one notification.
    NetTx {
        /// Index of the device in the config.
        nic: u16,
        /// Ethernet frames without FCS.
        frames: Vec<Vec<u8>>,
    },
    /// A disk request; completes through [`crate::input::DiskDone`].
    Disk(DiskRequest),
    /// Bytes written to the console.
    Console {
        /// Offset of the first byte in all that the guest has ever written to it.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The guest wants random bytes; completes through [`crate::input::Input::Entropy`]. Nothing outside sees it.
    Entropy {
        /// Number of the request, from 0.
        request: u64,
        /// Bytes wanted, at most [`MAX_ENTROPY`].
        len: u32,
    },
    /// The guest switched the machine off, with an exit code if it gave one.
    PowerOff {
        /// The guest's own exit code; 0 is an ordinary power-off.
        code: u8,
    },
    /// The guest asked for a reset. This version ends the machine.
    Reset,
    /// The guest cannot go on (triple fault, HLT with interrupts off), in words.
    Dead(String),
}

impl OutputBody {
    /// What it is in the log, where it is held.
    pub fn class(&self) -> OutputClass {
        match self {
            Self::NetTx { .. } => OutputClass::Net,
            Self::Console { .. } => OutputClass::Console,
            Self::Disk(_) | Self::Entropy { .. } => OutputClass::DiskWrite,
            Self::PowerOff { .. } | Self::Reset | Self::Dead(_) => OutputClass::End,
        }
    }
}

/// Most bytes of entropy in one request.
pub const MAX_ENTROPY: u32 = 4096;

/// Most bytes of data in one disk request; a longer one of the guest fails with an I/O error.
pub const MAX_DISK_DATA: usize = 1 << 20;

/// A disk request as parsed at the guest's notification. Write data sit in a bounce buffer from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRequest {
    /// Index of the disk in the config.
    pub disk: u16,
    /// Number of the request on that disk, from 0 in submission order.
    pub request: u64,
    /// What to do.
    pub op: DiskOp,
}

/// Operations on a disk, addressed in 512-byte sectors and checked against the disk's size by the device model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOp {
    /// Read `len` bytes.
    Read {
        /// First sector.
        sector: u64,
        /// Bytes, a multiple of 512.
        len: u32,
    },
    /// Write.
    Write {
        /// First sector.
        sector: u64,
        /// Bytes, a multiple of 512.
        data: Vec<u8>,
    },
    /// Make completed writes durable.
    Flush,
    /// The guest needs the content no more. It reads as zeroes afterwards, on every disk: a content that a disk may choose would
    /// not be the same on two of them.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
    },
    /// Write zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
        /// The blocks may be given back to the host.
        unmap: bool,
    },
}

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

impl DiskOp {
    /// The sectors that it touches; none for a flush.
    pub fn sectors(&self) -> Range<u64> {
        let (sector, count) = match self {
            Self::Read { sector, len } => (*sector, u64::from(*len).div_ceil(SECTOR)),
            Self::Write { sector, data } => (*sector, (data.len() as u64).div_ceil(SECTOR)),
            Self::Flush => return 0..0,
            Self::Discard { sector, count } | Self::WriteZeroes { sector, count, .. } => {
                (*sector, u64::from(*count))
            }
        };
        sector..sector.saturating_add(count)
    }

    /// True if it changes what the disk holds.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. } | Self::WriteZeroes { .. })
    }

    /// Bytes of data that it carries or asks for.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } => u64::from(*len),
            Self::Write { data, .. } => data.len() as u64,
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => 0,
        }
    }
}
