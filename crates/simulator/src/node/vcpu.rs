//! The thread that runs the guest: the only one that touches it and that appends to the log (`ft-runtime`, `replica/vcpu.rs`).
//!
//! What the runtime's thread does without looking up is a list of small steps here ([`Todo`]); any other thread may come between.

use std::collections::VecDeque;

use ft_core::input::{Anchor, Input};
use ft_core::mutation::{Mutation, mutated};
use ft_core::output::{DiskOp, DiskRequest, Output, OutputBody};
use ft_core::reads::ReadId;
use ft_core::{Body, LogRecord, Mode, Nanos, OutputClass};
use ft_devices::backend::schedule::Start;
use ft_devices::ft::{Disposition, Layer, Recording, Replaying};

use super::Thread;
use crate::guest::data;
use crate::random::mix;
use crate::shape::MS;
use crate::world::World;

/// Longest sleep without looking around.
pub(super) const NAP: Nanos = 100 * MS;
/// The most that guest time is moved forward in one step.
const MAX_STEP: i128 = 1_000_000_000;

/// What is left of something that was begun.
#[derive(Debug)]
pub(super) enum Todo {
    /// The guest has run: take its outputs.
    Outputs,
    /// An input was applied: the log is told of it.
    Append(Body, Option<ReadId>),
    /// The marker of an output is logged.
    Emit(Made),
    /// The backup is told how far it may run.
    Progress,
    /// Guest time is anchored.
    Anchor,
    /// A digest is logged.
    Digest,
    /// What was appended is sent.
    Flush,
}

/// An output that waits for the backup, on its way into the gate.
#[derive(Debug)]
pub(super) struct Made {
    position: u64,
    class: OutputClass,
    digest: u64,
    held: super::Held,
}

/// A guest on its way between two positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    /// It runs so far, or until it stops before.
    pub(super) until: u64,
    /// The backup was told of the position to which that leads.
    pub(super) promised: bool,
}

/// How far a record is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest runs to it.
    Run,
    /// What it says is done.
    Do,
    /// The protocol is told.
    Tell,
}

/// The thread's own state.
#[derive(Debug, Default)]
pub struct Vcpu {
    pub(super) todo: VecDeque<Todo>,
    pub(super) record: Option<(LogRecord, Stage)>,
    /// Its guest runs here.
    pub(super) begun: bool,
    /// By when a process that has the disk open must be heard, for the guest to start beside it, on the host's clock.
    pub(super) sole_by: Option<Nanos>,
    /// The position of the last heartbeat: nothing to the thread, but for a deliberate mistake.
    pub(super) header: u64,
    /// Position of the last record appended.
    pub(super) logged: u64,
    /// Position of the last digest.
    pub(super) digested: u64,
    /// The guest has ended.
    pub(super) over: bool,
    /// The guest is on its way to a position that the backup may know.
    pub(super) stretch: Option<Stretch>,
    /// It sleeps until woken.
    pub parked: bool,
    /// When it was last at work, on the host's clock.
    pub alive: Nanos,
    /// The guest's instructions take until then, on the world's clock.
    pub(super) busy: Nanos,
    /// The guest waits for an input: since when, and until when.
    pub(super) idle: Option<(Nanos, Nanos)>,
    /// Host time at guest time 0.
    pub(super) origin: i128,
    /// When the last anchor was made.
    pub(super) anchored: (Nanos, u64),
    /// Before that a read that failed is not run again.
    pub(super) retry: Option<(Nanos, u32)>,
}

/// What the thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More, at once.
    More,
    /// More, after this time.
    After(Nanos),
    /// It sleeps, at most so long.
    Park(Nanos),
}

impl World {
    pub(super) fn vcpu_turn(&mut self, node: usize) {
        let (now, world) = (self.local(node), self.now);
        let process = self.at(node);
        if let Some(seems_asleep) = process.wedged {
            process.vcpu.parked = seems_asleep;
            return self.wake(node, Thread::Vcpu, 50 * MS);
        }
        process.vcpu.alive = now;
        process.vcpu.parked = false;
        if process.vcpu.busy > world {
            let left = process.vcpu.busy - world;
            return self.wake(node, Thread::Vcpu, left);
        }
        loop {
            match self.vcpu_step(node) {
                Next::More if self.random.chance(4) => return self.wake_soon(node, Thread::Vcpu),
                Next::More => {}
                Next::After(time) => {
                    self.at(node).vcpu.busy = self.now + time;
                    return self.wake(node, Thread::Vcpu, time);
                }
                Next::Park(time) => {
                    self.at(node).vcpu.parked = true;
                    return self.wake(node, Thread::Vcpu, time);
                }
            }
            self.look(node);
        }
    }

