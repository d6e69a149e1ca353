//! The live loop: alone and primary are the same (`ft-runtime`, `replica/live.rs`).

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::mutation::{Mutation, mutated};
use ft_core::reads::{self, ReadId};
use ft_core::{Body, Event, Nanos};
use ft_policies::FULL_SHARE;

use super::Thread;
use super::vcpu::{NAP, Next, Stretch, Todo};
use crate::guest::Stop;
use crate::properties::{Seen, copies};
use crate::shape::MS;
use crate::trace::Of;
use crate::world::World;

/// Between two anchors under load.
const ANCHOR_INTERVAL: Nanos = 4 * MS;
/// Between two digests, in instructions.
const DIGEST_INTERVAL: u64 = 2000;
/// How long a process of the peer's that has the disk open may be unheard.
const UNHEARD: Nanos = 3000 * MS;
/// Longest sleep of a halted guest before an anchor says that time goes on.
const LONG_IDLE: Nanos = 100 * MS;

impl World {
    /// The next thing that a live thread does.
    pub(super) fn live(&mut self, node: usize) -> Next {
        let now = self.local(node);
        if !self.at(node).vcpu.begun && !self.begin(node) {
            return Next::Park(NAP);
        }
        let process = self.at(node);
        let room = process.core.may_run(now);
        if process.vcpu.over || !room {
            return self.flushed(node);
        }
        if !process.inputs.is_empty() {
            let waited = process.vcpu.idle.take();
            if self.shape.virtual_clock
                && let Some((since, _)) = waited
                && self.at(node).core.reserve(Body::Progress.cost(), now)
            {
                self.jump(node, since);
                return Next::More;
            }
            return self.take_input(node);
        }
        if process.guest.halted {
            return self.idle(node);
        }
        self.run_slice(node)
    }

    /// Sends what there is to send, then sleeps.
    fn flushed(&mut self, node: usize) -> Next {
        self.pump(node);
        Next::Park(NAP)
    }

    /// The guest's first instruction here is about to run. False if it must not.
    fn begin(&mut self, node: usize) -> bool {
        let now = self.local(node);
        let position = self.at(node).guest.position;
        if position == 0 {
            let peer = self.process(1 - node).map(|peer| peer.incarnation);
            let process = self.at(node);
            let known = [process.core.peer_incarnation(), process.core.lost_peer()];
            let shared = self.disk.own.is_none();
            if shared && peer.is_some() && !known.contains(&peer) {
                // It has the disk open, and nobody knows whether it will write. One that has just been started will be heard.
                if now < *self.at(node).vcpu.sole_by.get_or_insert(now + UNHEARD) {
                    return false;
                }
                self.note(Of::Seat(node), || "an earlier process still has the disk open".to_owned());
                self.end(node, super::Exiting { code: 1, orderly: false });
                return false;
            }
            if shared && peer.is_none() {
                // What a process that died on the other host had under way has landed when a guest is started anew, or never will: nobody
                // is left who could say what it was (docs/disks.md).
                self.reap(1 - node);
            }
            self.take_over_disk(node);
            self.at(node).apart = self.disk.look_apart();
            self.bring_back(node);
            copies::starts(self, node);
            let generation = self.at(node).core.generation();
            if !self.stamp_live(node, generation) {
                self.end(node, super::Exiting { code: 1, orderly: false });
                return false;
            }
            self.begun += 1;
        }
        let process = self.at(node);
        process.vcpu.begun = true;
        process.guest.boot(process.core.generation());
        let then = if position == 0 { now } else { process.core.last_heard().min(now) };
        let guest = if mutated(Mutation::AnchorBack) { 0 } else { process.guest.time() };
        process.vcpu.origin = i128::from(then) - i128::from(guest);
        process.vcpu.anchored = (now, position);
        process.vcpu.logged = position;
        let (life, incarnation) = (process.guest.life(), process.incarnation);
        self.note(Of::Seat(node), || {
            format!("its guest (life {life}) is the real one, at position {position}")
        });
        self.begins(life, incarnation);
        true
    }

    fn take_input(&mut self, node: usize) -> Next {
        let (now, is_virtual) = (self.local(node), self.shape.virtual_clock);
        let process = self.at(node);
        if let Some(Input::DiskDone(done)) = process.inputs.front()
            && process.disks.failed.contains(&done.request)
        {
            // A write to the own copy failed: the guest stands still until the backup's is known to be no worse (`gives_up_copy`);
            // nothing is logged meanwhile, or the backup would never have executed all of it.
            if process.core.is_paired() {
                if !process.core.backup_is_level() {
                    return self.flushed(node);
                }
                self.handle(node, Event::DiskFailed("a write to this side's copy failed".to_owned()));
                return Next::More;
            }
            let request = done.request;
            process.disks.failed.remove(&request);
        }
        let position = process.guest.position;
        let fresh = process.vcpu.anchored.1 == position && now < process.vcpu.anchored.0 + 20_000;
        if !fresh && !is_virtual {
            if !process.core.reserve(Body::Progress.cost(), now) && !mutated(Mutation::InputBeforeRoom) {
                return self.flushed(node);
            }
            self.anchor(node);
            return Next::More;
        }
        let cost = process.inputs.front().map_or(0, |input| match input {
            Input::DiskDone(done) if is_own_read(process, done) => Body::Progress.cost(),
            input => Body::Input(input.clone()).cost(),
        });
        if !process.core.reserve(cost, now) && !mutated(Mutation::InputBeforeRoom) {
            return self.flushed(node);
        }
        if let Some(input) = self.at(node).inputs.pop_front() {
            let view = self.at(node).core.view();
            self.observe(&Seen::Input { cost, paired: view.session.is_some(), log: view.log.2 });
            self.apply(node, input);
        }
        Next::More
    }

