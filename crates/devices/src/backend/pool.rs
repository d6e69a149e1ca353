//! A few threads for each disk that carry out its requests, in an order that [`Schedule`] allows.
//!
//! Each disk has threads of its own: one that hangs holds up no other.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ft_core::input::DiskDone;
use ft_core::output::{DiskOp, DiskRequest};

use super::disk::DiskBackend;
use super::schedule::{Schedule, Start};

/// Disks and the threads that work on them. Dropping it drops what does not run yet, waits for what runs, and joins the
/// threads.
pub struct DiskPool {
    disks: Vec<Arc<Worker>>,
    threads: Vec<JoinHandle<()>>,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub done: DiskDone,
    /// It was a read; otherwise it changed the disk, or was to make changes durable.
    pub read: bool,
    /// Another request, running here or elsewhere, waited for it.
    pub waited_for: bool,
}

/// Whether a request that has ended is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It is.
    Yes,
    /// A read that may be run again ([`DiskPool::again`]).
    Perhaps,
}

type OnDone = dyn Fn(Ended) -> Over + Send + Sync;

struct Worker {
    disk: DiskBackend,
    on_done: Arc<OnDone>,
    state: Mutex<State>,
    /// Something can start, or the pool closes.
    work: Condvar,
    /// Nothing runs and nothing can start.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    closing: bool,
}

/// A request for a disk that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no disk {0}")]
pub struct NoSuchDisk(pub u16);

impl std::fmt::Debug for DiskPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let disks: Vec<_> = self.disks.iter().map(|worker| &worker.disk).collect();
        f.debug_struct("DiskPool").field("disks", &disks).field("threads", &self.threads.len()).finish()
    }
}

