//! The disk: one request at a time, whose buffer the driver owns meanwhile.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::mmio::MmioTransport;

use super::{Found, Identity};
use crate::irq;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

const FEATURE_FLUSH: u64 = 1 << 9;
const QUEUE: u16 = 0;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Fill the buffer from the disk.
    Read,
    /// Write the buffer to the disk.
    Write,
    /// Make completed writes durable.
    Flush,
}

/// The driver of a virtio block device.
pub struct Blk {
    transport: MmioTransport<'static>,
    queue: VirtQueue<Identity, 8>,
    capacity: u64,
    can_flush: bool,
    /// `virtio_blk_req`'s header: type, reserved, sector.
    header: Box<[u8; 16]>,
    status: Box<[u8; 1]>,
    pending: Option<Pending>,
}

struct Pending {
    token: u16,
    request: Request,
    buffer: Vec<u8>,
    /// The part of the buffer that the request is about.
    range: core::ops::Range<usize>,
}

impl Blk {
    /// Sets the device up.
    pub fn new(mut found: Found) -> Self {
        let features = found.negotiate(FEATURE_FLUSH);
        let mut transport = found.transport;
        let half = |offset| transport.read_config_space::<u32>(offset).expect("capacity is always there");
        let capacity = u64::from(half(0)) | u64::from(half(4)) << 32;
        let mut queue = VirtQueue::new(&mut transport, QUEUE, false, false).expect("the disk's queue");
        queue.set_dev_notify(false);
        transport.finish_init();
        Self {
            transport,
            queue,
            capacity,
            can_flush: features & FEATURE_FLUSH != 0,
            header: Box::new([0; 16]),
            status: Box::new([0]),
            pending: None,
        }
    }

    /// Sectors of the disk.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the device has a cache that needs flushing.
    pub fn can_flush(&self) -> bool {
        self.can_flush
    }

    /// Starts a request about `buffer[range]` at `sector`. One may be under way at a time.
    pub fn start(
        &mut self,
        request: Request,
        sector: u64,
        mut buffer: Vec<u8>,
        range: core::ops::Range<usize>,
    ) {
        assert!(self.pending.is_none(), "one disk request at a time");
        let kind: u32 = match request {
            Request::Read => 0,
            Request::Write => 1,
            Request::Flush => 4,
        };
        self.header[..4].copy_from_slice(&kind.to_le_bytes());
        self.header[8..].copy_from_slice(&sector.to_le_bytes());
        self.status[0] = 0xff;
        let (header, status) = (&self.header[..], &mut self.status[..]);
        // SAFETY: header, status and buffer are on the heap and owned by `self` until the request completes; nothing
        // reads or writes them before.
        let token = unsafe {
            match request {
                Request::Read => self.queue.add(&[header], &mut [&mut buffer[range.clone()], status]),
                Request::Write => self.queue.add(&[header, &buffer[range.clone()]], &mut [status]),
                Request::Flush => self.queue.add(&[header], &mut [status]),
            }
        };
        let token = token.expect("room for one request");
        self.pending = Some(Pending { token, request, buffer, range });
        // The device must see the request before we read whether it wants to be told (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
    }

    /// The buffer of a request that has completed since, and whether it went well.
    pub fn poll(&mut self) -> Option<(Vec<u8>, bool)> {
        if !self.queue.can_pop() {
            return None;
        }
        let Pending { token, request, mut buffer, range } = self.pending.take()?;
        let (header, status) = (&self.header[..], &mut self.status[..]);
        // SAFETY: the very buffers that were added with this token.
        let popped = unsafe {
            match request {
                Request::Read => self.queue.pop_used(token, &[header], &mut [&mut buffer[range], status]),
                Request::Write => self.queue.pop_used(token, &[header, &buffer[range]], &mut [status]),
                Request::Flush => self.queue.pop_used(token, &[header], &mut [status]),
            }
        };
        popped.expect("the disk completes what it was given");
        Some((buffer, self.status[0] == 0))
    }

    /// Whether [`Blk::poll`] has something.
    pub fn is_ready(&self) -> bool {
        self.queue.can_pop()
    }

    /// Turns completion interrupts on or off. Once they are on, [`Blk::is_ready`] has to be asked before halting.
    pub fn set_interrupts(&mut self, on: bool) {
        self.queue.set_dev_notify(on);
        if on {
            // The device must see this before we look at its ring, or each side could miss the other.
            fence(Ordering::SeqCst);
        }
    }

    /// Runs one request to its end, halting meanwhile.
    pub fn run(
        &mut self,
        request: Request,
        sector: u64,
        buffer: Vec<u8>,
        range: core::ops::Range<usize>,
    ) -> (Vec<u8>, bool) {
        self.set_interrupts(true);
        self.start(request, sector, buffer, range);
        loop {
            if let Some(done) = self.poll() {
                self.set_interrupts(false);
                return done;
            }
            irq::wait();
        }
    }
}
