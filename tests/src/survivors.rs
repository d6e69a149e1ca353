//! Finding every process of a test, whoever its parent is by now: a mark in the environment, which children inherit.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

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

/// Kills every process with this mark, again until none is found.
pub fn kill_marked(mark: &str) {
    for _ in 0..200 {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for pid in found {
            // SAFETY: kill touches no memory of this process.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
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
