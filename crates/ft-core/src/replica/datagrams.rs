//! Signs of life: what the peer's datagrams say, and this side's last one.

use super::{Effect, Frame, Heartbeat, Nanos, PeerRole, Phase, Replica};
use crate::mutation::{Mutation, mutated};

impl<O> Replica<O> {
    pub(super) fn datagram(&mut self, bytes: &[u8], now: Nanos) {
        let Ok(Frame::Heartbeat(beat)) = Frame::decode_with(bytes, self.settings.key.as_ref()) else {
            self.counters.bad_datagrams += 1;
            return;
        };
        if beat.stamp.pair != self.settings.pair || beat.replica == self.settings.me.replica {
            self.counters.bad_datagrams += 1;
            return;
        }
        self.peer_beat = Some((beat.role, now));
        if beat.role == PeerRole::Gone {
            self.peer_heard(beat.stamp.incarnation, true);
        }
        let stale = mutated(Mutation::StaleHeartbeat) && beat.stamp.generation <= self.generation;
        if self.is_current(&beat.stamp) || stale && self.session.is_some() {
            self.heard(ft_policies::Heard::Heartbeat, now);
            self.executed_heard(&beat, now);
        } else if beat.stamp.generation == self.generation {
            self.look_for_a_twin(&beat);
        } else if beat.stamp.generation < self.generation {
            self.counters.stale += 1;
        } else {
            self.note_generation(beat.stamp.generation);
        }
    }

    /// Tells, once for each, of the processes that the peer was.
    pub(super) fn peer_heard(&mut self, incarnation: u64, gone: bool) {
        if self.peer_process != Some((incarnation, gone)) {
            self.peer_process = Some((incarnation, gone));
            self.effects.push_back(Effect::Peer { incarnation, gone });
        }
    }

    /// The datagram to send as the very last thing, once the disks are closed.
    pub fn last_words(&self) -> Vec<u8> {
        let (stamp, replica) = (self.stamp(), self.settings.me.replica);
        let (executed, position) = (self.backlog.executed_lsn(), self.backlog.position());
        let role = PeerRole::Gone;
        self.encode(&Frame::Heartbeat(Heartbeat { stamp, replica, role, executed, position }))
    }

    fn executed_heard(&mut self, beat: &Heartbeat, now: Nanos) {
        if matches!(self.phase, Phase::Live | Phase::Ending) {
            let acked = self.log.acked();
            // A heartbeat acknowledges nothing: it only tells how far what was acknowledged has been executed.
            let _news = self.log.acknowledge(acked, beat.executed.min(acked), now);
        }
    }
}
