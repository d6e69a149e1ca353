//! The user-mode LAN of a pair on one machine: ports of the host that lead into the guest, wherever the guest is.
//!
//! [`switch`] knows where the guest is, [`stack`] is the host's side (the gateway), `forward` joins the host's connections
//! to the stack's. The first two do no I/O. This module moves frames between them and the replicas' sockets: everything is
//! non-blocking, so a replica that stands still only fills the switch's bounded queue.

mod forward;
pub mod stack;
pub mod switch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ft_policies::Forward;

use self::forward::Connection;
use self::stack::Stack;
use self::switch::{Counters, Port, Switch, Violation};
use super::messages::{LAN_PACKET_MAX, LanPacket};
use super::packet::PacketSocket;
use super::poller::{Poller, Ready, Token};

/// Forwarded connections at most; more wait in the listeners' backlogs.
const MAX_CONNECTIONS: usize = 4096;
/// Connections that may wait to be accepted, per port.
const BACKLOG: libc::c_int = 1024;
/// Packets taken from one replica before others get their turn.
const PACKETS_PER_TURN: usize = 64;
/// How many such turns a replica gets when it is the last that is heard of it.
const DRAIN_TURNS: usize = 64;
/// How often frames go round between stack and connections before other events are looked at.
const ROUNDS: usize = 8;

/// Why there is no LAN.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// A forwarded port cannot be listened on.
    #[error("cannot listen on {address}, which is forwarded to the guest's port {guest_port}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What it leads to.
        guest_port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses something else.
    #[error("cannot set up the guest's network: {0}")]
    Io(#[from] io::Error),
}

struct Listener {
    socket: TcpListener,
    guest_port: u16,
    ready: bool,
}

struct Replica {
    socket: PacketSocket,
    readable: bool,
    writable: bool,
}

/// What a replica did that ends the trust in it.
#[derive(Debug, thiserror::Error)]
#[error("malformed packet on the LAN socket: {0}")]
pub(crate) struct Malformed(&'static str);

/// The LAN. All of it is worked on in [`Lan::service`].
pub(crate) struct Lan {
    pub(crate) switch: Switch,
    stack: Stack,
    epoch: Instant,
    listeners: Vec<Listener>,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    replicas: [Option<Replica>; 2],
    buffer: Vec<u8>,
}

impl Lan {
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
            switch: Switch::new(),
            stack: Stack::new(random()?),
            epoch: Instant::now(),
            listeners,
            connections: BTreeMap::new(),
            next_connection: 0,
            replicas: [None, None],
            buffer: vec![0; LAN_PACKET_MAX],
        })
    }

    /// The addresses that are really listened on, in the order of the config.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    /// Connects a replica's LAN socket to its port.
    pub(crate) fn attach(&mut self, port: Port, socket: PacketSocket, poller: &Poller) -> io::Result<()> {
        poller.add_edge(&socket, Token::Lan(port as u32))?;
        self.replicas[port] = Some(Replica { socket, readable: true, writable: true });
        Ok(())
    }

    /// The replica at `port` is gone. What it had sent before counts.
    pub(crate) fn detach(&mut self, port: Port) {
        self.receive_rest(port);
        self.replicas[port] = None;
    }

    /// Takes all that waits in a replica's socket.
    fn receive_rest(&mut self, port: Port) {
        if let Some(replica) = &mut self.replicas[port] {
            replica.readable = true;
        }
        // A socket's buffer is finite, but a replica that goes on sending could refill it for ever.
        for _ in 0..DRAIN_TURNS {
            if !matches!(self.receive(port), Ok(true)) {
                break;
            }
        }
    }

    /// Forwarded connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.switch.counters
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

    pub(crate) fn replica_ready(&mut self, port: u32, ready: Ready) {
        if let Some(Some(replica)) = self.replicas.get_mut(port as usize) {
            replica.readable |= ready.readable;
            replica.writable |= ready.writable;
        }
    }

    /// The guest is at `port`; see [`Switch::go_live`].
    pub(crate) fn go_live(&mut self, port: Port, generation: u64) -> Result<(), Violation> {
        if let Some(before) =
            self.switch.live().filter(|&before| before != port && generation > self.switch.generation())
        {
            // Frames that the old primary released while it was live, and that its successor may know to be released.
            self.receive_rest(before);
        }
        let mut frames = Vec::new();
        self.switch.go_live(port, generation, &mut frames)?;
        self.stack.receive(frames);
        Ok(())
    }

    /// Does all that can be done now. Returns how long there will be nothing to do unless something becomes ready, and
    /// which replicas are not to be trusted any further.
    pub(crate) fn service(&mut self, poller: &Poller) -> (Option<Duration>, Vec<(Port, Malformed)>) {
        let mut malformed = Vec::new();
        let mut more = false;
        for port in 0..self.replicas.len() {
            match self.receive(port) {
                Ok(left) => more |= left,
                Err(problem) => {
                    self.replicas[port] = None;
                    malformed.push((port, problem));
                }
            }
        }
        self.accept(poller);
        let mut moving = true;
        for _ in 0..ROUNDS {
            self.stack.poll(self.epoch.elapsed());
            self.connections.retain_over(&mut self.stack);
            moving = false;
            for connection in self.connections.values_mut() {
                moving |= connection.pump(&mut self.stack);
            }
            for frame in self.stack.sent() {
                self.switch.to_guest(frame);
            }
            if !moving {
                break;
            }
        }
        self.hand_over();
        let idle = if more || moving { Some(Duration::ZERO) } else { self.stack.idle(self.epoch.elapsed()) };
        (idle, malformed)
    }

    /// True if there may be more.
    fn receive(&mut self, port: Port) -> Result<bool, Malformed> {
        let Some(replica) = &mut self.replicas[port] else { return Ok(false) };
        let mut frames = Vec::new();
        let mut turns = PACKETS_PER_TURN;
        let outcome = loop {
            if !replica.readable || turns == 0 {
                break Ok(replica.readable);
            }
            turns -= 1;
            match replica.socket.recv(&mut self.buffer) {
                Ok(Some(bytes)) => match LanPacket::decode(bytes) {
                    Some(packet) => self.switch.from_replica(port, packet, &mut frames),
                    None => break Err(Malformed("not a batch of frames")),
                },
                Ok(None) => replica.readable = false,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => replica.readable = false,
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::InvalidData => break Err(Malformed("too long")),
                    // Reset: the process is gone, which its process descriptor tells.
                    _ => replica.readable = false,
                },
            }
        };
        self.stack.receive(frames);
        outcome
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

    /// Gives the live replica as many frames as it takes.
    fn hand_over(&mut self) {
        while let Some((port, count)) = self.switch.next_packet(&mut self.buffer) {
            let Some(replica) = &mut self.replicas[port] else { break };
            if !replica.writable {
                break;
            }
            match replica.socket.send(&self.buffer) {
                Ok(()) => self.switch.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Full: it becomes writable when the replica reads. Or gone: the kept frames are for its successor.
                Err(_) => replica.writable = false,
            }
        }
        self.buffer.resize(LAN_PACKET_MAX, 0);
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
