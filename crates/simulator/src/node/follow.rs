//! The backup's loop: run to where the next record lies, do what it says (`ft-runtime`, `replica/follow.rs`).

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::mutation::{Mutation, mutated};
use ft_core::{Body, Divergence, Event, Mode, Nanos, OutputClass, Phase, reads};

use super::Thread;
use super::vcpu::{NAP, Next, Stage};
use crate::guest::Stop;
use crate::properties::copies;
use crate::shape::MS;
use crate::world::World;

/// Between two runs of a read that fails here only: first and longest.
const RETRY: (Nanos, Nanos) = (MS, 100 * MS);

impl World {
    /// The next thing that a backup's thread does.
    pub(super) fn follow(&mut self, node: usize) -> Next {
        let now = self.local(node);
        let process = self.at(node);
        process.disks.own.get_or_insert_default();
        if let Some((_, stage)) = process.vcpu.record {
            return match stage {
                Stage::Run => self.run_to_record(node),
                Stage::Do => self.do_record(node),
                Stage::Tell => {
                    self.tell_reads(node);
                    let process = self.at(node);
                    if let Some((record, _)) = process.vcpu.record.take() {
                        process.core.execute(&record, now);
                    }
                    if process.core.has_effects() {
                        self.wake_soon(node, Thread::Outside);
                    }
                    Next::More
                }
            };
        }
        match process.core.take_record() {
            Some(record) => {
                process.vcpu.record = Some((record, Stage::Run));
                // Of a backup that begins when it has won already, it is the life that it was armed for.
                let (incarnation, generation) = (process.incarnation, process.core.generation());
                let life = self.facts.backup_in.get(&incarnation).copied().unwrap_or(generation);
                self.at(node).guest.boot(life);
                Next::More
            }
            None => {
                self.tell_reads(node);
                if self.at(node).core.has_effects() {
                    self.wake_soon(node, Thread::Outside);
                }
                if mutated(Mutation::ProgressInHeader)
                    && let Some(next) = self.run_to_header(node)
                {
                    return next;
                }
                if self.mode(node) == Mode::Backup { Next::Park(NAP) } else { Next::More }
            }
        }
    }

    /// A deliberate mistake: a heartbeat's position lets the guest run.
    fn run_to_header(&mut self, node: usize) -> Option<Next> {
        let process = self.at(node);
        let behind = process.guest.is_booted() && process.guest.position < process.vcpu.header;
        if !behind || *process.core.phase() != Phase::Backup {
            return None;
        }
        let until = process.vcpu.header;
        process.guest.run(until);
        process.vcpu.header = 0;
        self.outputs_backup(node);
        Some(Next::More)
    }

    fn run_to_record(&mut self, node: usize) -> Next {
        let pace = self.shape.instruction * self.shape.backup_pace / 10;
        let process = self.at(node);
        let Some((record, stage)) = &mut process.vcpu.record else { return Next::More };
        let (from, until) = (process.guest.position, record.position);
        if from > until {
            self.diverged(
                node,
                format!("this side's guest stands at {from}, past the primary's record at {until}"),
            );
            return Next::More;
        }
        let stop = process.guest.run(until);
        if process.guest.position == until {
            *stage = Stage::Do;
        }
        let ran = (process.guest.position - from) * pace * process.slow;
        self.outputs_backup(node);
        match stop {
            Stop::Reached | Stop::Platform => Next::After(ran),
            Stop::Halted | Stop::Dead => {
                self.diverged(
                    node,
                    format!("this side's guest is {stop:?} where the primary's ran on to {until}"),
                );
                Next::More
            }
        }
    }

    fn do_record(&mut self, node: usize) -> Next {
        let process = self.at(node);
        let Some((record, _)) = process.vcpu.record.clone() else { return Next::More };
        match record.body.clone() {
            Body::Input(Input::DiskDone(done)) => {
                if let Some(next) = self.disk_done(node, done, None) {
                    return next;
                }
            }
            Body::OwnRead { disk, request, digest } => {
                let (status, data) = (DiskStatus::Ok, Vec::new());
                if let Some(next) =
                    self.disk_done(node, DiskDone { disk, request, status, data }, Some(digest))
                {
                    return next;
                }
            }
            Body::Input(input) => {
                if let Err(error) = process.guest.apply(&input) {
                    self.diverged(node, format!("an input of the primary does not fit here: {error}"));
                    return Next::More;
                }
                if let Input::NetRx(batch) = &input {
                    let forgets = mutated(Mutation::SeenForgotten);
                    process.seen = process.seen.max(if forgets { 0 } else { batch.switch_seq });
                }
                process.journal.push((process.guest.position, input));
                self.outputs_backup(node);
            }
            Body::Digest(theirs) => {
                if theirs != process.digest().to_le_bytes() && !mutated(Mutation::DigestIgnored) {
                    self.diverged(node, "the digests differ".to_owned());
                    return Next::More;
                }
            }
            Body::Stop | Body::Output { class: OutputClass::End, .. } => process.end = Some(record.position),
            Body::Output { .. } | Body::Progress | Body::Armed => {}
        }
        if let Some((_, stage)) = &mut self.at(node).vcpu.record {
            *stage = Stage::Tell;
        }
        Next::More
    }

