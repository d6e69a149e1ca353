//! The live loop: solo, alone and primary are the same; the protocol knows whether anybody follows.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input};
use ft_core::reads::{self, ReadId};
use ft_core::{Body, Mode, Nanos};
use ft_devices::ft::DiskPolicies;
use ft_vcpu::{Stand, Stop};

use super::inputs;
use super::vcpu::{NAP, Runner};

/// Between two digests of a guest that sleeps so much that it takes long to the position of the next one.
const DIGEST_TIME: Nanos = 2_000_000_000;
/// About how long the guest runs between two looks around: a backup may run that much behind for want of being told.
const SLICE: Nanos = 1_000_000;
/// Longest sleep at a time.
const LONGEST_NAP: Nanos = 5_000_000_000;
/// Most unimplemented instructions that are named.
const TOLD: usize = 64;
/// Inputs applied before the guest runs again.
const BATCH: usize = 64;
/// Pacing sleeps when this much is due, and not longer than that at a time.
const PACE: (Nanos, Nanos) = (200_000, 10_000_000);

/// True if the log does not carry the data of this read: the backup reads for itself.
fn is_own_read(policies: &DiskPolicies, done: &DiskDone) -> bool {
    done.status == DiskStatus::Ok
        && !done.data.is_empty()
        && policies.get(usize::from(done.disk)).is_some_and(|policy| !policy.logs_reads())
}

impl Runner {
    /// Runs the guest until the protocol wants something else.
    pub(super) fn live(&mut self) {
        loop {
            self.shared.beat();
            self.shared.kick.take();
            let (mode, room, share, paired) = {
                let now = self.shared.now();
                let mut core = self.shared.core();
                (core.mode(), core.may_run(now), core.share(), core.is_paired())
            };
            if mode != Mode::Live {
                return;
            }
            if self.over {
                self.flush();
                self.shared.park(self.shared.now() + NAP);
                continue;
            }
            if !room || !self.prepare() {
                // A stall. What would end it wakes this thread.
                self.flush();
                self.shared.park(self.shared.now() + NAP);
                continue;
            }
            let before = self.shared.now();
            let from = self.machine.position();
            let (digest, until) = self.bounds(from);
            self.leaves(before);
            let stop = match self.machine.run(until, &self.shared.kick) {
                // Where exits are counted, a kick ends what the number of instructions ends elsewhere.
                Stop::Kicked if self.machine.engine().counts_exits() => Stop::Reached,
                stop => stop,
            };
            let held = self.outputs_live();
            let after = self.shared.now();
            if stop != Stop::Busy {
                self.arrives(after);
            }
            let position = self.machine.position();
            self.shared.position.store(position, Ordering::Release);
            self.shared.guest.store(self.machine.now_ns(), Ordering::Relaxed);
            self.tell_unimplemented();
            self.digest_due |= paired && position == digest;
            match stop {
                Stop::Reached => {
                    if self.clock.is_due(after) {
                        self.anchor_here(after);
                    } else {
                        self.progress();
                    }
                    if self.digest_due && self.machine.stand() == Stand::Whole && !self.log_digest() {
                        continue;
                    }
                    self.flush();
                }
                Stop::Clock => {}
                Stop::Busy => self.between(after),
                Stop::Failed => {
                    self.fail();
                    continue;
                }
                Stop::Halted => {
                    // The log is told before this thread blocks: the backup may run up to here.
                    self.progress();
                    if paired && after.saturating_sub(self.digested) >= DIGEST_TIME && !self.log_digest() {
                        continue;
                    }
                    self.flush();
                    self.idle();
                    continue;
                }
                Stop::Dead(_) => {
                    self.flush();
                    self.shared.park(self.shared.now() + NAP);
                    continue;
                }
                Stop::Platform | Stop::Kicked => {
                    if held || stop == Stop::Kicked && position - self.logged > until - from {
                        self.flush();
                    }
                    if self.clock.is_due(after) {
                        self.anchor_here(after);
                        self.flush();
                    }
                }
            }
            self.pace(share, after.saturating_sub(before));
        }
    }

    /// Where the next digest is, and how far the guest runs now.
    fn bounds(&self, from: u64) -> (u64, u64) {
        let engine = self.machine.engine();
        let interval = engine.digest_interval();
        let digest = (from / interval + 1) * interval;
        let until = match engine.counts_exits() {
            true if self.digest_due => from + 1,
            // The engine looks at the time itself.
            true => digest,
            false => digest.min(from + self.clock.instructions(SLICE)),
        };
        (digest, until)
    }

