//! What the guest's frames and sectors carry.

use ft_core::output::{DiskOp, DiskRequest};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A sector's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sector {
    /// Which write it is of: the life in the upper half, the request's number and one in the lower one; 0 is none.
    pub version: u64,
    /// Depends on all that the guest had been told when it wrote.
    pub value: u64,
}

/// The version of what this request writes, in this life.
pub fn version(life: u64, request: u64) -> u64 {
    (life << 32) | (request + 1)
}

/// The sectors as a request carries them.
pub fn encode(sectors: impl IntoIterator<Item = Sector>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sector in sectors {
        let start = bytes.len();
        bytes.extend_from_slice(&sector.version.to_le_bytes());
        bytes.extend_from_slice(&sector.value.to_le_bytes());
        bytes.resize(start + SECTOR, 0);
    }
    bytes
}

/// The sectors of a request's data.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Sector> {
    bytes.chunks_exact(SECTOR).map(|sector| Sector { version: word(sector, 0), value: word(sector, 8) })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
}

/// What a request that writes, of this life, leaves in each of its sectors. One that a real disk fills with zeroes holds here whose
/// zeroes they are: what survives must be the newest.
pub fn contents(life: u64, request: &DiskRequest) -> Vec<(u64, Sector)> {
    match &request.op {
        DiskOp::Write { sector, data } => (*sector..).zip(decode(data)).collect(),
        DiskOp::Discard { .. } | DiskOp::WriteZeroes { .. } => {
            let zeroes = Sector { version: version(life, request.request), value: 0 };
            request.op.sectors().map(|sector| (sector, zeroes)).collect()
        }
        DiskOp::Read { .. } | DiskOp::Flush => Vec::new(),
    }
}

/// A frame that the guest sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The guest's life.
    pub life: u64,
    /// Its number in that life, from 0.
    pub number: u64,
    /// Depends on all that the guest had been told.
    pub state: u64,
    /// A sector and the version that was written there, completed, and flushed: it must survive.
    pub durable: Option<(u64, u64)>,
}

/// Bytes before a frame's content: an Ethernet header.
const HEAD: usize = 14;

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        let (sector, version) = self.durable.unwrap_or((u64::MAX, 0));
        for value in [self.life, self.number, self.state, sector, version] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The frame of these bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        let value = |index: usize| word(bytes, HEAD + 8 * index);
        let durable = Some((value(3), value(4))).filter(|(sector, _)| *sector != u64::MAX);
        Self { life: value(0), number: value(1), state: value(2), durable }
    }
}

/// A frame of the client's: its number, from 1.
pub fn from_client(number: u64) -> Vec<u8> {
    let mut bytes = vec![1; HEAD];
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}
