//! The disk with many requests in flight, completed in whatever order, about buffers that the program may keep touching.
//!
//! [`Blk`](super::Blk) is for who wants one request at a time. This one is for who wants to know what a disk does: each
//! request has a tag, by which its completion is known, and its data are in a [`Dma`].

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::mmio::MmioTransport;

use super::{Dma, Found, Identity, SECTOR};
use crate::irq;

const QUEUE: u16 = 0;
/// Descriptors of the queue. A request takes three of them, or one that leads to three where the device follows it.
const DESCRIPTORS: usize = 256;
/// Descriptors of one request: header, data, status.
const PER_REQUEST: usize = 3;

const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;
const FEATURE_INDIRECT: u64 = 1 << 28;

/// `virtio_blk_config`: how many sectors a discard, and a write of zeroes, may be about.
const CONFIG_MAX_DISCARD: usize = 36;
const CONFIG_MAX_WRITE_ZEROES: usize = 48;

/// The control buffer: `virtio_blk_req`'s header (type, reserved, sector), then `virtio_blk_discard_write_zeroes` (sector,
/// count, flags), then the status.
const HEADER: Range<usize> = 0..16;
const SEGMENT: Range<usize> = 16..32;
const STATUS: Range<usize> = 32..33;
const CONTROL: usize = 40;

/// What to do, about which sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Fill the buffer from the disk.
    Read {
        /// First sector.
        sector: u64,
    },
    /// Write the buffer to the disk.
    Write {
        /// First sector.
        sector: u64,
    },
    /// Make completed writes durable. No data.
    Flush,
    /// The content is needed no more. No data.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
    },
    /// Write zeroes. No data.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// How many.
        count: u32,
        /// The device may give the blocks back.
        unmap: bool,
    },
}

/// Whose answer has come.
#[derive(Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// The status byte: 0 is good, 1 an I/O error, 2 unsupported.
    pub status: u8,
    /// The request's buffer; empty where it had none.
    pub data: Rc<Dma>,
}

#[derive(Debug)]
struct InFlight {
    tag: u64,
    command: Command,
    control: Rc<Dma>,
    data: Rc<Dma>,
    range: Range<usize>,
}

/// The driver of a virtio block device.
pub struct BlkQueue {
    transport: MmioTransport<'static>,
    queue: VirtQueue<Identity, DESCRIPTORS>,
    capacity: u64,
    can_flush: bool,
    max_discard: u32,
    max_write_zeroes: u32,
    /// By token.
    in_flight: Vec<Option<InFlight>>,
    /// Control buffers to be used again.
    spare: Vec<Rc<Dma>>,
    /// The buffer of requests without data.
    nothing: Rc<Dma>,
    added: bool,
}

