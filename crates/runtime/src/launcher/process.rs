//! The replicas' processes: children of the launcher that die with it, and never by a Ctrl-C meant for it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::packet::PacketSocket;

/// What is executed as a replica.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// The arguments before `--replica`.
    pub arguments: Vec<OsString>,
}

/// A running replica and the launcher's ends of its sockets.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Readable once the process has ended.
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: PacketSocket,
    pub(crate) lan: Option<PacketSocket>,
}

impl Process {
    /// Starts a replica. The child is killed when the *thread* that calls this ends (prctl(2), PR_SET_PDEATHSIG), so it must
    /// be the one that runs the launcher.
    pub(crate) fn spawn(program: &Program, replica: &str, arguments: &[OsString]) -> io::Result<Self> {
        let (control, control_child) = PacketSocket::pair()?;
        let (lan, lan_child) = PacketSocket::pair()?;
        let inherited = [control_child.as_raw_fd(), lan_child.as_raw_fd()];
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .arg("--replica")
            .arg(replica)
            .args(arguments)
            .arg("--launcher-fds")
            .arg(format!("{},{}", inherited[0], inherited[1]))
            .stdin(Stdio::null())
            // Standard output is the guest's console, which the launcher writes.
            .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        let parent = libc::pid_t::try_from(std::process::id()).map_err(io::Error::other)?;
        // SAFETY: `in_child` makes only async-signal-safe system calls, on values made before the fork.
        unsafe { command.pre_exec(move || in_child(parent, inherited)) };
        let mut child = command.spawn()?;
        match pidfd(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd, control, lan: Some(lan) }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL. Nothing if it has ended already.
    pub(crate) fn kill(&mut self) {
        // The only error is that it was reaped already.
        let _ = self.child.kill();
    }

    /// How it ended, if it did. From then on it is reaped: nothing of it runs any more.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        // An error would mean that somebody else reaped it, which is an end too; the status is then not known.
        self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0xff00)))
    }
}

impl Drop for Process {
    /// No replica is left behind, however the launcher ends.
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// In words for the operator.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => format!("ended with status {}", status.into_raw()),
    }
}

fn in_child(parent: libc::pid_t, inherited: [RawFd; 2]) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: plain system calls; `none` is initialised by sigemptyset before it is used.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The launcher may have died between fork and prctl.
        if libc::getppid() != parent {
            libc::_exit(1);
        }
        // A process group of its own: a terminal's Ctrl-C is the launcher's to handle.
        check(libc::setpgid(0, 0))?;
        // The launcher blocks the signals that it reads from a descriptor, and a blocked signal stays so across exec.
        let mut none = std::mem::zeroed();
        check(libc::sigemptyset(&raw mut none))?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
        for fd in inherited {
            check(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags; the child was not reaped, so the pid is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIGINT, SIGTERM and SIGHUP as a descriptor. They stay blocked in the thread that made it and in those it starts later.
pub(crate) struct Signals(OwnedFd);

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset; all pointers are to it or null.
        let fd = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal, if one came.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: pointer and length are those of `info`.
        let got = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: all bit patterns are valid for this plain struct, and it was zeroed before.
        (got == size as isize).then(|| unsafe { info.assume_init() }.ssi_signo as i32)
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Asks for as many descriptors as the system lets this process have: each forwarded connection takes one.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get the address of `limit`. Where they fail the limit stays as it was, and connections beyond it
    // wait in the backlog.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
