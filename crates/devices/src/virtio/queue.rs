//! A virtqueue: virtio-queue's split ring with its state in a type of our own.

use std::sync::atomic::Ordering;

use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::Broken;
use super::chain::Chain;

/// Registers and indices of one queue. The addresses are kept as the guest wrote them; they are checked when it says that the
/// queue is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of virtio 1.2, section 4.2.2")]
pub struct RingState {
    pub max_size: u16,
    pub size: u16,
    pub ready: bool,
    pub desc_table: u64,
    pub avail_ring: u64,
    pub used_ring: u64,
    pub next_avail: u16,
    pub next_used: u16,
}

impl RingState {
    fn reset(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            desc_table: 0,
            avail_ring: 0,
            used_ring: 0,
            next_avail: 0,
            next_used: 0,
        }
    }

    fn queue(&self) -> Option<Queue> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        Queue::try_from(state).ok()
    }
}

/// One queue of a device.
#[derive(Debug)]
pub struct Ring {
    /// What the guest set up. While the queue is live its indices are those of `queue`.
    setup: RingState,
    /// There while the queue is ready and valid.
    queue: Option<Queue>,
    /// Buffers were given back since the last look at [`Ring::take_interrupt`].
    used: bool,
}

impl Ring {
    /// A queue of at most `max_size` entries, not set up.
    pub fn new(max_size: u16) -> Self {
        Self { setup: RingState::reset(max_size), queue: None, used: false }
    }

    /// Back to the state of [`Ring::new`].
    pub fn reset(&mut self) {
        *self = Self::new(self.setup.max_size);
    }

    /// The set-up registers, for the transport. Changes have no effect on a queue that is ready.
    pub fn setup(&self) -> &RingState {
        &self.setup
    }

    /// The set-up registers of a queue that is not ready; `None` when it is.
    pub fn setup_mut(&mut self) -> Option<&mut RingState> {
        (!self.setup.ready).then_some(&mut self.setup)
    }

    /// The guest declares the queue ready, or takes it back.
    ///
    /// # Errors
    /// The queue is not valid: bad size, unaligned or outside RAM.
    pub fn set_ready(&mut self, ram: &GuestRam, ready: bool) -> Result<(), Broken> {
        if ready == self.setup.ready {
            return Ok(());
        }
        if !ready {
            self.setup = self.save();
            self.setup.ready = false;
            self.queue = None;
            return Ok(());
        }
        self.setup.ready = true;
        self.queue = self.setup.queue().filter(|queue| is_in_ram(queue, ram));
        self.queue.as_ref().map(|_| ()).ok_or(Broken::Ring)
    }

    /// True if buffers can be taken.
    pub fn is_live(&self) -> bool {
        self.queue.is_some()
    }

    /// Takes the next available chain.
    ///
    /// # Errors
    /// The ring offers more than its size, or the chain makes no sense.
    pub fn pop(&mut self, ram: &GuestRam) -> Result<Option<Chain>, Broken> {
        let Some(queue) = self.queue.as_mut() else { return Ok(None) };
        let mut available = queue.iter(ram).map_err(|_| Broken::Ring)?;
        let Some(chain) = available.next() else { return Ok(None) };
        Chain::parse(ram, chain, queue.size()).map(Some)
    }

    /// Puts the chain taken last back, so that the next [`Ring::pop`] finds it again.
    pub fn undo_pop(&mut self) {
        if let Some(queue) = self.queue.as_mut() {
            queue.go_to_previous_position();
        }
    }

    /// Gives a chain back to the guest with `len` bytes written.
    ///
    /// # Errors
    /// The head is not one of this ring.
    pub fn add_used(&mut self, ram: &GuestRam, head: u16, len: u32) -> Result<(), Broken> {
        let Some(queue) = self.queue.as_mut() else { return Ok(()) };
        queue.add_used(ram, head, len).map_err(|_| Broken::Ring)?;
        self.used = true;
        Ok(())
    }

    /// True, once, if buffers were given back and the guest wants an interrupt for that. virtio-queue does not look at
    /// VRING_AVAIL_F_NO_INTERRUPT, so it is done here.
    pub fn take_interrupt(&mut self, ram: &GuestRam) -> bool {
        if !std::mem::take(&mut self.used) {
            return false;
        }
        let flags = self
            .queue
            .as_ref()
            .map(|queue| ram.load::<u16>(GuestAddress(queue.avail_ring()), Ordering::Acquire));
        match flags {
            Some(Ok(flags)) => u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0,
            _ => false,
        }
    }

    /// The state of the queue.
    pub fn save(&self) -> RingState {
        let mut state = self.setup.clone();
        if let Some(queue) = &self.queue {
            state.next_avail = queue.next_avail();
            state.next_used = queue.next_used();
        }
        state
    }

    /// A queue in a saved state.
    ///
    /// # Errors
    /// The state is not one that [`Ring::save`] gives for a queue of this size.
    pub fn restore(max_size: u16, state: &RingState, ram: &GuestRam) -> Result<Self, &'static str> {
        if state.max_size != max_size {
            return Err("another queue size");
        }
        let mut ring = Self { setup: state.clone(), queue: None, used: false };
        if state.ready {
            ring.queue = state.queue().filter(|queue| is_in_ram(queue, ram));
        }
        Ok(ring)
    }
}

/// Like `Queue::is_valid`, which logs what a guest could make it say without end, and without its overflow at the end of the
/// address space.
fn is_in_ram(queue: &Queue, ram: &GuestRam) -> bool {
    let size = u64::from(queue.size());
    [(queue.desc_table(), 16 * size), (queue.avail_ring(), 6 + 2 * size), (queue.used_ring(), 6 + 8 * size)]
        .into_iter()
        .all(|(address, len)| super::chain::in_ram(ram, address, len))
}
