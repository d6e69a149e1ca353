//! The LAN with real clients and a guest made of smoltcp, which stands where a replica does: at the other end of a LAN
//! socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ft_policies::Forward;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::*;
use crate::launcher::packet::PacketSocket;
use vmm_sys_util::eventfd::EventFd;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ECHO: u16 = 7;
const CLOSED: u16 = 9;
const LIMIT: Duration = Duration::from_secs(20);

type Command = Box<dyn FnOnce(&mut Lan, &Poller) + Send>;

/// Runs a LAN in a thread; commands are functions on it.
struct Running {
    commands: Sender<Command>,
    wake: EventFd,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
}

impl Running {
    fn start(guest_ports: &[u16]) -> Self {
        let mut poller = Poller::new().unwrap();
        let forwards: Vec<_> = guest_ports
            .iter()
            .map(|&guest_port| Forward { listen: "127.0.0.1:0".parse().unwrap(), guest_port })
            .collect();
        let net = Net { mac: MAC, backend: NetBackend::User { forward: forwards } };
        let mut lan = Lan::new(Some(&net), &poller).unwrap();
        let addresses = lan.addresses();
        let (commands, queue): (_, Receiver<Command>) = channel();
        let wake = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        poller.add_level(&wake, Token::Console).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, woken) = (Arc::clone(&stop), wake.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            let mut events = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                while let Ok(command) = queue.try_recv() {
                    command(&mut lan, &poller);
                }
                let (idle, malformed) = lan.service(&poller);
                assert!(malformed.is_empty(), "{malformed:?}");
                poller.wait(idle, &mut events).unwrap();
                for (token, ready) in &events {
                    match *token {
                        Token::Console => drop(woken.read()),
                        token => lan.ready(token, *ready),
                    }
                }
            }
        });
        Self { commands, wake, stop, thread: Some(thread), addresses }
    }

    fn with<R: Send + 'static>(&self, f: impl FnOnce(&mut Lan, &Poller) -> R + Send + 'static) -> R {
        let (answer, got) = channel();
        self.commands.send(Box::new(move |lan, poller| drop(answer.send(f(lan, poller))))).unwrap();
        self.wake.write(1).unwrap();
        got.recv_timeout(LIMIT).unwrap()
    }

    fn live(&self, port: Port, generation: u64) {
        self.with(move |lan, _| lan.go_live(port, generation, 0, None).unwrap());
    }

    /// A guest at `port`, whose LAN socket is connected.
    fn guest(&self, port: Port) -> PacketSocket {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        self.with(move |lan, poller| lan.attach(port, ours, poller).unwrap());
        theirs
    }

    fn connect(&self, index: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[index]).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Lan) -> bool + Send + Clone + 'static) {
        let end = Instant::now() + LIMIT;
        loop {
            let condition = condition.clone();
            if self.with(move |lan, _| condition(lan)) {
                return;
            }
            assert!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.write(1).unwrap();
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

#[derive(Default)]
struct GuestWire {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}
struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);
impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}
impl Device for GuestWire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;
    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.received.pop_front()?), Tx(&mut self.sent)))
    }
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The guest: echoes on port 7. It can be taken from one replica's place to another's, as a replay would do it.
struct Guest {
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
    wire: GuestWire,
    epoch: Instant,
    last_seq: u64,
}

fn echo_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.listen(ECHO).unwrap();
    socket
}

