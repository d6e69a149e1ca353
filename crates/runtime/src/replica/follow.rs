//! The backup's loop: run to where the next record lies, do what it says.

use std::sync::atomic::Ordering;

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::{Body, LogRecord, Mode, Nanos, OutputClass, reads};
use ft_vcpu::{Stand, Stop};

use super::disks::{OwnResult, RequestId};
use super::vcpu::{NAP, Runner};

/// Between two runs of a read that fails here only: first and longest.
const RETRY: (Nanos, Nanos) = (1_000_000, 100_000_000);

/// How often a read was run again.
#[derive(Debug, Default)]
struct Tries {
    count: u32,
}

impl Tries {
    /// How long to wait before the next one.
    fn delay(&mut self) -> Nanos {
        let delay = RETRY.0 << self.count.min(7);
        self.count += 1;
        delay.min(RETRY.1)
    }
}

impl Runner {
    /// Executes records until the protocol wants something else.
    pub(super) fn follow(&mut self) {
        self.shared.disks.follow();
        loop {
            self.shared.beat();
            let (record, mode, effects) = {
                let mut core = self.shared.core();
                (core.take_record(), core.mode(), core.has_effects())
            };
            if effects {
                self.shared.pump();
            }
            match record {
                Some(record) => {
                    if !self.execute(&record) {
                        return;
                    }
                }
                None if mode != Mode::Backup => return,
                None => {
                    self.tell_reads();
                    self.shared.park(self.shared.now() + NAP);
                }
            }
        }
    }

    /// Executes one record. False if this side has diverged, or is over.
    fn execute(&mut self, record: &LogRecord) -> bool {
        if !self.inject(record.position) || !self.run_to(record.position) {
            return false;
        }
        match &record.body {
            Body::Input(Input::DiskDone(done)) => {
                if !self.disk_done(done.clone(), None) {
                    return false;
                }
            }
            Body::OwnRead { disk, request, digest } => {
                let (status, data) = (DiskStatus::Ok, Vec::new());
                let done = DiskDone { disk: *disk, request: *request, status, data };
                if !self.disk_done(done, Some(*digest)) {
                    return false;
                }
            }
            Body::Input(input) => {
                if let Err(error) = self.machine.apply(input) {
                    self.diverged(format!("an input of the primary does not fit here: {error}"));
                    return false;
                }
                if let Input::NetRx(batch) = input {
                    self.shared.seen_up_to(batch.switch_seq);
                }
                self.outputs_backup();
            }
            Body::Digest(_) if self.machine.stand() != Stand::Whole => {
                self.diverged(
                    "this side's guest is in the middle of an instruction where the primary's is not",
                );
                return false;
            }
            Body::Digest(theirs) => {
                if let Err(difference) = self.machine.compare_digest(theirs) {
                    self.diverged(difference.to_string());
                    return false;
                }
                self.shared.digests.fetch_add(1, Ordering::Relaxed);
            }
            Body::Stop | Body::Output { class: OutputClass::End, .. } => {
                self.shared.set_end(record.position);
            }
            Body::Progress | Body::Output { .. } | Body::Armed => {}
        }
        self.shared.guest.store(self.machine.now_ns(), Ordering::Relaxed);
        self.tell_reads();
        let now = self.shared.now();
        let mut core = self.shared.core();
        let same = core.execute(record, now);
        let effects = core.has_effects();
        drop(core);
        if effects {
            self.shared.pump();
        }
        same
    }

