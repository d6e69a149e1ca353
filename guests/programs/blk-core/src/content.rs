//! What a write puts into a sector: who it is, in clear, and then words that only this write puts there.

use core::fmt;

use crate::Sector;
use crate::random::mix;

const MAGIC: u64 = u64::from_le_bytes(*b"ft-blk 1");
/// Words that say whose the sector is: magic, seed, operation, sector.
const CLEAR: usize = 4;

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the operation.
    pub op: u64,
    /// The sector that it was written to.
    pub sector: u64,
}

impl Origin {
    /// The words of the sector, in order.
    fn words(self) -> impl Iterator<Item = u64> {
        let mut state = mix(self.seed ^ mix(self.op ^ mix(self.sector ^ MAGIC)));
        let rest = core::iter::from_fn(move || {
            // Knuth's generator: every word of every sector is made by an interpreter, so few instructions count.
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            Some(state)
        });
        [MAGIC, self.seed, self.op, self.sector].into_iter().chain(rest)
    }
}

/// Writes the content of a sector that `origin` wrote.
pub fn fill(origin: Origin, sector: &mut Sector) {
    let (words, _) = sector.as_chunks_mut::<8>();
    for (place, word) in words.iter_mut().zip(origin.words()) {
        *place = word.to_le_bytes();
    }
}

/// Whether a sector holds what `origin` wrote, all of it.
pub fn is_from(origin: Origin, sector: &Sector) -> bool {
    let (words, _) = sector.as_chunks::<8>();
    words.iter().zip(origin.words()).all(|(found, word)| *found == word.to_le_bytes())
}

/// Whether a sector holds zeroes only.
pub fn is_zero(sector: &Sector) -> bool {
    let (words, _) = sector.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8])
}

/// Whose a sector's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Nobody's: zeroes.
    Zero,
    /// All of it was written by this operation.
    Written(Origin),
    /// It begins as if this operation had written it, and goes on otherwise.
    Torn(Origin),
    /// Something else; the first word of it.
    Foreign(u64),
}

/// Finds out whose a sector's content is.
pub fn explain(sector: &Sector) -> Which {
    if is_zero(sector) {
        return Which::Zero;
    }
    let (words, _) = sector.as_chunks::<8>();
    let mut clear = [0; CLEAR];
    for (word, bytes) in clear.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [magic, seed, op, sector_number] = clear;
    let origin = Origin { seed, op, sector: sector_number };
    match magic {
        MAGIC if is_from(origin, sector) => Which::Written(origin),
        MAGIC => Which::Torn(origin),
        other => Which::Foreign(other),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "op {} of seed {} for sector {}", self.op, self.seed, self.sector)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => write!(formatter, "zeroes"),
            Self::Written(origin) => write!(formatter, "{origin}"),
            Self::Torn(origin) => write!(formatter, "the beginning of {origin} and something else"),
            Self::Foreign(word) => write!(formatter, "something else, beginning with {word:#018x}"),
        }
    }
}
