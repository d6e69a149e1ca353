//! The vCPU's thread: the only one that touches the machine and that appends to the log.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ft_core::input::Input;
use ft_core::output::{DiskOp, DiskRequest, Output, OutputBody};
use ft_core::{Divergence, Event, Mode, Nanos, OutputClass};
use ft_devices::backend::entropy::entropy;
use ft_devices::backend::stamp::CopyState;
use ft_devices::ft::{Disposition, Layer, Recording, Replaying};
use ft_policies::Config;
use xxhash_rust::xxh3::Xxh3;

use super::exits::Stretch;
use super::fault::Fault;
use super::fence;
use super::guest_clock::GuestClock;
use super::prompt::give_way;
use super::shared::{Ending, Held, Shared};
use crate::machine::Machine;

/// Longest sleep without looking around.
pub(super) const NAP: Nanos = 100_000_000;
/// How long a process of the peer's that has a disk open may be unheard.
const UNHEARD: Nanos = 3_000_000_000;

/// The thread's own state.
pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Machine,
    pub(super) clock: GuestClock,
    pub(super) recording: Recording,
    pub(super) replaying: Replaying,
    pub(super) faults: Vec<Fault>,
    /// Position of the last record appended.
    pub(super) logged: u64,
    /// Of a guest that may be on its way for long.
    pub(super) stretch: Stretch,
    /// A digest is to be logged as soon as the machine's state is whole.
    pub(super) digest_due: bool,
    /// When the last digest was logged.
    pub(super) digested: Nanos,
    /// How long a halted vCPU polls before it sleeps.
    pub(super) poll: Nanos,
    /// Time that pacing has taken away and that was not slept yet.
    pub(super) debt: Nanos,
    /// The guest has ended: nothing of it runs or changes any more, so that it stays what it is on the other side.
    pub(super) over: bool,
    /// Unimplemented instructions that the operator was told of.
    pub(super) told: BTreeSet<String>,
    /// By when a process that has a disk open must be heard, for the guest to start beside it.
    pub(super) sole_by: Option<Nanos>,
}

/// What becomes of a guest that is to start here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Runs,
    /// Somebody has a disk open who is not known yet.
    Waits,
    Ends,
}

/// An output that waits for the backup, on its way into the gate.
pub(super) struct Made {
    position: u64,
    class: OutputClass,
    digest: u64,
    size: u64,
    held: Held,
}

/// Starts the thread.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    config: &Config,
    machine: Machine,
    faults: Vec<Fault>,
) -> io::Result<()> {
    let disks = Arc::clone(shared.disks.policies());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let enough = cores >= if shared.solo { 2 } else { 4 };
    let counts_exits = machine.engine().counts_exits();
    let mut runner = Runner {
        shared: Arc::clone(shared),
        machine,
        clock: GuestClock::new(config.vm.clock, counts_exits),
        recording: Recording::new(Arc::clone(&disks)),
        replaying: Replaying::new(disks),
        faults,
        logged: 0,
        stretch: Stretch::default(),
        digest_due: false,
        digested: 0,
        poll: if enough { 50_000 } else { 0 },
        debt: 0,
        over: false,
        told: BTreeSet::new(),
        sole_by: None,
    };
    std::thread::Builder::new().name("vcpu".into()).spawn(move || {
        runner.shared.set_vcpu();
        if !runner.shared.solo {
            give_way();
        }
        runner.run();
    })?;
    Ok(())
}

impl Runner {
    fn run(&mut self) {
        let mut was_live = false;
        loop {
            let mode = self.shared.mode();
            // Read before it is acted on: a change after this wakes again.
            self.shared.kick.take();
            match mode {
                Mode::Live => {
                    if !was_live {
                        match self.begin() {
                            Start::Runs => was_live = true,
                            Start::Waits => {
                                self.shared.beat();
                                self.shared.park(self.shared.now() + NAP);
                                continue;
                            }
                            Start::Ends => return,
                        }
                    }
                    self.live();
                }
                Mode::Stop if !self.settle() => {}
                Mode::Stop => {
                    self.log_last_digest();
                    self.shared.set_end(self.machine.position());
                    let (position, now) = (self.machine.position(), self.shared.now());
                    self.shared.core().append_stop(position, now);
                    self.shared.pump();
                }
                Mode::Backup => self.follow(),
                Mode::Reissue => self.reissue(),
                Mode::Hold => self.shared.park(self.shared.now() + NAP),
                Mode::Over => return,
            }
        }
    }

