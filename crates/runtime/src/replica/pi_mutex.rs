//! A lock whose holder is run as promptly as the most urgent thread that waits for it (priority inheritance,
//! pthread_mutexattr_setprotocol(3)).
//!
//! The vCPU's thread is the least urgent of a replica and takes the protocol's lock all the time. On a busy host it may lose its
//! processor while it has it; threads that must be prompt ([`super::prompt`]) would then wait for an ordinary thread's turn.

use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A mutex with priority inheritance. It knows no poisoning: a panic of any thread ends the process.
pub(super) struct PiMutex<T> {
    /// In a place of its own: it must not move once it is in use.
    raw: Box<UnsafeCell<libc::pthread_mutex_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and there is one guard at a time; the lock itself is made for threads.
unsafe impl<T: Send> Send for PiMutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for PiMutex<T> {}

/// The value, as long as this lives. Not to be sent to another thread: the one that locked must unlock.
pub(super) struct PiGuard<'m, T> {
    mutex: &'m PiMutex<T>,
    _here: PhantomData<*const ()>,
}

fn check(what: &str, error: libc::c_int) -> io::Result<()> {
    if error == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(error);
    Err(io::Error::new(error.kind(), format!("a lock with priority inheritance: {what}: {error}")))
}

impl<T> PiMutex<T> {
    /// # Errors
    /// The kernel has no such locks.
    pub(super) fn new(value: T) -> io::Result<Self> {
        let raw = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        // SAFETY: all-zero bytes are a place for attributes, which are initialised before they are used and destroyed after; `raw`
        // is not in use yet, and stays where it is.
        unsafe {
            let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
            check("attributes", libc::pthread_mutexattr_init(&raw mut attributes))?;
            let made = check(
                "protocol",
                libc::pthread_mutexattr_setprotocol(&raw mut attributes, libc::PTHREAD_PRIO_INHERIT),
            )
            .and_then(|()| check("initialising", libc::pthread_mutex_init(raw.get(), &raw const attributes)));
            libc::pthread_mutexattr_destroy(&raw mut attributes);
            made?;
        }
        Ok(Self { raw, value: UnsafeCell::new(value) })
    }

    pub(super) fn lock(&self) -> PiGuard<'_, T> {
        // SAFETY: `raw` was initialised and does not move.
        let error = unsafe { libc::pthread_mutex_lock(self.raw.get()) };
        // Only a program that is wrong about itself gets one: a thread that has the lock already, say.
        assert_eq!(error, 0, "the lock is in order");
        PiGuard { mutex: self, _here: PhantomData }
    }

    /// `None` if somebody has it.
    pub(super) fn try_lock(&self) -> Option<PiGuard<'_, T>> {
        // SAFETY: as in `lock`.
        match unsafe { libc::pthread_mutex_trylock(self.raw.get()) } {
            0 => Some(PiGuard { mutex: self, _here: PhantomData }),
            error => {
                assert_eq!(error, libc::EBUSY, "the lock is in order");
                None
            }
        }
    }
}

impl<T> Drop for PiMutex<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it any more, and no guard borrows it.
        unsafe { libc::pthread_mutex_destroy(self.raw.get()) };
    }
}

impl<T> Deref for PiGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this thread has the lock.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for PiGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread has the lock, and this guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for PiGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread has locked it.
        unsafe { libc::pthread_mutex_unlock(self.mutex.raw.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn one_at_a_time() {
        let count = Arc::new(PiMutex::new(0_u64).unwrap());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let count = Arc::clone(&count);
                std::thread::spawn(move || {
                    for round in 0..20_000 {
                        let mut count = match count.try_lock() {
                            Some(guard) if round % 2 == 0 => guard,
                            other => {
                                drop(other);
                                count.lock()
                            }
                        };
                        // Not in one instruction.
                        let before = *count;
                        std::hint::black_box(&mut count);
                        **std::hint::black_box(&mut &mut *count) = before + 1;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let guard = count.lock();
        assert_eq!(*guard, 80_000);
        std::thread::scope(|scope| scope.spawn(|| assert!(count.try_lock().is_none())).join()).unwrap();
        drop(guard);
        assert!(count.try_lock().is_some());
    }
}
