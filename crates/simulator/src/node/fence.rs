//! The fence between a win and the first write in it, and the register's calls (`ft-runtime`, `replica/{fence,register}.rs`).

use ft_core::Event;
use ft_core::Phase;
use ft_core::mutation::{Mutation, mutated};
use ft_policies::{ReplicaId, Who};

use super::{Chore, Thread};
use crate::register::{Call, DEADLINE, Done, way_back};
use crate::shape::{Ambient, MS, Setting};
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// The replica on a seat.
pub const IDS: [ReplicaId; 2] = [ReplicaId::A, ReplicaId::B];

impl World {
    pub(super) fn chore(&mut self, node: usize, chore: Chore) {
        self.at(node).chores.push_back(chore);
        self.wake_soon(node, Thread::Chores);
    }

    /// One chore.
    pub(super) fn chores_turn(&mut self, node: usize) {
        let Some(chore) = self.at(node).chores.pop_front() else { return };
        match chore {
            Chore::Fence(generation) => {
                if !self.fence_copies(node, generation) {
                    return;
                }
                self.fence(node, generation);
            }
            Chore::StampLive(generation) => {
                if !self.stamp_for_fence(node, generation) {
                    return;
                }
                self.fence(node, generation);
            }
            Chore::CopyFrom(session) => self.begin_exchange(node, session, true),
            Chore::CopyTo(session) => self.begin_exchange(node, session, false),
            Chore::CopyMessage(session, message) => self.step_exchange(node, session, Some(&message)),
            Chore::CopyOff => self.at(node).exchange = None,
            Chore::PeerHeard => {
                if matches!(self.at(node).core.phase(), Phase::Live) && self.at(node).apart != 0 {
                    self.bring_back(node);
                }
            }
        }
        self.wake_soon(node, Thread::Chores);
    }

    fn fence(&mut self, node: usize, generation: u64) {
        if mutated(Mutation::WriteWithoutFence) {
            return self.handle(node, Event::Fenced { generation });
        }
        match self.shape.setting {
            Setting::OneMachine => {
                // The launcher's to do; it answers when the old process is reaped.
                if self.process(1 - node).is_some() {
                    self.note(Of::World, || "the launcher kills the old process".to_owned());
                    self.die(1 - node, false);
                }
                self.reap(1 - node);
                let incarnation = self.at(node).incarnation;
                let after = self.random.between(MS / 10, 5 * MS);
                self.schedule(after, Happening::Fenced { node, incarnation, generation });
            }
            // Nobody else writes this side's copy.
            Setting::TwoHosts if self.shape.separate => self.handle(node, Event::Fenced { generation }),
            Setting::TwoHosts => {
                let process = self.at(node);
                if let Some(lost) = process.core.lost_peer()
                    && !is_gone(process, lost)
                {
                    let blocks = process.disks.schedule.writes_elsewhere();
                    self.disk.keep_apart(&blocks, (1 - node, lost));
                    self.note(Of::Seat(node), || format!("keeps apart {blocks:?}"));
                }
                self.at(node).apart = self.disk.look_apart();
                self.handle(node, Event::Fenced { generation });
            }
        }
    }

    /// Brings blocks that were kept apart back, if nobody can write there any more.
    pub(super) fn bring_back(&mut self, node: usize) {
        let owners = self.disk.apart.as_ref().map(|apart| apart.owners.clone()).unwrap_or_default();
        let process = self.at(node);
        let gone = |(seat, incarnation): &(usize, u64)| {
            if *seat == node { *incarnation != process.incarnation } else { is_gone(process, *incarnation) }
        };
        let early = mutated(Mutation::BringBackEarly);
        if !owners.is_empty() && (owners.iter().all(gone) || early) {
            self.note(Of::Seat(node), || "brings the blocks back".to_owned());
            let incarnation = self.at(node).incarnation;
            self.disk.bring_back(incarnation);
            self.at(node).apart = 0;
        }
    }

    // The register.

    pub(super) fn call(&mut self, node: usize, call: Call) {
        self.at(node).calls.queue.push_back(call);
        self.next_call(node);
    }

    fn next_call(&mut self, node: usize) {
        self.calls += 1;
        let id = self.calls;
        let process = self.at(node);
        if process.calls.current.is_some() {
            return;
        }
        let Some(call) = process.calls.queue.pop_front() else { return };
        process.calls.current = Some((id, call));
        let incarnation = process.incarnation;
        let way = if self.odd_answers() && self.random.chance(4) {
            self.random.between(MS, 1500 * MS)
        } else {
            self.random.between(MS / 5, 3 * MS)
        };
        self.schedule(way, Happening::Call { node, incarnation, id, call });
        self.schedule(DEADLINE, Happening::Expired { node, incarnation, id });
    }

    fn odd_answers(&self) -> bool {
        self.shape.has(Ambient::OddAnswers) && !self.calm
    }

    /// A call reaches the register, whether or not its caller still lives.
    pub(crate) fn call_arrives(&mut self, node: usize, incarnation: u64, id: u64, call: Call) {
        if self.register.cut[node] > 0 {
            return;
        }
        if mutated(Mutation::NameBeforeContent) && self.name_it(node, incarnation, id, call) {
            return;
        }
        self.carry_out(node, incarnation, id, call);
    }