    /// The guest's first instruction here is about to run.
    fn begin(&mut self) -> Start {
        if self.machine.position() == 0 && !self.shared.solo {
            // One that it takes over from, before the first instruction, is the fence's to care about.
            let known: Vec<u64> = {
                let core = self.shared.core();
                core.peer_incarnation().into_iter().chain(core.lost_peer()).collect()
            };
            if let Err(message) = self.shared.media.check_sole(&known) {
                // A peer that has just been started anew has the disk open before it is heard.
                let now = self.shared.now();
                if now < *self.sole_by.get_or_insert(now + UNHEARD) {
                    return Start::Waits;
                }
                self.shared.end(Ending { code: 1, message, orderly: false });
                return Start::Ends;
            }
        }
        if self.machine.position() == 0 {
            // It may have followed before, until its primary was lost before the guest ran.
            self.shared.disks.take_over();
            let ready = self.shared.at_work_elsewhere(|| {
                self.shared.media.load_apart(self.shared.pair)?;
                fence::bring_back(&self.shared);
                // Where the copies were compared with the other side's this is so already.
                let generation = self.shared.core().generation();
                self.shared.media.copies.stamp(CopyState::Live, generation)
            });
            if let Err(message) = ready {
                self.shared.end(Ending { code: 1, message, orderly: false });
                return Start::Ends;
            }
        }
        let (now, position) = (self.shared.now(), self.machine.position());
        self.logged = position;
        let then = if position == 0 { now } else { self.shared.core().last_heard().min(now) };
        self.clock.begin(now, then, self.machine.now_ns(), position);
        Start::Runs
    }

    /// Going live: what the old primary may not have done is asked for again, here.
    fn reissue(&mut self) {
        self.shared.position.store(self.machine.position(), Ordering::Release);
        self.shared.disks.take_over();
        for (request, len) in self.machine.pending_entropy() {
            self.entropy(request, len);
        }
        self.shared.handle(Event::DisksReissued);
        self.shared.pump();
    }

    /// Takes the machine's outputs on their way. True if one of them waits for the backup.
    pub(super) fn outputs_live(&mut self) -> bool {
        let made = self.begin_outputs();
        self.emit(made)
    }

    /// Does what is done at once, and gives what waits for the backup. Disks are given all their requests here, in order. To be
    /// called before the log tells of the input that led to the outputs: a backup that has heard of it may be faster.
    pub(super) fn begin_outputs(&mut self) -> Vec<Made> {
        let mut made = Vec::new();
        for Output { position, body } in self.machine.take_outputs() {
            self.note(position, &body);
            match (self.recording.decide(&body), body) {
                (Disposition::AfterAck | Disposition::Keep, body) => {
                    let (class, digest, size) = (body.class(), digest(&body), size(&body));
                    let held = match body {
                        OutputBody::Disk(request) => {
                            let id = (request.disk, request.request);
                            self.shared.disks.hold(request);
                            Held::Write(id)
                        }
                        body => Held::Output(body),
                    };
                    made.push(Made { position, class, digest, size, held });
                }
                (Disposition::Now, OutputBody::Disk(request)) => self.request(request),
                (Disposition::Now, OutputBody::Entropy { request, len }) => self.entropy(request, len),
                // Nothing else is done without being held: the layers say so.
                (Disposition::Now | Disposition::Drop, _) => {}
            }
        }
        made
    }

    /// Logs the markers of outputs, which wait in the gate from then on. True if there is any.
    pub(super) fn emit(&mut self, made: Vec<Made>) -> bool {
        let any = !made.is_empty();
        for Made { position, class, digest, size, held } in made {
            if class == OutputClass::End && position == self.machine.position() {
                self.log_last_digest();
                self.shared.set_end(position);
            }
            let now = self.shared.now();
            self.shared.core().emit(position, class, digest, size, held, now);
            self.logged = position;
            self.over |= class == OutputClass::End;
        }
        any
    }

    /// Carries out a disk request that is not held.
    fn request(&self, request: DiskRequest) {
        let shared = &self.shared;
        let id = (request.disk, request.request);
        let is_read = matches!(request.op, DiskOp::Read { .. });
        let policy = &shared.disks.policies()[usize::from(id.0)];
        let shadow = is_read
            && policy.reads_race()
            && if policy.reads_twice() { shared.core().read_followed(id) } else { shared.core().is_paired() };
        shared.disks.submit(request, shadow);
        if shadow && !shared.core().is_paired() {
            // The backup was lost meanwhile, and its going was perhaps told before this read was there.
            shared.disks.read_finished(id.0, id.1);
        }
    }