impl DiskPool {
    /// Starts `threads` threads, at least one, for each of `disks`, which come in the order of the config. `on_done` is called
    /// on one of them for each request that ends; it must not call back into the pool's `wait_idle`, `abort` or drop.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn new(
        disks: Vec<DiskBackend>,
        threads: usize,
        on_done: impl Fn(Ended) -> Over + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let on_done: Arc<OnDone> = Arc::new(on_done);
        let worker = |disk| {
            let (on_done, state) = (Arc::clone(&on_done), Mutex::default());
            Arc::new(Worker { disk, on_done, state, work: Condvar::new(), idle: Condvar::new() })
        };
        let mut pool = Self { disks: disks.into_iter().map(worker).collect(), threads: Vec::new() };
        for (disk, worker) in pool.disks.iter().enumerate() {
            for index in 0..threads.max(1) {
                let worker = Arc::clone(worker);
                let builder = std::thread::Builder::new().name(format!("disk {disk}.{index}"));
                pool.threads.push(builder.spawn(move || worker.work())?);
            }
        }
        Ok(pool)
    }

    /// Adds a request, see [`Schedule::submit`].
    ///
    /// # Errors
    /// There is no such disk.
    pub fn submit(&self, request: DiskRequest, start: Start, shadow: bool) -> Result<(), NoSuchDisk> {
        let worker = self.disks.get(usize::from(request.disk)).ok_or(NoSuchDisk(request.disk))?;
        worker.change(|schedule| schedule.submit(request, start, shadow));
        Ok(())
    }

    fn with(&self, disk: u16, change: impl FnOnce(&mut Schedule)) {
        if let Some(worker) = self.disks.get(usize::from(disk)) {
            worker.change(change);
        }
    }

    /// See [`Schedule::release`].
    pub fn release(&self, disk: u16, request: u64) {
        self.with(disk, |schedule| schedule.release(request));
    }

    /// See [`Schedule::again`].
    pub fn again(&self, disk: u16, request: u64) {
        self.with(disk, |schedule| schedule.again(request));
    }

    /// The other replica has carried out a request that was submitted as [`Start::Elsewhere`], or that may be run again.
    pub fn done_elsewhere(&self, disk: u16, request: u64) {
        self.with(disk, |schedule| {
            schedule.done(request);
        });
    }

    /// See [`Schedule::shadow_done`].
    pub fn shadow_done(&self, disk: u16, request: u64) {
        self.with(disk, |schedule| schedule.shadow_done(request));
    }

    /// See [`Schedule::forget_shadows`].
    pub fn forget_shadows(&self) {
        self.disks.iter().for_each(|worker| worker.change(Schedule::forget_shadows));
    }

    /// See [`Schedule::take_over`].
    pub fn take_over(&self) {
        self.disks.iter().for_each(|worker| worker.change(Schedule::take_over));
    }

    /// See [`Schedule::writes_elsewhere`].
    pub fn writes_elsewhere(&self, disk: u16) -> Vec<Range<u64>> {
        let worker = self.disks.get(usize::from(disk));
        worker.map_or_else(Vec::new, |worker| worker.lock().schedule.writes_elsewhere())
    }

    /// See [`Schedule::forget_elsewhere`].
    pub fn forget_elsewhere(&self) {
        self.disks.iter().for_each(|worker| worker.change(Schedule::forget_elsewhere));
    }

    /// Waits until nothing runs here and nothing can start.
    pub fn wait_idle(&self) {
        for worker in &self.disks {
            let mut state = worker.lock();
            while !state.schedule.is_idle() {
                state = worker.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Drops the requests that do not run yet (they give no completion) and waits for those that run.
    pub fn abort(&self) {
        self.disks.iter().for_each(|worker| worker.lock().schedule.clear_waiting());
        self.wait_idle();
    }

    /// The disks, in the order of the config.
    pub fn disks(&self) -> impl ExactSizeIterator<Item = &DiskBackend> {
        self.disks.iter().map(|worker| &worker.disk)
    }
}

impl Drop for DiskPool {
    fn drop(&mut self) {
        for worker in &self.disks {
            let mut state = worker.lock();
            state.schedule.clear_waiting();
            state.closing = true;
            drop(state);
            worker.work.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// A request that runs. It ends even if the callback panics, or the pool could never be closed.
struct Running<'a> {
    worker: &'a Worker,
    request: u64,
    over: Over,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.worker.change(|schedule| match self.over {
            Over::Yes => schedule.done(self.request),
            Over::Perhaps => schedule.pause(self.request),
        });
    }
}

impl Worker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Schedule)) {
        let mut state = self.lock();
        change(&mut state.schedule);
        let (startable, idle) = (state.schedule.startable(), state.schedule.is_idle());
        drop(state);
        match startable {
            0 => {}
            1 => self.work.notify_one(),
            _ => self.work.notify_all(),
        }
        if idle {
            self.idle.notify_all();
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.schedule.start_next() {
                drop(state);
                self.run(&request);
                state = self.lock();
            } else if state.closing {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn run(&self, request: &DiskRequest) {
        // Its end is told before what waits for it starts: so ends are told in the order of the requests.
        let mut running = Running { worker: self, request: request.request, over: Over::Yes };
        let done = self.disk.execute(request);
        let waited_for = self.lock().schedule.is_waited_for(request.request);
        let read = matches!(request.op, DiskOp::Read { .. });
        running.over = (self.on_done)(Ended { done, read, waited_for });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::file::{DiskOptions, Lock};
    use super::*;
    use ft_core::input::DiskStatus;

    fn options(dir: &tempfile::TempDir) -> DiskOptions {
        DiskOptions {
            path: dir.path().join("disk"),
            size: Some(64 << 10),
            create: true,
            read_only: false,
            direct: false,
            lock: Lock::Alone,
        }
    }

    fn pool(options: &DiskOptions) -> (DiskPool, Receiver<DiskDone>) {
        let (sender, receiver) = channel();
        let disk = DiskBackend::open(options).unwrap();
        let pool = DiskPool::new(vec![disk], 3, move |ended: Ended| {
            sender.send(ended.done).unwrap();
            Over::Yes
        })
        .unwrap();
        (pool, receiver)
    }

    fn submit(pool: &DiskPool, request: u64, op: DiskOp) {
        pool.submit(DiskRequest { disk: 0, request, op }, Start::Now, false).unwrap();
    }

    #[test]
    fn writes_of_one_block_land_in_order_and_reads_see_them() {
        let dir = tempfile::tempdir().unwrap();
        let (pool, done) = pool(&options(&dir));
        for round in 0..100_u64 {
            submit(&pool, 2 * round, DiskOp::Write { sector: 5, data: vec![round as u8; 1024] });
            submit(&pool, 2 * round + 1, DiskOp::Read { sector: 6, len: 512 });
        }
        submit(&pool, 200, DiskOp::Flush);
        pool.wait_idle();
        let mut reads = 0;
        let mut flushes = 0;
        for done in done.try_iter() {
            assert_eq!(done.status, DiskStatus::Ok);
            if done.request == 200 {
                flushes += 1;
            } else if done.request % 2 == 1 {
                assert_eq!(done.data, vec![(done.request / 2) as u8; 512]);
                reads += 1;
            }
        }
        assert_eq!((reads, flushes), (100, 1));
        let nowhere = DiskRequest { disk: 1, request: 0, op: DiskOp::Flush };
        assert_eq!(pool.submit(nowhere, Start::Now, false), Err(NoSuchDisk(1)));
    }

    #[test]
    fn requests_outside_the_disk_fail_and_the_file_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let (pool, done) = pool(&options);
        submit(&pool, 0, DiskOp::Write { sector: 128, data: vec![1; 512] });
        submit(&pool, 1, DiskOp::Read { sector: u64::MAX, len: 512 });
        pool.wait_idle();
        assert!(done.try_iter().all(|done| done.status == DiskStatus::IoError && done.data.is_empty()));
        assert_eq!(std::fs::metadata(&options.path).unwrap().len(), 64 << 10);
    }

    #[test]
    fn a_panic_in_the_callback_does_not_hang_the_pool() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskBackend::open(&options(&dir)).unwrap();
        let pool = DiskPool::new(vec![disk], 1, |_| panic!("expected in this test")).unwrap();
        submit(&pool, 0, DiskOp::Flush);
        pool.wait_idle();
    }
}
