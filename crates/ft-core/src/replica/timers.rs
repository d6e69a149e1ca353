//! What time alone brings about.

use super::{Effect, Event, Frame, Heartbeat, Nanos, Phase, Replica};
use crate::mutation::{COMPILED_IN, Mutation, mutated};
use crate::record::LogRecord;

const MS: Nanos = 1_000_000;

/// Between two asks of a register that does not answer.
pub(super) const ASK_RETRY: Nanos = 100 * MS;
/// Between two asks of a register that is behind.
pub(super) const BEHIND_RETRY: Nanos = 1000 * MS;
/// Between two looks of a live replica at the register.
pub(super) const REGISTER_POLL: Nanos = 5000 * MS;
/// How long a released output may go untold to an idle backup.
pub(super) const WATERMARK_DELAY: Nanos = 20 * MS;
/// How long execution, or the receipt of what nobody waits for, may go untold.
pub(super) const EXEC_ACK_DELAY: Nanos = 5 * MS;
/// How long a primary whose guest is over waits for its backup to know.
pub(super) const ENDING_PATIENCE: Nanos = 1000 * MS;
/// How long a stop may take before the replica ends all the same.
pub(super) const STOP_PATIENCE: Nanos = 5000 * MS;
/// The longest that a peer is excused, once it must be taken for lost: a host that is always late is not to keep its silence from
/// being noticed.
const MOST_EXCUSED: Nanos = 500 * MS;
/// A thread whose guest is stalled looks at least so often whether it may run.
const STALL_LOOKS: Nanos = 300 * MS;
/// Stalls are summed over this window.
pub(super) const STALL_WINDOW: Nanos = 10_000 * MS;

