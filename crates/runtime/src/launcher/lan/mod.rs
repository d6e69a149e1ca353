//! The guest's network, as the launcher has it: a switch with the replicas on one side, and on the other one what the
//! configuration says.
//!
//! [`switch`] knows where the guest is. On its other side is either a network inside the launcher ([`user`]: ports of the host that
//! lead into the guest) or an interface of the host ([`tap`]). This module moves frames between them and the replicas' sockets:
//! everything is non-blocking, so a replica that stands still only fills the switch's bounded queue.

mod announce;
mod forward;
pub mod stack;
pub mod switch;
mod tap;
#[cfg(test)]
mod tests;
mod user;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ft_policies::{Net, NetBackend};
use serde_json::{Value, json};

use self::switch::{Port, Switch, Violation};
use self::tap::Tap;
pub use self::tap::TapError;
use self::user::User;
use super::messages::{LAN_PACKET_MAX, LanPacket};
use super::packet::PacketSocket;
use super::poller::{Poller, Ready, Token};

/// Packets taken from one replica before others get their turn.
const PACKETS_PER_TURN: usize = 64;
/// How many such turns a replica gets when it is the last that is heard of it.
const DRAIN_TURNS: usize = 64;
/// Addresses of a guest that are announced at most.
const ANNOUNCED: usize = 8;

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
    /// The interface of the host.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The kernel refuses something else.
    #[error("cannot set up the guest's network: {0}")]
    Io(#[from] io::Error),
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

/// What is on the other side of the switch.
enum Side {
    User(Box<User>),
    Tap(Tap),
}

/// The LAN. All of it is worked on in [`Lan::service`].
pub(crate) struct Lan {
    pub(crate) switch: Switch,
    side: Side,
    replicas: [Option<Replica>; 2],
    buffer: Vec<u8>,
}

impl Lan {
    /// The network of a guest's interface; without one there is a network that nobody is on.
    pub(crate) fn new(net: Option<&Net>, poller: &Poller) -> Result<Self, LanError> {
        let side = match net.map(|net| (&net.backend, net.mac)) {
            Some((NetBackend::Tap { interface }, mac)) => Side::Tap(Tap::open(interface, mac, poller)?),
            Some((NetBackend::User { forward }, _)) => Side::User(Box::new(User::new(forward, poller)?)),
            None => Side::User(Box::new(User::new(&[], poller)?)),
        };
        Ok(Self { switch: Switch::new(), side, replicas: [None, None], buffer: vec![0; LAN_PACKET_MAX] })
    }

    /// The addresses that are really listened on, in the order of the config.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match &self.side {
            Side::User(user) => user.addresses(),
            Side::Tap(_) => Vec::new(),
        }
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
        self.silence(port);
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

    /// The replica at `port` says, or has shown, that it is not live any more.
    pub(crate) fn silence(&mut self, port: Port) {
        if let Side::Tap(tap) = &mut self.side
            && self.switch.live() == Some(port)
        {
            tap.silence();
        }
    }

    /// Forwarded connections that are open.
    pub(crate) fn connections(&self) -> usize {
        match &self.side {
            Side::User(user) => user.connections(),
            Side::Tap(_) => 0,
        }
    }

    /// What an operator should know and was not told yet.
    pub(crate) fn notices(&mut self) -> Vec<String> {
        match &mut self.side {
            Side::User(_) => Vec::new(),
            Side::Tap(tap) => tap.notices(),
        }
    }

    /// The fields of a status about the interface of the host.
    pub(crate) fn tap_status(&self) -> Option<Value> {
        match &self.side {
            Side::User(_) => None,
            Side::Tap(tap) => Some(json!({ "interface": tap.interface(), "frames": tap.counters })),
        }
    }

    /// Something has become ready.
    pub(crate) fn ready(&mut self, token: Token, ready: Ready) {
        match (token, &mut self.side) {
            (Token::Lan(port), _) => {
                if let Some(Some(replica)) = self.replicas.get_mut(port as usize) {
                    replica.readable |= ready.readable;
                    replica.writable |= ready.writable;
                }
            }
            (Token::Listener(index), Side::User(user)) => user.listener_ready(index),
            (Token::Connection(number), Side::User(user)) => user.connection_ready(number, ready),
            (Token::Tap, Side::Tap(tap)) => tap.ready(ready),
            // The launcher's.
            _ => {}
        }
    }

    /// The guest is at `port`; see [`Switch::go_live`]. `moved`: it was elsewhere before, and is known to use these addresses.
    pub(crate) fn go_live(
        &mut self,
        port: Port,
        generation: u64,
        seen: u64,
        moved: Option<&[Ipv4Addr]>,
    ) -> Result<(), Violation> {
        if let Some(before) = self.switch.live().filter(|_| generation > self.switch.generation()) {
            // Frames that were released in the generation that ends now: by the old primary, whose successor may know of it, or by
            // this very replica, if it goes on without its backup.
            self.receive_rest(before);
        }
        let mut frames = Vec::new();
        self.switch.go_live(port, generation, seen, &mut frames)?;
        // Not at a start: the guest is where it says that it is itself, and a primary that was just given up would go on with it.
        if let (Side::Tap(tap), Some(addresses)) = (&mut self.side, moved) {
            tap.announce(&addresses[..addresses.len().min(ANNOUNCED)]);
        }
        self.let_out(frames);
        Ok(())
    }

    fn let_out(&mut self, frames: Vec<Vec<u8>>) {
        match &mut self.side {
            Side::User(user) => user.receive(frames),
            Side::Tap(tap) => tap.send(&frames),
        }
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
        let idle = match &mut self.side {
            Side::User(user) => {
                more |= user.service(&mut self.switch, poller);
                user.idle()
            }
            Side::Tap(tap) => {
                more |= tap.service(&mut self.switch);
                tap.idle()
            }
        };
        self.hand_over();
        (if more { Some(Duration::ZERO) } else { idle }, malformed)
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
        self.let_out(frames);
        outcome
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
