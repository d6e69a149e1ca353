//! When the other side is gone: asking, winning, losing, going live.

use ft_policies::RegisterState;

use super::{Effect, Exit, Nanos, Phase, Replica, Stage};
use crate::Lsn;
use crate::mutation::{COMPILED_IN, Mutation, mutated};
use crate::wire::{Frame, PeerRole, Refusal};

impl<O> Replica<O> {
    /// The peer says in its session what nobody says who keeps to the protocol.
    pub(super) fn lose_liar(&mut self, reason: &str, now: Nanos) {
        self.counters.lies += 1;
        let (phase, stamp) = (self.phase.clone(), self.stamp());
        if phase != Phase::Live {
            self.effects.push_back(Effect::CloseLink);
        }
        self.link = None;
        self.lose_peer(reason, now);
        if matches!(phase, Phase::Live | Phase::Ending) {
            // The likeliest cause is a backup whose machine is not this one any more, and that has not found it yet: it must not take
            // the closed connection for a crash, and win. It is told why, as the last thing in that session, and the connection is
            // not closed before this side has won: what was not read yet is lost with a connection.
            let refusal = Refusal { stamp, mismatch: true, reason: reason.to_owned() };
            self.frames.push_back(Frame::Refusal(refusal));
            self.told_why = phase == Phase::Live;
        }
    }

    /// The peer is suspected. What follows depends on what it was to this side.
    pub(super) fn lose_peer(&mut self, reason: &str, now: Nanos) {
        self.told_why = false;
        let Some(session) = self.session.take() else { return };
        self.lost = Some(session.peer);
        self.doubt = None;
        self.suspected_since = None;
        let closes = !self.keeps_session();
        let linked = self.link.is_some();
        if closes {
            self.link = None;
            self.frames.clear();
        } else {
            self.session = Some(session);
        }
        if std::mem::take(&mut self.copying) {
            // The gate was never closed: this side is as it was before the offer.
            self.effects.push_back(Effect::CopyOff);
            self.effects.push_back(Effect::CloseLink);
            self.notice(format!("the other replica was lost while its disks were made the same: {reason}"));
            self.wait_anew(now);
            return self.start_alone();
        }
        match self.phase {
            Phase::Live => {
                self.reason = format!("lost the backup: {reason}");
                self.count_off(now);
                self.followed.forget();
                self.reads_unacked.clear();
                if closes && linked {
                    self.effects.push_back(Effect::CloseLink);
                }
                if !self.started {
                    self.wait_anew(now);
                }
                // Binding from here: nothing is released, whatever happens, until this is answered.
                self.ask_at_work(self.generation, now);
            }
            Phase::Backup if self.backlog.is_over() && !mutated(Mutation::EndIsACrash) => self.finish(),
            Phase::Backup if self.backlog.is_armed() || mutated(Mutation::AskUnarmed) => {
                // The session is closed: nothing received after this, nothing acknowledged after this.
                self.ack_due = false;
                self.exec_ack_due = None;
                assert!(self.acked <= self.backlog.received(), "only what was received was acknowledged");
                self.reason = format!("lost the primary: {reason}");
                self.phase = Phase::TakingOver(Stage::Replaying);
                if closes {
                    self.effects.push_back(Effect::CloseLink);
                }
                // A win is of no use to a backup that cannot replay (its disk hangs, say), and would be the guest's end where the
                // primary has given this backup up for just that.
                self.ask_deferred = self.is_stuck(now);
                if mutated(Mutation::LiveWithoutTieBreaker) {
                    self.generation += 1;
                    self.step_takeover();
                } else if !self.ask_deferred {
                    self.ask(self.generation);
                }
            }
            Phase::Backup => {
                // It never had a guest: back to the start.
                if self.settings.copies.is_some() {
                    self.effects.push_back(Effect::CopyOff);
                }
                self.phase = Phase::Waiting;
                self.wait_anew(now);
                self.effects.push_back(Effect::CloseLink);
                self.effects.push_back(Effect::ReadRegister);
            }
            Phase::Ending => self.finish(),
            _ => {}
        }
    }

    /// The guest has not run, and the other side was there just now: it is waited for as at the start.
    fn wait_anew(&mut self, now: Nanos) {
        self.alone_allowed = false;
        self.start_alone_at = Some(now + self.settings.start_alone);
    }

    /// A deliberate mistake: the session goes on although the peer is taken for lost.
    fn keeps_session(&self) -> bool {
        let keeps = match self.phase {
            Phase::Live => mutated(Mutation::AckAfterAsk) || mutated(Mutation::WithdrawAsk),
            Phase::Backup => mutated(Mutation::AckAfterClose) && self.backlog.is_armed(),
            _ => false,
        };
        keeps && self.link.is_some() && !self.copying
    }

    /// True if this backup has had records to execute for half as long as a primary bears, and has executed none.
    fn is_stuck(&self, now: Nanos) -> bool {
        let waits = self.backlog.executed_lsn() < self.backlog.received();
        let stuck = waits && now.saturating_sub(self.progress_at) >= self.settings.stuck / 2;
        stuck && !mutated(Mutation::StuckBackupAsks)
    }

