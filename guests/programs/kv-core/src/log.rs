//! The log on disk: every write as a record, records gathered into batches, a batch durable before its replies.
//!
//! Sectors 0 and 1 hold the superblock, twice; from sector 8 on there are two halves of equal size, one of them
//! active. A batch is a header and records, padded to whole sectors, so that appending never rewrites a sector which
//! holds acknowledged data:
//!
//! ```text
//! superblock  magic u64, version u32, crc u32, generation u64, salt u64, half-sectors u64, active u64
//! batch       magic u32, crc u32, salt u64, number u64, length u32, records u32; then `length` bytes of records
//! record      kind u8, key length u32, value length u32, key, value
//! ```
//!
//! All little-endian; a CRC is over everything behind it. Batches of a half are numbered from 0, and carry the salt
//! of the superblock: what an older generation left behind is never taken for a batch, nor is a value that a client
//! made to look like one, as no client knows the salt.
//!
//! Only the last batch can be torn by a crash, because the next one is not begun before it is durable. So a damaged
//! batch with a good one behind it is damage, and one with none behind it is the torn tail, which nobody was told of.
//!
//! When the active half is full, what the store holds is written to the other half, and then the superblock, one copy
//! after the other: at every moment one copy is good. The superblock's two copies are equal except within that switch.

use alloc::vec;
use alloc::vec::Vec;

use crate::crc32::crc32;
use crate::store::Store;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"ft-vm kv");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"btch");
const VERSION: u32 = 1;
/// The first sector of the first half.
const DATA: u64 = 8;
/// Sectors of a half below which a disk is of no use.
const MIN_HALF: u64 = 64;
const BATCH_HEADER: usize = 32;
const RECORD_HEADER: usize = 9;
/// No batch is longer: how far behind a damaged one the next would begin. More than twice the longest command.
const MAX_BATCH: usize = 4 << 20;
/// Batches of a compaction are closed at this length.
const COMPACTION_BATCH: usize = 64 << 10;
/// Read ahead while replaying.
const READ_AHEAD: usize = 128 << 10;

const SET: u8 = 1;
const REMOVE: u8 = 2;
const APPEND: u8 = 3;
const CLEAR: u8 = 4;

/// A disk, one request at a time. An error is final: the log is not used afterwards.
pub trait Disk {
    /// Why a request failed.
    type Error;
    /// Sectors of the disk.
    fn sectors(&self) -> u64;
    /// Reads `length` bytes, a multiple of the sector size.
    fn read(&mut self, sector: u64, length: usize) -> Result<Vec<u8>, Self::Error>;
    /// Writes `data`, a multiple of the sector size, and gives the buffer back.
    fn write(&mut self, sector: u64, data: Vec<u8>) -> Result<Vec<u8>, Self::Error>;
    /// Makes everything written durable.
    fn flush(&mut self) -> Result<(), Self::Error>;
}

/// Why a log could not be opened.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenError<E> {
    /// The disk failed.
    Disk(E),
    /// The disk has too few sectors, or fewer than its superblock says.
    TooSmall,
    /// The disk is neither blank nor ours, or both superblocks are damaged.
    NotOurs,
    /// Written by a version we do not know.
    Version(u32),
    /// A batch is damaged although later ones are good.
    Damaged {
        /// Where the damaged batch begins.
        sector: u64,
    },
}

impl<E> From<E> for OpenError<E> {
    fn from(error: E) -> Self {
        Self::Disk(error)
    }
}

/// Bytes of a record.
pub(crate) fn record_bytes(key: usize, value: usize) -> usize {
    RECORD_HEADER + key + value
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}

