//! The disks of a replica, in either role.
//!
//! Live, a request that has ended becomes an input. A backup carries out some requests itself (its own copy's writes, reads of
//! its own) and keeps their results until the log says that the primary's run of the request has ended; all others are
//! carried out elsewhere, which it is told by the log too. Going live turns what is kept into inputs and what was elsewhere
//! into requests of its own, in the order in which the guest made them ([`ft_devices::backend::schedule`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::output::{DiskOp, DiskRequest};
use ft_core::reads::ReadId;
use ft_devices::backend::disk::DiskBackend;
use ft_devices::backend::pool::{DiskPool, Ended, Over};
use ft_devices::backend::schedule::Start;
use ft_devices::ft::DiskPolicies;
use ft_vcpu::Kick;

use super::inputs::Inputs;

/// Threads of each disk, with the page cache and past it: there a request waits for the medium, and more of them may wait at
/// once (docs/measurements.md has figures).
const THREADS: [usize; 2] = [2, 8];

/// A disk and the number of a request on it.
pub(super) type RequestId = (u16, u64);

/// The disks of a replica.
pub(super) struct Disks {
    pool: DiskPool,
    ends: Arc<Ends>,
    policies: DiskPolicies,
    closed: Mutex<bool>,
}

/// What becomes of requests that end.
struct Ends {
    state: Mutex<State>,
    inputs: Arc<Inputs>,
    kick: Arc<Kick>,
    vcpu: Arc<OnceLock<Thread>>,
    policies: DiskPolicies,
}

#[derive(Default)]
struct State {
    /// What this side does itself as a backup; `None` while it is none.
    own: Option<Own>,
    /// Live: writes and flushes of this side's own copy that failed.
    failed: BTreeSet<RequestId>,
}

#[derive(Default)]
struct Own {
    /// What runs, or has ended and was not told of by the log.
    running: BTreeSet<RequestId>,
    /// Reads among those that have ended that failed here, and may be run again.
    failed_reads: BTreeSet<RequestId>,
    ended: BTreeMap<RequestId, DiskDone>,
    /// Reads of a shared disk that have ended and that the protocol was not told of; true if a write waits for it.
    reads: Vec<(ReadId, bool)>,
}

/// What a backup has of a request that the primary's log completes.
#[derive(Debug)]
pub(super) enum OwnResult {
    /// It does not carry out this request itself.
    NotOwn,
    /// It still runs.
    Running,
    /// It has ended.
    Ended(DiskDone),
}

impl Ends {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A backup's read that failed may have to be run again: the primary's may not have.
    fn end(&self, ended: Ended) -> Over {
        let Ended { done, read, waited_for } = ended;
        let id = (done.disk, done.request);
        let policy = self.policies.get(usize::from(done.disk));
        let mut state = self.state();
        let mut over = Over::Yes;
        if let Some(own) = &mut state.own {
            if read && done.status != DiskStatus::Ok {
                over = Over::Perhaps;
                own.failed_reads.insert(id);
            }
            if read && done.status == DiskStatus::Ok && policy.is_some_and(|policy| policy.reads_twice()) {
                own.reads.push((id, waited_for));
            }
            own.ended.insert(id, done);
        } else {
            if !read && done.status != DiskStatus::Ok && policy.is_some_and(|policy| policy.is_own()) {
                state.failed.insert(id);
            }
            // Under the lock: what was kept goes first.
            self.inputs.push(Input::DiskDone(done));
            self.kick.set();
        }
        drop(state);
        self.vcpu.get().map(Thread::unpark);
        over
    }
}

impl Disks {
    pub(super) fn new(
        disks: Vec<DiskBackend>,
        direct: bool,
        policies: DiskPolicies,
        inputs: Arc<Inputs>,
        kick: Arc<Kick>,
        vcpu: Arc<OnceLock<Thread>>,
    ) -> io::Result<Self> {
        let state = Mutex::default();
        let ends = Arc::new(Ends { state, inputs, kick, vcpu, policies: Arc::clone(&policies) });
        let to = Arc::clone(&ends);
        let pool = DiskPool::new(disks, THREADS[usize::from(direct)], move |ended| to.end(ended))?;
        Ok(Self { pool, ends, policies, closed: Mutex::new(false) })
    }

    /// How each disk is replicated.
    pub(super) fn policies(&self) -> &DiskPolicies {
        &self.policies
    }

