//! Finding every process of a test, whoever its parent is by now: a mark in the environment, which children inherit.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// Name of the environment variable that holds the mark.
pub(crate) const MARK: &str = "FT_E2E_MARK";

/// Process ids whose environment has this mark. A zombie has no environment any more and does not count.
pub fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| OsStr::from_bytes(variable) == wanted.as_str())
        {
            found.push(pid);
        }
    }
    found
}

/// Kills every process with this mark, again until none is found; one that cannot be killed is given up after a while.
pub fn kill_marked(mark: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        let watched = Watched::of(&found);
        for pid in found {
            // SAFETY: kill touches no memory of this process.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
        watched.wait(until.saturating_duration_since(Instant::now()));
    }
}

/// Processes whose end can be waited for: one that prints nothing any more, or has no environment, may still
/// hold its sockets and ports for a moment.
pub(crate) struct Watched(Vec<OwnedFd>);

impl Watched {
    /// Every process with a mark.
    pub(crate) fn new(mark: &str) -> Self {
        Self::of(&marked(mark))
    }

    fn of(pids: &[u32]) -> Self {
        let open = |&pid: &u32| {
            // SAFETY: pidfd_open touches no memory of this process. One that has ended meanwhile has none.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
            // SAFETY: a new descriptor that nobody else owns.
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        Self(pids.iter().filter_map(open).collect())
    }

    /// Waits until all have ended and given back what they had. False if some go on.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.0.iter().all(|process| {
            let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let left = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
                // SAFETY: one entry, which outlives the call. A pidfd is readable when its process has ended (pidfd_open(2)).
                match unsafe { libc::poll(&raw mut poll, 1, left) } {
                    1 => return true,
                    0 => return false,
                    _ => {}
                }
            }
        })
    }
}

/// Whether the process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state follows the last ')'.
    stat.rsplit(')').next().is_some_and(|rest| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// Makes the process that `command` starts end with the thread that starts it, also when that is killed itself.
pub fn die_with_us(command: &mut Command) {
    // SAFETY: prctl is a plain system call, allowed between fork and exec; it touches no memory here.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}
