//! What is different where positions are exits of the guest and not its instructions: it may be on its way from one to the next
//! for long, and it must be told the time before it looks.

use std::sync::atomic::Ordering;

use ft_core::{Body, Nanos};
use ft_vcpu::{Stand, Stop};

use super::shared::Ending;
use super::vcpu::{NAP, Runner};

/// A guest on its way between two positions.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// When it last left a position.
    left: Nanos,
    /// The backup was told of the next position already.
    promised: bool,
}

impl Runner {
    /// The guest is about to run, at `now`.
    pub(super) fn leaves(&mut self, now: Nanos) {
        if self.machine.stand() != Stand::Between {
            self.stretch.left = now;
        }
    }

    /// The guest is still on its way. Nothing can be inserted before its next position: the backup may run there, too.
    pub(super) fn between(&mut self, now: Nanos) {
        self.shared.between.store(self.stretch.left, Ordering::Relaxed);
        if !self.stretch.promised && self.shared.core().reserve(Body::Progress.cost(), now) {
            let next = self.machine.position() + 1;
            self.shared.core().promise(next, self.stretch.left, now);
            self.stretch.promised = true;
            self.logged = next;
            self.flush();
        }
    }

    /// The guest has come to a position.
    pub(super) fn arrives(&mut self, now: Nanos) {
        self.shared.between.store(0, Ordering::Relaxed);
        if std::mem::take(&mut self.stretch.promised) {
            self.shared.core().keep_promise(now);
        }
    }

    /// The guest is about to see the time: it is told. False if there is no room for the record: a stall.
    pub(super) fn tell_time(&mut self) -> bool {
        let now = self.shared.now();
        if self.clock.is_recent(now) {
            return true;
        }
        let room = self.shared.core().reserve(Body::Progress.cost(), now);
        if room {
            self.anchor_here(now);
        }
        room
    }

    /// Brings the machine to where its state is whole, a little at a time. True if it is there.
    pub(super) fn settle(&mut self) -> bool {
        if self.machine.stand() == Stand::Whole {
            return true;
        }
        self.shared.beat();
        self.shared.kick.take();
        let stop = self.machine.run(self.machine.position() + 1, &self.shared.kick);
        self.outputs_live();
        if stop == Stop::Failed {
            self.fail();
        }
        if self.machine.stand() != Stand::Between {
            self.arrives(self.shared.now());
        }
        false
    }

    /// The engine cannot go on: this side ends, and its peer can.
    pub(super) fn fail(&mut self) {
        let why = self.machine.take_failure().unwrap_or_default();
        let position = self.machine.position();
        self.shared.end(Ending {
            code: 1,
            message: format!("the engine cannot run the guest on from position {position}: {why}"),
            orderly: false,
        });
        self.shared.park(self.shared.now() + NAP);
    }
}
