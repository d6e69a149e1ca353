//! A host with much to do: a signal every few dozen microseconds, each of which ends KVM_RUN wherever the guest is.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_micros(60);

static SEEN: AtomicU64 = AtomicU64::new(0);

extern "C" fn interrupted(_: libc::c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts the thread that made it until it is dropped.
pub(crate) struct Interruptions {
    timer: libc::timer_t,
}

impl Interruptions {
    pub(crate) fn begin() -> Self {
        // The engine has the first of the real-time signals.
        let signal = libc::SIGRTMIN() + 1;
        let nanoseconds = INTERVAL.as_nanos() as libc::c_long;
        let interval = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let mut timer: libc::timer_t = null_mut();
        // SAFETY: all-zero structures are valid; the handler touches an atomic only; each call reads and fills in what lies here.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interrupted as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::gettid();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer), 0);
            let setting = libc::itimerspec { it_interval: interval, it_value: interval };
            assert_eq!(libc::timer_settime(timer, 0, &raw const setting, null_mut()), 0);
        }
        Self { timer }
    }

    /// How many there were, for whichever thread.
    pub(crate) fn seen() -> u64 {
        SEEN.load(Ordering::Relaxed)
    }
}

impl Drop for Interruptions {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `begin` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}
