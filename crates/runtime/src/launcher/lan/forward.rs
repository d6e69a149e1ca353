//! Connections of the host that are forwarded into the guest: a TCP socket of the host on one side, one of the stack on the
//! other, and bytes moved between their buffers. A full buffer on one side stops reading on the other, so back-pressure
//! goes all the way; the end of one direction is passed on by itself (half-close); a reset is passed on as a reset.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{self, RecvError, State};

use super::stack::Stack;
use crate::launcher::poller::Ready;

/// One forwarded connection.
pub(crate) struct Connection {
    host: Option<TcpStream>,
    handle: SocketHandle,
    local_port: u16,
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// The host's side has sent its last byte, and the guest was told.
    host_ended: bool,
    /// The guest has sent its last byte, and the host's side was told.
    guest_ended: bool,
    over: bool,
}

impl Connection {
    pub(crate) fn new(host: TcpStream, stack: &Stack, handle: SocketHandle) -> Self {
        Self {
            host: Some(host),
            handle,
            local_port: stack.local_port(handle),
            // The poller says what is so at once.
            readable: false,
            writable: false,
            hung_up: false,
            host_ended: false,
            guest_ended: false,
            over: false,
        }
    }

    pub(crate) fn ready(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.hung_up |= ready.hung_up;
    }

    /// Nothing is left to do but one more poll of the stack (the last acknowledgement, or a reset).
    pub(crate) fn over(&self) -> bool {
        self.over
    }

    pub(crate) fn remove(self, stack: &mut Stack) {
        stack.remove(self.handle, self.local_port);
    }

    /// Moves what can be moved. True if the stack has something new to do.
    pub(crate) fn pump(&mut self, stack: &mut Stack) -> bool {
        let Some(host) = &self.host else { return false };
        let socket = stack.socket(self.handle);
        let mut moved = false;

        while self.readable && !self.host_ended && socket.can_send() {
            match transfer_in(host, socket) {
                Ok(0) => {
                    socket.close();
                    self.host_ended = true;
                    moved = true;
                }
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.abort(stack),
            }
        }
        while self.writable && socket.can_recv() {
            match transfer_out(host, socket) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.abort(stack),
            }
        }
        // A client that reset its connection (or is gone altogether) before the guest answered, or while nothing can be
        // moved, is seen by this alone.
        if std::mem::take(&mut self.hung_up) && reset_by_host(host) {
            return self.abort(stack);
        }

        if !socket.can_recv()
            && !self.guest_ended
            && !matches!(socket.state(), State::SynSent | State::SynReceived)
        {
            match socket.recv(|_| (0, ())) {
                Err(RecvError::Finished) => {
                    self.guest_ended = true;
                    moved = true;
                    if host.shutdown(Shutdown::Write).is_err() {
                        return self.abort(stack);
                    }
                }
                Err(RecvError::InvalidState) => {
                    // Refused or reset by the guest.
                    self.reset_host();
                    return true;
                }
                Ok(()) => {}
            }
        }
        match socket.state() {
            State::Closed if self.guest_ended && !self.host_ended => self.reset_host(),
            State::Closed | State::TimeWait if self.guest_ended => {
                self.host = None;
                self.over = true;
                moved = true;
            }
            _ => {}
        }
        moved
    }

    fn abort(&mut self, stack: &mut Stack) -> bool {
        stack.socket(self.handle).abort();
        self.reset_host();
        true
    }

    /// Closes the host's side so that its peer sees a reset.
    fn reset_host(&mut self) {
        if let Some(host) = self.host.take() {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            // SAFETY: the option's value is a `linger`, whose address and size are given. If the kernel refuses, the close
            // below is an ordinary one.
            unsafe {
                libc::setsockopt(
                    host.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    size_of::<libc::linger>() as libc::socklen_t,
                );
            }
        }
        self.over = true;
    }
}

/// Whether the host's peer reset the connection; EPOLLHUP alone also means that both directions were closed in order.
fn reset_by_host(host: &TcpStream) -> bool {
    !matches!(host.take_error(), Ok(None))
}

fn transfer_in(mut host: &TcpStream, socket: &mut tcp::Socket<'_>) -> io::Result<usize> {
    let done = socket.send(|buffer| {
        let result = host.read(buffer);
        (result.as_ref().map_or(0, |&len| len), result)
    });
    done.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into()))
}

fn transfer_out(mut host: &TcpStream, socket: &mut tcp::Socket<'_>) -> io::Result<usize> {
    let done = socket.recv(|buffer| {
        let result = host.write(buffer);
        (result.as_ref().map_or(0, |&len| len), result)
    });
    done.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into()))
}
