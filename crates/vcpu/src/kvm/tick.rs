//! What brings a running guest back: a timer whose signal ends KVM_RUN.
//!
//! The signal goes to the vCPU's own thread. Its handler sets `immediate_exit`, which KVM looks at when it enters the guest, so
//! a signal just before the entry is not lost. Nothing of the guest depends on when it comes: it only decides where the host
//! looks around.

use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

/// How long the guest may run without the host looking around.
const INTERVAL: Duration = Duration::from_millis(2);

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, or null.
    static IMMEDIATE_EXIT: AtomicPtr<u8> = const { AtomicPtr::new(null_mut()) };
    /// The timer has run out since [`Ticks::begin`].
    static TICKED: AtomicBool = const { AtomicBool::new(false) };
    /// The timer will run out.
    static ARMED: AtomicBool = const { AtomicBool::new(false) };
    /// The thread's timer, made when it is first needed and left to the end of the process.
    static TIMER: Cell<Option<usize>> = const { Cell::new(None) };
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn ticked(_: libc::c_int) {
    ARMED.with(|armed| armed.store(false, Ordering::Relaxed));
    TICKED.with(|ticked| ticked.store(true, Ordering::Relaxed));
    IMMEDIATE_EXIT.with(|flag| {
        let flag = flag.load(Ordering::Relaxed);
        if !flag.is_null() {
            // SAFETY: `Ticks::begin` was given a pointer that lives until `Ticks::end`, on this thread.
            unsafe { flag.write_volatile(1) };
        }
    });
}

/// Ticks for the length of one [`crate::Vcpu::run`].
#[derive(Debug)]
pub(super) struct Ticks {
    immediate_exit: *mut u8,
}

impl Ticks {
    /// From now on, and until this value is dropped, a tick ends KVM_RUN on this thread.
    ///
    /// # Safety
    /// `immediate_exit` is the flag of a vCPU's `kvm_run` and stays mapped while this value lives, which is on this thread.
    pub(super) unsafe fn begin(immediate_exit: *mut u8) -> io::Result<Self> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: an all-zero sigaction is valid; the handler only touches thread-local atomics and the flag.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = ticked as *const () as usize;
                // Other calls of this thread go on; KVM_RUN ends all the same.
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal(), &raw const action, null_mut());
            }
        });
        TICKED.with(|ticked| ticked.store(false, Ordering::Relaxed));
        IMMEDIATE_EXIT.with(|flag| flag.store(immediate_exit, Ordering::Relaxed));
        let this = Self { immediate_exit };
        if !ARMED.with(|armed| armed.swap(true, Ordering::Relaxed))
            && let Err(error) = arm()
        {
            ARMED.with(|armed| armed.store(false, Ordering::Relaxed));
            return Err(error);
        }
        Ok(this)
    }

    /// True if the host is to look around.
    pub(super) fn is_due(&self) -> bool {
        TICKED.with(|ticked| ticked.load(Ordering::Relaxed))
    }

    /// Whether the next KVM_RUN only completes what is under way. A tick that came before this is seen with
    /// [`Self::is_due`], one that comes after it ends the run.
    pub(super) fn set_immediate_exit(&self, on: bool) {
        // SAFETY: see `begin`.
        unsafe { self.immediate_exit.write_volatile(u8::from(on)) };
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|flag| flag.store(null_mut(), Ordering::Relaxed));
    }
}

/// Arms this thread's timer, once.
fn arm() -> io::Result<()> {
    let timer = match TIMER.get() {
        Some(timer) => timer,
        None => {
            let timer = create()?;
            TIMER.set(Some(timer));
            timer
        }
    };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let once = libc::timespec { tv_sec: 0, tv_nsec: INTERVAL.as_nanos() as libc::c_long };
    let setting = libc::itimerspec { it_interval: zero, it_value: once };
    // SAFETY: the timer is this thread's, and the setting outlives the call.
    if unsafe { libc::timer_settime(timer as libc::timer_t, 0, &raw const setting, null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn create() -> io::Result<usize> {
    let mut timer: libc::timer_t = null_mut();
    // SAFETY: an all-zero sigevent is valid; the call fills in `timer`.
    let made = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = libc::gettid();
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timer as usize)
}
