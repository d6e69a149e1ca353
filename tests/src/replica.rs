//! One replica process without `ft-vm`'s launcher: the test holds the other end of its two sockets. With it two replicas
//! meet that no launcher would start together: of two configs, or of two guests.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Bed, Capture, Launcher, survivors};

/// A replica process whose launcher is the test.
pub struct BareReplica {
    child: Child,
    control: File,
    _lan: OwnedFd,
    /// Its standard error.
    pub stderr: Capture,
}

fn seqpacket() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair writes two descriptors into the array that it is given.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0, "socketpair: {}", std::io::Error::last_os_error());
    // SAFETY: both descriptors are new, and owned by nobody else.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
}

impl BareReplica {
    /// Starts replica `name` (`a` or `b`) of a config in the bed's folder.
    pub fn start(bed: &Bed, config: &str, name: &str) -> Self {
        let (control, its_control) = seqpacket();
        let (lan, its_lan) = seqpacket();
        let inherited = [its_control.as_raw_fd(), its_lan.as_raw_fd()];
        let mut command = Launcher::command(bed.path(), bed.mark());
        let descriptors = format!("{},{}", inherited[0], inherited[1]);
        command.args(["--config", config, "--replica", name, "--launcher-fds", &descriptors]);
        command.stdout(Stdio::null());
        survivors::die_with_us(&mut command);
        // SAFETY: fcntl is allowed between fork and exec, and touches no memory here.
        unsafe {
            command.pre_exec(move || {
                for descriptor in inherited {
                    if libc::fcntl(descriptor, libc::F_SETFD, 0) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().expect("ft-vm starts");
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        let time = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        // SAFETY: the option's value is a timeval of the given size, which outlives the call.
        let set = unsafe {
            libc::setsockopt(
                control.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const time).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "SO_RCVTIMEO: {}", std::io::Error::last_os_error());
        Self { child, control: File::from(control), _lan: lan, stderr }
    }

    /// Waits for a message of this kind (`hello`, `live`, `ended`, ...) and returns its content. `None` when the time is
    /// over or the replica has closed its end.
    pub fn wait_message(&mut self, kind: &str, limit: Duration) -> Option<Value> {
        let until = Instant::now() + limit;
        let mut packet = vec![0; 256 * 1024];
        while Instant::now() < until {
            match self.control.read(&mut packet) {
                Ok(0) => return None,
                Ok(length) => {
                    let message: Value =
                        serde_json::from_slice(&packet[..length]).expect("control messages are JSON");
                    if let Some(content) = message.get(kind) {
                        return Some(content.clone());
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Waits for its end: its exit code.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for BareReplica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
