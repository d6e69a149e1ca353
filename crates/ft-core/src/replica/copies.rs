//! What separate disks add to a start: whose copies are gone on with, and the exchange that makes the other side's the same.

use super::{Exit, Nanos, Phase, Replica};
use crate::mutation::{Mutation, mutated};
use crate::wire::{Copies, Copy, Frame, PeerRole, Used};

impl<O> Replica<O> {
    /// What the peer's copies of separate disks are worth, if it is there and waits.
    pub(super) fn peers_copies(&self) -> Option<Copies> {
        let hello = self.link.as_ref().and_then(|link| link.hello.as_ref())?;
        (hello.role == PeerRole::Waiting).then_some(hello.copies)
    }

    /// True if the register says that the peer's process has won since it said that it waits: it is about to say so, and what it
    /// said of its copies was of the generation before.
    fn peer_has_won(&self) -> bool {
        let hello = self.link.as_ref().and_then(|link| link.hello.as_ref());
        let holder = self.register.and_then(|register| register.holder);
        hello.zip(holder).is_some_and(|(hello, holder)| {
            holder.replica == hello.replica && holder.incarnation == hello.stamp.incarnation
        })
    }

    /// Which copies of separate disks a cold start goes on with: those that were the live replica's in the register's
    /// generation, alone only if that is so of all of them. If neither side's were, a win was never followed by an output, and the
    /// copies of the last replica that was live before are the ones: that can only be told with both sides there, and with
    /// none of them missing. What may then be done with the other side's is judged disk by disk in the exchange.
    pub(super) fn may_claim_with(
        &mut self,
        mine: Copies,
        generation: u64,
        alone: bool,
        peer_waits: bool,
    ) -> bool {
        let theirs = self.peers_copies();
        if !mine.usable {
            if theirs.is_some_and(|theirs| !theirs.usable) {
                let text = "both replicas' separate disks were being copied into when they were last used: neither can be gone \
                            on with";
                self.halt(Exit::Failure, text);
            }
            return false;
        }
        let stale = mutated(Mutation::StaleCopyStarts) && alone;
        if mine.live == generation || stale {
            return alone && mine.whole || peer_waits || stale;
        }
        let Some(theirs) = theirs.filter(|_| !self.peer_has_won()) else { return false };
        if theirs.live == generation {
            return false;
        }
        if mine.used != theirs.used && theirs.usable {
            let text = format!(
                "neither replica has the separate disks of generation {generation} (they were live in {} and {}), and one of \
                 them has a new disk where the other has one in use: bring the missing one back; if it is lost, put the other's \
                 file in its place and remove the .ft files of both",
                mine.live, theirs.live
            );
            self.halt(Exit::Failure, text);
            return false;
        }
        let first = self.settings.me.replica == ft_policies::ReplicaId::A;
        !theirs.usable || mine.live > theirs.live || mine.live == theirs.live && first
    }

    /// After `start-alone`: the operator is told why the guest does not start here all the same.
    pub(super) fn tell_why_waiting(&mut self) {
        if let Some(why) = self.why_waiting() {
            let peer = self.settings.me.replica.peer().name();
            let person = if self.wants_promotion().is_some() { ", or for `ft-vm promote`" } else { "" };
            self.notice(format!(
                "start-alone has passed, but this side does not start the guest by itself: {why}. It waits for replica {peer}{person}"
            ));
        }
    }

    /// Why a side that waits does not start the guest by itself.
    pub(super) fn why_waiting(&self) -> Option<String> {
        let register = self.register.filter(|_| self.phase == Phase::Waiting && self.ask.is_none())?;
        let generation = register.generation;
        Some(match (register.holder, self.settings.copies) {
            (_, Some(mine)) if !mine.usable => "its copies of the disks are incomplete".to_owned(),
            (None, _) => "a guest that never ran is started by replica a".to_owned(),
            (Some(_), Some(mine)) if mine.live != generation && mine.live != Copies::ANY => {
                format!("its copies of the disks are not those of generation {generation}, the last one")
            }
            (Some(_), Some(mine)) if !mine.whole && mine.live != Copies::ANY => {
                "one of its disks is new, and the other replica may have its content".to_owned()
            }
            (_, _) if self.settings.by_hand => "nobody goes on alone before a person says so".to_owned(),
            (Some(holder), _) => format!(
                "generation {generation} is replica {}'s, which may be running where this side cannot see it",
                holder.replica.name()
            ),
        })
    }

    pub(super) fn copies_notice(&mut self, text: impl Into<String>) {
        if !std::mem::replace(&mut self.copies_told, true) {
            self.notice(text);
        }
    }

    /// This side's copies are worth something else now.
    pub(super) fn copies_changed(&mut self, copies: Copies) {
        let waits = self.phase == Phase::Live && !self.started;
        if waits && copies.whole && copies.live == self.generation {
            // With the other side there it was decided that these count, and they are stamped so. That side need not be seen again,
            // even if it was lost before the stamp was there.
            self.claimed_from = self.generation;
        }
        self.settings.copies = Some(copies);
    }

    /// True if this side may start the guest without having seen the other one's copies of separate disks.
    pub(super) fn copies_allow_alone(&self) -> bool {
        self.settings.copies.is_none_or(|mine| {
            let first = self.claimed_from == 0 && mine.used == Used::None;
            let last = mine.whole && mine.live == self.claimed_from;
            mine.live == Copies::ANY || first || last || mutated(Mutation::StaleCopyStarts)
        })
    }

    pub(super) fn copied(&mut self, session: u64, now: Nanos) {
        if self.is_copying(session) && self.phase == Phase::Live {
            self.copying = false;
            // A stop that came meanwhile is all that is left to do.
            if !self.stop_wanted {
                self.arm(now);
            }
        }
    }

    pub(super) fn copy_refused(&mut self, session: u64, reason: &str) {
        if self.is_copying(session) {
            self.refuse(false, reason);
            self.halt(Exit::Failure, reason);
        }
    }

    /// True while this session stands and the guest does not run yet, for its disks.
    pub(super) fn is_copying(&self, session: u64) -> bool {
        let target = self.phase == Phase::Backup && !self.backlog.is_armed();
        let current = self.session.is_some_and(|current| current.id == session);
        self.settings.copies.is_some() && current && (self.copying || target)
    }

    /// Sends a message of the exchange that makes copies of separate disks the same. Ignored when that one is off.
    pub fn send_copy(&mut self, session: u64, message: Vec<u8>) {
        if self.is_copying(session) {
            self.frames.push_back(Frame::Copy(Copy { stamp: self.stamp(), message }));
        }
    }
}