    /// Does what is to be done where the machine stands. False if there is no room for the records of it: a stall.
    fn prepare(&mut self) -> bool {
        match self.machine.stand() {
            Stand::Whole => self.tell_date() && self.take_inputs(),
            Stand::Clock => self.tell_time(),
            Stand::Between => true,
        }
    }

    /// Tells the operator of instructions that the engine lacks, each once; a guest cannot flood the launcher with them.
    fn tell_unimplemented(&mut self) {
        for what in self.machine.take_unimplemented() {
            if self.told.len() < TOLD && self.told.insert(what.clone()) {
                self.shared.control.notice(what);
            }
        }
    }

    /// Before its first instruction a guest on the host's clock is told the date. False if there is no room for the record.
    fn tell_date(&mut self) -> bool {
        if self.clock.is_virtual() || !self.machine.wants_date() {
            return true;
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let date = Input::Date(seconds);
        if !self.shared.core().reserve(inputs::cost(&date), self.shared.now()) {
            return false;
        }
        self.apply(date);
        true
    }

    /// Applies what has arrived. False if there is no room for its records: a stall.
    fn take_inputs(&mut self) -> bool {
        if !self.shared.inputs.any() {
            return true;
        }
        let (now, position) = (self.shared.now(), self.machine.position());
        if !self.clock.is_virtual() && !self.clock.is_fresh(now, position) {
            if !self.shared.core().reserve(Body::Progress.cost(), now) {
                return false;
            }
            self.anchor_here(now);
        }
        for _ in 0..BATCH {
            let mut room = true;
            let shared = &self.shared;
            let input = shared.inputs.pop_if(|input| {
                let cost = match input {
                    Input::DiskDone(done) if is_own_read(shared.disks.policies(), done) => {
                        Body::Progress.cost()
                    }
                    input => inputs::cost(input),
                };
                room = shared.core().reserve(cost, shared.now());
                room
            });
            match input {
                Some(input) => self.apply(input),
                None if room => break,
                None => return false,
            }
        }
        true
    }

    /// Applies an input here and logs it. Room is reserved.
    fn apply(&mut self, input: Input) {
        let position = self.machine.position();
        if let Input::DiskDone(done) = &input
            && self.shared.disks.take_failure((done.disk, done.request))
            && self.gives_up_copy(done.disk)
        {
            return;
        }
        if let Err(error) = self.machine.apply(&input) {
            // Nothing has changed, and nothing is logged: an answer that came twice, say.
            self.shared.control.notice(format!("an input does not fit the machine and was dropped: {error}"));
            return;
        }
        let made = self.begin_outputs();
        let now = self.shared.now();
        let read = self.logged_read(&input);
        let body = self.body(input);
        let mut core = self.shared.core();
        let lsn = core.append(position, body, now);
        if let Some(read) = read {
            core.read_logged(lsn, read);
        }
        drop(core);
        self.logged = position;
        if self.emit(made) {
            self.flush();
        }
    }

    /// The request, if this is the end of a read of a shared disk whose data the log carries.
    fn logged_read(&self, input: &Input) -> Option<ReadId> {
        let Input::DiskDone(done) = input else { return None };
        let policy = self.shared.disks.policies().get(usize::from(done.disk))?;
        // A failed request may have been a read; where it was none, nobody waits for it.
        let read = !done.data.is_empty() || done.status != DiskStatus::Ok;
        (read && policy.reads_race() && !policy.reads_twice()).then_some((done.disk, done.request))
    }

    /// What the log says of an input.
    fn body(&self, input: Input) -> Body {
        match input {
            Input::DiskDone(done) if is_own_read(self.shared.disks.policies(), &done) => {
                Body::OwnRead { disk: done.disk, request: done.request, digest: reads::digest(&done.data) }
            }
            input => Body::Input(input),
        }
    }

    /// A write or flush of this side's own copy failed, and the backup has a copy of its own, on which it may have succeeded:
    /// from here on the copies differ. The guest must not see a failure that the better copy spares it: this side gives up. But
    /// first the guest stands still until the backup has executed all that was logged, which shows that its copy is no worse:
    /// it could be about to give up itself. False if there is no backup any more: the failure is the guest's to know.
    fn gives_up_copy(&self, disk: u16) -> bool {
        loop {
            self.flush();
            {
                let core = self.shared.core();
                if !core.is_paired() || core.mode() == Mode::Over {
                    return core.mode() == Mode::Over;
                }
                if core.backup_is_level() {
                    break;
                }
            }
            self.shared.park(self.shared.now() + NAP);
        }
        self.shared.disk_failed(format!(
            "a write to this side's copy of disk {disk} failed: the backup, which has a copy of its own, takes over"
        ));
        true
    }

    /// Logs an anchor at this position.
    pub(super) fn anchor_here(&mut self, now: Nanos) {
        let anchor = self.clock.anchor(now, self.machine.now_ns(), self.machine.position());
        self.shared.paused.store(self.clock.paused, Ordering::Relaxed);
        self.apply_anchor(anchor);
    }

    fn apply_anchor(&mut self, anchor: Anchor) {
        self.apply(Input::Anchor(anchor));
    }

    /// Tells the backup that it may run up to here.
    fn progress(&mut self) {
        let position = self.machine.position();
        if position > self.logged {
            let now = self.shared.now();
            self.shared.core().append(position, Body::Progress, now);
            self.logged = position;
        }
    }

    /// Logs a digest here. False if the guest must not go on (the mode changed while there was no room).
    fn log_digest(&mut self) -> bool {
        self.log_digest_of(false)
    }

    /// The same of all of memory: the last one that both sides take.
    pub(super) fn log_last_digest(&mut self) {
        if self.shared.core().is_paired() {
            self.log_digest_of(true);
        }
    }

    fn log_digest_of(&mut self, full: bool) -> bool {
        let body = Body::Digest(self.machine.digest(full));
        loop {
            let now = self.shared.now();
            let mut core = self.shared.core();
            if !matches!(core.mode(), Mode::Live | Mode::Stop) {
                return false;
            }
            if core.reserve(body.cost(), now) {
                core.append(self.machine.position(), body, now);
                self.digested = now;
                self.digest_due = false;
                self.shared.digests.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            drop(core);
            self.flush();
            self.shared.park(now + NAP);
        }
    }

    /// Sends what was appended; releases here what nobody acknowledges.
    pub(super) fn flush(&self) {
        self.shared.transmit();
        let core = self.shared.core();
        if core.has_effects() || !core.is_paired() {
            drop(core);
            self.shared.pump();
        }
    }

    /// The guest waits for an interrupt.
    fn idle(&mut self) {
        let start = self.shared.now();
        let guest = self.machine.now_ns();
        let deadline = self.machine.next_deadline_ns();
        let until = self.clock.waits_until(deadline, start, guest);
        let woken = self.sleep(start, until);
        let now = self.shared.now();
        self.clock.idled(now - start);
        if self.clock.is_virtual() {
            // Time that is a function of position stands still in HLT. It jumps to the deadline, or to where an input ends
            // the wait; nothing else is logged.
            let waited = guest.saturating_add(now - start);
            match deadline {
                Some(deadline) if woken || now >= until => self.jump(now, waited.min(deadline)),
                None if woken => self.jump(now, waited),
                _ => {}
            }
        } else if now >= until && self.shared.core().reserve(Body::Progress.cost(), now) {
            self.anchor_here(now);
            self.flush();
        }
    }

    fn jump(&mut self, now: Nanos, target: u64) {
        if self.shared.core().reserve(Body::Progress.cost(), now) {
            let anchor = self.clock.virtual_anchor(now, target, self.machine.position());
            self.apply_anchor(anchor);
            self.flush();
        }
    }

    /// Waits for an input, a kick, or `until`. True if an input is there.
    fn sleep(&self, start: Nanos, until: Nanos) -> bool {
        let polled = start + self.poll;
        loop {
            if self.shared.inputs.any() {
                return true;
            }
            if self.shared.kick.is_set() {
                return false;
            }
            let now = self.shared.now();
            if now >= until {
                return false;
            }
            if now < polled {
                std::hint::spin_loop();
            } else {
                self.shared.park(until.min(now + LONGEST_NAP));
            }
        }
    }

    /// Leaves the share of time that pacing takes away.
    fn pace(&mut self, share: u32, ran: Nanos) {
        let share = u64::from(share.max(1));
        if share >= u64::from(ft_policies::FULL_SHARE) {
            self.debt = 0;
            return;
        }
        self.debt += ran * (u64::from(ft_policies::FULL_SHARE) - share) / share;
        if self.debt >= PACE.0 {
            let sleep = self.debt.min(PACE.1);
            std::thread::sleep(std::time::Duration::from_nanos(sleep));
            self.debt -= sleep;
        }
    }
}