    /// A disk request of the primary's has ended. What this side does itself must have ended here, too, before the guest is
    /// told. `digest` is that of the data of a read that both run.
    fn disk_done(&mut self, mut done: DiskDone, digest: Option<u32>) -> bool {
        let id = (done.disk, done.request);
        let mut tries = Tries::default();
        loop {
            match self.shared.disks.take_own(id) {
                OwnResult::NotOwn if digest.is_none() => break,
                OwnResult::NotOwn => {
                    self.diverged("the primary completes a read that this side never made");
                    return false;
                }
                OwnResult::Ended(own) => match (done.status, own.status) {
                    (DiskStatus::Ok, DiskStatus::Ok) => {
                        if digest.is_some_and(|digest| digest != reads::digest(&own.data)) {
                            let Some(what) = self.machine.disk_request(id) else { break };
                            self.diverged(format!(
                                "this side read other data than the primary: disk {}, {what}",
                                id.0
                            ));
                            return false;
                        }
                        done.data = own.data;
                        break;
                    }
                    // The primary's failure is what the guest sees; nothing was changed by it. If it was a read, the primary need
                    // not wait for this side's.
                    (_, _) if digest.is_none() && done.status != DiskStatus::Ok => {
                        let now = self.shared.now();
                        self.shared.core().own_read_finished(id, true, now);
                        self.shared.transmit();
                        break;
                    }
                    (DiskStatus::Ok, _) if digest.is_some() => {
                        if !self.wait_to_retry(&mut tries, id) {
                            return false;
                        }
                    }
                    _ => {
                        self.shared.disk_failed(format!(
                            "a write to this side's copy of disk {} failed that succeeded on the primary: this copy is of no \
                             more use, and this backup ends",
                            id.0
                        ));
                        return false;
                    }
                },
                OwnResult::Running => {
                    self.tell_reads();
                    self.shared.park(self.shared.now() + NAP);
                    if self.shared.mode() == Mode::Over {
                        return false;
                    }
                }
            }
        }
        if let Err(error) = self.machine.apply(&Input::DiskDone(done)) {
            self.diverged(format!("an input of the primary does not fit here: {error}"));
            return false;
        }
        self.shared.disks.completed(id);
        self.outputs_backup();
        true
    }

    /// A read failed here that the primary has data of: it is run again (paper, section 4.2). How long that may go on is up to
    /// the primary, which sees a backup that does not execute.
    fn wait_to_retry(&mut self, tries: &mut Tries, id: RequestId) -> bool {
        if tries.count == 0 {
            self.shared
                .control
                .notice(format!("a read of disk {} failed here and not on the primary; trying again", id.0));
        }
        let until = self.shared.now() + tries.delay();
        while self.shared.now() < until {
            self.shared.park(until);
            if self.shared.mode() == Mode::Over {
                return false;
            }
        }
        self.shared.disks.retry(id);
        true
    }

    /// Tells the protocol of reads of shared disks that have ended here.
    fn tell_reads(&self) {
        let reads = self.shared.disks.take_reads();
        if reads.is_empty() {
            return;
        }
        let now = self.shared.now();
        let mut core = self.shared.core();
        let due = reads
            .into_iter()
            .fold(false, |due, (read, waited_for)| due | core.own_read_finished(read, waited_for, now));
        drop(core);
        if due {
            self.shared.transmit();
        }
    }

    /// Runs the machine until it stands at `position`. False if it cannot get there.
    fn run_to(&mut self, position: u64) -> bool {
        loop {
            let stop = self.machine.run(position, &self.shared.kick);
            self.outputs_backup();
            self.shared.position.store(self.machine.position(), Ordering::Release);
            match stop {
                Stop::Reached => return true,
                Stop::Platform => {}
                Stop::Kicked => {
                    self.shared.kick.take();
                    self.shared.beat();
                    if self.shared.mode() == Mode::Over {
                        return false;
                    }
                }
                // What the primary did there, if anything, is a record of that position.
                Stop::Clock => {}
                Stop::Busy => {
                    self.shared.beat();
                    if self.shared.mode() == Mode::Over {
                        return false;
                    }
                }
                Stop::Failed => {
                    self.fail();
                    return false;
                }
                Stop::Halted => {
                    self.diverged(format!(
                        "this side's guest halts where the primary's ran on to position {position}"
                    ));
                    return false;
                }
                Stop::Dead(_) => {
                    self.diverged(format!(
                        "this side's guest is dead where the primary's ran on to position {position}"
                    ));
                    return false;
                }
            }
        }
    }

    /// Injects the faults that lie before `position`, each where it belongs.
    fn inject(&mut self, position: u64) -> bool {
        while let Some(index) = self.faults.iter().position(|fault| fault.position <= position) {
            let fault = self.faults.remove(index);
            if fault.position >= self.machine.position() {
                if !self.run_to(fault.position) {
                    return false;
                }
                if self.machine.stand() != Stand::Whole {
                    self.faults.push(fault.at_next_position());
                    continue;
                }
                if !fault.inject(&mut self.machine) {
                    self.shared.control.notice("a fault's address is outside the guest's memory");
                }
            }
        }
        true
    }
}
