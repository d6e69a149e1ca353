//! Whether a read returned what it must, and what may be believed of sectors whose write failed.

use alloc::collections::BTreeMap;

use blk_core::{Model, Op, Stamp, Which, Wrong, compare, op};

/// What is known of a sector that a write failed on. Until a later write has succeeded it may hold the old or the new
/// content, whichever operation's that is.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The first and the last operation that failed on it.
    first: u64,
    last: u64,
    /// The first operation after the last that succeeded: from there on all is known again.
    lifted: Option<u64>,
}

/// Sectors in doubt. Failures are rare: there are few of them.
#[derive(Debug, Default)]
pub(crate) struct Doubts(BTreeMap<u64, Doubt>);

impl Doubts {
    /// An operation that changes something has failed.
    pub(crate) fn failed(&mut self, op: &Op) {
        for sector in op.sectors() {
            let new = Doubt { first: op.index, last: op.index, lifted: None };
            let doubt = self.0.entry(sector).or_insert(new);
            doubt.first = doubt.first.min(op.index);
            doubt.last = doubt.last.max(op.index);
            doubt.lifted = doubt.lifted.filter(|lifted| *lifted > doubt.last);
        }
    }

    /// An operation that changes something has succeeded.
    pub(crate) fn succeeded(&mut self, op: &Op) {
        for (_, doubt) in self.0.range_mut(op.sectors()).filter(|(_, doubt)| doubt.last < op.index) {
            doubt.lifted = Some(doubt.lifted.map_or(op.index, |lifted| lifted.min(op.index)));
        }
    }

    /// Whether a sector is in doubt for an operation. Completions come in any order, so the answer is about the order of
    /// submission: an operation from before the success that lifted the doubt still has it.
    fn is_open(&self, sector: u64, index: u64) -> bool {
        self.0
            .get(&sector)
            .is_some_and(|doubt| doubt.first < index && doubt.lifted.is_none_or(|lifted| index < lifted))
    }
}

/// Compares what operation `index` read, from sector `first` on, with the stamps of when it was submitted. Where a sector is
/// in doubt, everything is good that some earlier operation may have left there.
pub(crate) fn read(
    model: &Model,
    doubts: &Doubts,
    index: u64,
    first: u64,
    stamps: &[Stamp],
    data: &[u8],
) -> Result<(), Wrong> {
    let seed = model.seed();
    let is_earlier = |wrong: &Wrong| match wrong.found {
        Which::Zero => true,
        Which::Written(origin) => {
            let writer = op(seed, origin.op, model.sectors());
            origin.seed == seed
                && origin.sector == wrong.sector
                && origin.op < index
                && writer.sectors().contains(&wrong.sector)
        }
        Which::Torn(_) | Which::Foreign(_) => false,
    };
    let is_wrong = |wrong: &Wrong| !(doubts.is_open(wrong.sector, index) && is_earlier(wrong));
    compare(seed, first, stamps, data).find(is_wrong).map_or(Ok(()), Err)
}