    fn carry_out(&mut self, node: usize, incarnation: u64, id: u64, call: Call) {
        let who = Who { replica: IDS[node], incarnation, config: 0 };
        let gone = self.process(node).is_none_or(|process| process.incarnation != incarnation);
        if self.shape.by_hand && gone {
            // A file of its own: what its process was about to write is never written.
            return;
        }
        // One that was deposed while it was stopped has no guest any more, and does not know.
        let runs = self.facts.goes_on(1 - node) && !self.facts.is_deposed(1 - node);
        let (done, won) = self.register.carry_out(node, call, who);
        if let Some(generation) = won {
            self.note(Of::World, || {
                format!("the register: generation {generation} is {}'s", ["a", "b"][node])
            });
            self.won(generation, who);
            let view =
                self.facts.views[node].as_ref().filter(|_| self.facts.incarnations[node] == incarnation);
            let asks = view.is_none_or(|view| view.asking || view.phase == Phase::Over);
            let starts = view.is_some_and(|view| view.phase == Phase::Waiting);
            let person = self.shape.by_hand || self.facts.restored;
            if starts && runs && !person {
                self.violate(
                    "a start takes the guest from nobody",
                    format!("replica {} is about to start the guest, which runs", ["a", "b"][node]),
                );
            }
            if !asks && !self.facts.restored {
                self.violate(
                    "nobody takes what it does not ask for",
                    format!("replica {} wins generation {generation} and did not ask", ["a", "b"][node]),
                );
            }
        }
        self.send_answer(node, incarnation, id, done);
    }

    fn send_answer(&mut self, node: usize, incarnation: u64, id: u64, done: Done) {
        let (odd, echoes) = (self.odd_answers(), self.shape.has(Ambient::Echoes) && !self.calm);
        let (first, second) = way_back(&mut self.random, odd, echoes);
        for way in [first, second].into_iter().flatten() {
            self.schedule(way, Happening::Answer { node, incarnation, id, done: done.clone() });
        }
    }

    /// A deliberate mistake: a win takes its name before anything is in it, and whoever reads it until then finds nothing. True if this
    /// call ends here for now.
    fn name_it(&mut self, node: usize, incarnation: u64, id: u64, call: Call) -> bool {
        if self.register.name_only.is_some_and(|owner| owner != incarnation) {
            self.send_answer(node, incarnation, id, call.unavailable());
            return true;
        }
        let wins = matches!(call, Call::Ask(from) if from == self.register.state.generation);
        if wins && self.register.name_only.is_none() {
            self.register.name_only = Some(incarnation);
            let after = self.random.between(MS, 300 * MS);
            self.schedule(after, Happening::Content { node, incarnation, id, call });
        }
        wins
    }

    /// The content of a name that is there already.
    pub(crate) fn content_written(&mut self, node: usize, incarnation: u64, id: u64, call: Call) {
        if self.process(node).is_some_and(|process| process.incarnation == incarnation) {
            self.register.name_only = None;
            self.carry_out(node, incarnation, id, call);
        }
    }

    /// An answer reaches the caller's process.
    pub(crate) fn answer_arrives(&mut self, node: usize, incarnation: u64, id: u64, done: Done) {
        if self.is_twins(incarnation) {
            return self.twin_answered(id, Some(done));
        }
        let Some(process) = self.process(node).filter(|process| process.incarnation == incarnation) else {
            return;
        };
        if process.paused {
            return self.schedule(2 * MS, Happening::Answer { node, incarnation, id, done });
        }
        let current = process.calls.current.is_some_and(|(current, _)| current == id);
        if self.disk.own.is_some() && !current {
            // The runtime stamps its copies for an answer, and never hears one that comes after its deadline.
            return;
        }
        self.answered(node, done);
        if current {
            self.at(node).calls.current = None;
            self.next_call(node);
        }
    }

    /// The caller gives up waiting.
    pub(crate) fn call_expired(&mut self, node: usize, incarnation: u64, id: u64) {
        if self.is_twins(incarnation) {
            return self.twin_answered(id, None);
        }
        let Some(process) = self.process_mut(node).filter(|process| process.incarnation == incarnation)
        else {
            return;
        };
        if process.paused {
            return self.schedule(2 * MS, Happening::Expired { node, incarnation, id });
        }
        if let Some((_, call)) = process.calls.current.take_if(|(current, _)| *current == id) {
            self.answered(node, call.unavailable());
            self.next_call(node);
        }
    }

    fn answered(&mut self, node: usize, done: Done) {
        self.note(Of::Seat(node), || format!("the register answers: {done:?}"));
        match done {
            Done::Read(result) => self.handle(node, Event::Register(result)),
            Done::Answer(from, answer) => {
                let answer = self.stamped_answer(node, from, answer);
                self.handle(node, Event::Answer { from, answer });
            }
            Done::Learnt => {}
        }
        self.stepped(node);
    }

    /// The launcher's answer.
    pub(crate) fn fenced(&mut self, node: usize, incarnation: u64, generation: u64) {
        let Some(process) = self.process(node).filter(|process| process.incarnation == incarnation) else {
            return;
        };
        if process.paused {
            return self.schedule(2 * MS, Happening::Fenced { node, incarnation, generation });
        }
        self.handle(node, Event::Fenced { generation });
        self.stepped(node);
    }
}

fn is_gone(process: &super::Process, incarnation: u64) -> bool {
    process.peers.1.contains(&incarnation) || process.peers.0.is_some_and(|last| last != incarnation)
}
