//! The operations of a seed.
//!
//! Half of them are about a hot region of [`HOT`] sectors somewhere on the disk, so that among those in flight many
//! overlap; the other half are about anywhere. Most are short, some up to 64 KiB, a few up to 512 KiB. They begin at any
//! sector, aligned to nothing.

use core::ops::Range;

use crate::random::Random;

/// Sectors of the hot region.
pub const HOT: u64 = 64;
/// Most sectors of one operation.
pub const MAX_COUNT: u64 = 1024;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write what [`content`](crate::content) says.
    Write,
    /// Make completed writes durable. About no sectors.
    Flush,
    /// Discard. The sectors are zeroes afterwards.
    Discard,
    /// Write zeroes.
    WriteZeroes,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its number.
    pub index: u64,
    /// What is done.
    pub kind: Kind,
    /// First sector.
    pub sector: u64,
    /// How many.
    pub count: u64,
}

impl Op {
    /// The sectors that it is about.
    pub fn sectors(&self) -> Range<u64> {
        self.sector..self.sector + self.count
    }

    /// Whether it changes what the disk holds.
    pub fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Discard | Kind::WriteZeroes)
    }
}

/// First sector of the hot region of a disk of `sectors`.
fn hot(seed: u64, sectors: u64) -> u64 {
    Random::new(seed).below(sectors.saturating_sub(HOT) + 1)
}

/// Operation number `index` of a seed, on a disk of `sectors`.
pub fn op(seed: u64, index: u64, sectors: u64) -> Op {
    let mut random = Random::nth(seed, index);
    let kind = match random.below(64) {
        0..26 => Kind::Read,
        26..54 => Kind::Write,
        54 => Kind::Flush,
        55..59 => Kind::Discard,
        _ => Kind::WriteZeroes,
    };
    if kind == Kind::Flush {
        return Op { index, kind, sector: 0, count: 0 };
    }
    let is_hot = random.below(2) == 0;
    let longest = match random.below(64) {
        _ if is_hot => 16,
        0..46 => 8,
        46..62 => 128,
        _ => MAX_COUNT,
    };
    let (start, size) = if is_hot { (hot(seed, sectors), HOT.min(sectors)) } else { (0, sectors) };
    let count = (1 + random.below(longest)).min(size);
    let sector = start + random.below(size - count + 1);
    Op { index, kind, sector, count }
}

/// The first `count` operations of a seed.
pub fn ops(seed: u64, count: u64, sectors: u64) -> impl Iterator<Item = Op> {
    (0..count).map(move |index| op(seed, index, sectors))
}
