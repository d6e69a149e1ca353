//! The table of clients, and whose a frame is.
//!
//! smoltcp looks through all sockets of a set for each frame and each time it sends. With a set per client, and our
//! own look at addresses and ports, a request costs the same however many clients there are.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use kv_core::Connection;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Duration;

use crate::PORT;

/// Most clients at a time.
pub(crate) const MAX_CLIENTS: usize = 128;
/// Bytes of a socket's buffers.
const RECEIVE_BUFFER: usize = 32 << 10;
const SEND_BUFFER: usize = 32 << 10;
/// An acknowledgement waits this long for a reply to travel with: about the time of a commit.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// A client that is silent is asked for a sign of life this often, and given up after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(90);

/// Buckets of the index.
const BUCKETS: usize = 256;
/// No client.
const NONE: u8 = u8::MAX;

/// The far end of a connection: address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(u64);

impl Peer {
    fn bucket(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
    }
}

/// What a frame is about, as far as the table wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A segment for our port.
    Segment { peer: Peer, opens: bool },
    /// Anything else.
    Other,
}

/// Looks at a frame: Ethernet II, IPv4, TCP to [`PORT`]. Everything is checked again by smoltcp.
pub(crate) fn classify(frame: &[u8]) -> Kind {
    const ETHERNET: usize = 14;
    let segment = || {
        let ip = frame.get(ETHERNET..)?;
        if frame[12..14] != [0x08, 0x00] || *ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
            return None;
        }
        let tcp = ip.get(usize::from(ip[0] & 0xf) * 4..)?;
        let (source, target, flags) = (tcp.get(..2)?, tcp.get(2..4)?, *tcp.get(13)?);
        if target != PORT.to_be_bytes() {
            return None;
        }
        let address = ip.get(12..16)?;
        let peer = [address, source].concat_u64();
        // SYN without ACK.
        Some(Kind::Segment { peer: Peer(peer), opens: flags & 0x12 == 0x02 })
    };
    segment().unwrap_or(Kind::Other)
}

trait ConcatU64 {
    fn concat_u64(self) -> u64;
}

impl ConcatU64 for [&[u8]; 2] {
    fn concat_u64(self) -> u64 {
        self.into_iter().flatten().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }
}

/// A client: its socket, alone in a set, and what it has asked.
pub(crate) struct Client {
    peer: Peer,
    next: u8,
    pub(crate) sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(crate) connection: Connection,
    /// When the socket wants attention, in ns since boot.
    pub(crate) deadline: Option<u64>,
    /// On the list of those to be served in this turn.
    pub(crate) is_listed: bool,
}

impl Client {
    fn new(peer: Peer) -> Self {
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; RECEIVE_BUFFER]), SocketBuffer::new(vec![0; SEND_BUFFER]));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
        socket.listen(PORT).expect("a fresh socket and a port that is not 0");
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let connection = Connection::default();
        Self { peer, next: NONE, sockets, handle, connection, deadline: None, is_listed: false }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The socket and the connection at once.
    pub(crate) fn parts(&mut self) -> (&mut Socket<'static>, &mut Connection) {
        (self.sockets.get_mut(self.handle), &mut self.connection)
    }
}

/// All clients, by slot and by peer.
pub(crate) struct Clients {
    slots: Vec<Option<Box<Client>>>,
    buckets: [u8; BUCKETS],
    free: Vec<u8>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..MAX_CLIENTS).map(|_| None).collect(),
            buckets: [NONE; BUCKETS],
            free: (0..MAX_CLIENTS as u8).rev().collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        MAX_CLIENTS - self.free.len()
    }

    pub(crate) fn get(&mut self, slot: u8) -> Option<&mut Client> {
        self.slots.get_mut(usize::from(slot))?.as_deref_mut()
    }

    pub(crate) fn find(&self, peer: Peer) -> Option<u8> {
        let mut slot = self.buckets[peer.bucket()];
        while let Some(Some(client)) = self.slots.get(usize::from(slot)) {
            if client.peer == peer {
                return Some(slot);
            }
            slot = client.next;
        }
        None
    }

    /// Adds a client that listens for `peer`'s first segment. `None`: there are too many.
    pub(crate) fn add(&mut self, peer: Peer) -> Option<u8> {
        let slot = self.free.pop()?;
        let mut client = Box::new(Client::new(peer));
        client.next = core::mem::replace(&mut self.buckets[peer.bucket()], slot);
        self.slots[usize::from(slot)] = Some(client);
        Some(slot)
    }

    /// Removes a client.
    pub(crate) fn remove(&mut self, slot: u8) {
        let Some(client) = self.slots[usize::from(slot)].take() else { return };
        let bucket = client.peer.bucket();
        if self.buckets[bucket] == slot {
            self.buckets[bucket] = client.next;
        } else {
            let mut before = self.buckets[bucket];
            while let Some(other) = self.get(before) {
                if other.next == slot {
                    other.next = client.next;
                    break;
                }
                before = other.next;
            }
        }
        self.free.push(slot);
    }

    /// The slots in use.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u8, &mut Client)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, client)| Some((slot as u8, client.as_deref_mut()?)))
    }
}
