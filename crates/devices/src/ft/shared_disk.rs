//! A disk that both replicas reach and whoever is live writes; its reads travel in the log.

use ft_core::output::DiskOp;

use super::{DiskPolicy, Disposition};

/// Writes are outputs. Reads and flushes show nothing outside (a flush makes durable what was released already), so they do
/// not wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedDisk;

impl DiskPolicy for SharedDisk {
    fn recording(&self, op: &DiskOp) -> Disposition {
        match op {
            DiskOp::Write { .. } => Disposition::AfterAck,
            DiskOp::Read { .. } | DiskOp::Flush => Disposition::Now,
        }
    }

    fn replaying(&self, op: &DiskOp) -> Disposition {
        match op {
            DiskOp::Write { .. } => Disposition::Keep,
            DiskOp::Read { .. } | DiskOp::Flush => Disposition::Drop,
        }
    }
}
