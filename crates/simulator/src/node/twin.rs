//! Another process of a replica's identity, on a third host: started by mistake, or forgotten there.
//!
//! It has that replica's config and the protocol's own state machine. It reaches the register and the peer's address; nobody reaches it,
//! because the address is the other process's. Where it wins a generation it does not come to run a guest: the shared disk is open
//! elsewhere, and a start takes it exclusively. So it can take the pair's generation away, which ends the pair, and never more.

use ft_core::{Effect, Event, Nanos, Replica};
use ft_policies::Who;

use super::Held;
use super::fence::IDS;
use crate::register::{Call, Calls, DEADLINE, Done};
use crate::shape::MS;
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// Between two looks of its event loop.
const LOOK: Nanos = 2 * MS;
/// What its host's clock is ahead of the world's.
const AHEAD: Nanos = 7_000_000_000;

/// See the module.
pub struct Twin {
    seat: usize,
    incarnation: u64,
    core: Replica<Held>,
    calls: Calls,
}

impl World {
    /// It starts beside the process of a seat.
    pub(crate) fn twin_starts(&mut self, seat: usize) {
        let incarnation = self.random.next() >> 1;
        let settings = self.settings(Who { replica: IDS[seat], incarnation, config: 0 }, None);
        let (detector, pacing) = (self.shape.detector.build(), self.shape.pacing.build());
        let mut core = Replica::new(settings, detector, pacing, self.now + AHEAD);
        core.handle(Event::Start, self.now + AHEAD);
        self.note(Of::World, || {
            format!("another process of replica {} starts (process {incarnation:x})", ["a", "b"][seat])
        });
        self.twin = Some(Twin { seat, incarnation, core, calls: Calls::default() });
        self.schedule(0, Happening::Twin(incarnation));
    }

    /// It is killed; its last words may be heard.
    pub(crate) fn twin_ends(&mut self) {
        if let Some(twin) = self.twin.take() {
            self.note(Of::World, || format!("the other process of {} ends", ["a", "b"][twin.seat]));
            self.send_datagram(twin.seat, twin.core.last_words());
        }
    }

    /// Its event loop has its turn.
    pub(crate) fn twin_turn(&mut self, incarnation: u64) {
        let now = self.now + AHEAD;
        let Some(twin) = self.twin.as_mut().filter(|twin| twin.incarnation == incarnation) else { return };
        let seat = twin.seat;
        if twin.core.poll_timeout().is_some_and(|due| due <= now) {
            twin.core.handle(Event::Timeout, now);
        }
        while let Some(effect) = self.twin.as_mut().and_then(|twin| twin.core.poll_effect()) {
            match effect {
                Effect::ReadRegister => self.twin_calls(Call::Read),
                Effect::Ask { from } => self.twin_calls(Call::Ask(from)),
                Effect::Heartbeat(bytes) => self.send_datagram(seat, bytes),
                // The disk is open elsewhere.
                Effect::Live { .. } | Effect::Halt { .. } | Effect::End => self.twin_ends(),
                _ => {}
            }
        }
        self.schedule(LOOK, Happening::Twin(incarnation));
    }

    fn twin_calls(&mut self, call: Call) {
        if let Some(twin) = &mut self.twin {
            twin.calls.queue.push_back(call);
            self.next_of_twin();
        }
    }

    fn next_of_twin(&mut self) {
        let way = self.random.between(MS / 5, 3 * MS);
        self.calls += 1;
        let id = self.calls;
        let Some(twin) = self.twin.as_mut().filter(|twin| twin.calls.current.is_none()) else { return };
        let Some(call) = twin.calls.queue.pop_front() else { return };
        twin.calls.current = Some((id, call));
        let (node, incarnation) = (twin.seat, twin.incarnation);
        self.schedule(way, Happening::Call { node, incarnation, id, call });
        self.schedule(DEADLINE, Happening::Expired { node, incarnation, id });
    }

    /// True if a call is, or was, one of its.
    pub(crate) fn is_twins(&self, incarnation: u64) -> bool {
        self.twin.as_ref().is_some_and(|twin| twin.incarnation == incarnation)
    }

    /// An answer reaches it; without one its patience is over.
    pub(crate) fn twin_answered(&mut self, id: u64, done: Option<Done>) {
        let now = self.now + AHEAD;
        let Some(twin) = &mut self.twin else { return };
        let current = twin.calls.current.take_if(|(current, _)| *current == id);
        let expired = || current.map(|(_, call)| call.unavailable());
        match done.or_else(expired) {
            Some(Done::Read(result)) => twin.core.handle(Event::Register(result), now),
            Some(Done::Answer(from, answer)) => twin.core.handle(Event::Answer { from, answer }, now),
            Some(Done::Learnt) | None => {}
        }
        self.next_of_twin();
    }
}
