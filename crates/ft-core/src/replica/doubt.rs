//! A primary that was not run for a while doubts that it still has a backup.
//!
//! A process that was stopped, or whose host was, wakes with acknowledgements in its socket that are older than its sleep: its
//! backup may have gone live since, and released what they cover. They are true, and what they let out would only be seen twice; but
//! a deposed primary is to let nothing out at all. So whoever finds that it has heard nothing for as long as a peer is given holds
//! everything until an acknowledgement tells of a frame that was sent *after* that moment, on this side's own clock. Nobody is
//! suspected for it: on a host whose every process slept the answer is there at once.

use super::{Ack, Nanos, Phase, Replica};
use crate::mutation::{Mutation, mutated};

impl<O> Replica<O> {
    /// Looks at the silence before what ends it counts. True if nothing may be released for now.
    pub(super) fn doubts(&mut self, now: Nanos) -> bool {
        let primary = matches!(self.phase, Phase::Live | Phase::Ending) && self.session.is_some();
        if primary && self.doubt.is_none() && self.settings.hold_outputs && self.detector.suspect(now) {
            self.doubt = Some(now);
            self.counters.doubts += 1;
            // Something to be acknowledged, also where the guest has nothing to say.
            self.watermark_now = true;
        }
        if mutated(Mutation::DoubtIgnored) {
            self.doubt = None;
        }
        self.doubt.is_some()
    }

    /// When the answer is overdue, as that to a record would be. Heartbeats may arrive where it does not, and no record need be under
    /// way. While copies are made the same it waits in a line, and nothing waits for it.
    pub(super) fn doubt_deadline(&self) -> Option<Nanos> {
        self.doubt.filter(|_| !self.copying).map(|since| since + self.settings.ack_timeout)
    }

    /// Whether this acknowledgement ends the doubt.
    pub(super) fn reassured(&mut self, ack: &Ack) {
        if self.doubt.is_some_and(|since| ack.heard >= since || mutated(Mutation::ReassuredByAnyAck)) {
            self.doubt = None;
        }
    }
}
