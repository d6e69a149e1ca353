//! A process's own copies of the disk: the exchange before the guest runs, and the stamps (`ft-runtime`,
//! `replica/{chores,copies,fence,register}.rs`). Copies and exchange are the runtime's own code.

use std::sync::Arc;

use ft_core::mutation::{Mutation, mutated};
use ft_core::{Event, Phase};
use ft_devices::backend::copy::CopyError;
use ft_devices::backend::stamp::CopyState;
use ft_policies::{Answer, Unavailable};
use ft_runtime::replica::copies::{Copies, Exchange, Over};

use super::fence::IDS;
use super::{Chore, Thread};
use crate::faults::Kind;
use crate::properties::copies as rules;
use crate::shape::MS;
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// Between two attempts at what must succeed before a side can go on.
const RETRY: u64 = 200 * MS;

impl World {
    /// Opens the copy of a seat for a process that starts there; `None` inside if the disk is shared.
    ///
    /// # Errors
    /// The process does not start, in words.
    pub(super) fn open_copies(&self, node: usize) -> Result<Option<Arc<Copies>>, &'static str> {
        let Some(own) = &self.disk.own else { return Ok(None) };
        own[node].open().map(|copies| Some(Arc::new(copies)))
    }

    /// Whether the copy's next request or stamp fails, while its process has trouble with it.
    fn trouble_copy(&mut self, node: usize) {
        let fails = self.process(node).is_some_and(|process| process.disk_trouble.0) && self.random.chance(2);
        if let Some(own) = &self.disk.own {
            own[node].content().fails = fails;
        }
    }

    /// Stamps the copies as the live replica's. False if the host refused.
    pub(super) fn stamp_live(&mut self, node: usize, generation: u64) -> bool {
        self.trouble_copy(node);
        let Some(copies) = self.at(node).copies.clone() else { return true };
        let stamped = copies.stamp(CopyState::Live, generation);
        if let Err(why) = &stamped {
            self.note(Of::Seat(node), || why.clone());
        }
        rules::stamps(self, node);
        stamped.is_ok()
    }

    /// A fence is wanted: the copies come first. True if there are none; otherwise the chore that goes on with it is in line.
    pub(super) fn fence_copies(&mut self, node: usize, generation: u64) -> bool {
        self.trouble_copy(node);
        let Some(copies) = self.at(node).copies.clone() else { return true };
        let flushed = copies.flush().is_ok();
        let next = if flushed { Chore::StampLive(generation) } else { Chore::Fence(generation) };
        self.at(node).chores.push_front(next);
        let after = if flushed { self.grain() } else { RETRY };
        self.wake(node, Thread::Chores, after);
        false
    }

    /// The second half: true if the fence proper is next.
    pub(super) fn stamp_for_fence(&mut self, node: usize, generation: u64) -> bool {
        let stamped = self.stamp_live(node, generation);
        if !stamped {
            self.at(node).chores.push_front(Chore::StampLive(generation));
            self.wake(node, Thread::Chores, RETRY);
        }
        stamped
    }

    /// For a primary that lost its backup a win counts when its copies say so.
    pub(super) fn stamped_answer(&mut self, node: usize, from: u64, answer: Answer) -> Answer {
        let process = self.at(node);
        let runs = *process.core.phase() == Phase::Live && process.core.is_started();
        let due = runs && !mutated(Mutation::WinWithoutStamp) || mutated(Mutation::LiveStampBeforeReplay);
        if answer != Answer::Won || !due || self.stamp_live(node, from + 1) {
            return answer;
        }
        Answer::Unavailable(Unavailable::Exhausted)
    }

    /// The exchange of a session begins.
    pub(super) fn begin_exchange(&mut self, node: usize, session: u64, source: bool) {
        let process = self.at(node);
        let generation = process.core.generation();
        let Some(copies) = process.copies.clone() else { return };
        let exchange = if source {
            Exchange::source(&copies, generation)
        } else {
            Exchange::target(&copies, generation, IDS[1 - node], || {})
        };
        process.exchange = Some((session, exchange));
        if !source {
            self.step_exchange(node, session, None);
        }
    }

    /// The other side says something in it.
    pub(super) fn step_exchange(&mut self, node: usize, session: u64, message: Option<&[u8]>) {
        self.trouble_copy(node);
        let process = self.at(node);
        let current = process.exchange.as_mut().filter(|(current, _)| *current == session);
        let Some((_, exchange)) = current else { return };
        let result = exchange.step(message);
        let refusal = exchange.refusal();
        rules::stamps(self, node);
        self.cut_copying(node);
        let process = self.at(node);
        let over = match result {
            Ok(step) => {
                step.replies.into_iter().for_each(|reply| process.core.send_copy(session, reply));
                match (refusal, step.over) {
                    (Some(reason), _) => Some(Event::CopyRefused { session, reason }),
                    (None, Some(Over::Source)) => Some(Event::Copied { session }),
                    (None, Some(Over::Target { .. })) => {
                        process.exchange = None;
                        None
                    }
                    (None, None) => None,
                }
            }
            Err(error @ CopyError::Protocol(_)) => {
                Some(Event::CopyBroken { session, reason: error.to_string() })
            }
            Err(error) => {
                process.exchange = None;
                return self.handle(node, Event::DiskFailed(error.to_string()));
            }
        };
        if let Some(worth) = process.copies.as_ref().and_then(|copies| copies.worth()) {
            self.handle(node, Event::Copies(worth));
        }
        if let Some(event) = over {
            self.at(node).exchange = None;
            self.handle(node, event);
        }
    }

    /// A fault may wait for a copy that is being copied into.
    fn cut_copying(&mut self, node: usize) {
        let Some(own) = &self.disk.own else { return };
        let copying = own[node].content().stamp.is_some_and(|stamp| stamp.state == CopyState::Incomplete);
        if copying && let Some(index) = self.cuts_copying.take() {
            self.plan.faults[index].kind = Kind::Blackout;
            let after = self.random.below(4 * self.shape.latency);
            self.schedule(after, Happening::Strike(index));
        }
    }

    /// The guest ended in order here: the copies are what it made of them.
    pub(super) fn stamp_clean(&mut self, node: usize) {
        self.trouble_copy(node);
        let process = self.at(node);
        let (Some(copies), Some(position)) = (process.copies.clone(), process.end) else { return };
        let flushed =
            mutated(Mutation::CleanWithoutFlush) || process.disks.all_went_well() && copies.flush().is_ok();
        if process.core.ended_in_order() && flushed {
            let generation = process.core.generation();
            // If the host refuses the next start compares.
            let _ = copies.stamp_clean(generation, position);
        }
        rules::stamps(self, node);
    }
}
