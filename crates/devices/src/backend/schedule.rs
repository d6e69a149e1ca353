//! Which disk requests may run now: those that do not overlap an earlier one. No threads and no I/O of its own.
//!
//! One schedule serves all roles. What differs is where a request is carried out ([`Start`]): here and now, here once the
//! Output Rule lets it, or by the other replica. A backup that goes live makes the last kind its own
//! ([`Schedule::take_over`]), and the order in which the guest asked still holds.

use std::collections::VecDeque;
use std::ops::Range;

use ft_core::mutation::{Mutation, mutated};
use ft_core::output::{DiskOp, DiskRequest};

/// Where and when a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Here, as soon as nothing earlier is in its way.
    Now,
    /// Here, but not before [`Schedule::release`].
    Held,
    /// By the other replica; [`Schedule::done`] tells of its end.
    Elsewhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Start),
    Running,
    /// It ran, and perhaps is to run once more ([`Schedule::again`]): it keeps its place.
    Paused,
    /// The other replica's own run of a read that was also submitted here.
    Shadow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

impl Kind {
    fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::Read { .. } => Self::Read,
            DiskOp::Flush => Self::Flush,
            DiskOp::Discard { .. } if mutated(Mutation::WriteBeforeDiscard) => Self::Flush,
            DiskOp::Write { .. } | DiskOp::Discard { .. } | DiskOp::WriteZeroes { .. } => Self::Write,
        }
    }
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    request: u64,
    kind: Kind,
    sectors: Range<u64>,
    state: State,
    /// What to carry out; taken out when it runs, but for a read.
    body: Option<DiskRequest>,
    /// It is to run again as soon as this run is told to be over.
    again: bool,
    /// How many earlier entries it waits for.
    waits_for: usize,
    /// Serials of the later entries that wait for it.
    in_the_way_of: Vec<u64>,
}

/// The requests of one disk, in the order of submission.
///
/// Two requests that touch a common block, at least one of them writing, run one after the other in that order. A flush waits
/// for all writes before it that are not held (those have not ended, so it need not cover them); later requests do not wait
/// for a flush.
#[derive(Debug, Default)]
pub struct Schedule {
    /// By serial.
    entries: VecDeque<Entry>,
    /// Serials of entries that may run.
    ready: VecDeque<u64>,
    next: u64,
    running: usize,
    /// Entries that write: a read need not look for them among many reads.
    writes: usize,
}

/// True if `later` has to wait for `earlier`.
fn waits(later: (Kind, &Range<u64>), earlier: (Kind, &Range<u64>), state: State) -> bool {
    match (later.0, earlier.0) {
        (Kind::Flush, Kind::Write) if mutated(Mutation::FlushBeforeWrites) => false,
        (Kind::Read, Kind::Write) if mutated(Mutation::ReadBeforeWrite) => false,
        (Kind::Write, Kind::Write) if mutated(Mutation::WriteBeforeWrite) => false,
        (Kind::Flush, Kind::Write) => state != State::Waiting(Start::Held),
        (Kind::Flush, _) | (_, Kind::Flush) | (Kind::Read, Kind::Read) => false,
        (Kind::Write, Kind::Read) if mutated(Mutation::WriteBeforeRead) => false,
        _ => later.1.start < earlier.1.end && earlier.1.start < later.1.end,
    }
}

impl Schedule {
    /// Adds a request. It may be ready at once: see [`Schedule::start_next`].
    ///
    /// With `shadow`, a read is also run by the other replica: later writes of its blocks wait for both, until
    /// [`Schedule::shadow_done`].
    pub fn submit(&mut self, request: DiskRequest, start: Start, shadow: bool) {
        let (kind, sectors, number) = (Kind::of(&request.op), request.op.sectors(), request.request);
        self.push(number, kind, sectors.clone(), State::Waiting(start), Some(request));
        if shadow && kind == Kind::Read && !mutated(Mutation::WriteBeforeBackupsRead) {
            self.push(number, kind, sectors, State::Shadow, None);
        }
    }