impl<O> Replica<O> {
    /// When [`Event::Timeout`] is due; `None` is never.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        if self.phase == Phase::Over {
            return None;
        }
        let mut next: Option<Nanos> = None;
        let mut add = |at: Option<Nanos>| next = [next, at].into_iter().flatten().min();
        add(self.heartbeat_at);
        add(self.start_alone_at);
        add(self.watermark_due);
        add(self.exec_ack_due);
        add(self.ending_deadline);
        add(self.stop_deadline);
        add(self.register_poll_at);
        add(self.ask.as_ref().and_then(|ask| ask.retry_at));
        if self.is_watched() {
            // It is noted as soon as there is one.
            let excused = self.suspected_since.map_or(0, |since| self.excused_until(since));
            let mut suspicion = |at: Option<Nanos>| add(at.map(|at| at.max(excused)));
            suspicion(self.detector.deadline().filter(|_| !self.is_deaf()));
            if matches!(self.phase, Phase::Live) {
                suspicion(self.doubt_deadline());
                suspicion(self.log.oldest_unacked().map(|at| at + self.settings.ack_timeout));
                suspicion(self.stuck_deadline());
                suspicion(self.stall_deadline());
            }
        }
        next
    }

    pub(super) fn timers(&mut self, now: Nanos) {
        let is_due = |at: Option<Nanos>| at.is_some_and(|at| now >= at);
        if is_due(self.stop_deadline) {
            self.notice("the stop took too long");
            self.cut_short = true;
            return self.finish();
        }
        if is_due(self.ending_deadline) && self.phase == Phase::Ending {
            return self.finish();
        }
        match self.suspicion(now) {
            None => self.suspected_since = None,
            Some(reason) => {
                let since = *self.suspected_since.get_or_insert(now);
                if now >= self.excused_until(since) {
                    self.lose_peer(&reason, now);
                }
            }
        }
        if is_due(self.heartbeat_at) {
            self.heartbeat_at = Some(now + self.detector.heartbeat_interval());
            self.beat();
        }
        if is_due(self.watermark_due) {
            // Sent as soon as the socket takes it; until then no time-out is due for it.
            (self.watermark_now, self.watermark_due) = (true, None);
        }
        if is_due(self.exec_ack_due) {
            self.exec_ack_due = None;
            self.ack_due = true;
        }
        let wedged = self.is_wedged(now);
        if let Some(ask) = &mut self.ask
            && is_due(ask.retry_at)
        {
            ask.retry_at = wedged.then_some(now + ASK_RETRY);
            let from = ask.from;
            if !wedged {
                self.effects.push_back(Effect::Ask { from });
            }
        }
        if is_due(self.register_poll_at) {
            self.register_poll_at = None;
            self.effects.push_back(Effect::ReadRegister);
        }
        if is_due(self.start_alone_at) {
            self.start_alone_due(now);
        }
    }

    /// The wait for the other side is over. What cannot be done now is looked at again with every read of the register,
    /// and after every answer.
    fn start_alone_due(&mut self, now: Nanos) {
        self.start_alone_at = None;
        self.alone_allowed = true;
        match self.phase {
            Phase::Waiting => {
                self.consider_claim(now);
                self.tell_why_waiting();
            }
            Phase::Live => self.start_alone(),
            _ => {}
        }
    }

    /// The peer is not taken for lost before `until` because of its silence. For a runtime that comes late itself (its host was
    /// busy, or it was stopped): what has arrived meanwhile is to be read first, and a peer on the same host is to get its turn.
    /// However often this is called, it puts no loss off by more than half a second.
    pub fn excuse(&mut self, until: Nanos) {
        self.excused = self.excused.max(until);
    }

    fn excused_until(&self, suspected: Nanos) -> Nanos {
        if mutated(Mutation::ExcuseWithoutBound) {
            return self.excused;
        }
        self.excused.min(suspected.saturating_add(MOST_EXCUSED))
    }

    /// True if there is a peer that may be lost.
    fn is_watched(&self) -> bool {
        // An ask ends the session, but for a deliberate mistake.
        let ended = self.ask.is_some() || matches!(self.phase, Phase::TakingOver(_));
        self.session.is_some() && !(COMPILED_IN && ended)
    }

    /// A deliberate mistake: silence is nothing to this side.
    fn is_deaf(&self) -> bool {
        mutated(Mutation::OneSidedTimeout) && self.phase == Phase::Backup
    }

    /// Why the peer must be taken for lost, if it must.
    fn suspicion(&self, now: Nanos) -> Option<String> {
        if !self.is_watched() {
            return None;
        }
        let ms = |time: Nanos| time / MS;
        if self.detector.suspect(now) && !self.is_deaf() {
            let known = self.detector.describe().map_or_else(String::new, |known| format!(" ({known})"));
            let silent = ms(now.saturating_sub(self.last_heard));
            return Some(format!("nothing heard for {silent} ms{known}"));
        }
        if self.phase != Phase::Live {
            return None;
        }
        if self.log.oldest_unacked().is_some_and(|at| now >= at + self.settings.ack_timeout) {
            return Some(format!("a record was not acknowledged for {} ms", ms(self.settings.ack_timeout)));
        }
        if self.doubt_deadline().is_some_and(|at| now >= at) {
            return Some(format!(
                "after a pause of this side it acknowledged nothing for {} ms",
                ms(self.settings.ack_timeout)
            ));
        }
        if self.stuck_deadline().is_some_and(|at| now >= at) {
            return Some(format!("it is stuck: no execution for {} ms", ms(self.settings.stuck)));
        }
        if self.stall_deadline().is_some_and(|at| now >= at) {
            return Some(format!(
                "it is too slow: the guest stood still for it {} ms of 10 s",
                ms(self.settings.stuck)
            ));
        }
        None
    }

    /// When the stalls of the last ten seconds will sum up to `stuck`, if the current one goes on.
    fn stall_deadline(&self) -> Option<Nanos> {
        let since = self.stalled_since.filter(|_| !self.is_excused_by_reads())?;
        if self.gate.is_releasable(self.log.acked()) {
            // What the guest waits for is this side's own doing: a console that nobody reads, say.
            return None;
        }
        let past: Nanos = self
            .stalls
            .iter()
            .filter(|(_, end)| end + STALL_WINDOW >= since)
            .map(|(start, end)| end - start)
            .sum();
        let deadline = since + self.settings.stuck.saturating_sub(past);
        // A guest whose thread does not look any more stands still for this side's own sake.
        self.ran_at.filter(|ran| deadline <= ran + STALL_LOOKS).map(|_| deadline)
    }

    /// A sign of life, also to a peer that is lost: a deposed one hears of the generation this way.
    fn beat(&mut self) {
        let (executed, position) = match self.phase {
            Phase::Live | Phase::Ending => (self.last, self.position),
            _ => (self.backlog.executed_lsn(), self.backlog.position()),
        };
        let (stamp, replica, role) = (self.stamp(), self.settings.me.replica, self.peer_role());
        let beat = Frame::Heartbeat(Heartbeat { stamp, replica, role, executed, position });
        self.effects.push_back(Effect::Heartbeat(self.encode(&beat)));
    }

    /// Reports a record as executed, and its error as a divergence, in one step.
    pub fn execute(&mut self, record: &LogRecord, now: Nanos) -> bool {
        match self.executed(record, now) {
            Ok(()) => true,
            Err(divergence) => {
                self.handle(Event::Diverged(divergence), now);
                false
            }
        }
    }
}