    /// A disk request of the primary's has ended. `None` if that was executed; otherwise what the thread does next.
    fn disk_done(&mut self, node: usize, mut done: DiskDone, digest: Option<u32>) -> Option<Next> {
        let (now, id) = (self.local(node), (done.disk, done.request));
        let process = self.at(node);
        if let Some((at, _)) = process.vcpu.retry.filter(|(at, _)| *at > now) {
            return Some(Next::Park(at - now));
        }
        if let Some((at, count)) = process.vcpu.retry.take()
            && at > 0
        {
            // The wait is over: it is run again.
            process.vcpu.retry = Some((0, count));
            if let Some(own) = &mut process.disks.own {
                own.failed_reads.remove(&id.1);
            }
            process.disks.schedule.again(id.1);
            self.run_disk(node);
        }
        let process = self.at(node);
        match process.disks.take_own(id.1) {
            None if digest.is_none() => {}
            None => {
                self.diverged(node, "the primary completes a read that this side never made".to_owned());
                return Some(Next::More);
            }
            Some(None) if mutated(Mutation::CompletionBeforeOwn) => {}
            Some(None) if digest.is_none() && mutated(Mutation::WriteCompletionBeforeOwn) => {}
            Some(None) => {
                self.tell_reads(node);
                return Some(Next::Park(NAP));
            }
            Some(Some(own)) => match (done.status, own.status) {
                (DiskStatus::Ok, DiskStatus::Ok) => {
                    if digest.is_some_and(|digest| digest != reads::digest(&own.data)) {
                        self.diverged(node, format!("this side read other data than the primary: {id:?}"));
                        return Some(Next::More);
                    }
                    done.data = own.data;
                }
                (_, _) if digest.is_none() && done.status != DiskStatus::Ok => {
                    process.core.own_read_finished(id, true, now);
                    self.wake_soon(node, Thread::Writer);
                }
                _ if digest.is_none() => {
                    if !mutated(Mutation::BadCopyKept) {
                        let why = "a write to this side's copy failed that succeeded on the primary";
                        self.handle(node, Event::DiskFailed(why.to_owned()));
                        return Some(Next::More);
                    }
                }
                _ => {
                    let count = process.vcpu.retry.map_or(0, |(_, count)| count);
                    let delay = (RETRY.0 << count.min(7)).min(RETRY.1);
                    process.vcpu.retry = Some((now + delay, count + 1));
                    return Some(Next::Park(delay));
                }
            },
        }
        let process = self.at(node);
        process.vcpu.retry = None;
        let input = Input::DiskDone(done);
        if let Err(error) = process.guest.apply(&input) {
            self.diverged(node, format!("an input of the primary does not fit here: {error}"));
            return Some(Next::More);
        }
        process.journal.push((process.guest.position, input));
        copies::passed(self, node, id.1);
        let process = self.at(node);
        process.disks.completed(id.1);
        self.run_disk(node);
        self.outputs_backup(node);
        None
    }

    /// Tells the protocol of reads of the shared disk that have ended here.
    fn tell_reads(&mut self, node: usize) {
        let now = self.local(node);
        let process = self.at(node);
        let Some(own) = process.disks.own.as_mut().filter(|own| !own.reads.is_empty()) else { return };
        let mut due = false;
        for (request, waited_for) in std::mem::take(&mut own.reads) {
            due |= process.core.own_read_finished((0, request), waited_for, now);
        }
        if due {
            self.wake_soon(node, Thread::Writer);
        }
    }

    fn diverged(&mut self, node: usize, what: String) {
        let position = self.at(node).guest.position;
        self.handle(node, Event::Diverged(Divergence { position, what }));
        if mutated(Mutation::DivergedBackupAsks)
            && let Some((_, stage)) = &mut self.at(node).vcpu.record
        {
            *stage = Stage::Tell;
        }
    }
}
