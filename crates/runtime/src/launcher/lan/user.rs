//! The network inside the launcher: ports of the host that lead into the guest. [`super::stack`] is the host's side (the
//! gateway), [`super::forward`] joins the host's connections to the stack's.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ft_policies::Forward;

use super::LanError;
use super::forward::Connection;
use super::stack::Stack;
use super::switch::Switch;
use crate::launcher::poller::{Poller, Ready, Token};

/// Forwarded connections at most; more wait in the listeners' backlogs.
const MAX_CONNECTIONS: usize = 4096;
/// Connections that may wait to be accepted, per port.
const BACKLOG: libc::c_int = 1024;
/// How often frames go round between stack and connections before other events are looked at.
const ROUNDS: usize = 8;

struct Listener {
    socket: TcpListener,
    guest_port: u16,
    ready: bool,
}

/// The network.
pub(crate) struct User {
    stack: Stack,
    epoch: Instant,
    listeners: Vec<Listener>,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
}

impl User {
    /// Listens on all forwarded ports.
    pub(crate) fn new(forwards: &[Forward], poller: &Poller) -> Result<Self, LanError> {
        let mut listeners = Vec::new();
        for (index, forward) in (0..).zip(forwards) {
            let (address, guest_port) = (forward.listen, forward.guest_port);
            let listen = || {
                let socket = TcpListener::bind(address)?;
                // SAFETY: a plain call on a descriptor that is ours; listening again only changes the backlog.
                if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                socket.set_nonblocking(true)?;
                poller.add_edge(&socket, Token::Listener(index))?;
                Ok(socket)
            };
            let socket = listen().map_err(|source| LanError::Listen { address, guest_port, source })?;
            listeners.push(Listener { socket, guest_port, ready: true });
        }
        Ok(Self {
            stack: Stack::new(random()?),
            epoch: Instant::now(),
            listeners,
            connections: BTreeMap::new(),
            next_connection: 0,
        })
    }

    /// The addresses that are really listened on, in the order of the config.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    /// Forwarded connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn listener_ready(&mut self, index: u32) {
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            listener.ready = true;
        }
    }

    pub(crate) fn connection_ready(&mut self, number: u32, ready: Ready) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.ready(ready);
        }
    }

    /// Frames of the guest.
    pub(crate) fn receive(&mut self, frames: Vec<Vec<u8>>) {
        self.stack.receive(frames);
    }

    /// Does what can be done now: true if there is more to do at once.
    pub(crate) fn service(&mut self, switch: &mut Switch, poller: &Poller) -> bool {
        self.accept(poller);
        for _ in 0..ROUNDS {
            self.stack.poll(self.epoch.elapsed());
            self.connections.retain_over(&mut self.stack);
            let mut moving = false;
            for connection in self.connections.values_mut() {
                moving |= connection.pump(&mut self.stack);
            }
            for frame in self.stack.sent() {
                switch.to_guest(frame);
            }
            if !moving {
                return false;
            }
        }
        true
    }

    /// How long there is nothing to do unless something becomes ready.
    pub(crate) fn idle(&mut self) -> Option<Duration> {
        self.stack.idle(self.epoch.elapsed())
    }

    fn accept(&mut self, poller: &Poller) {
        for listener in &mut self.listeners {
            while listener.ready && self.connections.len() < MAX_CONNECTIONS {
                let host = match listener.socket.accept() {
                    Ok((host, _)) => host,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.ready = false;
                        break;
                    }
                    // The client is gone already.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    // Out of descriptors or memory: it stays ready, and the next event tries again.
                    Err(_) => break,
                };
                let number = self.next_connection;
                let prepared = host
                    .set_nonblocking(true)
                    .and_then(|()| host.set_nodelay(true))
                    .and_then(|()| poller.add_edge(&host, Token::Connection(number)));
                if prepared.is_err() {
                    continue;
                }
                if let Some(handle) = self.stack.connect(listener.guest_port) {
                    self.connections.insert(number, Connection::new(host, &self.stack, handle));
                    self.next_connection = number.wrapping_add(1);
                }
            }
        }
    }
}

trait RetainOver {
    /// Forgets the connections that are over; a poll of the stack has sent their last segment.
    fn retain_over(&mut self, stack: &mut Stack);
}

impl RetainOver for BTreeMap<u32, Connection> {
    fn retain_over(&mut self, stack: &mut Stack) {
        for (_, connection) in self.extract_if(.., |_, connection| connection.over()) {
            connection.remove(stack);
        }
    }
}

/// A random number of the host: nothing of the LAN is part of the guest's machine.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: pointer and length are those of `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize { Ok(u64::from_le_bytes(bytes)) } else { Err(io::Error::last_os_error()) }
}