impl Guest {
    fn new(sockets: usize) -> Self {
        let mut wire = GuestWire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::Ipv4(stack::GUEST), 24)).unwrap());
        let mut set = SocketSet::new(Vec::new());
        let handles = (0..sockets).map(|_| set.add(echo_socket())).collect();
        Self { interface, sockets: set, handles, wire, epoch: Instant::now(), last_seq: 0 }
    }

    fn poll(&mut self) {
        let now = smoltcp::time::Instant::from_micros(self.epoch.elapsed().as_micros() as i64);
        loop {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let mut moved = false;
            for &handle in &self.handles {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                while socket.can_recv() && socket.can_send() {
                    let room = socket.send_capacity() - socket.send_queue();
                    let bytes = socket.recv(|data| {
                        let len = data.len().min(room);
                        (len, data[..len].to_vec())
                    });
                    socket.send_slice(&bytes.unwrap()).unwrap();
                    moved = true;
                }
                if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                    socket.close();
                    moved = true;
                }
                if socket.state() == tcp::State::Closed || socket.state() == tcp::State::TimeWait {
                    socket.abort();
                    *socket = echo_socket();
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Runs at one end of a LAN socket until told otherwise; returns itself, to be run elsewhere.
    fn run(mut self, socket: PacketSocket, generation: u64, stop: Arc<AtomicBool>) -> JoinHandle<Self> {
        std::thread::spawn(move || {
            let mut buffer = vec![0; LAN_PACKET_MAX];
            let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
            while !stop.load(Ordering::Acquire) {
                let mut fd = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one pollfd, whose address is given.
                unsafe { libc::poll(&raw mut fd, 1, if waiting.is_empty() { 5 } else { 0 }) };
                while let Ok(Some(bytes)) = socket.recv(&mut buffer) {
                    let packet = LanPacket::decode(bytes).unwrap();
                    // Consecutive numbers, none left out; a few again after a move.
                    assert!(packet.number <= self.last_seq + 1, "{} after {}", packet.number, self.last_seq);
                    self.last_seq = self.last_seq.max(packet.number + packet.frames.len() as u64 - 1);
                    self.wire.received.extend(packet.frames);
                }
                self.poll();
                let mut batch = LanPacket { nic: 0, number: generation, frames: Vec::new() };
                let mut size = 11;
                for frame in self.wire.sent.drain(..) {
                    if size + 2 + frame.len() > LAN_PACKET_MAX {
                        waiting.push_back(batch.encode());
                        batch.frames.clear();
                        size = 11;
                    }
                    size += 2 + frame.len();
                    batch.frames.push(frame);
                }
                if !batch.frames.is_empty() {
                    waiting.push_back(batch.encode());
                }
                while let Some(packet) = waiting.front() {
                    if socket.send(packet).is_err() {
                        break;
                    }
                    waiting.pop_front();
                }
            }
            self
        })
    }
}

/// A LAN with a live echo guest at port 0.
fn echo(guest_ports: &[u16], sockets: usize) -> (Running, Arc<AtomicBool>, JoinHandle<Guest>) {
    let running = Running::start(guest_ports);
    let socket = running.guest(0);
    running.live(0, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let guest = Guest::new(sockets).run(socket, 1, Arc::clone(&stop));
    (running, stop, guest)
}

fn finish(stop: &AtomicBool, guest: JoinHandle<Guest>) -> Guest {
    stop.store(true, Ordering::Release);
    guest.join().unwrap()
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Sends everything and then the end, and reads until the guest's end.
fn round_trip(mut stream: TcpStream, data: Vec<u8>) {
    let mut writer = stream.try_clone().unwrap();
    let sent = data.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == data, "{} of {} bytes, or others", got.len(), data.len());
}

#[test]
fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let (running, stop, guest) = echo(&[ECHO], 2);
    round_trip(running.connect(0), pattern(3_000_000, 1));
    round_trip(running.connect(0), Vec::new());
    running.wait_until("connections stay", |lan| lan.connections() == 0);
    let counters = running.with(|lan, _| lan.switch.counters);
    assert_eq!((counters.dropped_full, counters.dropped_malformed, counters.dropped_stale), (0, 0, 0));
    finish(&stop, guest);
}

#[test]
fn a_refused_connection_is_reset() {
    let (running, stop, guest) = echo(&[CLOSED], 1);
    let error = running.connect(0).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    running.wait_until("connections stay", |lan| lan.connections() == 0);
    finish(&stop, guest);
}

#[test]
fn a_reset_of_the_guest_reaches_the_client() {
    let running = Running::start(&[ECHO]);
    let socket = running.guest(0);
    running.live(0, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let guest = Guest::new(1).run(socket.dup(), 1, Arc::clone(&stop));
    let mut client = running.connect(0);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    let mut guest = finish(&stop, guest);
    for handle in guest.handles.clone() {
        guest.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
    }
    // The reset is sent by the poll; after it this socket listens again.
    let stop = Arc::new(AtomicBool::new(false));
    let guest = guest.run(socket, 1, Arc::clone(&stop));
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    running.wait_until("connections stay", |lan| lan.connections() == 0);
    finish(&stop, guest);
}

#[test]
fn a_reset_of_the_client_reaches_the_guest() {
    let (running, stop, guest) = echo(&[ECHO], 2);
    for _ in 0..8 {
        // The guest has two sockets (one may be on its way back to listening): a connection is only served once those
        // before are gone from the guest too.
        let mut client = running.connect(0);
        client.write_all(b"abc").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
        // Unread bytes: closing resets.
        drop(client);
        running.wait_until("connections stay", |lan| lan.connections() == 0);
    }
    finish(&stop, guest);
}

#[test]
fn a_hundred_connections_at_once() {
    let (running, stop, guest) = echo(&[ECHO], 100);
    let together = Arc::new(Barrier::new(100));
    let clients: Vec<_> = (0..100)
        .map(|index| {
            let (stream, together) = (running.connect(0), Arc::clone(&together));
            std::thread::spawn(move || {
                together.wait();
                round_trip(stream, pattern(50_000, index));
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    running.wait_until("connections stay", |lan| lan.connections() == 0);
    finish(&stop, guest);
}

#[test]
fn a_slow_reader_holds_back_its_own_sender_only() {
    let (running, stop, guest) = echo(&[ECHO], 2);
    let slow = running.connect(0);
    let mut writer = slow.try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    // Everything between is full when nothing was accepted for a while.
    let (chunk, mut sent, mut last) = (pattern(65_536, 5), 0, Instant::now());
    while last.elapsed() < Duration::from_millis(300) {
        match writer.write(&chunk[sent % chunk.len()..]) {
            Ok(len) => (sent, last) = (sent + len, Instant::now()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 64 << 20, "nothing holds the sender back");
        std::thread::yield_now();
    }
    round_trip(running.connect(0), pattern(100_000, 6));
    let mut reader = slow;
    reader.set_nonblocking(false).unwrap();
    writer.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent);
    assert!(got.chunks(chunk.len()).all(|part| part == &chunk[..part.len()]));
    finish(&stop, guest);
}

#[test]
fn a_connection_goes_on_where_the_guest_goes_on() {
    let (running, stop, guest) = echo(&[ECHO], 1);
    let mut client = running.connect(0);
    let mut byte = [0; 5];
    client.write_all(b"first").unwrap();
    client.read_exact(&mut byte).unwrap();
    // The primary dies; what the client sends now reaches its socket, or waits in the switch.
    let guest = finish(&stop, guest);
    let to_guest = running.with(|lan, _| lan.switch.counters.to_guest);
    client.write_all(b"again").unwrap();
    running.wait_until("no frame", move |lan| lan.switch.counters.to_guest > to_guest);
    // The backup has replayed what the primary did, and goes live.
    let began = Instant::now();
    let socket = running.guest(1);
    let stop = Arc::new(AtomicBool::new(false));
    let guest = guest.run(socket, 2, Arc::clone(&stop));
    running.live(1, 2);
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"again");
    // Without the kept frames it would take a retransmission, a second at least.
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    finish(&stop, guest);
}

#[test]
fn a_replica_that_stands_still_does_not_stop_the_lan() {
    let running = Running::start(&[ECHO]);
    let _still = running.guest(0);
    running.live(0, 1);
    let clients: Vec<_> = (0..50).map(|_| running.connect(0)).collect();
    running.wait_until("not accepted", |lan| lan.connections() == 50);
    drop(clients);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let forward = vec![Forward { listen, guest_port: 80 }];
    let net = Net { mac: MAC, backend: NetBackend::User { forward } };
    let error = Lan::new(Some(&net), &Poller::new().unwrap()).err().unwrap();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}

#[test]
fn malformed_packets_are_reported() {
    let mut poller = Poller::new().unwrap();
    for bytes in
        [&[9; 20][..], &[1; 5], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 60, 0, 1], &vec![1; LAN_PACKET_MAX + 1]]
    {
        let mut lan = Lan::new(None, &poller).unwrap();
        let (ours, theirs) = PacketSocket::pair().unwrap();
        lan.attach(0, ours, &poller).unwrap();
        theirs.send(bytes).unwrap();
        let (_, malformed) = lan.service(&poller);
        assert_eq!(malformed.len(), 1);
        poller.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    }
}

/// What a replica let out while it was live lies in one socket, and who is live from now on is read from another.
#[test]
fn frames_let_out_before_a_new_generation_count_whoever_has_it() {
    let (mut poller, mut events) = (Poller::new().unwrap(), Vec::new());
    for next in [0, 1] {
        let mut lan = Lan::new(None, &poller).unwrap();
        let (ours, theirs) = PacketSocket::pair().unwrap();
        lan.attach(0, ours, &poller).unwrap();
        lan.go_live(0, 1, 0, None).unwrap();
        let packet = LanPacket { nic: 0, number: 1, frames: vec![vec![1; 60]] };
        theirs.send(&packet.encode()).unwrap();
        lan.go_live(next, 2, 0, None).unwrap();
        // From here on they are those of one that was deposed.
        theirs.send(&packet.encode()).unwrap();
        poller.wait(Some(LIMIT), &mut events).unwrap();
        events.iter().for_each(|(token, ready)| lan.ready(*token, *ready));
        lan.service(&poller);
        let counters = lan.switch.counters;
        assert_eq!((counters.from_guest, counters.dropped_stale), (1, 1), "port {next} is live now");
    }
}
