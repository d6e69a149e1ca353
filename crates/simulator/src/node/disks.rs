//! The disk requests of a process, in either role, with the real schedule (`ft-runtime`, `replica/disks.rs`).

use std::collections::{BTreeMap, BTreeSet};

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::mutation::{Mutation, mutated};
use ft_core::output::{DiskOp, DiskRequest};
use ft_devices::backend::schedule::{Schedule, Start};
use ft_devices::ft::{DiskPolicies, DiskPolicy};

use super::Process;
use crate::shape::{Ambient, MS, Setting};
use crate::trace::Of;
use crate::world::World;
use crate::world::disk::Flight;
use crate::world::queue::Happening;

/// Threads, with the page cache and past it.
const THREADS: [usize; 2] = [2, 8];

/// What a backup does itself.
#[derive(Debug, Default)]
pub struct Own {
    /// What runs, or has ended and was not told of by the log.
    pub running: BTreeSet<u64>,
    /// Reads among those that have ended that failed here, and may be run again.
    pub failed_reads: BTreeSet<u64>,
    /// What has ended.
    pub ended: BTreeMap<u64, DiskDone>,
    /// Reads that have ended and that the protocol was not told of; true if a write waits for it.
    pub reads: Vec<(u64, bool)>,
}

/// See the module.
pub struct Disks {
    /// The schedule.
    pub schedule: Schedule,
    /// As a backup; `None` while it is none.
    pub own: Option<Own>,
    /// Live: writes and flushes of this side's own copy that failed.
    pub failed: BTreeSet<u64>,
    /// How the disk is replicated.
    pub policies: DiskPolicies,
    /// Requests that threads are at.
    running: usize,
    /// Writes that the guest was told to be done as they began: none, but for a deliberate mistake.
    told_early: BTreeSet<u64>,
}

impl Disks {
    /// Nothing was asked for yet.
    pub fn new(policy: DiskPolicy) -> Self {
        let (schedule, failed) = (Schedule::default(), BTreeSet::new());
        let (policies, told_early) = (DiskPolicies::from([policy]), BTreeSet::new());
        Self { schedule, own: None, failed, policies, running: 0, told_early }
    }

    /// True if no write of this side's own has failed that the guest was not told of.
    pub fn all_went_well(&self) -> bool {
        let failed = |own: &Own| {
            let mut ended = own.ended.iter();
            ended.any(|(id, done)| done.status != DiskStatus::Ok && !own.failed_reads.contains(id))
        };
        self.failed.is_empty() && !self.own.as_ref().is_some_and(failed)
    }

    /// The disk's policy.
    pub fn policy(&self) -> &DiskPolicy {
        &self.policies[0]
    }

    /// What this side has of a request that the log completes: `None` if it is not its own; an ended one is taken.
    pub fn take_own(&mut self, request: u64) -> Option<Option<DiskDone>> {
        let own = self.own.as_mut()?;
        match own.ended.remove(&request) {
            Some(done) => Some(Some(done)),
            None if own.running.contains(&request) => Some(None),
            None => None,
        }
    }

    /// The log's completion of a request was executed.
    pub fn completed(&mut self, request: u64) {
        if let Some(own) = &mut self.own {
            own.running.remove(&request);
            own.failed_reads.remove(&request);
        }
        self.schedule.done(request);
    }
}

impl World {
    /// Gives a request to the disk's threads.
    pub(super) fn submit(&mut self, node: usize, request: DiskRequest, start: Start, shadow: bool) {
        let process = self.at(node);
        if process.exiting.is_none() {
            process.disks.schedule.submit(request, start, shadow);
            self.run_disk(node);
        }
    }

    /// Threads take what may start.
    pub(crate) fn run_disk(&mut self, node: usize) {
        let most = THREADS[usize::from(self.shape.setting == Setting::TwoHosts)];
        loop {
            let process = self.at(node);
            if process.disks.running >= most {
                return;
            }
            let Some(request) = process.disks.schedule.start_next() else { return };
            self.take_flight(node, request);
        }
    }

    /// A thread takes a request.
    fn take_flight(&mut self, node: usize, request: DiskRequest) {
        let process = self.at(node);
        process.disks.running += 1;
        let alone = process.disks.own.is_none() && !process.core.is_paired();
        // Half of a deliberate mistake, of which neither half is one: a guest relies on a flush for the writes alone whose end it was
        // told, and those have ended; and where that is told early a flush that waits for what runs makes up for it.
        if mutated(Mutation::FlushBeforeWrites) && request.op.is_write() && alone {
            let (disk, request, status, data) = (request.disk, request.request, DiskStatus::Ok, Vec::new());
            process.inputs.push_back(Input::DiskDone(DiskDone { disk, request, status, data }));
            process.disks.told_early.insert(request);
        }
        let incarnation = process.incarnation;
        let life = process.guest.life();
        let (issued, apart, orphan) = (false, 0, false);
        let flight = self.disk.add(Flight { node, incarnation, life, request, issued, apart, orphan });
        let after = self.grain();
        self.schedule(after, Happening::Flight(flight));
    }

