//! A few threads that carry out disk requests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ft_core::input::DiskDone;
use ft_core::output::DiskRequest;

use super::disk::DiskBackend;
use super::schedule::Schedule;

/// Disks and the threads that work on them. Dropping it drops what does not run yet, waits for what runs, and joins the
/// threads.
pub struct DiskPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    disks: Vec<DiskBackend>,
    on_done: Box<dyn Fn(DiskDone) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    schedules: Vec<Schedule>,
    closing: bool,
}

/// A request for a disk that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no disk {0}")]
pub struct NoSuchDisk(pub u16);

impl std::fmt::Debug for DiskPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskPool")
            .field("disks", &self.shared.disks)
            .field("threads", &self.threads.len())
            .finish()
    }
}

impl DiskPool {
    /// Starts `threads` threads, at least one, on `disks` in the order of the config. `on_done` is called on one of them for
    /// each request that ends; it must not call back into the pool's `wait_idle`, `abort` or drop.
    ///
    /// # Errors
    /// The host starts no thread.
    pub fn new(
        disks: Vec<DiskBackend>,
        threads: usize,
        on_done: impl Fn(DiskDone) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let schedules = disks.iter().map(|_| Schedule::default()).collect();
        let state = Mutex::new(State { schedules, closing: false });
        let shared = Arc::new(Shared { disks, on_done: Box::new(on_done), state, changed: Condvar::new() });
        let mut pool = Self { shared, threads: Vec::new() };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("disk {index}"));
            pool.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// There is no such disk.
    pub fn submit(&self, request: DiskRequest) -> Result<(), NoSuchDisk> {
        let disk = request.disk;
        let mut state = self.shared.lock();
        state.schedules.get_mut(usize::from(disk)).ok_or(NoSuchDisk(disk))?.submit(request);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until nothing runs or waits.
    pub fn wait_idle(&self) {
        let mut state = self.shared.lock();
        while !state.schedules.iter().all(Schedule::is_idle) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Drops the requests that do not run yet (they give no completion) and waits for those that run.
    pub fn abort(&self) {
        self.shared.lock().schedules.iter_mut().for_each(Schedule::clear_waiting);
        self.wait_idle();
    }

    /// The disks, in the order of the config.
    pub fn disks(&self) -> &[DiskBackend] {
        &self.shared.disks
    }
}

impl Drop for DiskPool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.schedules.iter_mut().for_each(Schedule::clear_waiting);
            state.closing = true;
        }
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// A request that runs. It ends even if the callback panics, or the pool could never be closed.
struct Running<'a> {
    shared: &'a Shared,
    disk: u16,
    request: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.lock().schedules[usize::from(self.disk)].done(self.request);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.schedules.iter_mut().find_map(Schedule::start_next) {
                drop(state);
                {
                    let _running = Running { shared: self, disk: request.disk, request: request.request };
                    let done = self.disks[usize::from(request.disk)].execute(&request);
                    (self.on_done)(done);
                }
                state = self.lock();
            } else if state.closing {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::file::{DiskOptions, Lock};
    use super::*;
    use ft_core::input::DiskStatus;
    use ft_core::output::DiskOp;

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
        let pool = DiskPool::new(vec![disk], 3, move |done| sender.send(done).unwrap()).unwrap();
        (pool, receiver)
    }

    fn submit(pool: &DiskPool, request: u64, op: DiskOp) {
        pool.submit(DiskRequest { disk: 0, request, op }).unwrap();
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
        assert_eq!(pool.submit(DiskRequest { disk: 1, request: 0, op: DiskOp::Flush }), Err(NoSuchDisk(1)));
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
