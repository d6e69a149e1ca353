//! Which disk requests may run now: those that do not overlap an earlier one. No threads and no I/O of its own.

use std::collections::VecDeque;

use ft_core::output::{DiskOp, DiskRequest};

#[derive(Debug)]
struct Entry {
    request: DiskRequest,
    running: bool,
}

/// The requests of one disk, in the order of submission.
///
/// Two requests that touch a common block, at least one of them writing, run one after the other in that order. A flush waits
/// for all writes before it; later requests do not wait for a flush.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: VecDeque<Entry>,
}

/// True if `later` has to wait for `earlier`.
fn waits(later: &DiskOp, earlier: &DiskOp) -> bool {
    let overlap = || {
        let (a, b) = (later.sectors(), earlier.sectors());
        a.start < b.end && b.start < a.end
    };
    match (later, earlier) {
        (DiskOp::Flush, earlier) if earlier.is_write() => true,
        (DiskOp::Flush, _) | (_, DiskOp::Flush) | (DiskOp::Read { .. }, DiskOp::Read { .. }) => false,
        _ => overlap(),
    }
}

impl Schedule {
    /// Adds a request. It may be ready at once: see [`Schedule::start_next`].
    pub fn submit(&mut self, request: DiskRequest) {
        self.entries.push_back(Entry { request, running: false });
    }

    /// The first request that may run and does not yet; it counts as running from here on.
    pub fn start_next(&mut self) -> Option<DiskRequest> {
        let ready = (0..self.entries.len()).find(|index| {
            let entry = &self.entries[*index];
            let mut earlier = self.entries.iter().take(*index);
            !entry.running && !earlier.any(|earlier| waits(&entry.request.op, &earlier.request.op))
        })?;
        self.entries[ready].running = true;
        Some(self.entries[ready].request.clone())
    }

    /// A running request is done; what waited for it may be ready now.
    pub fn done(&mut self, request: u64) {
        self.entries.retain(|entry| !(entry.running && entry.request.request == request));
    }

    /// Forgets requests that do not run yet.
    pub fn clear_waiting(&mut self) {
        self.entries.retain(|entry| entry.running);
    }

    /// True if there is nothing running or waiting.
    pub fn is_idle(&self) -> bool {
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

    #[test]
    fn overlapping_requests_run_in_order_and_others_at_once() {
        let mut schedule = Schedule::default();
        for (number, op) in
            [write(0, 4), read(3, 2), write(4, 1), read(8, 1), read(8, 1)].into_iter().enumerate()
        {
            schedule.submit(request(number as u64, op));
        }
        // 1 overlaps 0; 2 overlaps 1, which waits; two reads of the same block do not wait for each other.
        assert_eq!(ready(&mut schedule), [0, 3, 4]);
        schedule.done(3);
        assert!(ready(&mut schedule).is_empty());
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
        schedule.done(1);
        assert_eq!(ready(&mut schedule), [2]);
        schedule.done(2);
        schedule.done(4);
        assert!(schedule.is_idle());
    }

    #[test]
    fn a_flush_waits_for_earlier_writes_only() {
        let mut schedule = Schedule::default();
        schedule.submit(request(0, write(0, 1)));
        schedule.submit(request(1, DiskOp::Flush));
        schedule.submit(request(2, write(9, 1)));
        assert_eq!(ready(&mut schedule), [0, 2]);
        schedule.done(2);
        assert!(ready(&mut schedule).is_empty());
        schedule.done(0);
        assert_eq!(ready(&mut schedule), [1]);
    }

    #[test]
    fn waiting_requests_can_be_dropped() {
        let mut schedule = Schedule::default();
        schedule.submit(request(0, write(0, 1)));
        schedule.submit(request(1, write(0, 1)));
        assert_eq!(ready(&mut schedule), [0]);
        schedule.clear_waiting();
        assert!(!schedule.is_idle());
        schedule.done(0);
        assert!(schedule.is_idle());
    }

    fn ops() -> impl Strategy<Value = DiskOp> {
        prop_oneof![
            (0..16_u64, 1..5_u32).prop_map(|(sector, sectors)| read(sector, sectors)),
            (0..16_u64, 1..5_usize).prop_map(|(sector, sectors)| write(sector, sectors)),
            Just(DiskOp::Flush),
        ]
    }

    proptest! {
        /// Whatever order running requests end in: everything runs, once, and never beside or before what it waits for.
        #[test]
        fn every_request_runs_after_those_it_waits_for(ops in prop::collection::vec(ops(), 1..24), picks in prop::collection::vec(any::<prop::sample::Index>(), 24)) {
            let mut schedule = Schedule::default();
            for (number, op) in ops.iter().enumerate() {
                schedule.submit(request(number as u64, op.clone()));
            }
            let mut running = Vec::new();
            let mut ended = Vec::new();
            for pick in picks {
                for started in ready(&mut schedule) {
                    for earlier in 0..started {
                        if waits(&ops[started as usize], &ops[earlier as usize]) {
                            prop_assert!(ended.contains(&earlier));
                        }
                    }
                    running.push(started);
                }
                if running.is_empty() {
                    break;
                }
                let done = running.swap_remove(pick.index(running.len()));
                schedule.done(done);
                ended.push(done);
            }
            prop_assert_eq!(ended.len(), ops.len());
            prop_assert!(schedule.is_idle());
        }
    }
}
