//! virtio devices over MMIO: finding them, negotiating features, and the drivers.
//!
//! The queues and the register transport are those of the `virtio-drivers` crate; its device drivers are not used,
//! because they wait by spinning on the used ring and notify once per buffer.

mod blk;
mod blk_queue;
mod dma;
mod net;
mod rng;

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

pub use blk::{Blk, Request, SECTOR};
pub use blk_queue::{BlkQueue, Command, Completion};
pub use dma::Dma;
pub use net::{FRAME_MAX, Frame, Net};
pub use rng::entropy;
pub use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::{BootInfo, irq, println};

/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;

/// Memory for queues: guest-physical is virtual, and devices see all of it.
#[derive(Debug)]
pub struct Identity;

fn pages(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).expect("a queue of a sane size")
}

// SAFETY: pages come from the global allocator, zeroed, aligned and unshared; memory is identity-mapped.
unsafe impl Hal for Identity {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(pages(count)) }).expect("memory for a queue");
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: from `dma_alloc` with the same count.
        unsafe { dealloc(memory.as_ptr(), pages(count)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("a device is not at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// A device that was found, not yet driven.
pub struct Found {
    transport: MmioTransport<'static>,
}

impl Found {
    /// What it is.
    pub fn kind(&self) -> DeviceType {
        self.transport.device_type()
    }

    /// Resets the device and agrees on `VERSION_1` and those of `wanted` that it offers; returns these.
    fn negotiate(&mut self, wanted: u64) -> u64 {
        let transport = &mut self.transport;
        transport.set_status(DeviceStatus::empty());
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let features = transport.read_device_features() & (wanted | VERSION_1);
        assert!(features & VERSION_1 != 0, "a virtio device of before version 1");
        transport.write_driver_features(features);
        let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        assert!(transport.get_status().contains(DeviceStatus::FEATURES_OK), "features refused");
        features
    }
}

/// The devices that the command line names (`virtio_mmio.device=SIZE@BASE:GSI`, the syntax of Linux), in its order.
/// Empty places (device id 0) are passed over.
pub fn discover(boot: &BootInfo) -> Vec<Found> {
    let mut found = Vec::new();
    for word in boot.options("virtio_mmio.device") {
        let Some((size, base, gsi)) = parse(word) else {
            println!("virtio: {word} is not SIZE@BASE:GSI");
            continue;
        };
        let header = NonNull::new(base as *mut VirtIOHeader).expect("a device is not at address 0");
        // SAFETY: the loader says that such a device is there; nothing else of this program touches it.
        let Ok(transport) = (unsafe { MmioTransport::new(header, size) }) else { continue };
        irq::route(found.len(), base, gsi);
        found.push(Found { transport });
    }
    found
}

fn parse(word: &str) -> Option<(usize, usize, u32)> {
    let (size, rest) = word.split_once('@')?;
    let (base, gsi) = rest.split_once(':')?;
    // Linux allows a fourth field, the platform id.
    let gsi = gsi.split(':').next()?;
    let base = number(base)?;
    (base != 0).then_some((number(size)?, base, u32::try_from(number(gsi)?).ok()?))
}

/// A number as the kernel's `memparse` reads it: decimal, hexadecimal with 0x, and K or M behind it.
fn number(text: &str) -> Option<usize> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => usize::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    value.ok()?.checked_mul(unit)
}
