//! The launcher's terminal while every key goes to the guest: nothing is edited, shown or taken as a signal by the host.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Ctrl-], the one key that the guest does not get: it stops ft-vm in order.
pub(crate) const STOP_KEY: u8 = 0x1d;

/// A terminal whose keys are passed on as they are; as before when this is dropped.
#[derive(Debug)]
pub(crate) struct Keyboard {
    terminal: OwnedFd,
    before: libc::termios,
}

impl Keyboard {
    /// Takes the keyboard over; `None` if this is no terminal, or one that belongs to another job.
    pub(crate) fn take(terminal: BorrowedFd<'_>) -> Option<Self> {
        // A background job that changes its terminal is stopped.
        // SAFETY: plain calls; the descriptor is open.
        let own = unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() };
        if own { Self::change(terminal) } else { None }
    }

    fn change(terminal: BorrowedFd<'_>) -> Option<Self> {
        let terminal = terminal.try_clone_to_owned().ok()?;
        let before = get(terminal.as_fd())?;
        let mut keys = before;
        keys.c_iflag &= !(libc::ICRNL | libc::INLCR | libc::IGNCR | libc::IXON | libc::ISTRIP | libc::BRKINT);
        keys.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::ISIG | libc::IEXTEN);
        keys.c_cc[libc::VMIN] = 1;
        keys.c_cc[libc::VTIME] = 0;
        set(terminal.as_fd(), &keys).then_some(Self { terminal, before })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        set(self.terminal.as_fd(), &self.before);
    }
}

fn get(terminal: BorrowedFd<'_>) -> Option<libc::termios> {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the descriptor is open; the struct is filled where the call succeeds, and only then read.
    unsafe {
        (libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr()) == 0).then(|| settings.assume_init())
    }
}

fn set(terminal: BorrowedFd<'_>, settings: &libc::termios) -> bool {
    // SAFETY: the descriptor is open, the settings are whole.
    unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, settings) == 0 }
}

/// As Ctrl-C on a terminal in its ordinary state would.
pub(crate) fn ask_to_stop() {
    // SAFETY: a plain call; the launcher takes the signal as a message.
    unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    /// Both ends of a new terminal.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let (mut master, mut slave) = (-1, -1);
        let null = std::ptr::null_mut();
        // SAFETY: the two numbers are written; nothing else is asked for.
        let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast()) };
        assert_eq!(made, 0);
        // SAFETY: new descriptors that nobody else has.
        unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
    }

    #[test]
    fn keys_pass_while_it_is_held_and_the_terminal_is_as_before_afterwards() {
        let (_master, slave) = terminal();
        let before = get(slave.as_fd()).unwrap();
        let keyboard = Keyboard::change(slave.as_fd()).unwrap();
        let held = get(slave.as_fd()).unwrap();
        assert_eq!(held.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
        assert_eq!(held.c_iflag & (libc::ICRNL | libc::IXON), 0);
        assert_eq!(held.c_oflag, before.c_oflag);
        drop(keyboard);
        let after = get(slave.as_fd()).unwrap();
        assert_eq!((after.c_lflag, after.c_iflag), (before.c_lflag, before.c_iflag));
    }

    #[test]
    fn what_is_no_terminal_of_this_job_is_left_alone() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(Keyboard::take(reader.as_fd()).is_none());
        let (_master, slave) = terminal();
        assert!(Keyboard::take(slave.as_fd()).is_none(), "it is not the controlling terminal");
    }
}
