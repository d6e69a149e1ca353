//! The disk as it must be: per sector the last operation that changed it.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::content::{Origin, fill, is_from, is_zero};
use crate::ops::{Kind, Op};
use crate::{Sector, Which};

/// What became of a sector last: nothing, written by an operation, or made zeroes by one.
///
/// Four bytes, because a guest of 64 MiB keeps one for each sector of a disk of 64 MiB, and several of each in flight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    /// Never changed: zeroes.
    pub const NEVER: Self = Self(0);
    /// Set where the operation made zeroes; the rest is its number plus one.
    const ZEROED: u32 = 1 << 31;
    /// Operations that can be told apart.
    pub const MAX_OPS: u64 = Self::ZEROED as u64 - 1;

    /// The stamp that an operation which changes something leaves.
    pub fn of(op: &Op) -> Self {
        debug_assert!(op.changes() && op.index < Self::MAX_OPS, "an operation with a stamp");
        let number = op.index as u32 + 1;
        Self(if op.kind == Kind::Write { number } else { number | Self::ZEROED })
    }

    /// The operation that changed the sector last.
    pub fn op(self) -> Option<u64> {
        u64::from(self.0 & !Self::ZEROED).checked_sub(1)
    }

    /// The operation whose content the sector holds; `None`: it holds zeroes.
    pub fn writer(self) -> Option<u64> {
        self.op().filter(|_| self.0 & Self::ZEROED == 0)
    }

    /// Writes the content of sector number `sector` with this stamp.
    pub fn fill(self, seed: u64, sector: u64, bytes: &mut Sector) {
        match self.writer() {
            Some(op) => fill(Origin { seed, op, sector }, bytes),
            None => bytes.fill(0),
        }
    }

    /// Whether sector number `sector` with this stamp may hold `bytes`.
    pub fn matches(self, seed: u64, sector: u64, bytes: &Sector) -> bool {
        match self.writer() {
            Some(op) => is_from(Origin { seed, op, sector }, bytes),
            None => is_zero(bytes),
        }
    }

    /// Whether sector number `sector` with this stamp holds what was found to be `which`.
    pub fn is(self, seed: u64, sector: u64, which: Which) -> bool {
        match (self.writer(), which) {
            (Some(op), Which::Written(origin)) => origin == Origin { seed, op, sector },
            (None, Which::Zero) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.op(), self.writer()) {
            (None, _) => write!(formatter, "zeroes from the start"),
            (Some(_), Some(op)) => write!(formatter, "op {op}"),
            (Some(op), None) => write!(formatter, "zeroes of op {op}"),
        }
    }
}

/// The stamps of all sectors of a disk.
#[derive(Clone, Debug)]
pub struct Model {
    seed: u64,
    stamps: Vec<Stamp>,
}

impl Model {
    /// A blank disk of `sectors`.
    pub fn new(seed: u64, sectors: u64) -> Self {
        Self { seed, stamps: vec![Stamp::NEVER; sectors as usize] }
    }

    /// A blank disk after the first `ops` operations of its seed.
    pub fn after(seed: u64, ops: u64, sectors: u64) -> Self {
        let mut model = Self::new(seed, sectors);
        crate::ops(seed, ops, sectors).for_each(|op| model.apply(&op));
        model
    }

    /// The seed of its operations.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        self.stamps.len() as u64
    }

    /// An operation is submitted.
    pub fn apply(&mut self, op: &Op) {
        if op.changes() {
            self.stamps[range(op.sectors())].fill(Stamp::of(op));
        }
    }

    /// The stamps of some sectors.
    pub fn stamps(&self, sectors: Range<u64>) -> &[Stamp] {
        &self.stamps[range(sectors)]
    }
}

fn range(sectors: Range<u64>) -> Range<usize> {
    sectors.start as usize..sectors.end as usize
}
