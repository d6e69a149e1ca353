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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.schedules.iter_mut().find_map(Schedule::start_next) {
                drop(state);
                let done = self.disks[usize::from(request.disk)].execute(&request);
                (self.on_done)(done);
                state = self.lock();
                state.schedules[usize::from(request.disk)].done(request.request);
                self.changed.notify_all();
            } else if state.closing {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
