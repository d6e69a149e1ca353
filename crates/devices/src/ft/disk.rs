//! How the requests to one disk are replicated: a way of sharing and a way of reading, composed.

use std::sync::Arc;

use ft_core::mutation::{Mutation, mutated};
use ft_core::output::DiskOp;

use super::Disposition;
use super::reads::{OnBackup, OnPrimary, Reads};
use super::sharing::{Separate, Shared, Sharing};

/// The policy of one disk.
#[derive(Debug)]
pub struct DiskPolicy {
    sharing: Box<dyn Sharing>,
    reads: Box<dyn Reads>,
}

/// The policies of a machine's disks, in the order of the config.
pub type DiskPolicies = Arc<[DiskPolicy]>;

impl DiskPolicy {
    /// A policy of these parts.
    pub fn new(sharing: impl Sharing + 'static, reads: impl Reads + 'static) -> Self {
        Self { sharing: Box::new(sharing), reads: Box::new(reads) }
    }

    /// What the config says of a disk.
    pub fn of(disk: &ft_policies::Disk) -> Self {
        let sharing: Box<dyn Sharing> = match disk.sharing {
            ft_policies::Sharing::Shared => Box::new(Shared),
            ft_policies::Sharing::Separate => Box::new(Separate),
        };
        let reads: Box<dyn Reads> = match disk.reads {
            ft_policies::Reads::Primary => Box::new(OnPrimary),
            ft_policies::Reads::Backup => Box::new(OnBackup),
        };
        Self { sharing, reads }
    }

    /// What becomes of a request on a machine with a backup.
    pub fn recording(&self, op: &DiskOp) -> Disposition {
        match op {
            DiskOp::Read { .. } | DiskOp::Flush => Disposition::Now,
            DiskOp::Discard { .. } if mutated(Mutation::DiscardAtOnce) => Disposition::Now,
            DiskOp::Write { .. } | DiskOp::Discard { .. } | DiskOp::WriteZeroes { .. } => {
                self.sharing.write_recording()
            }
        }
    }

    /// What becomes of it on a backup.
    pub fn replaying(&self, op: &DiskOp) -> Disposition {
        match op {
            DiskOp::Read { .. } => self.reads.replaying(),
            DiskOp::Flush => self.sharing.flush_replaying(),
            DiskOp::Discard { .. } if mutated(Mutation::DiscardAtOnce) => Disposition::Now,
            DiskOp::Write { .. } | DiskOp::Discard { .. } | DiskOp::WriteZeroes { .. } => {
                self.sharing.write_replaying()
            }
        }
    }

    /// The log carries what was read.
    pub fn logs_reads(&self) -> bool {
        self.reads.are_logged()
    }

    /// A write must not reach the disk before the backup has the data of every earlier read of the same blocks: it could read
    /// them itself later, at the latest when it goes live (paper, section 4.2, last paragraph).
    pub fn reads_race(&self) -> bool {
        !self.sharing.is_own()
    }

    /// The backup itself reads the disk that the primary writes.
    pub fn reads_twice(&self) -> bool {
        !self.reads.are_logged() && !self.sharing.is_own()
    }

    /// Each replica has a copy of its own.
    pub fn is_own(&self) -> bool {
        self.sharing.is_own()
    }
}