    /// A request gets further: its thread makes the system call, or that ends.
    pub(crate) fn flight(&mut self, number: u64) {
        let Some(flight) = self.disk.flights.get_mut(&number) else { return };
        let (node, incarnation) = (flight.node, flight.incarnation);
        let process = self.seats[node].process.as_deref_mut().filter(|it| it.incarnation == incarnation);
        if let Some(process) = process {
            if process.paused && !flight.issued {
                return process.flights_missed.push(number);
            }
            if !flight.issued {
                (flight.issued, flight.apart) = (true, process.apart);
                let slow = process.disk_trouble.1;
                let took = self.disk_time(slow);
                return self.schedule(took, Happening::Flight(number));
            }
        } else if !flight.issued {
            self.disk.flights.remove(&number);
            return;
        }
        let Some(flight) = self.disk.flights.remove(&number) else { return };
        let process = self.seats[node].process.as_deref().filter(|it| it.incarnation == incarnation);
        let may_fail = |process: &Process| {
            process.disk_trouble.0 && !process.disks.told_early.contains(&flight.request.request)
        };
        let fails = process.is_some_and(may_fail) && self.random.chance(2);
        let status = if fails { DiskStatus::IoError } else { DiskStatus::Ok };
        let mask = if fails { self.random.next() } else { u64::MAX };
        let late = process.is_none();
        self.note(if late { Of::World } else { Of::Seat(node) }, || {
            format!("{}{} {status:?}", if late { "late: " } else { "" }, words(&flight.request))
        });
        let done = self.disk.execute(&flight, mask, status);
        if !late {
            self.disk_ended(node, &flight.request, done);
        }
    }

    fn disk_time(&mut self, slow: bool) -> u64 {
        let usual = self.random.between(MS / 20, 2 * MS);
        if slow {
            return usual + self.random.below(400 * MS);
        }
        if self.shape.has(Ambient::SlowWrites) && !self.calm && self.random.chance(20) {
            return usual + self.random.below(1500 * MS);
        }
        usual
    }

    fn disk_ended(&mut self, node: usize, request: &DiskRequest, done: DiskDone) {
        let id = request.request;
        let read = matches!(request.op, DiskOp::Read { .. });
        let disks = &mut self.at(node).disks;
        disks.running -= 1;
        let (twice, is_own) = (disks.policy().reads_twice(), disks.policy().is_own());
        let waited_for = disks.schedule.is_waited_for(id);
        let mut perhaps = false;
        match &mut disks.own {
            _ if disks.told_early.remove(&id) => {}
            Some(own) => {
                if read && done.status != DiskStatus::Ok {
                    perhaps = true;
                    own.failed_reads.insert(id);
                }
                if read && done.status == DiskStatus::Ok && twice {
                    own.reads.push((id, waited_for));
                }
                own.ended.insert(id, done);
            }
            None if !read && done.status != DiskStatus::Ok && is_own => {
                disks.failed.insert(id);
                self.at(node).inputs.push_back(Input::DiskDone(done));
            }
            None => self.at(node).inputs.push_back(Input::DiskDone(done)),
        }
        let schedule = &mut self.at(node).disks.schedule;
        if perhaps {
            schedule.pause(id);
        } else {
            schedule.done(id);
        }
        self.unpark(node);
        self.run_disk(node);
        if self.at(node).exiting.is_some() {
            self.wake_soon(node, super::Thread::Loop);
        }
        self.stepped(node);
    }

    /// Goes live: what has ended becomes inputs, what was elsewhere is done here.
    pub(super) fn take_over_disk(&mut self, node: usize) {
        let process = self.at(node);
        let mut failed = BTreeSet::new();
        if let Some(own) = process.disks.own.take() {
            failed = own.failed_reads;
            let forgets = mutated(Mutation::ForgetOwnReads);
            for (_, done) in own.ended.into_iter().filter(|(id, _)| !failed.contains(id) && !forgets) {
                process.inputs.push_back(Input::DiskDone(done));
            }
        }
        process.disks.schedule.take_over();
        failed.into_iter().for_each(|request| process.disks.schedule.again(request));
        if mutated(Mutation::ReissueTwice) {
            let writes = process.guest.pending.values().filter(|request| request.op.is_write());
            let writes: Vec<DiskRequest> = writes.cloned().collect();
            writes.into_iter().for_each(|request| self.take_flight(node, request));
        }
        self.run_disk(node);
    }
}

fn words(request: &DiskRequest) -> String {
    let sectors = request.op.sectors();
    let what = match request.op {
        DiskOp::Read { .. } => "read",
        DiskOp::Flush => "flush",
        DiskOp::Write { .. } => "write",
        DiskOp::Discard { .. } => "discard",
        DiskOp::WriteZeroes { .. } => "zeroes",
    };
    format!("disk {what} {} of {sectors:?}", request.request)
}
