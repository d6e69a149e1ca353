//! The host's side of the LAN as a TCP/IP stack: smoltcp at the gateway's address. No I/O; time is passed in.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

/// The gateway: the address that the guest sees the host's connections come from.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Bits of the network's prefix.
pub const PREFIX: u8 = 24;
/// The gateway's own hardware address: locally administered, always the same, so that a guest's ARP cache stays right
/// whatever becomes of the replicas.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
/// Largest Ethernet frame without FCS.
pub const MTU: usize = 1514;
/// Bytes of each of a connection's two buffers.
pub const BUFFER: usize = 64 * 1024;
/// Local ports, used in turn: one that was just used is used again as late as possible.
const LOCAL_PORTS: std::ops::RangeInclusive<u16> = 10_000..=65_535;

/// Frames on their way into and out of the stack.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Send<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Send<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Send<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Send(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        Some(Send(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// The stack.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    ports: BTreeSet<u16>,
    last_port: u16,
}

impl Stack {
    /// A stack with no connections. `seed` makes its sequence numbers and first local port.
    pub fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GATEWAY_MAC)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for two.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(GATEWAY), PREFIX));
        });
        let span = u64::from(LOCAL_PORTS.end() - LOCAL_PORTS.start()) + 1;
        let last_port = LOCAL_PORTS.start() + (seed.rotate_left(32) % span) as u16;
        Self { interface, sockets: SocketSet::new(Vec::new()), wire, ports: BTreeSet::new(), last_port }
    }

    /// Begins a connection to the guest. `None` if all local ports are in use.
    pub fn connect(&mut self, guest_port: u16) -> Option<SocketHandle> {
        let local = self.free_port()?;
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let remote = IpEndpoint::new(IpAddress::Ipv4(GUEST), guest_port);
        socket.connect(self.interface.context(), remote, local).ok()?;
        self.ports.insert(local);
        Some(self.sockets.add(socket))
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in LOCAL_PORTS {
            self.last_port =
                if self.last_port >= *LOCAL_PORTS.end() { *LOCAL_PORTS.start() } else { self.last_port + 1 };
            if !self.ports.contains(&self.last_port) {
                return Some(self.last_port);
            }
        }
        None
    }

    /// A connection's socket.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Forgets a connection. `local` is its port, [`Stack::local_port`] of it while it was open.
    pub fn remove(&mut self, handle: SocketHandle, local: u16) {
        self.sockets.remove(handle);
        self.ports.remove(&local);
    }

    /// The local port of a connection that was begun.
    pub fn local_port(&self, handle: SocketHandle) -> u16 {
        self.sockets.get::<tcp::Socket<'_>>(handle).local_endpoint().map_or(0, |endpoint| endpoint.port)
    }

    /// Frames from the guest.
    pub fn receive(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.wire.received.extend(frames);
    }

    /// Works on what was received and what is to be sent. `now` is the time since any fixed moment.
    pub fn poll(&mut self, now: Duration) {
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
    }

    /// The frames for the guest so far.
    pub fn sent(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.wire.sent.drain(..)
    }

    /// How long [`Stack::poll`] may wait; `None`: until something is received or written.
    pub fn idle(&mut self, now: Duration) -> Option<Duration> {
        self.interface.poll_delay(instant(now), &self.sockets).map(Into::into)
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
