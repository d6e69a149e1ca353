//! Threads that must not wait for a processor: the one that sends heartbeats and looks at the clock, and the one that reads the log
//! connection. They do little each time, but on a host whose every core is busy an ordinary thread waits for its turn for longer
//! than a failure detector is patient, and a replica that lives looks dead.
//!
//! Where the host lets this process (root, CAP_SYS_NICE, or a limit RLIMIT_RTPRIO of 1 or more; sched(7)), they run before
//! everything ordinary. Where not, everything works the same, and `status` says so: a detector on such a host needs a longer time-out.

use std::sync::atomic::Ordering;

use super::shared::Shared;

/// The lowest real-time priority: before everything ordinary, after whatever the host has of its own.
const PRIORITY: libc::c_int = 1;

/// Makes the calling thread one of these.
pub(super) fn be_prompt(shared: &Shared) {
    if shared.solo {
        return;
    }
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: a plain call about the calling thread; `parameters` outlives it. Threads and processes that it starts do not inherit
    // this.
    let set = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    shared.prompt.store(set == 0, Ordering::Relaxed);
}
