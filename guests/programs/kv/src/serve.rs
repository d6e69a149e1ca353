//! The loop: frames in, commands, batch to disk, replies out, sleep.

use alloc::vec::Vec;

use kv_core::Server;
use rt::time::Clock;
use rt::virtio::{Blk, Net};
use rt::{irq, println};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::CODE_DISK;
use crate::clients::{Client, Clients, Kind, classify};
use crate::disk::{Blocking, Commit, DiskError};
use crate::phy::Phy;

/// How soon a socket that could not send is tried again, in ns.
const RETRY: u64 = 1_000_000;

struct Loop {
    server: Server,
    blk: Blk,
    commit: Commit,
    phy: Phy,
    interface: Interface,
    clients: Clients,
    /// Slots of clients to be served in this turn.
    listed: Vec<u8>,
    /// A frame could not be sent because all buffers were on their way.
    starved: bool,
    /// Not later than the earliest deadline of any client.
    earliest: Option<u64>,
    clock: Clock,
    /// Time at the beginning of this turn, in ns since boot.
    now: u64,
}

/// Serves until the disk fails.
pub(crate) fn serve(
    server: Server,
    blk: Blk,
    net: Net,
    address: Ipv4Cidr,
    gateway: Ipv4Address,
    seed: u64,
) -> u8 {
    let mut clock = Clock::new();
    let now = clock.now();
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(net.mac())));
    config.random_seed = seed;
    let mut phy = Phy::new(net);
    let mut interface = Interface::new(config, &mut phy, instant(now));
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::Ipv4(address)).expect("room for one address");
    });
    interface.routes_mut().add_default_ipv4_route(gateway).expect("room for one route");
    let mut serving = Loop {
        server,
        blk,
        commit: Commit::default(),
        phy,
        interface,
        clients: Clients::new(),
        listed: Vec::new(),
        starved: false,
        earliest: None,
        clock,
        now,
    };
    loop {
        if let Err(error) = serving.turn() {
            println!("kv: {error}");
            return CODE_DISK;
        }
    }
}

fn instant(ns: u64) -> Instant {
    Instant::from_micros((ns / 1000) as i64)
}

impl Loop {
    /// Does all there is to do, then sleeps until there is more.
    fn turn(&mut self) -> Result<(), DiskError> {
        self.now = self.clock.now();
        self.server.uptime = self.now / 1_000_000_000;
        self.receive();
        if self.starved && self.phy.net.can_send() {
            self.starved = false;
            self.list(|client| client.deadline.is_some());
        }
        self.list_due();
        self.commit()?;
        // Clients that have been listed by now are served; while that goes on, others may be listed again.
        let listed = core::mem::take(&mut self.listed);
        for &slot in &listed {
            self.execute(slot);
        }
        self.begin_commit()?;
        let mut again = Vec::new();
        for &slot in &listed {
            if self.send(slot) {
                again.push(slot);
            }
        }
        self.phy.net.kick();
        if self.listed.is_empty() && again.is_empty() {
            // Keeps the list's memory.
            self.listed = listed;
            self.listed.clear();
        }
        self.listed.append(&mut again);
        self.sleep();
        Ok(())
    }

    /// Takes in all frames that have arrived.
    fn receive(&mut self) {
        let now = instant(self.now);
        while let Some(frame) = self.phy.net.receive() {
            let slot = match classify(frame.bytes()) {
                Kind::Segment { peer, opens } => match self.clients.find(peer) {
                    // The peer uses its port again: the old connection is over.
                    Some(slot) if opens && self.is_over(slot) => {
                        self.remove(slot);
                        self.clients.add(peer)
                    }
                    None if opens => self.clients.add(peer),
                    found => found,
                },
                Kind::Other => None,
            };
            let Self { phy, interface, clients, .. } = self;
            match slot.and_then(|slot| Some((slot, clients.get(slot)?))) {
                Some((slot, client)) => {
                    phy.deliver(frame, |phy| interface.poll_ingress_single(now, phy, &mut client.sockets));
                    if !core::mem::replace(&mut client.is_listed, true) {
                        self.listed.push(slot);
                    }
                }
                None => {
                    // ARP, ping, and segments of nobody, which are answered by a reset.
                    let mut nobody = SocketSet::new([]);
                    phy.deliver(frame, |phy| interface.poll_ingress_single(now, phy, &mut nobody));
                }
            }
        }
    }

    fn is_over(&mut self, slot: u8) -> bool {
        let state = self.clients.get(slot).map(|client| client.socket().state());
        matches!(state, None | Some(State::TimeWait | State::Closed))
    }

    fn remove(&mut self, slot: u8) {
        if let Some(client) = self.clients.get(slot) {
            client.connection.forget(&mut self.server);
        }
        self.clients.remove(slot);
        self.listed.retain(|&listed| listed != slot);
        self.server.clients = self.clients.len();
    }

