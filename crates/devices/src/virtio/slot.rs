//! A virtio-mmio slot: a transport, the rings and a device model put together.

use ft_core::output::OutputBody;
use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};

use super::mmio::{Action, Transport};
use super::queue::RingState;
use super::{Broken, Context, Device, Ring};

/// State of a slot without its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// Registers of the transport.
    pub transport: Transport,
    /// Queues.
    pub rings: Vec<RingState>,
}

/// A device with its transport and rings.
#[derive(Debug)]
pub struct Slot<D> {
    /// The device model.
    pub device: D,
    transport: Transport,
    rings: Vec<Ring>,
}

impl<D: Device> Slot<D> {
    /// A slot as after reset.
    pub fn new(device: D) -> Self {
        let rings = device.queue_sizes().iter().map(|size| Ring::new(*size)).collect();
        Self { device, transport: Transport::default(), rings }
    }

    /// Reads a register.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        self.transport.read(offset, size, &self.device, &self.rings)
    }

    /// Writes a register and does what follows from it.
    pub fn write(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        ram: &GuestRam,
        outputs: &mut Vec<OutputBody>,
    ) {
        match self.transport.write(offset, size, value, &self.device, &mut self.rings, ram) {
            Some(Action::Notify(queue)) => {
                self.step(ram, outputs, |device, context| device.process(queue, context));
            }
            Some(Action::Reset) => {
                self.rings.iter_mut().for_each(Ring::reset);
                self.device.reset();
            }
            None => {}
        }
    }

    /// Lets the device work on its rings; afterwards there is at most one interrupt, or DEVICE_NEEDS_RESET.
    pub fn step(
        &mut self,
        ram: &GuestRam,
        outputs: &mut Vec<OutputBody>,
        work: impl FnOnce(&mut D, &mut Context<'_>) -> Result<(), Broken>,
    ) {
        let mut context = Context { ram, rings: &mut self.rings, outputs };
        let result = work(&mut self.device, &mut context);
        for ring in &mut self.rings {
            if ring.take_interrupt(ram) {
                self.transport.raise();
            }
        }
        if let Err(broken) = result {
            tracing::debug!(device = self.device.id(), %broken, "the guest broke a virtqueue");
            self.transport.needs_reset();
        }
    }

    /// True while the driver is up and the device works.
    pub fn is_running(&self) -> bool {
        self.transport.is_running()
    }

    /// Level of the interrupt line.
    pub fn line(&self) -> bool {
        self.transport.line()
    }

    /// State without the device's.
    pub fn save(&self) -> SlotState {
        SlotState { transport: self.transport.clone(), rings: self.rings.iter().map(Ring::save).collect() }
    }

    /// A slot in a saved state around a restored device.
    ///
    /// # Errors
    /// The state belongs to another kind of device.
    pub fn restore(device: D, state: &SlotState, ram: &GuestRam) -> Result<Self, &'static str> {
        let sizes = device.queue_sizes();
        if sizes.len() != state.rings.len() {
            return Err("another number of queues");
        }
        let rings = sizes.iter().zip(&state.rings).map(|(size, ring)| Ring::restore(*size, ring, ram));
        Ok(Self { rings: rings.collect::<Result<_, _>>()?, transport: state.transport.clone(), device })
    }
}
