//! Threads that must not wait for a processor: the one that sends heartbeats and looks at the clock, and the one that reads the log
//! connection. They do little each time, but on a host whose every core is busy an ordinary thread waits for its turn for longer
//! than a failure detector is patient, and a replica that lives looks dead.
//!
//! Where the host lets this process (root, CAP_SYS_NICE, or a limit RLIMIT_RTPRIO of 1 or more; sched(7)), they run before
//! everything ordinary. Where not, everything works the same, and `status` says so: a detector on such a host needs a longer time-out.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::shared::Shared;

/// The lowest real-time priority: before everything ordinary, after whatever the host has of its own.
const PRIORITY: libc::c_int = 1;
/// How much nicer than other threads the vCPU of a pair is where nothing is prompt: those that move acknowledgements must not wait
/// for it.
const NICE: libc::c_int = 10;

thread_local! {
    static PROMPT: Cell<bool> = const { Cell::new(false) };
}

/// True if the calling thread is one of these, and the host let it be.
pub(super) fn is_prompt() -> bool {
    PROMPT.get()
}

/// Makes the calling thread one of these.
pub(super) fn be_prompt(shared: &Shared) {
    if shared.solo {
        return;
    }
    let set = schedule(libc::SCHED_RR, PRIORITY);
    PROMPT.set(set);
    shared.prompt.store(set, Ordering::Relaxed);
}

/// Makes the calling thread, which runs the guest, give way to these where the host does not: it is nicer than they are. Where it does,
/// the guest gets its whole share of a busy host: as the nicest of many threads it would not be run for seconds, and a replica
/// whose guest stands still is as good as dead.
pub(super) fn give_way() {
    // To be one of them for a moment is the way to learn whether the host would let them.
    if schedule(libc::SCHED_RR, PRIORITY) && schedule(libc::SCHED_OTHER, 0) {
        return;
    }
    // SAFETY: a plain call; 0 is the calling thread. Refused, it costs latency and nothing else.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Asks the host for a policy and a priority for the calling thread. True if it has them now.
fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: a plain call about the calling thread; `parameters` outlives it. Threads and processes that it starts do not inherit
    // this.
    unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters) == 0 }
}