    /// Keeps the machine's outputs back, but for what a backup does itself.
    pub(super) fn outputs_backup(&mut self) {
        for Output { position, body } in self.machine.take_outputs() {
            self.note(position, &body);
            let disposition = self.replaying.decide(&body);
            if disposition == Disposition::Keep {
                let (class, digest) = (body.class(), digest(&body));
                let (keep, request) = match body {
                    OutputBody::Disk(request) => (None, Some(request)),
                    body => (Some(Held::Output(body)), None),
                };
                let mut core = self.shared.core();
                core.made(position, class, digest, keep);
                if let Some(request) = request {
                    let policy = &self.shared.disks.policies()[usize::from(request.disk)];
                    let due = policy.reads_twice() && core.tell_reads();
                    drop(core);
                    self.shared.disks.submit_elsewhere(request);
                    if due {
                        self.shared.transmit();
                    }
                }
            } else if let OutputBody::Disk(request) = body {
                if disposition == Disposition::Now {
                    self.request_own(request);
                } else {
                    self.shared.disks.submit_elsewhere(request);
                }
            }
        }
    }

    /// Carries out a disk request as a backup.
    fn request_own(&self, request: DiskRequest) {
        let policy = &self.shared.disks.policies()[usize::from(request.disk)];
        if policy.reads_twice() && matches!(request.op, DiskOp::Read { .. }) {
            self.shared.core().own_read_made((request.disk, request.request));
        }
        self.shared.disks.submit_own(request);
    }

    fn note(&self, position: u64, body: &OutputBody) {
        let (code, message) = match body {
            OutputBody::PowerOff { code: 0 } => (0, format!("the guest powered off at position {position}")),
            OutputBody::PowerOff { code } => (
                code.saturating_add(64),
                format!("the guest powered off with code {code} at position {position}"),
            ),
            OutputBody::Reset => (0, "the guest asked for a reset, which ends it in this version".to_owned()),
            OutputBody::Dead(why) => (1, why.clone()),
            OutputBody::NetTx { frames, .. } => return self.shared.note_frames(frames),
            _ => return,
        };
        self.shared.guest_ends(code, message);
    }

    fn entropy(&self, request: u64, len: u32) {
        match entropy(len as usize) {
            Ok(bytes) => {
                self.shared.inputs.push(Input::Entropy { request, bytes });
                self.shared.kick.set();
            }
            Err(error) => self.shared.end(Ending {
                code: 1,
                message: format!("the host has no random bytes: {error}"),
                orderly: false,
            }),
        }
    }

    pub(super) fn diverged(&self, what: impl Into<String>) {
        let divergence = Divergence { position: self.machine.position(), what: what.into() };
        self.shared.handle(Event::Diverged(divergence));
        self.shared.pump();
    }
}

/// Bytes that an output takes in the gate.
fn size(body: &OutputBody) -> u64 {
    match body {
        OutputBody::NetTx { frames, .. } => frames.iter().map(|frame| frame.len() as u64 + 24).sum(),
        OutputBody::Console { bytes, .. } => bytes.len() as u64,
        OutputBody::Disk(request) if request.op.is_write() => request.op.bytes(),
        _ => 0,
    }
}

/// A digest of an output's content, the same on both sides.
fn digest(body: &OutputBody) -> u64 {
    let mut hash = Xxh3::new();
    let number = |hash: &mut Xxh3, value: u64| hash.update(&value.to_le_bytes());
    match body {
        OutputBody::NetTx { nic, frames } => {
            number(&mut hash, u64::from(*nic));
            for frame in frames {
                number(&mut hash, frame.len() as u64);
                hash.update(frame);
            }
        }
        OutputBody::Console { offset, bytes } => {
            number(&mut hash, *offset);
            hash.update(bytes);
        }
        OutputBody::Disk(request) => {
            number(&mut hash, u64::from(request.disk));
            number(&mut hash, request.request);
            match &request.op {
                DiskOp::Write { sector, data } => {
                    number(&mut hash, *sector);
                    hash.update(data);
                }
                DiskOp::Discard { sector, count } | DiskOp::WriteZeroes { sector, count, .. } => {
                    number(&mut hash, *sector);
                    number(&mut hash, u64::from(*count));
                }
                DiskOp::Read { .. } | DiskOp::Flush => {}
            }
        }
        OutputBody::PowerOff { code } => number(&mut hash, u64::from(*code)),
        OutputBody::Dead(why) => hash.update(why.as_bytes()),
        OutputBody::Entropy { request, len } => {
            number(&mut hash, *request);
            number(&mut hash, u64::from(*len));
        }
        OutputBody::Reset => number(&mut hash, u64::MAX),
    }
    hash.digest()
}