    /// Lists the clients for which `wanted` holds.
    fn list(&mut self, wanted: impl Fn(&Client) -> bool) {
        for (slot, client) in self.clients.iter_mut() {
            if !client.is_listed && wanted(client) {
                client.is_listed = true;
                self.listed.push(slot);
            }
        }
    }

    /// Lists the clients whose deadlines have come.
    fn list_due(&mut self) {
        let now = self.now;
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.list(|client| client.deadline.is_some_and(|deadline| deadline <= now));
            let later = |(_, client): (u8, &mut Client)| client.deadline.filter(|&at| at > now);
            self.earliest = self.clients.iter_mut().filter_map(later).min();
        }
    }

    /// Notes what the disk has completed, and lists the clients that waited for it.
    fn commit(&mut self) -> Result<(), DiskError> {
        if let Some(batch) = self.commit.poll(&mut self.blk)? {
            self.server.durable = batch;
            self.list(|client| client.connection.has_output() || client.connection.is_stalled());
        }
        Ok(())
    }

    /// Executes what a client has sent.
    fn execute(&mut self, slot: u8) {
        let Some(client) = self.clients.get(slot) else { return };
        let (socket, connection) = client.parts();
        if connection.is_stalled() {
            connection.run(&mut self.server);
        }
        while socket.can_recv() && !connection.is_stalled() {
            let taken = socket.recv(|bytes| {
                connection.receive(bytes);
                (bytes.len(), ())
            });
            if taken.is_err() {
                break;
            }
            connection.run(&mut self.server);
        }
        if !connection.is_within_limits(&mut self.server) {
            println!("kv: dropped a client: it holds too much of the buffers");
            socket.abort();
        }
    }

    /// Starts writing what has been gathered, if nothing is being written.
    fn begin_commit(&mut self) -> Result<(), DiskError> {
        if self.server.log.pending() == 0 || !self.commit.is_idle() {
            return Ok(());
        }
        let batch = self.server.log.batch();
        if self.server.log.fits() {
            let (sector, data) = self.server.log.take();
            self.commit.start(&mut self.blk, batch, sector, data);
        } else {
            let before = self.server.log.used();
            self.server.log.compact(&mut Blocking(&mut self.blk), &self.server.store)?;
            println!("kv: compacted the log, {before} to {} bytes", self.server.log.used());
            self.server.durable = batch;
            self.list(|client| client.connection.has_output() || client.connection.is_stalled());
        }
        Ok(())
    }

    /// Sends what a client may have. `true`: it is to be served again at once.
    fn send(&mut self, slot: u8) -> bool {
        let now = instant(self.now);
        let Self { server, phy, interface, clients, starved, .. } = self;
        let Some(client) = clients.get(slot) else { return false };
        client.is_listed = false;
        let (socket, connection) = client.parts();
        let ready = connection.sendable(server.durable);
        if !ready.is_empty()
            && let Ok(count) = socket.send_slice(ready)
        {
            connection.sent(count);
        }
        let mut again =
            connection.is_stalled() && !connection.has_output() && server.durable + 1 == server.log.batch();
        let is_served = !connection.has_output() && !connection.is_stalled() && !socket.can_recv();
        if connection.is_finished() || (is_served && socket.state() == State::CloseWait) {
            socket.close();
        }
        client.deadline = loop {
            let wanted = interface.poll_at(now, &client.sockets);
            match wanted {
                Some(at) if at <= now => {
                    if matches!(interface.poll_egress(now, phy, &mut client.sockets), PollResult::None) {
                        *starved |= !phy.net.can_send();
                        break Some(self.now + RETRY);
                    }
                }
                wanted => break wanted.map(|at| at.total_micros() as u64 * 1000),
            }
        };
        // Room in the send buffer comes with a frame, which lists the client again.
        let state = client.socket().state();
        if matches!(state, State::Closed | State::Listen) {
            self.remove(slot);
            return false;
        }
        if let Some(deadline) = client.deadline {
            self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
        self.server.clients = self.clients.len();
        if again {
            again =
                self.clients.get(slot).is_some_and(|client| !core::mem::replace(&mut client.is_listed, true));
        }
        again
    }

    /// Halts until something happens, unless something has already.
    fn sleep(&mut self) {
        if !self.listed.is_empty() {
            return;
        }
        self.phy.net.set_interrupts(true);
        self.blk.set_interrupts(true);
        if !self.phy.net.is_ready() && !self.blk.is_ready() {
            if let Some(deadline) = self.earliest {
                self.clock.wake_at(self.now, deadline);
            }
            irq::wait();
        }
        self.phy.net.set_interrupts(false);
        self.blk.set_interrupts(false);
    }
}