fn next_salt(salt: u64) -> u64 {
    let value = salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Superblock {
    generation: u64,
    salt: u64,
    half_sectors: u64,
    active: u64,
}

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        sector[..8].copy_from_slice(&SUPERBLOCK_MAGIC.to_le_bytes());
        sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (index, value) in [self.generation, self.salt, self.half_sectors, self.active].iter().enumerate()
        {
            sector[16 + 8 * index..][..8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32(&sector[16..]);
        sector[12..16].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// `None` for a damaged one.
    fn decode<E>(sector: &[u8]) -> Result<Option<Self>, OpenError<E>> {
        if get_u64(sector, 0) != SUPERBLOCK_MAGIC || get_u32(sector, 12) != crc32(&sector[16..SECTOR]) {
            return Ok(None);
        }
        if get_u32(sector, 8) != VERSION {
            return Err(OpenError::Version(get_u32(sector, 8)));
        }
        let field = |index: usize| get_u64(sector, 16 + 8 * index);
        Ok(Some(Self { generation: field(0), salt: field(1), half_sectors: field(2), active: field(3) & 1 }))
    }

    fn start(&self) -> u64 {
        DATA + self.active * self.half_sectors
    }

    /// Writes both copies, the first durable before the second is begun.
    fn write<D: Disk>(&self, disk: &mut D) -> Result<(), D::Error> {
        for copy in 0..2 {
            disk.write(copy, self.encode())?;
            disk.flush()?;
        }
        Ok(())
    }
}

/// The log: collects records, and knows where the next batch goes.
#[derive(Debug)]
pub struct Log {
    superblock: Superblock,
    /// Where the next batch goes, in sectors from the active half's start.
    tail: u64,
    /// Its number in the half.
    number: u64,
    /// The batch being collected; begins with room for the header.
    pending: Vec<u8>,
    records: u32,
    /// Identifies the batch being collected, across halves. Starts at 1: 0 is what was on disk at the start.
    batch: u64,
}

impl Log {
    /// Opens the log on `disk` and replays it into `store`; a blank disk is initialised, with a salt from `entropy`.
    /// The flag says whether a torn batch at the end was dropped.
    pub fn open<D: Disk>(
        disk: &mut D,
        entropy: u64,
        store: &mut Store,
    ) -> Result<(Self, bool), OpenError<D::Error>> {
        let half_sectors = disk.sectors().saturating_sub(DATA) / 2;
        if half_sectors < MIN_HALF {
            return Err(OpenError::TooSmall);
        }
        let sectors = disk.read(0, 2 * SECTOR)?;
        let copies = [Superblock::decode(&sectors)?, Superblock::decode(&sectors[SECTOR..])?];
        let superblock = match copies {
            [Some(first), Some(second)] if second.generation > first.generation => second,
            [Some(first), _] => first,
            [None, Some(second)] => second,
            [None, None] => {
                if sectors.iter().any(|&byte| byte != 0) {
                    return Err(OpenError::NotOurs);
                }
                let salt = next_salt(entropy);
                let superblock = Superblock { generation: 1, salt, half_sectors, active: 0 };
                superblock.write(disk)?;
                superblock
            }
        };
        if superblock.half_sectors > half_sectors || superblock.half_sectors < MIN_HALF {
            return Err(OpenError::TooSmall);
        }
        if copies[0] != copies[1] {
            // A switch was interrupted, or one copy is damaged: the good one says what holds.
            superblock.write(disk)?;
        }
        let mut log =
            Self { superblock, tail: 0, number: 0, pending: vec![0; BATCH_HEADER], records: 0, batch: 1 };
        let torn = log.replay(disk, store)?;
        Ok((log, torn))
    }

    fn replay<D: Disk>(&mut self, disk: &mut D, store: &mut Store) -> Result<bool, OpenError<D::Error>> {
        let superblock = self.superblock;
        let mut reader = Reader { disk, half: superblock, at: 0, bytes: Vec::new() };
        while let Some((number, batch)) = reader.batch(self.tail)? {
            if number != self.number || replay_records(batch, store).is_none() {
                return Err(OpenError::Damaged { sector: superblock.start() + self.tail });
            }
            self.number += 1;
            self.tail += sectors(batch.len());
        }
        // Is this the end? A batch that was acknowledged later begins within the length of one damaged batch.
        let torn = reader.is_begun(self.tail)?;
        let window = (self.tail + (MAX_BATCH / SECTOR) as u64).min(superblock.half_sectors);
        for sector in self.tail + 1..window {
            if reader.batch(sector)?.is_some_and(|(number, _)| number > self.number) {
                return Err(OpenError::Damaged { sector: superblock.start() + self.tail });
            }
        }
        Ok(torn)
    }

    fn record(&mut self, kind: u8, key: &[u8], value: &[u8]) {
        self.pending.reserve(record_bytes(key.len(), value.len()));
        self.pending.push(kind);
        self.pending.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(key);
        self.pending.extend_from_slice(value);
        self.records += 1;
    }

    /// Logs that `key` has this value now.
    pub fn set(&mut self, key: &[u8], value: &[u8]) {
        self.record(SET, key, value);
    }

    /// Logs that `key` is gone.
    pub fn remove(&mut self, key: &[u8]) {
        self.record(REMOVE, key, &[]);
    }

    /// Logs that `key` has `more` at its end.
    pub fn append(&mut self, key: &[u8], more: &[u8]) {
        self.record(APPEND, key, more);
    }

    /// Logs that all keys are gone.
    pub fn clear(&mut self) {
        self.record(CLEAR, &[], &[]);
    }

    /// Identifies the batch that records go to now.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// Bytes of records that wait to be written.
    pub fn pending(&self) -> usize {
        self.pending.len() - BATCH_HEADER
    }

    /// Bytes of the active half in use.
    pub fn used(&self) -> u64 {
        self.tail * SECTOR as u64
    }

    /// Bytes of a half.
    pub fn capacity(&self) -> u64 {
        self.superblock.half_sectors * SECTOR as u64
    }

    /// Whether the batch being collected fits into the active half; if not, [`Log::compact`] is the way.
    pub fn fits(&self) -> bool {
        self.tail + sectors(self.pending.len()) <= self.superblock.half_sectors
    }

    /// Closes the batch: what to write, and where. The next batch must not be written before this one is durable.
    pub fn take(&mut self) -> (u64, Vec<u8>) {
        let sector = self.superblock.start() + self.tail;
        let next = Vec::with_capacity(self.pending.capacity().clamp(4096, COMPACTION_BATCH));
        let mut data = core::mem::replace(&mut self.pending, next);
        self.pending.resize(BATCH_HEADER, 0);
        close(&mut data, &self.superblock, self.number, self.records);
        self.tail += (data.len() / SECTOR) as u64;
        self.number += 1;
        self.records = 0;
        self.batch += 1;
        (sector, data)
    }

    /// Writes the store to the other half and switches to it. `store` has the effects of the batch being collected, so
    /// that batch is durable then. No batch may be under way.
    pub fn compact<D: Disk>(&mut self, disk: &mut D, store: &Store) -> Result<(), D::Error> {
        let mut other = Self {
            superblock: Superblock {
                generation: self.superblock.generation + 1,
                salt: next_salt(self.superblock.salt),
                active: 1 - self.superblock.active,
                ..self.superblock
            },
            tail: 0,
            number: 0,
            pending: vec![0; BATCH_HEADER],
            records: 0,
            batch: self.batch,
        };
        for (key, value) in store.iter() {
            other.set(key, value);
            if other.pending.len() >= COMPACTION_BATCH {
                let (sector, data) = other.take();
                disk.write(sector, data)?;
            }
        }
        if other.pending() > 0 {
            let (sector, data) = other.take();
            disk.write(sector, data)?;
        }
        disk.flush()?;
        other.superblock.write(disk)?;
        other.batch = self.batch + 1;
        *self = other;
        Ok(())
    }
}

fn sectors(bytes: usize) -> u64 {
    bytes.div_ceil(SECTOR) as u64
}

/// Fills in the header of a batch and pads it.
fn close(data: &mut Vec<u8>, superblock: &Superblock, number: u64, records: u32) {
    let length = (data.len() - BATCH_HEADER) as u32;
    data[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    data[8..16].copy_from_slice(&superblock.salt.to_le_bytes());
    data[16..24].copy_from_slice(&number.to_le_bytes());
    data[24..28].copy_from_slice(&length.to_le_bytes());
    data[28..32].copy_from_slice(&records.to_le_bytes());
    let crc = crc32(&data[8..]);
    data[4..8].copy_from_slice(&crc.to_le_bytes());
    data.resize(data.len().next_multiple_of(SECTOR), 0);
}

/// Applies the records of a good batch (header included). `None` if they do not parse.
fn replay_records(batch: &[u8], store: &mut Store) -> Option<()> {
    let mut rest = &batch[BATCH_HEADER..];
    for _ in 0..get_u32(batch, 28) {
        let (header, body) = rest.split_at_checked(RECORD_HEADER)?;
        let (key, body) = body.split_at_checked(get_u32(header, 1) as usize)?;
        let (value, body) = body.split_at_checked(get_u32(header, 5) as usize)?;
        rest = body;
        match header[0] {
            SET => store.set(key, value, 0),
            REMOVE => {
                store.remove(key);
            }
            APPEND => store.update(key, 0, |old| old.extend_from_slice(value)),
            CLEAR => store.clear(),
            _ => return None,
        }
    }
    rest.is_empty().then_some(())
}

/// Reads the active half, with read-ahead.
struct Reader<'a, D> {
    disk: &'a mut D,
    half: Superblock,
    /// What `bytes` holds begins at this sector of the half.
    at: u64,
    bytes: Vec<u8>,
}

impl<D: Disk> Reader<'_, D> {
    /// `length` bytes from a sector of the half on, or `None` if the half ends before.
    fn bytes(&mut self, sector: u64, length: usize) -> Result<Option<&[u8]>, D::Error> {
        if sector + sectors(length) > self.half.half_sectors {
            return Ok(None);
        }
        let end = self.at + sectors(self.bytes.len());
        if sector < self.at || sector + sectors(length) > end {
            let left = (self.half.half_sectors - sector) as usize * SECTOR;
            let ahead = length.next_multiple_of(SECTOR).max(READ_AHEAD).min(left);
            self.bytes = self.disk.read(self.half.start() + sector, ahead)?;
            self.at = sector;
        }
        let start = (sector - self.at) as usize * SECTOR;
        Ok(Some(&self.bytes[start..start + length]))
    }

    /// The good batch that begins at `sector`, if there is one: its number, and it without its padding.
    fn batch(&mut self, sector: u64) -> Result<Option<(u64, &[u8])>, D::Error> {
        let salt = self.half.salt;
        let Some(header) = self.bytes(sector, BATCH_HEADER)? else { return Ok(None) };
        let length = get_u32(header, 24) as usize;
        if get_u32(header, 0) != BATCH_MAGIC || get_u64(header, 8) != salt || length > MAX_BATCH {
            return Ok(None);
        }
        let Some(batch) = self.bytes(sector, BATCH_HEADER + length)? else { return Ok(None) };
        let good = get_u32(batch, 4) == crc32(&batch[8..]);
        Ok(good.then(|| (get_u64(batch, 16), batch)))
    }

    /// Whether a batch of this generation was begun at `sector`: only then is something being dropped.
    fn is_begun(&mut self, sector: u64) -> Result<bool, D::Error> {
        let salt = self.half.salt;
        let header = self.bytes(sector, BATCH_HEADER)?;
        Ok(header.is_some_and(|header| get_u32(header, 0) == BATCH_MAGIC && get_u64(header, 8) == salt))
    }
}
