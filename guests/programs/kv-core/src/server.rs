//! What all connections share: the store, the log, the limits.

use alloc::string::String;

use crate::log::Log;
use crate::store::Store;

/// How much the server may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory for keys and values.
    pub memory: usize,
    /// Bytes of live records on disk: half of a half of the disk, so that a compaction gains as much as it copies.
    pub log: usize,
    /// Bytes of unfinished requests and unfetched replies of all connections.
    pub buffers: usize,
}

/// The data and its log.
#[derive(Debug)]
pub struct Server {
    /// The keys and values.
    pub store: Store,
    /// The log of writes.
    pub log: Log,
    /// The bounds.
    pub limits: Limits,
    /// Batches up to this one are durable.
    pub durable: u64,
    /// The address that INFO and the ready message tell.
    pub address: String,
    /// Commands executed.
    pub commands: u64,
    /// Connections now open.
    pub clients: usize,
    /// Bytes that all connections hold.
    pub buffered: usize,
    /// Seconds since boot.
    pub uptime: u64,
}

impl Server {
    /// A server over an opened log, in `memory` bytes. Vectors grow by doubling and allocations are rounded up, so less
    /// than half of it is given out by count.
    pub fn new(store: Store, log: Log, memory: usize, address: String) -> Self {
        let limits = Limits { memory: memory / 8 * 3, log: log.capacity() as usize / 2, buffers: memory / 8 };
        Self { store, log, limits, durable: 0, address, commands: 0, clients: 0, buffered: 0, uptime: 0 }
    }

    /// Whether a write of that much more fits.
    pub(crate) fn has_room(&self, memory: usize, log: usize) -> bool {
        self.store.memory() + memory <= self.limits.memory && self.store.log_bytes() + log <= self.limits.log
    }
}
