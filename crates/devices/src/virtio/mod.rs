//! virtio 1.2 over MMIO, in three layers that do not know each other's insides:
//!
//! - [`mmio`]: the transport: registers, status and feature negotiation, queue set-up, interrupt status;
//! - [`blk`], [`net`], [`console`], [`rng`]: device models, each a pure state machine behind [`Device`];
//! - [`queue`] and [`chain`]: rings (virtio-queue) and the buffers of one request.
//!
//! The guest is not trusted: a ring that cannot be processed sets DEVICE_NEEDS_RESET, a request that cannot be carried
//! out fails with the device's own error, and the work of one notification is bounded by the size of the queue.

pub mod blk;
pub mod chain;
pub mod console;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod slot;

use ft_core::output::OutputBody;
use ft_vcpu::GuestRam;

pub use queue::Ring;

/// Device type of a network card (virtio 1.2, section 5).
pub const DEVICE_NET: u32 = 1;
/// Device type of a block device.
pub const DEVICE_BLOCK: u32 = 2;
/// Device type of a console.
pub const DEVICE_CONSOLE: u32 = 3;
/// Device type of an entropy source.
pub const DEVICE_RNG: u32 = 4;

/// The guest's ring or descriptors make no sense. The device asks to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The ring is outside RAM, or offers more than it can hold.
    #[error("ring outside RAM or overfull")]
    Ring,
    /// A descriptor chain loops, is cut off, or is in the wrong order.
    #[error("bad descriptor chain")]
    Chain,
    /// A buffer is outside RAM.
    #[error("buffer outside RAM")]
    Buffer,
    /// A request is larger than the device can take and has no way to say so.
    #[error("request too large")]
    TooLarge,
}

/// What a device model sees of the machine while it processes a queue.
pub struct Context<'a> {
    /// Guest memory.
    pub ram: &'a GuestRam,
    /// The device's rings, in the order of its queues.
    pub rings: &'a mut [Ring],
    /// Where outputs go, in the order made.
    pub outputs: &'a mut Vec<OutputBody>,
}

impl Context<'_> {
    /// Takes the next available chain of queue `queue`.
    ///
    /// # Errors
    /// See [`Ring::pop`] and [`chain::Chain::parse`].
    pub fn pop(&mut self, queue: usize) -> Result<Option<chain::Chain>, Broken> {
        self.rings[queue].pop(self.ram)
    }

    /// Gives a chain of queue `queue` back to the guest, `len` bytes of it written.
    ///
    /// # Errors
    /// The ring is not in RAM any more.
    pub fn add_used(&mut self, queue: usize, head: u16, len: u32) -> Result<(), Broken> {
        self.rings[queue].add_used(self.ram, head, len)
    }
}

/// A device model behind a transport.
pub trait Device {
    /// Device type (virtio 1.2, section 5).
    fn id(&self) -> u32;
    /// Feature bits 0-23 that it offers.
    fn features(&self) -> u64;
    /// Largest size of each of its queues, powers of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// Its configuration space.
    fn config(&self) -> Vec<u8>;
    /// The guest said that queue `queue` has new buffers, or a bound that held requests back has eased.
    ///
    /// # Errors
    /// The ring makes no sense; the transport sets DEVICE_NEEDS_RESET.
    fn process(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Broken>;
    /// The guest reset the device: forget its buffers.
    fn reset(&mut self);
}
