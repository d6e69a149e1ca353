//! The keys and values: a hash table with linear probing over a dense list of entries.
//!
//! The hash has no secret and no randomness in it: the same commands leave the same table. (Someone who may write can
//! slow the table down by colliding keys, as in any service without authentication.)

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes that an entry costs besides its key and value: the entry and its places in the index, both at the worst
/// moment, when they have just doubled and the old ones are still there.
const ENTRY_COST: usize = 224;
/// No entry in this slot.
const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    hash: u32,
    key: Box<[u8]>,
    value: Vec<u8>,
    /// The log batch that holds this key's last write.
    batch: u64,
}

/// All keys and values.
#[derive(Debug)]
pub struct Store {
    entries: Vec<Entry>,
    /// Indices into `entries`; a power of two, at most three quarters in use.
    slots: Vec<u32>,
    memory: usize,
    /// Bytes that the log needs for all entries.
    log_bytes: usize,
}

/// What an allocation of this size takes up: the next power of two.
fn block(size: usize) -> usize {
    size.max(16).next_power_of_two()
}

impl Default for Store {
    fn default() -> Self {
        Self { entries: Vec::new(), slots: vec![EMPTY; 64], memory: 0, log_bytes: 0 }
    }
}

impl Store {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory in use, an upper estimate.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes that a log of just these entries would have.
    pub fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// The most memory that writing `value` to a new `key` can cost.
    pub fn cost(key: usize, value: usize) -> usize {
        ENTRY_COST + block(key) + block(value)
    }

    fn hash(key: &[u8]) -> u32 {
        // FNV-1a over 8-byte words, finished by a multiplication that brings the high bits down.
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let mut state = 0xcbf2_9ce4_8422_2325 ^ key.len() as u64;
        let (words, rest) = key.as_chunks::<8>();
        for word in words {
            state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
            state ^= state >> 32;
        }
        for &byte in rest {
            state = (state ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// The slot of `key`, or the empty one where it would go.
    fn find(&self, key: &[u8], hash: u32) -> (usize, Option<usize>) {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let index = self.slots[slot];
            if index == EMPTY {
                return (slot, None);
            }
            let entry = &self.entries[index as usize];
            if entry.hash == hash && *entry.key == *key {
                return (slot, Some(index as usize));
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The value of `key` and the batch of its last write.
    pub fn get(&self, key: &[u8]) -> Option<(&[u8], u64)> {
        let (_, index) = self.find(key, Self::hash(key));
        let entry = &self.entries[index?];
        Some((&entry.value, entry.batch))
    }

    fn grow(&mut self) {
        let mut slots = vec![EMPTY; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for (index, entry) in self.entries.iter().enumerate() {
            let mut slot = entry.hash as usize & mask;
            while slots[slot] != EMPTY {
                slot = (slot + 1) & mask;
            }
            slots[slot] = index as u32;
        }
        self.slots = slots;
    }

    /// Changes the value of `key`, an empty one if there is none yet, and notes `batch` as its last write.
    pub fn update(&mut self, key: &[u8], batch: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let hash = Self::hash(key);
        let (slot, index) = self.find(key, hash);
        let index = index.unwrap_or_else(|| {
            let mut slot = slot;
            if (self.entries.len() + 1) * 4 > self.slots.len() * 3 {
                self.grow();
                slot = self.find(key, hash).0;
            }
            let index = self.entries.len();
            self.slots[slot] = index as u32;
            self.entries.push(Entry { hash, key: key.into(), value: Vec::new(), batch });
            self.memory += Self::cost(key.len(), 0);
            self.log_bytes += crate::log::record_bytes(key.len(), 0);
            index
        });
        let entry = &mut self.entries[index];
        let (length, room) = (entry.value.len(), block(entry.value.capacity()));
        change(&mut entry.value);
        entry.batch = batch;
        self.memory = self.memory - room + block(entry.value.capacity());
        self.log_bytes = self.log_bytes - length + entry.value.len();
    }

    /// Sets the value of `key`.
    pub fn set(&mut self, key: &[u8], value: &[u8], batch: u64) {
        self.update(key, batch, |old| {
            // A much smaller value gives its memory back.
            if block(value.len()) * 2 < block(old.capacity()) {
                *old = value.into();
            } else {
                old.clear();
                old.reserve_exact(value.len());
                old.extend_from_slice(value);
            }
        });
    }

    /// Removes `key`; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let (slot, Some(index)) = self.find(key, Self::hash(key)) else { return false };
        let mask = self.slots.len() - 1;
        // Close the gap: each later entry of the run moves back if its own place is at or before the hole.
        let mut hole = slot;
        let mut next = (slot + 1) & mask;
        while self.slots[next] != EMPTY {
            let home = self.entries[self.slots[next] as usize].hash as usize & mask;
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = EMPTY;
        // The last entry takes the removed one's place in the list.
        let last = self.entries.len() - 1;
        if index != last {
            let mut slot = self.entries[last].hash as usize & mask;
            while self.slots[slot] != last as u32 {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = index as u32;
        }
        let entry = self.entries.swap_remove(index);
        self.memory -= Self::cost(entry.key.len(), 0) - block(0) + block(entry.value.capacity());
        self.log_bytes -= crate::log::record_bytes(entry.key.len(), entry.value.len());
        true
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// All keys and values, in an order that depends only on the commands so far.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|entry| (&*entry.key, &*entry.value))
    }
}