impl BlkQueue {
    /// Sets the device up. `indirect`: requests take one descriptor of the ring each, where the device offers that.
    pub fn new(mut found: Found, indirect: bool) -> Self {
        let indirect = if indirect { FEATURE_INDIRECT } else { 0 };
        let wanted = FEATURE_FLUSH | FEATURE_DISCARD | FEATURE_WRITE_ZEROES | indirect;
        let features = found.negotiate(wanted);
        let mut transport = found.transport;
        let has = |feature| features & feature != 0;
        let config = |offset| transport.read_config_space::<u32>(offset).expect("the field is there");
        let capacity = u64::from(config(0)) | u64::from(config(4)) << 32;
        let max_discard = if has(FEATURE_DISCARD) { config(CONFIG_MAX_DISCARD) } else { 0 };
        let max_write_zeroes = if has(FEATURE_WRITE_ZEROES) { config(CONFIG_MAX_WRITE_ZEROES) } else { 0 };
        let mut queue =
            VirtQueue::new(&mut transport, QUEUE, has(FEATURE_INDIRECT), false).expect("the disk's queue");
        queue.set_dev_notify(false);
        transport.finish_init();
        Self {
            transport,
            queue,
            capacity,
            can_flush: has(FEATURE_FLUSH),
            max_discard,
            max_write_zeroes,
            in_flight: (0..DESCRIPTORS).map(|_| None).collect(),
            spare: Vec::new(),
            nothing: Dma::new(0),
            added: false,
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

    /// Most sectors of a discard; 0: there is none.
    pub fn max_discard(&self) -> u32 {
        self.max_discard
    }

    /// Most sectors of a write of zeroes; 0: there is none.
    pub fn max_write_zeroes(&self) -> u32 {
        self.max_write_zeroes
    }

    /// Whether there is room in the ring for one more request.
    pub fn has_room(&self) -> bool {
        self.queue.available_desc() >= PER_REQUEST
    }

    /// Puts a request about `data[range]` into the ring, where there must be room. The device hears of it at the next
    /// [`BlkQueue::kick`].
    pub fn submit(&mut self, tag: u64, command: Command, data: Rc<Dma>, range: Range<usize>) {
        assert!(range.len().is_multiple_of(SECTOR), "whole sectors");
        let (kind, sector, count, unmap) = match command {
            Command::Read { sector } => (0, sector, 0, false),
            Command::Write { sector } => (1, sector, 0, false),
            Command::Flush => (4, 0, 0, false),
            Command::Discard { sector, count } => (11, sector, count, false),
            Command::WriteZeroes { sector, count, unmap } => (13, sector, count, unmap),
        };
        let control = self.spare.pop().unwrap_or_else(|| Dma::new(CONTROL));
        // For the two commands with a segment the header's sector is reserved.
        control.write_word(HEADER.start, kind);
        control.write_word(HEADER.start + 8, if count == 0 { sector } else { 0 });
        control.write_word(SEGMENT.start, sector);
        control.write_word(SEGMENT.start + 8, u64::from(count) | u64::from(unmap) << 32);
        control.write_word(STATUS.start, 0xff);
        let request = InFlight { tag, command, control, data, range };
        let queue = &mut self.queue;
        // SAFETY: the buffers are kept in `in_flight` until the token is popped. The slices exist for the length of this
        // call only: what touches the memory later goes through raw pointers.
        let token = unsafe { request.with_parts(|readable, writable| queue.add(readable, writable)) };
        let token = token.expect("room for the request");
        self.in_flight[usize::from(token)] = Some(request);
        self.added = true;
    }

    /// A request without data.
    pub fn submit_bare(&mut self, tag: u64, command: Command) {
        self.submit(tag, command, Rc::clone(&self.nothing), 0..0);
    }

    /// Tells the device about the requests since the last time.
    pub fn kick(&mut self) {
        if core::mem::take(&mut self.added) {
            // The device must see the requests before we read whether it wants to be told (virtio 1.2, 2.7.13.4.1).
            fence(Ordering::SeqCst);
            if self.queue.should_notify() {
                self.transport.notify(QUEUE);
            }
        }
    }

    /// The next request that has completed.
    pub fn poll(&mut self) -> Option<Completion> {
        let token = self.queue.peek_used()?;
        let request = self.in_flight[usize::from(token)].take().expect("a request that the device has");
        let queue = &mut self.queue;
        // SAFETY: the very buffers that were added with this token.
        let popped =
            unsafe { request.with_parts(|readable, writable| queue.pop_used(token, readable, writable)) };
        popped.expect("the disk completes what it was given");
        let InFlight { tag, control, data, .. } = request;
        let status = control.read_word(STATUS.start) as u8;
        self.spare.push(control);
        Some(Completion { tag, status, data })
    }

    /// Whether [`BlkQueue::poll`] has something.
    pub fn is_ready(&self) -> bool {
        self.queue.can_pop()
    }

    /// Turns completion interrupts on or off. Once they are on, [`BlkQueue::is_ready`] has to be asked before halting.
    pub fn set_interrupts(&mut self, on: bool) {
        self.queue.set_dev_notify(on);
        if on {
            // The device must see this before we look at its ring, or each side could miss the other.
            fence(Ordering::SeqCst);
        }
    }

    /// Halts until a request has completed.
    pub fn wait(&mut self) -> Completion {
        loop {
            if let Some(done) = self.poll() {
                return done;
            }
            self.set_interrupts(true);
            if !self.is_ready() {
                irq::wait();
            }
            self.set_interrupts(false);
        }
    }
}

impl InFlight {
    /// Gives the device-readable and the device-writable parts of the request to `then`.
    ///
    /// # Safety
    /// The request must not be in the device's hands: it is not in the ring yet, or it is done. `then` must not look into
    /// the data, which another request may be about.
    unsafe fn with_parts<R>(
        &self,
        then: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let header = self.control.part(HEADER);
        let segment = self.control.part(SEGMENT);
        let mut status = self.control.part(STATUS);
        let mut data = self.data.part(self.range.clone());
        // SAFETY: parts of live, initialised buffers that do not overlap each other. No other slice of them exists: a
        // buffer with more than one holder is reached by volatile words only.
        unsafe {
            let (header, status) = (header.as_ref(), status.as_mut());
            match self.command {
                Command::Read { .. } => then(&[header], &mut [data.as_mut(), status]),
                Command::Write { .. } => then(&[header, data.as_ref()], &mut [status]),
                Command::Flush => then(&[header], &mut [status]),
                Command::Discard { .. } | Command::WriteZeroes { .. } => {
                    then(&[header, segment.as_ref()], &mut [status])
                }
            }
        }
    }
}
