//! Which blocks are kept apart, for whose sake, and where they are meanwhile: the head of a side file.

use std::ops::Range;

use ft_core::output::SECTOR;
use ft_policies::ReplicaId;

/// Most bytes that are kept apart on one disk: as many requests as can be in flight, of the largest size.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// Most processes that may be feared at the same time: each is a failure within the time that the one before it took to go.
const MAX_OWNERS: usize = 64;
/// Most runs of blocks.
const MAX_RANGES: usize = 1 << 15;
/// The data begin at a multiple of this.
const ALIGNMENT: u64 = 4096;

const MAGIC: [u8; 8] = *b"FTVMQUAR";
/// In place of [`MAGIC`] once the disk holds everything again.
pub(super) const RELEASED: [u8; 8] = *b"FTVMDONE";
const VERSION: u32 = 1;
/// Magic, version, length of the head.
pub(super) const PREFIX: usize = 16;
const FIXED: usize = PREFIX + 16 + 8 + 8 + 4 + 4;
const OWNER: usize = 8 + 8 + 8;
const RANGE: usize = 8 + 8;
const CRC: usize = 4;
const MAX_HEAD: usize = FIXED + MAX_OWNERS * OWNER + MAX_RANGES * RANGE + CRC;

/// A process whose writes may still land, and the pair and generation in which it was deposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineOwner {
    /// Identity of the pair.
    pub pair: u128,
    /// The generation that was won against it.
    pub generation: u64,
    /// Which replica it was.
    pub replica: ReplicaId,
    /// Which process.
    pub incarnation: u64,
}

/// The head of a side file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// The processes feared, the latest last; all of one pair, and at least one.
    owners: Vec<QuarantineOwner>,
    /// Bytes of the disk that the blocks are of.
    pub(super) disk_len: u64,
    /// The runs of bytes that are kept apart, in order, not touching each other, whole sectors, each with the place of its data
    /// among the data.
    runs: Vec<(Range<u64>, u64)>,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Offset of it in the request.
    pub(super) within: Range<usize>,
    /// Where the bytes are.
    pub(super) place: Place,
}

/// Where bytes of a disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the disk, at this offset.
    Disk(u64),
    /// In the side file, at this offset.
    Side(u64),
}

/// Why there can be no such table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("sectors outside the disk")]
    Outside,
    #[error("too many blocks, runs of blocks, or processes")]
    TooMany,
    #[error("owners of different pairs, or a generation that is not later than the one before")]
    Owners,
}

/// What is wrong with the bytes of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("it does not begin as such a file does")]
    Magic,
    #[error("it has format {0}, this program knows {VERSION}")]
    Version(u32),
    #[error("it is cut off")]
    Short,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it contradicts itself ({0})")]
    Content(&'static str),
}

impl Table {
    /// A table for `sectors`, in any order, also overlapping.
    pub(super) fn new(
        owners: Vec<QuarantineOwner>,
        disk_len: u64,
        sectors: &[Range<u64>],
    ) -> Result<Self, Unfit> {
        let ordered =
            owners.windows(2).all(|two| two[0].pair == two[1].pair && two[0].generation < two[1].generation);
        if owners.is_empty() || !ordered {
            return Err(Unfit::Owners);
        }
        let mut bytes = Vec::new();
        for range in sectors.iter().filter(|range| !range.is_empty()) {
            let end = range.end.checked_mul(SECTOR).filter(|end| *end <= disk_len).ok_or(Unfit::Outside)?;
            bytes.push(range.start * SECTOR..end);
        }
        bytes.sort_unstable_by_key(|range| range.start);
        let mut runs: Vec<(Range<u64>, u64)> = Vec::new();
        for range in bytes {
            match runs.last_mut() {
                Some((last, _)) if range.start <= last.end => last.end = last.end.max(range.end),
                Some((last, at)) => {
                    let at = *at + (last.end - last.start);
                    runs.push((range, at));
                }
                None => runs.push((range, 0)),
            }
        }
        let table = Self { owners, disk_len, runs };
        if table.owners.len() > MAX_OWNERS || table.runs.len() > MAX_RANGES || table.bytes() > MAX_BYTES {
            return Err(Unfit::TooMany);
        }
        Ok(table)
    }

    pub(super) fn owners(&self) -> &[QuarantineOwner] {
        &self.owners
    }

