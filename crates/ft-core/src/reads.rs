//! Reads that both replicas run on one shared disk, and how the primary learns that the backup has its data.
//!
//! A write of the same blocks must not reach the disk before (paper, section 4.2, last paragraph). Both sides count these reads
//! in the order in which the machine made them, so one number in the acknowledgement says it.

use std::collections::VecDeque;

use crate::mutation::{Mutation, mutated};
use xxhash_rust::xxh3::xxh3_64;

/// A disk and the number of a request on it.
pub type ReadId = (u16, u64);

/// A digest of what was read.
pub fn digest(data: &[u8]) -> u32 {
    let hash = xxh3_64(data);
    (hash ^ (hash >> 32)) as u32
}

/// The backup has the data of more reads than there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer has finished {claimed} reads, but only {made} were made")]
pub struct BadCount {
    /// What it claims.
    pub claimed: u64,
    /// How many there were.
    pub made: u64,
}

/// The primary's view: reads that the backup may not have finished.
#[derive(Debug, Default)]
pub struct Followed {
    open: VecDeque<ReadId>,
    finished: u64,
    /// What the backup says: more than were made, where it has been told of a position that the primary has not reached.
    claimed: u64,
}

impl Followed {
    /// The machine made a read. True if the backup is not known to have finished it.
    pub fn made(&mut self, read: ReadId) -> bool {
        let open = self.claimed <= self.finished;
        if open {
            self.open.push_back(read);
        } else {
            self.finished += 1;
        }
        open
    }

    /// The backup has finished the first `count`, of which at most `ahead` need not be made yet. Gives those that are news.
    ///
    /// # Errors
    /// There were not so many.
    pub fn finished(&mut self, count: u64, ahead: u64) -> Result<Vec<ReadId>, BadCount> {
        let made = self.finished + self.open.len() as u64;
        if count > made + ahead {
            return Err(BadCount { claimed: count, made });
        }
        self.claimed = self.claimed.max(count);
        let news = count.min(made).saturating_sub(self.finished);
        self.finished += news;
        Ok(self.open.drain(..news as usize).collect())
    }

    /// Reads that the backup is not known to have finished.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// There is no backup any more: nothing is waited for.
    pub fn forget(&mut self) {
        self.finished += self.open.len() as u64;
        self.claimed = self.finished;
        self.open.clear();
    }
}

/// The backup's view: its own reads, which may end in any order.
#[derive(Debug, Default)]
pub struct Own {
    open: VecDeque<(ReadId, bool)>,
    finished: u64,
    told: u64,
}

impl Own {
    /// The machine made a read.
    pub fn made(&mut self, read: ReadId) {
        if mutated(Mutation::ReadToldWhenMade) {
            self.finished += 1;
            return;
        }
        self.open.push_back((read, false));
    }

    /// This side has the data of a read. True if that is news for the primary.
    pub fn finished(&mut self, read: ReadId) -> bool {
        if let Some((_, done)) = self.open.iter_mut().find(|(open, _)| *open == read) {
            *done = true;
        }
        let before = self.finished;
        while self.open.front().is_some_and(|(_, done)| *done) {
            self.open.pop_front();
            self.finished += 1;
        }
        self.finished > before
    }

    /// How many are finished, in order; the primary is told.
    pub fn tell(&mut self) -> u64 {
        self.told = self.finished;
        self.finished
    }

    /// True if the primary does not know of all that are finished.
    pub fn is_news(&self) -> bool {
        self.told < self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_finished_in_the_order_in_which_they_were_made() {
        let (mut followed, mut own) = (Followed::default(), Own::default());
        for read in [(0, 1), (1, 0), (0, 2)] {
            followed.made(read);
            own.made(read);
        }
        assert!(!own.finished((1, 0)));
        assert_eq!(followed.finished(own.tell(), 0), Ok(vec![]));
        assert!(own.finished((0, 1)) && own.is_news());
        assert_eq!(followed.finished(own.tell(), 0), Ok(vec![(0, 1), (1, 0)]));
        assert!(!own.is_news());
        // An old acknowledgement, late.
        assert_eq!(followed.finished(1, 0), Ok(vec![]));
        assert!(own.finished((0, 2)));
        assert_eq!(followed.finished(4, 0), Err(BadCount { claimed: 4, made: 3 }));
        assert_eq!(followed.finished(3, 0), Ok(vec![(0, 2)]));
        followed.made((0, 3));
        followed.forget();
        assert!(followed.is_empty());
        followed.made((0, 4));
        assert_eq!(followed.finished(5, 0), Ok(vec![(0, 4)]));
    }

    /// A backup that was told of a position stands there before the primary does.
    #[test]
    fn a_read_may_be_finished_before_it_is_made() {
        let mut followed = Followed::default();
        assert!(followed.made((0, 1)));
        assert_eq!(followed.finished(4, 2), Err(BadCount { claimed: 4, made: 1 }));
        assert_eq!(followed.finished(3, 2), Ok(vec![(0, 1)]));
        assert!(!followed.made((0, 2)) && !followed.made((0, 3)), "nothing waits for these");
        assert!(followed.made((0, 4)));
        assert_eq!(followed.finished(3, 2), Ok(vec![]));
        assert_eq!(followed.finished(4, 0), Ok(vec![(0, 4)]));
        assert_eq!(followed.finished(5, 1), Ok(vec![]));
        followed.forget();
        assert!(followed.made((0, 5)), "it was another backup's");
    }
}
