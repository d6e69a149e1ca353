//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): registers and negotiation. It knows queues only as
//! registers, and devices only as an id, features and a configuration space.

use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_mmio::*;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use super::{Device, Ring};

const MAGIC: u32 = 0x7472_6976;
const VENDOR: u32 = u32::from_le_bytes(*b"FTVM");
/// Status bits that a driver writes; NEEDS_RESET is the device's.
const STATUS_WRITABLE: u32 = 0xbf;

/// Registers of one transport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    config_generation: u32,
}

/// What a register write asks for beyond the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The queue has new buffers.
    Notify(usize),
    /// The device and its rings are to be reset.
    Reset,
}

impl Transport {
    /// True once the driver is up and while the device works.
    pub fn is_running(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.status & VIRTIO_CONFIG_S_NEEDS_RESET == 0
    }

    /// The interrupt line: asserted while the interrupt status is not 0.
    pub fn line(&self) -> bool {
        self.interrupt_status != 0
    }

    /// Buffers were used and the guest wants to know.
    pub fn raise(&mut self) {
        self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
    }

    /// The guest broke the rules of a queue: nothing is processed until it resets the device (section 2.1.2).
    pub fn needs_reset(&mut self) {
        if self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        }
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    /// Reads `size` bytes at `offset`. Registers answer to 4 bytes at a multiple of 4 only; all else reads 0.
    pub fn read(&self, offset: u64, size: u8, device: &dyn Device, rings: &[Ring]) -> u64 {
        if offset >= u64::from(VIRTIO_MMIO_CONFIG) {
            return read_config(&device.config(), offset - u64::from(VIRTIO_MMIO_CONFIG), size);
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return 0;
        }
        let ring = rings.get(self.queue_sel as usize);
        u64::from(match offset as u32 {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => 2,
            VIRTIO_MMIO_DEVICE_ID => device.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match self.device_features_sel {
                0 => offered(device) as u32,
                1 => (offered(device) >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => ring.map_or(0, |ring| u32::from(ring.setup().max_size)),
            VIRTIO_MMIO_QUEUE_READY => ring.map_or(0, |ring| u32::from(ring.setup().ready)),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status,
            VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            // No shared memory regions: the length reads -1 (section 4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            VIRTIO_MMIO_SHM_BASE_LOW | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        })
    }

    /// Writes a register. The configuration spaces of these devices cannot be written.
    pub fn write(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        device: &dyn Device,
        rings: &mut [Ring],
        ram: &GuestRam,
    ) -> Option<Action> {
        if size != 4 || !offset.is_multiple_of(4) || offset >= u64::from(VIRTIO_MMIO_CONFIG) {
            return None;
        }
        let value = value as u32;
        match offset as u32 {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if self.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 => {
                match self.driver_features_sel {
                    0 => replace_low(&mut self.driver_features, value),
                    1 => replace_high(&mut self.driver_features, value),
                    _ => {}
                }
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                let queue = value as usize;
                return (self.is_running() && queue < rings.len()).then_some(Action::Notify(queue));
            }
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS if value == 0 => {
                *self = Self { config_generation: self.config_generation, ..Self::default() };
                return Some(Action::Reset);
            }
            VIRTIO_MMIO_STATUS => self.set_status(value & STATUS_WRITABLE, device),
            VIRTIO_MMIO_QUEUE_READY => {
                let ring = rings.get_mut(self.queue_sel as usize)?;
                if ring.set_ready(ram, value & 1 != 0).is_err() {
                    self.needs_reset();
                }
            }
            register => {
                let setup = rings.get_mut(self.queue_sel as usize)?.setup_mut()?;
                match register {
                    VIRTIO_MMIO_QUEUE_NUM => setup.size = u16::try_from(value).unwrap_or(0),
                    VIRTIO_MMIO_QUEUE_DESC_LOW => replace_low(&mut setup.desc_table, value),
                    VIRTIO_MMIO_QUEUE_DESC_HIGH => replace_high(&mut setup.desc_table, value),
                    VIRTIO_MMIO_QUEUE_AVAIL_LOW => replace_low(&mut setup.avail_ring, value),
                    VIRTIO_MMIO_QUEUE_AVAIL_HIGH => replace_high(&mut setup.avail_ring, value),
                    VIRTIO_MMIO_QUEUE_USED_LOW => replace_low(&mut setup.used_ring, value),
                    VIRTIO_MMIO_QUEUE_USED_HIGH => replace_high(&mut setup.used_ring, value),
                    _ => {}
                }
            }
        }
        None
    }

    fn set_status(&mut self, value: u32, device: &dyn Device) {
        let mut status = self.status & VIRTIO_CONFIG_S_NEEDS_RESET | value;
        let newly_ok = status & !self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        // Refused features show as a FEATURES_OK that does not stick (section 3.1.1). Without VERSION_1 the driver would
        // speak the legacy layout, which is not here.
        let acceptable = self.driver_features & !offered(device) == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        if newly_ok && !acceptable {
            status &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        // A driver that goes on without agreed features is not served.
        if status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            status &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status = status;
    }
}

fn offered(device: &dyn Device) -> u64 {
    device.features() | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC
}

fn replace_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn replace_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

fn read_config(config: &[u8], offset: u64, size: u8) -> u64 {
    (0..u64::from(size.min(8))).fold(0, |value, index| {
        let byte = usize::try_from(offset + index).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        value | u64::from(byte) << (8 * index)
    })
}
