//! The person of a pair whose tie-breaker is one (`ft-vm promote`): careful or not.

use ft_core::Phase;
use ft_core::replica::NotPromoted;

use super::fence::IDS;
use crate::faults::Fault;
use crate::shape::MS;
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// Between two looks of a person who waits.
const LOOK: u64 = 50 * MS;
/// Whoever was heard within this time is there, whatever the detector.
const HEARD: u64 = 1000 * MS;

impl World {
    /// A person looks at a replica that is to be promoted, and comes again until that is done.
    pub(crate) fn person(&mut self, index: usize) {
        let Fault { victim: node, number, .. } = self.plan.faults[index];
        if self.calm {
            return;
        }
        let careful = number & 3 != 0;
        let alone = self.process(1 - node).is_none();
        let ready = self.process(node).filter(|process| !process.paused && process.exiting.is_none());
        let wanted = ready.and_then(|process| process.core.wants_promotion()).filter(|_| alone || !careful);
        if let Some(generation) = wanted {
            if number & 4 != 0 {
                self.promote_wrongly(node, generation + 1);
            }
            if self.promote(node, generation) {
                return;
            }
        }
        self.schedule(LOOK, Happening::Person(index));
    }

    /// The other side was the last winner, and this side's copies are of before: whoever promotes it all the same was told what is lost
    /// (PROTOCOL section 4).
    fn gives_up_writes(&self, node: usize, last: u64) -> bool {
        let others = self.facts.wins.get(&last).is_some_and(|who| who.replica == IDS[1 - node]);
        let stamp = self.disk.own.as_ref().and_then(|own| own[node].content().stamp);
        let follows = self.process(node).is_some_and(|process| process.guest.is_booted());
        others && !follows && stamp.is_some_and(|stamp| stamp.generation < last)
    }

    /// A generation that nobody waits for is refused.
    fn promote_wrongly(&mut self, node: usize, generation: u64) {
        let now = self.local(node);
        let answer = self.at(node).core.promote(generation, now);
        if !matches!(answer, Err(NotPromoted::OtherGeneration { .. } | NotPromoted::NotWaiting(_))) {
            self.violate(
                "a promotion is of one generation",
                format!(
                    "replica {node} was promoted to {generation}, and does not wait for that: {answer:?}"
                ),
            );
        }
    }

    /// A person says that a replica is to go on. True if it does.
    pub(crate) fn promote(&mut self, node: usize, generation: u64) -> bool {
        let now = self.local(node);
        let highest = self.facts.wins.keys().next_back().copied().unwrap_or(0);
        let two = highest >= generation || self.goes_on(1 - node, generation);
        let process = self.at(node);
        let heard = process.beat.filter(|(at, gone)| !gone && now < at + HEARD);
        match process.core.promote(generation, now) {
            Ok(()) => {
                process.promoted = generation;
                self.note(Of::Seat(node), || format!("is promoted to generation {generation}"));
                if let Some((at, _)) = heard {
                    self.violate(
                        "nobody is promoted beside a peer that is heard",
                        format!("replica {node} was, {} ms after it heard its peer", (now - at) / MS),
                    );
                }
                if self.gives_up_writes(node, highest) {
                    self.note(Of::World, || "what the other side wrote since is given up".to_owned());
                    self.facts.wrong = true;
                }
                if two {
                    self.note(Of::World, || "that was WRONG: the other side goes on, or went on".to_owned());
                    self.facts.wrong = true;
                }
                self.pump(node);
                self.unpark(node);
                self.stepped(node);
                true
            }
            Err(why) => {
                self.note(Of::Seat(node), || format!("is not promoted: {why}"));
                false
            }
        }
    }

    /// True if a replica goes on without the other one, or is about to.
    fn goes_on(&self, node: usize, generation: u64) -> bool {
        let Some(process) = self.process(node) else { return false };
        let view = process.core.view();
        let alone = view.session.is_none() && !view.asking;
        alone && view.started && view.phase == Phase::Live
            || alone && matches!(view.phase, Phase::TakingOver(_))
            || process.promoted >= generation
    }

    /// Faults have stopped, and nobody is live: a person ends the one that is not to go on, and promotes the other one.
    pub(crate) fn decide(&mut self) {
        let waits = |node: &usize| {
            let process = self.process(*node)?;
            let wanted = process.core.wants_promotion().filter(|_| process.core.is_asking())?;
            Some((process.core.generation(), *node, wanted))
        };
        let Some((_, node, wanted)) = (0..2).filter_map(|node| waits(&node)).max() else { return };
        if self.process(1 - node).is_some() {
            self.note(Of::World, || "a person ends the other process".to_owned());
            self.die(1 - node, false);
        }
        self.promote(node, wanted);
    }
}
