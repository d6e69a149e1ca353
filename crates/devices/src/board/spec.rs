//! What a board is made of, and the inputs that do not fit it.

use ft_vcpu::Position;

use crate::layout;
use crate::virtio::blk::Mismatch;

/// A disk of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpec {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes fail.
    pub read_only: bool,
}

/// A network device of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicSpec {
    /// Its address.
    pub mac: [u8; 6],
}

/// The devices of a machine. Slots are given out in the order disks, network devices, rng, console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardSpec {
    /// Disks, in the order of the config.
    pub disks: Vec<DiskSpec>,
    /// Network devices, in the order of the config.
    pub nics: Vec<NicSpec>,
    /// Whether there is a virtio source of entropy.
    pub rng: bool,
    /// Whether there is a virtio console beside the serial line.
    pub console: bool,
}

impl BoardSpec {
    /// Number of virtio-mmio slots in use.
    pub fn slots(&self) -> usize {
        self.disks.len() + self.nics.len() + usize::from(self.rng) + usize::from(self.console)
    }

    /// Linux command line parameters that declare the virtio devices.
    pub fn command_line(&self) -> String {
        layout::virtio_command_line(self.slots())
    }
}

/// A specification with more devices than there are slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{slots} virtio devices, at most {} fit", layout::VIRTIO_SLOTS)]
pub struct TooManyDevices {
    /// Devices asked for.
    pub slots: usize,
}

/// An input that does not fit the state of the board. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// There is no such disk.
    #[error("completion for disk {0}, which is not there")]
    NoDisk(u16),
    /// There is no such network device.
    #[error("frames for network device {0}, which is not there")]
    NoNic(u16),
    /// There is no source of entropy.
    #[error("entropy for a machine without a source of it")]
    NoRng,
    /// No request of this number and size is in flight on the disk.
    #[error("disk {disk}, request {request}: {mismatch}")]
    Disk {
        /// Disk of the completion.
        disk: u16,
        /// Request of the completion.
        request: u64,
        /// What does not fit.
        mismatch: Mismatch,
    },
    /// No request for entropy of this number and size is in flight.
    #[error("entropy, request {request}: {mismatch}")]
    Entropy {
        /// Request of the answer.
        request: u64,
        /// What does not fit.
        mismatch: Mismatch,
    },
    /// An anchor before the one in force.
    #[error("clock anchor at position {at}, but one is in force from {anchor} on")]
    AnchorGoesBack {
        /// Where it was to be applied.
        at: Position,
        /// Position of the anchor in force.
        anchor: Position,
    },
}
