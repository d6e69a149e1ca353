//! Unix SOCK_SEQPACKET sockets: what launcher and replicas talk over. One send is one packet, and a closed end is seen.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of socket buffer asked for; the kernel gives what `net.core.wmem_max` allows.
static SOCKET_BUFFER: libc::c_int = 1 << 20;

/// One end of a connected pair; non-blocking and closed on exec.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Two connected ends.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut fds = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: `fds` has room for the two descriptors that the call writes.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so both are new descriptors that nobody else owns.
        let ends = unsafe { (Self(OwnedFd::from_raw_fd(fds[0])), Self(OwnedFd::from_raw_fd(fds[1]))) };
        for end in [&ends.0, &ends.1] {
            // SAFETY: the option's value is one int, whose address and size are given.
            // A refusal only means smaller buffers, which changes no behaviour: the result is not needed.
            unsafe {
                libc::setsockopt(
                    end.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_SNDBUF,
                    (&raw const SOCKET_BUFFER).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(ends)
    }

    /// Whether the other end is closed, though packets of it may still wait.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fd = libc::pollfd { fd: self.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one pollfd, whose address is given. An error leaves `revents` empty.
        unsafe { libc::poll(&raw mut fd, 1, 0) };
        fd.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Another descriptor of the same end.
    #[cfg(test)]
    pub(crate) fn dup(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor can be duplicated"))
    }

    /// Sends one packet, whole or not at all.
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not keep up; those of send(2).
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of `packet`.
        let sent =
            unsafe { libc::send(self.as_raw_fd(), packet.as_ptr().cast(), packet.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one packet. `None`: the other side is closed.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `InvalidData` for a packet longer than `buffer` (it is lost); those of recv(2).
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let receive = |buffer: &mut [u8]| {
            // SAFETY: pointer and length are those of `buffer`; with MSG_TRUNC the real length is returned, no more is written.
            let got = unsafe {
                libc::recv(self.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC)
            };
            usize::try_from(got).map_err(|_| io::Error::last_os_error())
        };
        let received = match receive(buffer) {
            // The other end was closed with packets unread. That is told once, before what it sent, which is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(buffer),
            received => received,
        };
        match received {
            Err(error) => Err(error),
            // An empty packet looks the same. Nobody here sends one: its sender is treated as closed.
            Ok(0) => Ok(None),
            Ok(len) => match buffer.get(..len) {
                Some(packet) => Ok(Some(packet)),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is longer than any may be")),
            },
        }
    }
}

impl From<OwnedFd> for PacketSocket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_before_an_end_is_received() {
        for reads_all in [true, false] {
            let (theirs, ours) = PacketSocket::pair().unwrap();
            let mut buffer = [0; 16];
            ours.send(b"question").unwrap();
            theirs.send(b"last").unwrap();
            theirs.send(b"words").unwrap();
            if reads_all {
                assert_eq!(theirs.recv(&mut buffer).unwrap(), Some(&b"question"[..]));
            }
            drop(theirs);
            for expected in [Some(&b"last"[..]), Some(b"words"), None, None] {
                assert_eq!(ours.recv(&mut buffer).unwrap(), expected, "{reads_all}");
            }
        }
    }
}