    /// The latest of the processes feared.
    pub(super) fn latest(&self) -> &QuarantineOwner {
        &self.owners[self.owners.len() - 1]
    }

    /// Bytes kept apart.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.last().map_or(0, |(range, at)| at + (range.end - range.start))
    }

    /// The sectors kept apart.
    pub(super) fn sectors(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().map(|(range, _)| range.start / SECTOR..range.end / SECTOR)
    }

    /// The runs of bytes kept apart.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().map(|(range, _)| range.clone())
    }

    /// Where the bytes of a request of `len` bytes at `offset` are, in order.
    pub(super) fn parts(&self, offset: u64, len: usize) -> Vec<Part> {
        let end = offset.saturating_add(len as u64);
        let data = self.data_start();
        let mut parts = Vec::new();
        let mut at = offset;
        let mut push = |from: u64, to: u64, place| {
            if from < to {
                parts.push(Part { within: (from - offset) as usize..(to - offset) as usize, place });
            }
        };
        let first = self.runs.partition_point(|(range, _)| range.end <= offset);
        for (range, place) in self.runs[first..].iter().take_while(|(range, _)| range.start < end) {
            push(at, range.start, Place::Disk(at));
            let (from, to) = (at.max(range.start), end.min(range.end));
            push(from, to, Place::Side(data + place + (from - range.start)));
            at = to;
        }
        push(at, end, Place::Disk(at));
        parts
    }

    /// Bytes of the whole side file.
    pub(super) fn file_len(&self) -> u64 {
        self.data_start() + self.bytes()
    }

    fn head_len(&self) -> usize {
        FIXED + self.owners.len() * OWNER + self.runs.len() * RANGE + CRC
    }

    fn data_start(&self) -> u64 {
        (self.head_len() as u64).next_multiple_of(ALIGNMENT)
    }

    /// The head as it is in the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head_len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.head_len() as u32).to_le_bytes());
        bytes.extend(self.latest().pair.to_le_bytes());
        bytes.extend(self.latest().generation.to_le_bytes());
        bytes.extend(self.disk_len.to_le_bytes());
        bytes.extend((self.owners.len() as u32).to_le_bytes());
        bytes.extend((self.runs.len() as u32).to_le_bytes());
        for owner in &self.owners {
            bytes.extend(owner.generation.to_le_bytes());
            bytes.extend(u64::from(owner.replica == ReplicaId::B).to_le_bytes());
            bytes.extend(owner.incarnation.to_le_bytes());
        }
        for (range, _) in &self.runs {
            bytes.extend(range.start.to_le_bytes());
            bytes.extend(range.end.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Bytes of the head that begins with `prefix`; `None` if the disk holds everything again.
    pub(super) fn head_len_of(prefix: &[u8; PREFIX]) -> Result<Option<usize>, BadHead> {
        let (magic, rest) = prefix.split_at(MAGIC.len());
        if magic == RELEASED {
            return Ok(None);
        }
        if magic != MAGIC {
            return Err(BadHead::Magic);
        }
        let mut reader = Reader(rest);
        let version = reader.word()?;
        if version != VERSION {
            return Err(BadHead::Version(version));
        }
        let len = reader.word()? as usize;
        if (FIXED + OWNER + CRC..=MAX_HEAD).contains(&len) {
            Ok(Some(len))
        } else {
            Err(BadHead::Content("length of the head"))
        }
    }

    /// The table whose head `bytes` are.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHead> {
        let prefix = bytes.first_chunk().ok_or(BadHead::Short)?;
        if Self::head_len_of(prefix)? != Some(bytes.len()) {
            return Err(BadHead::Short);
        }
        let (content, crc) = bytes.split_at(bytes.len() - CRC);
        if crc != crc32fast::hash(content).to_le_bytes() {
            return Err(BadHead::Checksum);
        }
        let mut reader = Reader(&content[PREFIX..]);
        let pair = u128::from(reader.double()?) | u128::from(reader.double()?) << 64;
        let generation = reader.double()?;
        let disk_len = reader.double()?;
        let (owner_count, run_count) = (reader.word()?, reader.word()?);
        let owners = (0..owner_count).map(|_| {
            let generation = reader.double()?;
            let replica = match reader.double()? {
                0 => ReplicaId::A,
                1 => ReplicaId::B,
                _ => return Err(BadHead::Content("replica")),
            };
            Ok(QuarantineOwner { pair, generation, replica, incarnation: reader.double()? })
        });
        let owners = owners.collect::<Result<Vec<_>, _>>()?;
        let runs = (0..run_count).map(|_| Ok(reader.double()? / SECTOR..reader.double()? / SECTOR));
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let table = Self::new(owners, disk_len, &runs).map_err(|_| BadHead::Content("owners or blocks"))?;
        // What was written is canonical, so anything else has been changed, or is of a program that means something else by it.
        if table.latest().generation != generation || table.encode() != bytes {
            return Err(BadHead::Content("order"));
        }
        Ok(table)
    }
}

