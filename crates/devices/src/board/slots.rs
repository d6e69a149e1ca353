//! The virtio-mmio slots of the board, each with its kind of device.

use ft_core::output::OutputBody;
use ft_vcpu::GuestRam;

use crate::virtio::Device;
use crate::virtio::blk::Blk;
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::slot::Slot;

/// The virtio devices in the order of their slots.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) disks: Vec<Slot<Blk>>,
    pub(super) nics: Vec<Slot<Net>>,
    pub(super) rng: Option<Slot<Rng>>,
    pub(super) console: Option<Slot<Console>>,
}

/// What the bus needs of a slot.
pub(super) trait OnBus {
    fn read(&self, offset: u64, size: u8) -> u64;
    fn write(&mut self, offset: u64, size: u8, value: u64, ram: &GuestRam, outputs: &mut Vec<OutputBody>);
    fn line(&self) -> bool;
}

impl<D: Device> OnBus for Slot<D> {
    fn read(&self, offset: u64, size: u8) -> u64 {
        Slot::read(self, offset, size)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64, ram: &GuestRam, outputs: &mut Vec<OutputBody>) {
        Slot::write(self, offset, size, value, ram, outputs);
    }

    fn line(&self) -> bool {
        Slot::line(self)
    }
}

impl Slots {
    /// The device in slot `index`.
    pub(super) fn get(&mut self, index: usize) -> Option<&mut dyn OnBus> {
        let nics = self.disks.len();
        let rng = nics + self.nics.len();
        let console = rng + usize::from(self.rng.is_some());
        if index < nics {
            self.disks.get_mut(index).map(|slot| slot as &mut dyn OnBus)
        } else if index < rng {
            self.nics.get_mut(index - nics).map(|slot| slot as &mut dyn OnBus)
        } else if index < console {
            self.rng.as_mut().map(|slot| slot as &mut dyn OnBus)
        } else if index == console {
            self.console.as_mut().map(|slot| slot as &mut dyn OnBus)
        } else {
            None
        }
    }

    pub(super) fn nic_slot(&self, nic: usize) -> usize {
        self.disks.len() + nic
    }

    pub(super) fn rng_slot(&self) -> usize {
        self.disks.len() + self.nics.len()
    }

    pub(super) fn console_slot(&self) -> usize {
        self.rng_slot() + usize::from(self.rng.is_some())
    }
}