    /// Applies an input here; the log is told next. Room is reserved.
    pub(super) fn apply(&mut self, node: usize, input: Input) {
        let process = self.at(node);
        let position = process.guest.position;
        if let Err(error) = process.guest.apply(&input) {
            return self
                .violate("inputs fit", format!("an input of replica {node}'s guest does not: {error}"));
        }
        process.journal.push((position, input.clone()));
        let made = self.begin_outputs(node);
        let process = self.at(node);
        let read = logged_read(process, &input);
        let body = match input {
            Input::DiskDone(done) if is_own_read(process, &done) => {
                Body::OwnRead { disk: done.disk, request: done.request, digest: reads::digest(&done.data) }
            }
            input => Body::Input(input),
        };
        self.then_emit(node, made);
        self.at(node).vcpu.todo.push_front(Todo::Append(body, read));
    }

    fn run_slice(&mut self, node: usize) -> Next {
        let slice = self.random.between(1, self.shape.slice);
        let instruction = self.shape.instruction;
        if self.shape.exits && self.random.chance(2) {
            return self.leave(node, slice);
        }
        let process = self.at(node);
        let from = process.guest.position;
        let stop = process.guest.run(from + slice);
        self.ran(node, stop);
        let process = self.at(node);
        let ran = (process.guest.position - from) * instruction * process.slow;
        Next::After(ran * u64::from(FULL_SHARE) / u64::from(process.core.share().max(1)))
    }

    /// The guest leaves for its next position, and the backup is told of that: nothing can be inserted before it (`ft-runtime`,
    /// `replica/exits.rs`).
    fn leave(&mut self, node: usize, slice: u64) -> Next {
        let (now, instruction) = (self.local(node), self.shape.instruction);
        let process = self.at(node);
        let from = process.guest.position;
        let mut ahead = process.guest.clone();
        ahead.run(from + slice);
        let next = ahead.position;
        let promised = process.core.reserve(Body::Progress.cost(), now);
        if promised {
            process.core.promise(next, now, now);
            process.vcpu.logged = next;
        }
        process.vcpu.stretch = Some(Stretch { until: from + slice, promised });
        // Now and then it is long under way.
        let times = if self.random.chance(8) { self.random.between(2, 20) } else { 1 };
        let process = self.at(node);
        let ran = (next - from) * instruction * process.slow * times;
        let took = ran * u64::from(FULL_SHARE) / u64::from(process.core.share().max(1));
        self.wake_soon(node, Thread::Writer);
        Next::After(took)
    }

    /// It has come there.
    pub(super) fn arrive(&mut self, node: usize, stretch: Stretch) {
        let now = self.local(node);
        let process = self.at(node);
        let stop = process.guest.run(stretch.until);
        if stretch.promised {
            process.core.keep_promise(now);
        }
        self.ran(node, stop);
    }

    /// The guest has run: what is to be done now.
    fn ran(&mut self, node: usize, stop: Stop) {
        let (now, is_virtual) = (self.local(node), self.shape.virtual_clock);
        let process = self.at(node);
        let position = process.guest.position;
        let todo = &mut process.vcpu.todo;
        todo.push_back(Todo::Outputs);
        match stop {
            Stop::Reached | Stop::Halted => {
                if !is_virtual && now >= process.vcpu.anchored.0 + ANCHOR_INTERVAL {
                    todo.push_back(Todo::Anchor);
                } else {
                    todo.push_back(Todo::Progress);
                }
                if position / DIGEST_INTERVAL != process.vcpu.digested / DIGEST_INTERVAL {
                    todo.push_back(Todo::Digest);
                }
                todo.push_back(Todo::Flush);
            }
            Stop::Platform | Stop::Dead => {}
        }
    }

    /// The guest waits for an interrupt.
    fn idle(&mut self, node: usize) -> Next {
        let (now, is_virtual) = (self.local(node), self.shape.virtual_clock);
        let process = self.at(node);
        let until = match (is_virtual, process.guest.deadline) {
            (true, Some(deadline)) => now.saturating_add(deadline.saturating_sub(process.guest.time())),
            (true, None) => u64::MAX,
            (false, Some(deadline)) => {
                let due = (i128::from(deadline) + process.vcpu.origin).max(0);
                u64::try_from(due).unwrap_or(u64::MAX).min(now + LONG_IDLE)
            }
            (false, None) => now + LONG_IDLE,
        };
        let (since, until) = *process.vcpu.idle.get_or_insert((now, until));
        if now < until {
            return Next::Park((until - now).min(10 * LONG_IDLE));
        }
        process.vcpu.idle = None;
        if process.core.reserve(Body::Progress.cost(), now) {
            if is_virtual {
                self.jump(node, since);
            } else {
                self.anchor(node);
            }
            self.at(node).vcpu.todo.push_back(Todo::Flush);
        }
        Next::More
    }
}

/// True if the log does not carry the data of this read: the backup reads for itself.
fn is_own_read(process: &super::Process, done: &DiskDone) -> bool {
    done.status == DiskStatus::Ok && !done.data.is_empty() && !process.disks.policy().logs_reads()
}

/// The request, if this is the end of a read of a shared disk whose data the log carries.
fn logged_read(process: &super::Process, input: &Input) -> Option<ReadId> {
    let Input::DiskDone(done) = input else { return None };
    let policy = process.disks.policy();
    let read = !done.data.is_empty() || done.status != DiskStatus::Ok;
    (read && policy.reads_race() && !policy.reads_twice()).then_some((done.disk, done.request))
}