    fn push(
        &mut self,
        request: u64,
        kind: Kind,
        sectors: Range<u64>,
        state: State,
        body: Option<DiskRequest>,
    ) {
        let serial = self.next;
        self.next += 1;
        let mut waits_for = 0;
        // Reads that a backup runs too stay here until it has: as many as it lags behind.
        if state != State::Shadow && (kind != Kind::Read || self.writes > 0) {
            for earlier in &mut self.entries {
                if waits((kind, &sectors), (earlier.kind, &earlier.sectors), earlier.state) {
                    earlier.in_the_way_of.push(serial);
                    waits_for += 1;
                }
            }
        }
        self.writes += usize::from(kind == Kind::Write);
        let in_the_way_of = Vec::new();
        self.entries.push_back(Entry {
            serial,
            request,
            kind,
            sectors,
            state,
            body,
            again: false,
            waits_for,
            in_the_way_of,
        });
        self.note_ready(self.entries.len() - 1);
    }

    fn note_ready(&mut self, index: usize) {
        let entry = &self.entries[index];
        if entry.waits_for == 0 && entry.state == State::Waiting(Start::Now) {
            self.ready.push_back(entry.serial);
        }
    }

    fn find(&self, serial: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&serial, |entry| entry.serial).ok()
    }

    /// A request that may run and does not yet; it counts as running from here on.
    pub fn start_next(&mut self) -> Option<DiskRequest> {
        let serial = self.ready.pop_front()?;
        let index = self.find(serial)?;
        let entry = &mut self.entries[index];
        entry.state = State::Running;
        self.running += 1;
        match entry.kind {
            // It may have to run again, and carries no data.
            Kind::Read => entry.body.clone(),
            Kind::Write | Kind::Flush => entry.body.take(),
        }
    }

    /// A read that ran is not over: it may be run [`Schedule::again`], and until it is [`Schedule::done`] later writes of its
    /// blocks wait.
    pub fn pause(&mut self, request: u64) {
        let is_it = |entry: &&mut Entry| entry.request == request && entry.state == State::Running;
        if let Some(entry) = self.entries.iter_mut().find(is_it) {
            entry.state = State::Paused;
            self.running -= 1;
            if std::mem::take(&mut entry.again) {
                self.again(request);
            }
        }
    }

    /// Runs a read that is paused, or is about to be, once more.
    pub fn again(&mut self, request: u64) {
        let running = |entry: &&mut Entry| entry.request == request && entry.state == State::Running;
        match self.entries.iter_mut().find(running) {
            Some(entry) => entry.again = true,
            None => self.change(|entry| entry.request == request && entry.state == State::Paused),
        }
    }

    /// The Output Rule lets a held request go.
    pub fn release(&mut self, request: u64) {
        self.change(|entry| entry.request == request && entry.state == State::Waiting(Start::Held));
    }

    /// What the other replica was to do is to be done here: it is gone. Its runs of reads are over.
    pub fn take_over(&mut self) {
        if mutated(Mutation::ForgetReissue) {
            return self.forget_shadows();
        }
        self.change(|entry| entry.state == State::Waiting(Start::Elsewhere));
        self.forget_shadows();
    }

    fn change(&mut self, which: impl Fn(&Entry) -> bool) {
        for index in 0..self.entries.len() {
            if which(&self.entries[index]) {
                self.entries[index].state = State::Waiting(Start::Now);
                self.note_ready(index);
            }
        }
    }

    /// A request that runs here, or elsewhere, has ended; what waited for it may be ready now.
    pub fn done(&mut self, request: u64) {
        if let Some(index) = self.underway(request) {
            self.remove(index);
        }
    }

    fn underway(&self, request: u64) -> Option<usize> {
        let is_it = |entry: &Entry| {
            entry.request == request
                && matches!(entry.state, State::Running | State::Paused | State::Waiting(Start::Elsewhere))
        };
        // From the end: what runs was asked for lately.
        self.entries.iter().rposition(is_it)
    }

    /// True if another request waits for this one.
    pub fn is_waited_for(&self, request: u64) -> bool {
        self.underway(request).is_some_and(|index| !self.entries[index].in_the_way_of.is_empty())
    }

    /// The other replica has the data of a read that it runs too.
    pub fn shadow_done(&mut self, request: u64) {
        let is_it = |entry: &Entry| entry.request == request && entry.state == State::Shadow;
        if let Some(index) = self.entries.iter().position(is_it) {
            self.remove(index);
        }
    }

    /// There is no other replica that reads.
    pub fn forget_shadows(&mut self) {
        self.remove_all(State::Shadow);
    }

    fn remove_all(&mut self, state: State) {
        while let Some(index) = self.entries.iter().position(|entry| entry.state == state) {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let Some(entry) = self.entries.remove(index) else { return };
        self.running -= usize::from(entry.state == State::Running);
        self.writes -= usize::from(entry.kind == Kind::Write);
        for serial in &entry.in_the_way_of {
            if let Some(index) = self.find(*serial) {
                self.entries[index].waits_for -= 1;
                self.note_ready(index);
            }
        }
    }

    /// Sectors of the writes that the other replica is to carry out and is not known to have.
    pub fn writes_elsewhere(&self) -> Vec<Range<u64>> {
        let is_one =
            |entry: &&Entry| entry.kind == Kind::Write && entry.state == State::Waiting(Start::Elsewhere);
        self.entries.iter().filter(is_one).map(|entry| entry.sectors.clone()).collect()
    }

    /// What the other replica was to do is nobody's to do any more, and neither is a read that is paused; later requests wait for
    /// it no longer.
    pub fn forget_elsewhere(&mut self) {
        self.remove_all(State::Waiting(Start::Elsewhere));
        self.remove_all(State::Paused);
    }

    /// Forgets requests that do not run yet.
    pub fn clear_waiting(&mut self) {
        self.entries.retain(|entry| entry.state == State::Running);
        self.writes = self.entries.iter().filter(|entry| entry.kind == Kind::Write).count();
        self.ready.clear();
    }

    /// True if nothing runs here and nothing can start.
    pub fn is_idle(&self) -> bool {
        self.running == 0 && self.ready.is_empty()
    }

    /// How many requests may start now.
    pub fn startable(&self) -> usize {
        self.ready.len()
    }

    /// Requests known, in any state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if no request is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(request: u64, op: DiskOp) -> DiskRequest {
        DiskRequest { disk: 0, request, op }
    }

    fn write(sector: u64, sectors: usize) -> DiskOp {
        DiskOp::Write { sector, data: vec![0; sectors * 512] }
    }

    fn read(sector: u64, sectors: u32) -> DiskOp {
        DiskOp::Read { sector, len: sectors * 512 }
    }

    fn ready(schedule: &mut Schedule) -> Vec<u64> {
        std::iter::from_fn(|| schedule.start_next()).map(|request| request.request).collect()
    }

    fn submit(schedule: &mut Schedule, number: u64, op: DiskOp, start: Start) {
        schedule.submit(request(number, op), start, false);
    }

    #[test]
    fn overlapping_requests_run_in_order_and_others_at_once() {
        let mut schedule = Schedule::default();
        for (number, op) in
            [write(0, 4), read(3, 2), write(4, 1), read(8, 1), read(8, 1)].into_iter().enumerate()
        {
            submit(&mut schedule, number as u64, op, Start::Now);
        }
        // 1 overlaps 0; 2 overlaps 1, which waits; two reads of the same block do not wait for each other.
        assert_eq!(ready(&mut schedule), [0, 3, 4]);
        assert!(schedule.is_waited_for(0) && !schedule.is_waited_for(3));
        schedule.done(3);
        assert!(ready(&mut schedule).is_empty());
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
        schedule.done(1);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.done(2);
        schedule.done(4);
        assert!(schedule.is_idle() && schedule.is_empty());
    }

    #[test]
    fn a_flush_waits_for_earlier_writes_that_have_begun_or_may() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, write(0, 1), Start::Now);
        submit(&mut schedule, 1, write(20, 1), Start::Held);
        submit(&mut schedule, 2, DiskOp::Flush, Start::Now);
        submit(&mut schedule, 3, write(9, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [0, 3]);
        schedule.done(3);
        schedule.release(1);
        assert_eq!(ready(&mut schedule), [1]);
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [2], "a write that was held at the flush does not hold it up");
    }

    #[test]
    fn discards_and_zeroes_are_writes() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, DiskOp::Discard { sector: 0, count: 8 }, Start::Now);
        submit(&mut schedule, 1, read(7, 1), Start::Now);
        submit(&mut schedule, 2, DiskOp::WriteZeroes { sector: 7, count: 1, unmap: false }, Start::Now);
        submit(&mut schedule, 3, DiskOp::Flush, Start::Now);
        for number in 0..4 {
            assert_eq!(ready(&mut schedule), [number]);
            schedule.done(number);
        }
    }

    #[test]
    fn a_read_waits_for_a_held_write_of_its_blocks() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, write(0, 2), Start::Held);
        submit(&mut schedule, 1, read(1, 1), Start::Now);
        submit(&mut schedule, 2, read(2, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.release(0);
        assert_eq!(ready(&mut schedule), [0]);
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
    }

    /// On a backup that reads a shared disk for itself: a read that follows a write waits until the log says that the primary
    /// has written; a write is not run at all.
    #[test]
    fn what_is_done_elsewhere_is_waited_for_and_taken_over_in_order() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, write(0, 1), Start::Elsewhere);
        submit(&mut schedule, 1, read(0, 1), Start::Now);
        submit(&mut schedule, 2, write(0, 1), Start::Elsewhere);
        submit(&mut schedule, 3, write(5, 1), Start::Elsewhere);
        submit(&mut schedule, 4, DiskOp::Flush, Start::Elsewhere);
        assert!(ready(&mut schedule).is_empty());
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
        schedule.take_over();
        assert_eq!(ready(&mut schedule), [3], "the read still runs");
        schedule.done(1);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.done(2);
        assert!(ready(&mut schedule).is_empty());
        schedule.done(3);
        assert_eq!(ready(&mut schedule), [4]);
    }

    /// On a backup with a copy of its own, at an end in order: a write that waits for a read of the primary's is to be done all the
    /// same, as the primary has done it.
    #[test]
    fn what_waits_for_the_other_replica_can_be_let_go() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, read(0, 1), Start::Elsewhere);
        submit(&mut schedule, 1, write(0, 1), Start::Now);
        submit(&mut schedule, 2, read(8, 1), Start::Now);
        submit(&mut schedule, 3, write(8, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.pause(2);
        schedule.forget_elsewhere();
        assert_eq!(ready(&mut schedule), [1, 3]);
        schedule.done(1);
        schedule.done(3);
        assert!(schedule.is_empty());
    }

    /// A backup's read that failed is run again from its own place: the primary's write of the same blocks waits for it.
    #[test]
    fn a_read_that_is_run_again_keeps_its_place() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, read(0, 2), Start::Now);
        submit(&mut schedule, 1, write(1, 1), Start::Elsewhere);
        submit(&mut schedule, 2, write(1, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [0]);
        schedule.pause(0);
        assert!(schedule.is_idle() && ready(&mut schedule).is_empty());
        schedule.again(0);
        assert_eq!(ready(&mut schedule), [0]);
        // Whoever wants it again may be faster than the thread that ran it.
        schedule.again(0);
        schedule.pause(0);
        assert_eq!(ready(&mut schedule), [0]);
        schedule.pause(0);
        schedule.done(0);
        schedule.done(1);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.done(2);

        submit(&mut schedule, 3, read(0, 2), Start::Now);
        submit(&mut schedule, 4, write(1, 1), Start::Elsewhere);
        assert_eq!(ready(&mut schedule), [3]);
        schedule.pause(3);
        schedule.take_over();
        assert!(ready(&mut schedule).is_empty());
        schedule.again(3);
        assert_eq!(ready(&mut schedule), [3]);
        schedule.done(3);
        assert_eq!(ready(&mut schedule), [4]);
    }

    /// On a primary whose backup reads the shared disk for itself.
    #[test]
    fn a_write_waits_for_the_other_replicas_read() {
        let mut schedule = Schedule::default();
        schedule.submit(request(0, read(0, 4)), Start::Now, true);
        submit(&mut schedule, 1, write(3, 1), Start::Now);
        submit(&mut schedule, 2, read(3, 1), Start::Now);
        submit(&mut schedule, 3, write(4, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [0, 3]);
        schedule.done(0);
        assert!(ready(&mut schedule).is_empty());
        schedule.shadow_done(0);
        assert_eq!(ready(&mut schedule), [1]);

        let mut schedule = Schedule::default();
        schedule.submit(request(0, read(0, 4)), Start::Now, true);
        submit(&mut schedule, 1, write(3, 1), Start::Now);
        assert_eq!(ready(&mut schedule), [0]);
        schedule.forget_shadows();
        assert!(ready(&mut schedule).is_empty(), "its own read still runs");
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
    }

    #[test]
    fn waiting_requests_can_be_dropped() {
        let mut schedule = Schedule::default();
        submit(&mut schedule, 0, write(0, 1), Start::Now);
        submit(&mut schedule, 1, write(0, 1), Start::Now);
        submit(&mut schedule, 2, write(9, 1), Start::Elsewhere);
        assert_eq!(ready(&mut schedule), [0]);
        schedule.clear_waiting();
        assert!(!schedule.is_idle());
        schedule.done(0);
        assert!(schedule.is_idle() && schedule.is_empty());
    }

    fn ops() -> impl Strategy<Value = DiskOp> {
        prop_oneof![
            (0..16_u64, 1..5_u32).prop_map(|(sector, sectors)| read(sector, sectors)),
            (0..16_u64, 1..5_usize).prop_map(|(sector, sectors)| write(sector, sectors)),
            (0..16_u64, 1..5_u32).prop_map(|(sector, count)| DiskOp::Discard { sector, count }),
            Just(DiskOp::Flush),
        ]
    }

    fn must_wait(later: &DiskOp, earlier: &DiskOp) -> bool {
        let (a, b) = (later.sectors(), earlier.sectors());
        let overlap = a.start < b.end && b.start < a.end && (later.is_write() || earlier.is_write());
        overlap || *later == DiskOp::Flush && earlier.is_write()
    }

    proptest! {
        /// Whatever order running requests end in, and wherever they run: everything runs, once, and never beside or before
        /// what it waits for.
        #[test]
        fn every_request_runs_after_those_it_waits_for(
            ops in prop::collection::vec((ops(), any::<bool>()), 1..24),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 24),
            takeover in 0..24_usize,
        ) {
            let mut schedule = Schedule::default();
            for (number, (op, elsewhere)) in ops.iter().enumerate() {
                let start = if *elsewhere { Start::Elsewhere } else { Start::Now };
                submit(&mut schedule, number as u64, op.clone(), start);
            }
            let mut running = Vec::new();
            let mut ended = Vec::new();
            for (step, pick) in picks.into_iter().enumerate() {
                if step == takeover {
                    schedule.take_over();
                }
                for started in ready(&mut schedule) {
                    for earlier in 0..started {
                        if must_wait(&ops[started as usize].0, &ops[earlier as usize].0) {
                            prop_assert!(ended.contains(&earlier));
                        }
                    }
                    running.push(started);
                }
                if running.is_empty() {
                    if step < takeover {
                        schedule.take_over();
                        continue;
                    }
                    break;
                }
                let done = running.swap_remove(pick.index(running.len()));
                schedule.done(done);
                ended.push(done);
            }
            schedule.take_over();
            loop {
                running.extend(ready(&mut schedule));
                let Some(done) = running.pop() else { break };
                schedule.done(done);
                ended.push(done);
            }
            prop_assert_eq!(ended.len(), ops.len());
            prop_assert!(schedule.is_idle() && schedule.is_empty());
        }
    }
}
