//! The buffers of one request, checked once and then plain data.

use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Broken;

/// A piece of guest memory that lies in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Pieces of guest memory that are one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer(pub Vec<Piece>);

/// One descriptor chain: what the device may read, then what it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Index of the first descriptor, by which the chain is given back.
    pub head: u16,
    /// Device-readable part.
    pub readable: Buffer,
    /// Device-writable part.
    pub writable: Buffer,
}

/// True if `len` bytes at `address` are RAM.
pub fn in_ram(ram: &GuestRam, address: u64, len: u64) -> bool {
    let Ok(size) = usize::try_from(len) else { return false };
    address.checked_add(len).is_some() && ram.check_range(GuestAddress(address), size)
}

impl Chain {
    /// Walks a chain of at most `limit` descriptors (virtio 1.2, section 2.7.5.3.1: no longer than the queue size, readable
    /// before writable).
    ///
    /// # Errors
    /// It loops, is cut off, is in the wrong order, or leaves RAM.
    pub fn parse(ram: &GuestRam, chain: DescriptorChain<&GuestRam>, limit: u16) -> Result<Self, Broken> {
        let head = chain.head_index();
        let mut parsed = Self { head, readable: Buffer::default(), writable: Buffer::default() };
        let mut count = 0;
        // virtio-queue ends the iteration without a word when a chain goes wrong: a last descriptor that announces a next
        // one tells.
        let mut complete = false;
        for descriptor in chain {
            count += 1;
            if count > limit {
                return Err(Broken::Chain);
            }
            complete = !descriptor.has_next();
            let piece = Piece { address: descriptor.addr().0, len: descriptor.len() };
            if piece.len > 0 && !in_ram(ram, piece.address, u64::from(piece.len)) {
                return Err(Broken::Buffer);
            }
            if descriptor.is_write_only() {
                parsed.writable.0.push(piece);
            } else if parsed.writable.0.is_empty() {
                parsed.readable.0.push(piece);
            } else {
                return Err(Broken::Chain);
            }
        }
        if complete { Ok(parsed) } else { Err(Broken::Chain) }
    }
}

impl Buffer {
    /// Bytes in it. At most 2^32 - 1 for a parsed chain.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// True if there are no bytes in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies up to `len` bytes from `offset` out of guest memory. Allocates no more than there is.
    ///
    /// # Errors
    /// Guest memory is not there.
    pub fn read(&self, ram: &GuestRam, offset: u64, len: u64) -> Result<Vec<u8>, Broken> {
        let mut bytes = vec![0; len.min(self.len().saturating_sub(offset)) as usize];
        let mut done = 0;
        for (address, len) in self.span(offset, bytes.len() as u64) {
            ram.read_slice(&mut bytes[done..done + len], address).map_err(|_| Broken::Buffer)?;
            done += len;
        }
        Ok(bytes)
    }

    /// Copies `bytes` into guest memory from `offset` on, as far as there is room; gives the bytes written.
    ///
    /// # Errors
    /// Guest memory is not there.
    pub fn write(&self, ram: &GuestRam, offset: u64, bytes: &[u8]) -> Result<u32, Broken> {
        let mut done = 0;
        for (address, len) in self.span(offset, bytes.len() as u64) {
            ram.write_slice(&bytes[done..done + len], address).map_err(|_| Broken::Buffer)?;
            done += len;
        }
        Ok(done as u32)
    }

    /// The pieces of guest memory of `len` bytes from `offset`.
    fn span(&self, offset: u64, len: u64) -> impl Iterator<Item = (GuestAddress, usize)> + '_ {
        let mut skip = offset;
        let mut left = len;
        self.0.iter().filter_map(move |piece| {
            let size = u64::from(piece.len);
            let from = skip.min(size);
            skip -= from;
            let count = (size - from).min(left);
            left -= count;
            (count > 0).then_some((GuestAddress(piece.address.saturating_add(from)), count as usize))
        })
    }
}