    fn vcpu_step(&mut self, node: usize) -> Next {
        if let Some(todo) = self.at(node).vcpu.todo.pop_front() {
            return self.todo(node, todo);
        }
        if let Some(stretch) = self.at(node).vcpu.stretch.take() {
            self.arrive(node, stretch);
            return Next::More;
        }
        let now = self.local(node);
        match self.mode(node) {
            Mode::Live => self.live(node),
            Mode::Stop => {
                let process = self.at(node);
                let position = process.guest.position;
                process.core.append_stop(position, now);
                process.end = Some(position);
                self.pump(node);
                Next::More
            }
            Mode::Backup => self.follow(node),
            Mode::Reissue => {
                self.take_over_disk(node);
                let mut pending: Vec<_> = self.at(node).guest.pending_entropy.keys().copied().collect();
                if mutated(Mutation::ForgetEntropy) {
                    pending.clear();
                }
                pending.into_iter().for_each(|request| self.entropy(node, request));
                self.handle(node, ft_core::Event::DisksReissued);
                Next::More
            }
            Mode::Hold | Mode::Over => Next::Park(NAP),
        }
    }

    fn todo(&mut self, node: usize, todo: Todo) -> Next {
        let now = self.local(node);
        match todo {
            Todo::Outputs => {
                let made = self.begin_outputs(node);
                self.then_emit(node, made);
            }
            Todo::Append(body, read) => {
                let process = self.at(node);
                let position = process.guest.position;
                let lsn = process.core.append(position, body, now);
                if let Some(read) = read {
                    process.core.read_logged(lsn, read);
                }
                process.vcpu.logged = position;
            }
            Todo::Emit(made) => {
                let process = self.at(node);
                let Made { position, class, digest, held } = made;
                process.core.emit(position, class, digest, 100, held, now);
                process.vcpu.logged = position;
                process.vcpu.over |= class == OutputClass::End;
                if class == OutputClass::End {
                    process.end = Some(position);
                }
            }
            Todo::Progress => {
                let process = self.at(node);
                let position = process.guest.position;
                if position > process.vcpu.logged {
                    process.core.append(position, Body::Progress, now);
                    process.vcpu.logged = position;
                }
            }
            Todo::Anchor => self.anchor(node),
            Todo::Digest => {
                let process = self.at(node);
                let body = Body::Digest(process.digest().to_le_bytes().to_vec());
                process.vcpu.digested = process.guest.position;
                if process.core.is_paired() && process.core.reserve(body.cost(), now) {
                    process.core.append(process.guest.position, body, now);
                    process.vcpu.logged = process.guest.position;
                }
            }
            Todo::Flush => {
                self.wake_soon(node, Thread::Writer);
                let process = self.at(node);
                if process.core.has_effects() || !process.core.is_paired() {
                    self.wake_soon(node, Thread::Outside);
                }
            }
        }
        Next::More
    }

    /// Does what is done at once, and gives what waits for the backup.
    pub(super) fn begin_outputs(&mut self, node: usize) -> Vec<Made> {
        let mut made = Vec::new();
        for Output { position, body } in self.at(node).guest.take_outputs() {
            let recording = Recording::new(self.at(node).disks.policies.clone());
            match (recording.decide(&body), body) {
                (Disposition::AfterAck | Disposition::Keep, body) => {
                    let (class, digest) = (body.class(), digest(&body));
                    let held = match body {
                        OutputBody::Disk(request) => {
                            let id = request.request;
                            self.submit(node, request, Start::Held, false);
                            super::Held::Write(id)
                        }
                        body => super::Held::Output(body),
                    };
                    let position = position - u64::from(mutated(Mutation::MarkerBeforeInstruction));
                    made.push(Made { position, class, digest, held });
                }
                (Disposition::Now, OutputBody::Disk(request)) => self.request(node, request),
                (Disposition::Now, OutputBody::Entropy { request, .. }) => self.entropy(node, request),
                (Disposition::Now | Disposition::Drop, _) => {}
            }
        }
        made
    }

    /// Markers of outputs come next, before anything else.
    pub(super) fn then_emit(&mut self, node: usize, made: Vec<Made>) {
        let todo = &mut self.at(node).vcpu.todo;
        if !made.is_empty() {
            todo.push_front(Todo::Flush);
        }
        made.into_iter().rev().for_each(|made| todo.push_front(Todo::Emit(made)));
    }