    fn start(&self, request: DiskRequest, start: Start, shadow: bool) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        // The board makes requests for its own disks only: an error would be a mistake of this program.
        if !*closed && let Err(error) = self.pool.submit(request, start, shadow) {
            eprintln!("ft-vm: {error}");
        }
    }

    // Live.

    /// A write goes into the gate.
    pub(super) fn hold(&self, request: DiskRequest) {
        self.start(request, Start::Held, false);
    }

    /// A write has come out of the gate.
    pub(super) fn release(&self, disk: u16, request: u64) {
        self.pool.release(disk, request);
    }

    /// Carries out a request that need not be held. With `shadow` it is a read that the backup runs too.
    pub(super) fn submit(&self, request: DiskRequest, shadow: bool) {
        self.start(request, Start::Now, shadow);
    }

    /// The backup has the data of a read that it runs too.
    pub(super) fn read_finished(&self, disk: u16, request: u64) {
        self.pool.shadow_done(disk, request);
    }

    /// There is no backup that reads.
    pub(super) fn forget_backup(&self) {
        self.pool.forget_shadows();
    }

    /// True, once, if this is a write or flush of this side's own copy that failed.
    pub(super) fn take_failure(&self, id: RequestId) -> bool {
        let mut state = self.ends.state();
        !state.failed.is_empty() && state.failed.remove(&id)
    }

    // A backup.

    /// From here on results are kept.
    pub(super) fn follow(&self) {
        self.ends.state().own.get_or_insert_default();
    }

    /// Carries out, as a backup, a request of the machine's.
    pub(super) fn submit_own(&self, request: DiskRequest) {
        if let Some(own) = &mut self.ends.state().own {
            own.running.insert((request.disk, request.request));
        }
        self.start(request, Start::Now, false);
    }

    /// The primary carries out this request.
    pub(super) fn submit_elsewhere(&self, request: DiskRequest) {
        self.start(request, Start::Elsewhere, false);
    }

    /// What this side has of a request that the log completes. An ended one is taken.
    pub(super) fn take_own(&self, id: RequestId) -> OwnResult {
        let mut state = self.ends.state();
        let Some(own) = &mut state.own else { return OwnResult::NotOwn };
        match own.ended.remove(&id) {
            Some(done) => OwnResult::Ended(done),
            None if own.running.contains(&id) => OwnResult::Running,
            None => OwnResult::NotOwn,
        }
    }

    /// A read that failed here and not on the primary is run again.
    pub(super) fn retry(&self, id: RequestId) {
        if let Some(own) = &mut self.ends.state().own {
            own.failed_reads.remove(&id);
        }
        self.pool.again(id.0, id.1);
    }

    /// The log's completion of a request was executed.
    pub(super) fn completed(&self, id: RequestId) {
        if let Some(own) = &mut self.ends.state().own {
            own.running.remove(&id);
            own.failed_reads.remove(&id);
        }
        self.pool.done_elsewhere(id.0, id.1);
    }

    /// Reads of a shared disk that have ended since the last call; true if a write is known to wait for it.
    pub(super) fn take_reads(&self) -> Vec<(ReadId, bool)> {
        match &mut self.ends.state().own {
            Some(own) if !own.reads.is_empty() => std::mem::take(&mut own.reads),
            _ => Vec::new(),
        }
    }

    /// The sectors of the writes to a disk that the log does not complete: they may still land, whoever is live.
    pub(super) fn writes_elsewhere(&self, disk: u16) -> Vec<Range<u64>> {
        self.pool.writes_elsewhere(disk)
    }

    /// Goes live: what has ended becomes inputs, what was elsewhere is done here.
    pub(super) fn take_over(&self) {
        let mut failed_reads = BTreeSet::new();
        {
            let mut state = self.ends.state();
            if let Some(own) = state.own.take() {
                failed_reads = own.failed_reads;
                for (_, done) in own.ended.into_iter().filter(|(id, _)| !failed_reads.contains(id)) {
                    self.ends.inputs.push(Input::DiskDone(done));
                }
            }
        }
        self.pool.take_over();
        // The primary may have had their data: only a failure of this side's as the live one is the guest's to know.
        failed_reads.into_iter().for_each(|(disk, request)| self.pool.again(disk, request));
    }

    /// Makes all that was written durable, past the schedule: when nothing runs any more. True if it went well, and no write of this
    /// side's own has failed that the guest was not told of: then a copy is what its guest made of it.
    pub(super) fn flush_all(&self) -> bool {
        {
            let state = self.ends.state();
            let failed = |own: &Own| {
                let mut ended = own.ended.iter();
                ended.any(|(id, done)| done.status != DiskStatus::Ok && !own.failed_reads.contains(id))
            };
            if !state.failed.is_empty() || state.own.as_ref().is_some_and(failed) {
                return false;
            }
        }
        let flush = |(disk, backend): (usize, &DiskBackend)| {
            let request = DiskRequest { disk: disk as u16, request: u64::MAX, op: DiskOp::Flush };
            backend.execute(&request).status == DiskStatus::Ok
        };
        self.pool.disks().enumerate().all(flush)
    }

    /// Waits for what runs and lets nothing more begin. With `finish` the guest ended in order: what it has asked for is done first,
    /// so that a backup's own copy has what the primary's has.
    pub(super) fn close(&self, finish: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if finish {
            self.pool.forget_elsewhere();
            self.pool.wait_idle();
        }
        // What still waits must not begin when this side has said that it is gone.
        self.pool.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use ft_devices::backend::medium::Medium;
    use ft_devices::ft::DiskPolicy;
    use ft_devices::ft::reads::{OnBackup, OnPrimary};
    use ft_devices::ft::sharing::{Separate, Shared};

    use super::*;

    /// Fails so many reads, then gives sevens.
    #[derive(Debug)]
    struct Failing(AtomicUsize);

    impl Medium for Failing {
        fn len(&self) -> u64 {
            1 << 20
        }
        fn read(&self, buffer: &mut [u8], _offset: u64) -> io::Result<()> {
            let fails = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            buffer.fill(7);
            if fails.is_ok() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
        fn write(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn zero(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn disks(policy: DiskPolicy, failures: usize) -> (Disks, Arc<Inputs>) {
        let backend = DiskBackend::new(Box::new(Failing(AtomicUsize::new(failures))), Path::new("a disk"));
        let inputs = Arc::new(Inputs::default());
        let (kick, vcpu) = (Arc::new(Kick::new()), Arc::default());
        let policies: DiskPolicies = Arc::from([policy]);
        (Disks::new(vec![backend], false, policies, Arc::clone(&inputs), kick, vcpu).unwrap(), inputs)
    }

    fn read(request: u64) -> DiskRequest {
        DiskRequest { disk: 0, request, op: DiskOp::Read { sector: 0, len: 512 } }
    }

    fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < until, "it never happened");
            std::thread::yield_now();
        }
    }

    fn ended(disks: &Disks, id: RequestId) -> DiskDone {
        wait(|| match disks.take_own(id) {
            OwnResult::Ended(done) => Some(done),
            OwnResult::Running | OwnResult::NotOwn => None,
        })
    }

    fn input(inputs: &Inputs) -> DiskDone {
        match wait(|| inputs.pop_if(|_| true)) {
            Input::DiskDone(done) => done,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_read_that_failed_on_a_backup_is_run_again_until_it_succeeds() {
        let (disks, _) = disks(DiskPolicy::new(Shared, OnBackup), 2);
        disks.follow();
        disks.submit_own(read(0));
        for _ in 0..2 {
            assert_eq!(ended(&disks, (0, 0)).status, DiskStatus::IoError);
            assert!(disks.take_reads().is_empty(), "it has no data");
            disks.retry((0, 0));
        }
        let done = ended(&disks, (0, 0));
        assert_eq!((done.status, done.data), (DiskStatus::Ok, vec![7; 512]));
        assert_eq!(disks.take_reads(), [((0, 0), false)]);
        disks.completed((0, 0));
        assert!(matches!(disks.take_own((0, 0)), OwnResult::NotOwn));
    }

    /// A failure that the primary perhaps did not have is not the guest's: going live, it is run once more.
    #[test]
    fn going_live_forgets_failures_of_reads_and_keeps_results() {
        let (disks, inputs) = disks(DiskPolicy::new(Shared, OnBackup), 1);
        disks.follow();
        disks.submit_own(read(0));
        let failed = || disks.ends.state().own.as_ref().is_some_and(|own| !own.failed_reads.is_empty());
        wait(|| failed().then_some(()));
        disks.submit_own(read(1));
        let both = || disks.ends.state().own.as_ref().is_some_and(|own| own.ended.len() == 2);
        wait(|| both().then_some(()));
        let write = DiskOp::Write { sector: 0, data: vec![1; 512] };
        disks.submit_elsewhere(DiskRequest { disk: 0, request: 2, op: write });
        assert_eq!(disks.writes_elsewhere(0), vec![0..1]);
        assert!(!inputs.any());
        disks.take_over();
        let mut done = [input(&inputs), input(&inputs), input(&inputs)];
        done.sort_by_key(|done| done.request);
        let status = done.map(|done| done.status);
        assert_eq!(status, [DiskStatus::Ok, DiskStatus::Ok, DiskStatus::IoError]);
        assert!(!disks.take_failure((0, 2)), "a shared disk's failure is the guest's");
    }

    /// On an own copy every write is done, also one that waits for a read of the primary's.
    #[test]
    fn an_end_in_order_leaves_no_write_undone() {
        let (disks, _) = disks(DiskPolicy::new(Separate, OnPrimary), 0);
        disks.follow();
        disks.submit_elsewhere(read(0));
        assert!(disks.flush_all());
        let op = DiskOp::Write { sector: 0, data: vec![1; 512] };
        disks.submit_own(DiskRequest { disk: 0, request: 1, op });
        assert!(matches!(disks.take_own((0, 1)), OwnResult::Running), "it waits for the read");
        disks.close(true);
        assert!(!disks.flush_all(), "it was done, and failed");
        assert!(matches!(disks.take_own((0, 1)), OwnResult::Ended(_)));
    }

    #[test]
    fn a_failed_write_of_an_own_copy_is_told_once() {
        let (disks, inputs) = disks(DiskPolicy::new(Separate, OnBackup), 0);
        let op = DiskOp::Write { sector: 0, data: vec![1; 512] };
        disks.submit(DiskRequest { disk: 0, request: 5, op }, false);
        assert_eq!(input(&inputs).status, DiskStatus::IoError);
        assert!(!disks.take_failure((0, 4)));
        assert!(disks.take_failure((0, 5)) && !disks.take_failure((0, 5)));
    }
}
