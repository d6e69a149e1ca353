//! The network card: frames in preallocated buffers, one notification for as many as there are.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::mmio::MmioTransport;

use super::{Found, Identity};

/// Buffers in each direction.
const BUFFERS: usize = 64;
/// `virtio_net_hdr` of version 1; all zero in both directions, as no offload is negotiated.
const HEADER: usize = 12;
/// Longest frame: Ethernet header and 1500 bytes.
pub const FRAME_MAX: usize = 1514;

const FEATURE_MAC: u64 = 1 << 5;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

type Buffer = Box<[u8; 2048]>;

/// A frame that arrived; to be given back by [`Net::recycle`].
pub struct Frame {
    buffer: Buffer,
    length: usize,
}

impl Frame {
    /// The frame from the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[HEADER..HEADER + self.length]
    }
}

/// The driver of a virtio network device.
pub struct Net {
    transport: MmioTransport<'static>,
    mac: [u8; 6],
    receive: VirtQueue<Identity, BUFFERS>,
    transmit: VirtQueue<Identity, BUFFERS>,
    /// Buffers in the hands of the device, by token.
    receiving: [Option<Buffer>; BUFFERS],
    transmitting: [Option<(Buffer, usize)>; BUFFERS],
    free: Vec<Buffer>,
    receive_added: bool,
    transmit_added: bool,
}

impl Net {
    /// Sets the device up and gives it all receive buffers.
    pub fn new(mut found: Found) -> Self {
        let features = found.negotiate(FEATURE_MAC);
        let mut transport = found.transport;
        let mut mac = [0x02, 0, 0, 0, 0, 1];
        if features & FEATURE_MAC != 0 {
            for (offset, byte) in mac.iter_mut().enumerate() {
                *byte = transport.read_config_space(offset).expect("the address is in the config space");
            }
        }
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false).expect("the receive queue");
        let mut transmit =
            VirtQueue::new(&mut transport, TRANSMIT, false, false).expect("the transmit queue");
        transmit.set_dev_notify(false);
        transport.finish_init();
        let mut net = Self {
            transport,
            mac,
            receive,
            transmit,
            receiving: [const { None }; BUFFERS],
            transmitting: [const { None }; BUFFERS],
            free: (0..BUFFERS).map(|_| Box::new([0; 2048])).collect(),
            receive_added: false,
            transmit_added: false,
        };
        for _ in 0..BUFFERS {
            net.give(Box::new([0; 2048]));
        }
        net.kick();
        net
    }

    /// The card's address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The next frame that has arrived.
    pub fn receive(&mut self) -> Option<Frame> {
        let token = self.receive.peek_used()?;
        let mut buffer = self.receiving[usize::from(token)].take().expect("a buffer that the device has");
        // SAFETY: the very buffer that was added with this token.
        let length =
            unsafe { self.receive.pop_used(token, &[], &mut [&mut buffer[..]]) }.expect("our buffer");
        let length = (length as usize).clamp(HEADER, buffer.len()) - HEADER;
        Some(Frame { buffer, length })
    }

    /// Gives a frame's buffer back to the device.
    pub fn recycle(&mut self, frame: Frame) {
        self.give(frame.buffer);
    }

    fn give(&mut self, mut buffer: Buffer) {
        // SAFETY: the buffer is on the heap and kept in `receiving`, untouched, until the device is done with it.
        let token =
            unsafe { self.receive.add(&[], &mut [&mut buffer[..]]) }.expect("a place for each buffer");
        self.receiving[usize::from(token)] = Some(buffer);
        self.receive_added = true;
    }

    /// Whether a frame can be sent now.
    pub fn can_send(&mut self) -> bool {
        if self.free.is_empty() {
            self.reclaim();
        }
        !self.free.is_empty()
    }

    /// Sends a frame of `length` bytes that `fill` writes. [`Net::can_send`] must have said yes. The device hears of
    /// it at the next [`Net::kick`].
    pub fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut buffer = self.free.pop().expect("can_send was asked");
        let result = fill(&mut buffer[HEADER..HEADER + length]);
        let total = HEADER + length;
        // SAFETY: the buffer is on the heap and kept in `transmitting`, untouched, until the device is done with it.
        let token =
            unsafe { self.transmit.add(&[&buffer[..total]], &mut []) }.expect("a place for each buffer");
        self.transmitting[usize::from(token)] = Some((buffer, total));
        self.transmit_added = true;
        result
    }

    fn reclaim(&mut self) {
        while let Some(token) = self.transmit.peek_used() {
            let (buffer, total) =
                self.transmitting[usize::from(token)].take().expect("a buffer that the device has");
            // SAFETY: the very buffer that was added with this token.
            unsafe { self.transmit.pop_used(token, &[&buffer[..total]], &mut []) }.expect("our buffer");
            self.free.push(buffer);
        }
    }

    /// Tells the device about buffers added since the last time.
    pub fn kick(&mut self) {
        if !self.receive_added && !self.transmit_added {
            return;
        }
        // The device must see the buffers before we read whether it wants to be told (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        if core::mem::take(&mut self.receive_added) && self.receive.should_notify() {
            self.transport.notify(RECEIVE);
        }
        if core::mem::take(&mut self.transmit_added) && self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
    }

    /// Turns interrupts on or off: for arriving frames, and, when no buffer is left, for sent ones. Once they are on,
    /// [`Net::is_ready`] has to be asked before halting.
    pub fn set_interrupts(&mut self, on: bool) {
        self.receive.set_dev_notify(on);
        let starved = on && self.free.is_empty();
        self.transmit.set_dev_notify(starved);
        if on {
            // The device must see this before we look at its rings, or each side could miss the other.
            fence(Ordering::SeqCst);
        }
    }

    /// Whether something has happened that interrupts were turned on for.
    pub fn is_ready(&self) -> bool {
        self.receive.can_pop() || (self.free.is_empty() && self.transmit.can_pop())
    }
}