    /// Carries out a disk request that is not held.
    fn request(&mut self, node: usize, request: DiskRequest) {
        let process = self.at(node);
        let id = (request.disk, request.request);
        let policy = process.disks.policy();
        let (races, twice) = (policy.reads_race(), policy.reads_twice());
        let shadow = matches!(request.op, DiskOp::Read { .. })
            && races
            && if twice { process.core.read_followed(id) } else { process.core.is_paired() };
        self.submit(node, request, Start::Now, shadow);
        if shadow && !self.at(node).core.is_paired() {
            self.at(node).disks.schedule.shadow_done(id.1);
            self.run_disk(node);
        }
    }

    /// Keeps the guest's outputs back, but for what a backup does itself.
    pub(super) fn outputs_backup(&mut self, node: usize) {
        for Output { position, body } in self.at(node).guest.take_outputs() {
            let process = self.at(node);
            let disposition = Replaying::new(process.disks.policies.clone()).decide(&body);
            if disposition == Disposition::Keep {
                let (class, digest) = (body.class(), digest(&body));
                let (keep, request) = match body {
                    OutputBody::Disk(request) => {
                        let again = mutated(Mutation::WritesInBothSets);
                        let keep = again.then(|| super::Held::Output(OutputBody::Disk(request.clone())));
                        (keep, Some(request))
                    }
                    body => (Some(super::Held::Output(body)), None),
                };
                process.core.made(position, class, digest, keep);
                if let Some(request) = request {
                    let due = process.disks.policy().reads_twice() && process.core.tell_reads();
                    self.submit(node, request, Start::Elsewhere, false);
                    if due {
                        self.wake_soon(node, Thread::Writer);
                    }
                }
            } else if let OutputBody::Disk(request) = body {
                if disposition == Disposition::Now {
                    let id = (request.disk, request.request);
                    if process.disks.policy().reads_twice() && matches!(request.op, DiskOp::Read { .. }) {
                        process.core.own_read_made(id);
                    }
                    if let Some(own) = &mut process.disks.own {
                        own.running.insert(id.1);
                    }
                    self.submit(node, request, Start::Now, false);
                } else {
                    self.submit(node, request, Start::Elsewhere, false);
                }
            }
        }
    }

    /// The host's random bytes are there at once.
    fn entropy(&mut self, node: usize, request: u64) {
        let bytes = self.random.next().to_le_bytes().to_vec();
        self.at(node).inputs.push_back(Input::Entropy { request, bytes });
    }

    /// Anchors guest time here.
    pub(super) fn anchor(&mut self, node: usize) {
        assert!(!self.shape.virtual_clock, "guest time that is a function of position follows no host");
        let now = self.local(node);
        let rate = self.shape.instruction << 32;
        let process = self.at(node);
        let guest = process.guest.time();
        let mut host = i128::from(now) - process.vcpu.origin;
        if host - i128::from(guest) > MAX_STEP {
            let cut = host - i128::from(guest) - MAX_STEP;
            process.vcpu.origin += cut;
            host -= cut;
        }
        let host = u64::try_from(host.max(0)).unwrap_or(u64::MAX);
        let time = if mutated(Mutation::AnchorBack) { host } else { guest.max(host) };
        self.anchor_at(node, time, rate);
    }

    /// Time that is a function of position stands still in a halted guest. It jumps to the deadline, or to where an input ends the wait.
    pub(super) fn jump(&mut self, node: usize, since: Nanos) {
        let now = self.local(node);
        let process = self.at(node);
        let waited = process.guest.time().saturating_add(now.saturating_sub(since));
        let time = process.guest.deadline.map_or(waited, |deadline| waited.min(deadline));
        self.anchor_at(node, time, 1 << 32);
    }

    fn anchor_at(&mut self, node: usize, time: u64, rate: u64) {
        let now = self.local(node);
        let process = self.at(node);
        process.vcpu.anchored = (now, process.guest.position);
        self.apply(node, Input::Anchor(Anchor { time, rate }));
    }
}

/// A digest of an output's content, the same on both sides.
fn digest(body: &OutputBody) -> u64 {
    match body {
        OutputBody::NetTx { frames, .. } => frames.iter().fold(1, |all, frame| {
            let data::Frame { life, number, state, durable } = data::Frame::decode(frame);
            let (sector, version) = durable.unwrap_or_default();
            [life, number, state, sector, version].into_iter().fold(all, |all, part| mix(all ^ part))
        }),
        OutputBody::Console { offset, bytes } => {
            bytes.iter().fold(*offset, |all, byte| mix(all ^ u64::from(*byte)))
        }
        OutputBody::Disk(request) => data::contents(0, request)
            .into_iter()
            .fold(request.request, |all, (index, sector)| mix(mix(all ^ index << 32) ^ sector.value)),
        OutputBody::PowerOff { code } => u64::from(*code),
        _ => 0,
    }
}