/// Takes numbers off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn word(&mut self) -> Result<u32, BadHead> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadHead::Short)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn double(&mut self) -> Result<u64, BadHead> {
        Ok(u64::from(self.word()?) | u64::from(self.word()?) << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(generation: u64) -> QuarantineOwner {
        QuarantineOwner {
            pair: 1 << 100 | 5,
            generation,
            replica: ReplicaId::B,
            incarnation: u64::MAX - generation,
        }
    }

    fn table(sectors: &[Range<u64>]) -> Table {
        Table::new(vec![owner(3), owner(4)], 64 << 10, sectors).unwrap()
    }

    #[test]
    fn a_request_is_cut_where_its_place_changes() {
        let table = table(&[10..12, 4..6, 11..13, 13..14, 20..20]);
        assert_eq!(table.sectors().collect::<Vec<_>>(), [4..6, 10..14]);
        assert_eq!(table.bytes(), 6 * 512);
        let parts = |from: u64, to: u64| -> Vec<(usize, Place)> {
            let parts = table.parts(from * 512, (to - from) as usize * 512);
            let mut next = 0;
            for part in &parts {
                assert_eq!(part.within.start, next);
                next = part.within.end;
            }
            assert_eq!(next as u64, (to - from) * 512);
            parts.into_iter().map(|part| (part.within.len() / 512, part.place)).collect()
        };
        let (disk, side) = (|at: u64| Place::Disk(at * 512), |at: u64| Place::Side(4096 + at * 512));
        assert_eq!(parts(0, 4), [(4, disk(0))]);
        assert_eq!(parts(14, 128), [(114, disk(14))]);
        assert_eq!(parts(11, 12), [(1, side(3))]);
        assert_eq!(parts(3, 15), [(1, disk(3)), (2, side(0)), (4, disk(6)), (4, side(2)), (1, disk(14))]);
        assert!(parts(5, 5).is_empty());
    }

    #[test]
    fn what_cannot_be_kept_apart_is_refused() {
        let new = |owners, sectors: Range<u64>| Table::new(owners, 1 << 40, &[sectors]).unwrap_err();
        assert_eq!(new(vec![owner(1)], 0..(1 << 31) + 1), Unfit::Outside);
        assert_eq!(new(vec![owner(1)], 5..u64::MAX), Unfit::Outside);
        assert_eq!(new(vec![owner(1)], 0..MAX_BYTES / 512 + 1), Unfit::TooMany);
        assert_eq!(new(vec![owner(1), owner(1)], 0..1), Unfit::Owners);
        assert_eq!(new(vec![], 0..1), Unfit::Owners);
        assert_eq!(new((0..65).map(owner).collect(), 0..1), Unfit::TooMany);
    }

    #[test]
    fn a_head_that_is_cut_off_or_changed_is_refused() {
        let table = table(&[4..6, 10..12]);
        let bytes = table.encode();
        assert_eq!(Table::decode(&bytes), Ok(table));
        for len in 0..bytes.len() {
            assert!(Table::decode(&bytes[..len]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Table::decode(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_head_with_a_good_checksum_may_say_anything(
            mut content in prop::collection::vec(any::<u8>(), 100..300),
            small: bool,
        ) {
            let len = content.len() as u32 + 4;
            content[..8].copy_from_slice(&MAGIC);
            content[8..12].copy_from_slice(&VERSION.to_le_bytes());
            content[12..16].copy_from_slice(&len.to_le_bytes());
            if small {
                content[48..56].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
            }
            let crc = crc32fast::hash(&content);
            content.extend(crc.to_le_bytes());
            if let Ok(table) = Table::decode(&content) {
                prop_assert_eq!(table.encode(), content);
            }
        }
    }
}
