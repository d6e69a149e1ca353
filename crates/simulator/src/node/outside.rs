//! What goes out: the protocol's effects and released outputs, one in a turn and in order (`ft-runtime`, `replica/outside.rs`).

use ft_core::mutation::{Mutation, mutated};
use ft_core::output::OutputBody;
use ft_core::{Effect, OutputClass, Released};
use ft_devices::backend::schedule::Start;

use super::{Chore, Doom, Exiting, Held, Thread};
use crate::properties::{Seen, copies};
use crate::register::Call;
use crate::trace::Of;
use crate::world::World;

impl World {
    /// One effect, or one output.
    pub(super) fn outside_turn(&mut self, node: usize) {
        let now = self.local(node);
        // The runtime looks for both under two holds of the protocol's lock.
        let looked = std::mem::take(&mut self.at(node).no_effects);
        if !looked && let Some(effect) = self.at(node).core.poll_effect() {
            self.note(Of::Seat(node), || brief(&effect));
            self.perform(node, effect);
            return self.wake_soon(node, Thread::Outside);
        }
        if self.shape.interleaved && !looked {
            self.at(node).no_effects = true;
            return self.wake_soon(node, Thread::Outside);
        }
        let process = self.at(node);
        // When the launcher does not read, outputs stay in the gate.
        let next = if process.crowded { None } else { process.core.poll_release(now) };
        match next {
            Some(released) => {
                let (lsn, generation, class) = (released.lsn, released.generation, released.class);
                process.released = Some((lsn, class == OutputClass::End));
                let view = process.core.view();
                let (session, asking) = (view.session, view.asking);
                self.counters.releases += 1;
                self.note(Of::Seat(node), || format!("releases {class:?} (record {lsn})"));
                self.observe(&Seen::Released { node, generation, lsn, session, asking });
                copies::speaks(self, node, generation);
                self.perform_output(node, released);
                self.wake_soon(node, Thread::Outside);
            }
            None => {
                if let Some((lsn, end)) = process.released.take() {
                    process.core.released(lsn, end, now);
                    self.pump(node);
                    self.unpark(node);
                } else if process.core.has_effects() {
                    self.wake_soon(node, Thread::Outside);
                }
            }
        }
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::ReadRegister => self.call(node, Call::Read),
            Effect::Ask { from } => {
                self.call(node, Call::Ask(from));
                let process = self.at(node);
                if let Some(number) = process.asker.take() {
                    process.doom = Some(((number % 60) as u32, Doom::Death));
                }
            }
            Effect::Fence { generation } => self.chore(node, Chore::Fence(generation)),
            Effect::Live { generation, takeover, alone, .. } => {
                let process = self.at(node);
                if alone && !mutated(Mutation::WritesWaitForNobody) {
                    process.disks.schedule.forget_shadows();
                }
                let (seen, incarnation) = (process.seen, process.incarnation);
                self.chore(node, Chore::PeerHeard);
                self.run_disk(node);
                self.counters.takeovers += u64::from(takeover);
                self.observe(&Seen::Live { node, generation, incarnation });
                self.facts.live_since.insert(incarnation, self.now);
                self.facts.live_in.insert(incarnation, generation);
                if alone {
                    self.facts.alone[node] = Some(generation);
                }
                if takeover {
                    self.takes_over(node);
                    copies::lives(self, node);
                }
                self.moved(node, generation, seen);
            }
            Effect::RxAcknowledged { generation, seq } => self.rx_acknowledged(node, generation, seq),
            Effect::ReadFinished { request, .. } => {
                self.at(node).disks.schedule.shadow_done(request);
                self.run_disk(node);
            }
            Effect::Peer { incarnation, gone } => {
                let (last, dead) = &mut self.at(node).peers;
                if gone {
                    dead.push(incarnation);
                } else if let Some(before) = last.replace(incarnation).filter(|before| *before != incarnation)
                {
                    dead.push(before);
                }
                self.chore(node, Chore::PeerHeard);
            }
            Effect::Heartbeat(bytes) => self.heartbeat(node, bytes),
            Effect::CloseLink => {
                self.transmit_all(node);
                self.shut(node);
            }
            Effect::Notice(_) => {}
            Effect::Halt { exit, message } => {
                self.transmit_all(node);
                self.observe(&Seen::Halted { node, exit, message: &message });
                self.end(node, Exiting { code: exit as u8, orderly: false });
            }
            Effect::End => {
                self.transmit_all(node);
                self.end(node, Exiting { code: 0, orderly: true });
            }
            Effect::Learn(state) => self.call(node, Call::Learn(state)),
            Effect::CopyFrom { session } => self.chore(node, Chore::CopyFrom(session)),
            Effect::CopyTo { session } => self.chore(node, Chore::CopyTo(session)),
            Effect::CopyMessage { session, message } => {
                self.chore(node, Chore::CopyMessage(session, message));
            }
            Effect::CopyOff => self.chore(node, Chore::CopyOff),
        }
    }

    fn perform_output(&mut self, node: usize, released: Released<Held>) {
        match released.payload {
            Held::Write(request) => {
                self.outside.seen += 1;
                self.at(node).disks.schedule.release(request);
                self.run_disk(node);
            }
            Held::Output(OutputBody::Disk(request)) => self.submit(node, request, Start::Now, false),
            Held::Output(OutputBody::Entropy { .. }) => {}
            Held::Output(body) => {
                let life = self.at(node).guest.life();
                self.let_out(node, life, released.generation, body);
            }
        }
    }
}

/// An effect in a few words.
fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Heartbeat(_) => "heartbeat".into(),
        Effect::Notice(text) => format!("notice: {text}"),
        Effect::CopyMessage { message, .. } => format!("a message of {} bytes about copies", message.len()),
        other => format!("{other:?}"),
    }
}
