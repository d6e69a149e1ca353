//! A position that the primary has not reached and tells its backup all the same.
//!
//! Where positions can be far apart (exits of a guest that computes for seconds), a primary on its way to the next one can insert
//! nothing before it: it is bound to that by the machine itself. So it may tell the position at once, and the backup runs there
//! at the same time instead of afterwards. That the backup takes long for it is no sign of a stuck one, nor lag, as long as the
//! primary takes as long itself.

use super::live::MAX_FOLLOWED;
use super::{Nanos, Replica};
use crate::Lsn;
use crate::mutation::{Mutation, mutated};
use crate::record::Body;

/// How much longer than the primary the backup may take for such a stretch, besides what any record may take.
const SLOWER: u64 = 2;

/// A stretch between two positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    lsn: Lsn,
    began: Nanos,
    /// When the primary itself got there.
    reached: Option<Nanos>,
}

impl<O> Replica<O> {
    /// Tells the backup of `position`, the machine's next one: nothing will be appended before it. The guest left its last
    /// position at `began`.
    pub fn promise(&mut self, position: u64, began: Nanos, now: Nanos) {
        let lsn = self.append(position, Body::Progress, now);
        self.promised_to = Some(position);
        if self.session.is_some() {
            self.promises.push_back(Promise { lsn, began, reached: None });
        }
    }

    /// How many reads the backup may have finished that this side's machine has not made: those of one position, where the backup was
    /// told of it and nothing was logged past it.
    pub(super) fn reads_ahead(&self) -> u64 {
        let promised = self.promised_to.is_some_and(|position| self.position <= position);
        if promised { MAX_FOLLOWED as u64 } else { 0 }
    }

    /// The machine has reached the position that was promised last.
    pub fn keep_promise(&mut self, now: Nanos) {
        if let Some(promise) = self.promises.back_mut() {
            promise.reached.get_or_insert(now);
        }
    }

    /// When a backup that has executed nothing is to be taken for stuck.
    pub(super) fn stuck_deadline(&self) -> Option<Nanos> {
        if self.is_excused_by_reads() {
            return None;
        }
        let since = self.log.no_progress_since().filter(|_| !mutated(Mutation::NeverStuck))?;
        let stuck = self.settings.stuck;
        let Some(promise) = self.promises.front() else { return Some(since + stuck) };
        let reached = promise.reached?;
        let stretch = reached.saturating_sub(promise.began);
        Some(since.max(reached) + stuck + SLOWER.saturating_mul(stretch))
    }

    /// A deliberate mistake: whoever still reads gets all the time in the world.
    pub(super) fn is_excused_by_reads(&self) -> bool {
        mutated(Mutation::RetriesWithoutEnd) && !self.followed.is_empty()
    }

    /// The backup has executed up to `executed`. Gives the time on this side's clock from which the lag of that record counts,
    /// if it is a promised one.
    pub(super) fn promises_executed(&mut self, executed: Lsn, now: Nanos) -> Option<Nanos> {
        let mut since = None;
        while let Some(promise) = self.promises.pop_front_if(|promise| promise.lsn <= executed) {
            since = (promise.lsn == executed).then(|| promise.reached.unwrap_or(now));
        }
        since
    }

    /// Since when the backup is behind, if the record that it has to execute next is a promised one.
    pub(super) fn behind_promise(&self, now: Nanos) -> Option<Nanos> {
        let promise = self.promises.front()?;
        (promise.lsn == self.log.executed() + 1).then(|| promise.reached.unwrap_or(now))
    }
}