    fn count_off(&mut self, now: Nanos) {
        if let Some(since) = self.stalled_since.take() {
            self.counters.stalled += now.saturating_sub(since);
        }
        self.stalls.clear();
        self.refused = 0;
    }

    pub(super) fn won(&mut self, generation: u64, now: Nanos) {
        let generation = generation - u64::from(mutated(Mutation::SameGeneration) && generation > 1);
        if self.is_overtaken(generation)
            && let Some(register) = self.register
        {
            return self.lost(register, now);
        }
        if self.highest > generation {
            self.generation = generation;
            return self.depose();
        }
        self.highest = generation;
        if COMPILED_IN && self.session.is_some() && !matches!(self.phase, Phase::Waiting) {
            // The mistake of `keeps_session` ends here.
            self.session = None;
            self.link = None;
            self.effects.push_back(Effect::CloseLink);
        }
        match self.phase {
            Phase::Waiting => self.claimed(generation, now),
            Phase::Live => {
                self.generation = generation;
                if std::mem::take(&mut self.told_why) {
                    self.effects.push_back(Effect::CloseLink);
                }
                if self.started {
                    let silent = now.saturating_sub(self.last_heard);
                    self.go_live(false, silent);
                    self.match_roles(now);
                } else {
                    self.send_hello();
                    self.match_roles(now);
                    self.start_alone();
                }
                self.acknowledge_frames();
            }
            Phase::TakingOver(_) => {
                self.generation = generation;
                self.step_takeover();
            }
            _ => {}
        }
    }

    fn go_live(&mut self, takeover: bool, silent: Nanos) {
        let (generation, alone, reason) = (self.generation, true, self.reason.clone());
        self.effects.push_back(Effect::Live { generation, takeover, alone, silent, reason });
        if self.settings.by_hand {
            // Should the other side be connected, it has no other way to hear of this.
            self.send_hello();
        }
    }

    pub(super) fn lost(&mut self, register: RegisterState, now: Nanos) {
        self.highest = self.highest.max(register.generation);
        if self.phase == Phase::Waiting {
            // A person who promoted this side did not know of that.
            self.promoted = false;
            // Somebody else started the guest; this side may still become its backup.
            self.register = Some(register);
            self.register_poll_at = Some(now + super::timers::BEHIND_RETRY);
            if self.settings.by_hand {
                // It was said that this side is about to start the guest.
                self.send_hello();
            }
            return self.match_roles(now);
        }
        self.lost_for_good(register);
    }

    pub(super) fn lost_for_good(&mut self, register: RegisterState) {
        let winner = register
            .holder
            .map_or_else(|| "nobody".to_owned(), |who| format!("replica {}", who.replica.name()));
        let message = format!(
            "generation {} belongs to {winner}: this side (generation {}) stops, and has released nothing since",
            register.generation, self.generation
        );
        self.halt(Exit::LostTieBreaker, message);
    }

    /// Won and replayed? Then the old primary is cut off.
    pub(super) fn step_takeover(&mut self) {
        if self.phase == Phase::TakingOver(Stage::Replaying)
            && self.ask.is_none()
            && !self.ask_deferred
            && self.backlog.is_replayed()
        {
            self.phase = Phase::TakingOver(Stage::Fencing);
            self.effects.push_back(Effect::Fence { generation: self.generation });
        }
    }

    pub(super) fn fenced(&mut self, generation: u64) {
        if self.phase == Phase::TakingOver(Stage::Fencing) && generation == self.generation {
            self.phase = Phase::TakingOver(Stage::Reissuing);
        }
    }

    /// Last step: the guest's address moves here, then what was kept goes out.
    pub(super) fn disks_reissued(&mut self, now: Nanos) {
        if self.phase != Phase::TakingOver(Stage::Reissuing) {
            return;
        }
        // The invariant, last step: everything that could have been acknowledged was replayed.
        assert!(self.acked <= self.backlog.received(), "acknowledged means received");
        assert!(
            self.backlog.executed_lsn() == self.backlog.received() || mutated(Mutation::ReplayOneTooFew),
            "received means replayed before going live"
        );
        self.last = self.backlog.received();
        self.position = self.backlog.told();
        self.watermark = self.backlog.released_lsn();
        self.started = true;
        self.phase = Phase::Live;
        self.go_live(true, now.saturating_sub(self.last_heard));
        if self.backlog.switch_seq() > 0 {
            let (generation, seq) = (self.generation, self.backlog.switch_seq());
            self.effects.push_back(Effect::RxAcknowledged { generation, seq });
        }
        for kept in self.backlog.take_kept() {
            let lsn: Lsn = kept.lsn.unwrap_or_else(|| {
                self.last += 1;
                self.last
            });
            if let Some(payload) = kept.payload.filter(|_| !mutated(Mutation::DropKept)) {
                self.gate.hold(lsn, Some(kept.class), Some(payload), 0, now);
            }
        }
        if self.backlog.is_stopped() {
            // The primary logged a stop and did not live to see it through: what was kept goes out, then this side ends.
            self.stopping = true;
            self.last += 1;
            self.gate.hold(self.last, None, None, 0, now);
        }
        self.match_roles(now);
    }

    /// What the peer says it is, if it was heard lately.
    pub fn peer(&self) -> Option<(PeerRole, Nanos)> {
        self.peer_beat
    }
}
