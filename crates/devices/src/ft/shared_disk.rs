//! A disk that both replicas reach and whoever is live writes; its reads travel in the log.

use ft_core::output::DiskOp;

use super::{DiskPolicy, Disposition};

/// Writes are outputs. Reads and flushes show nothing outside (a flush makes durable what was released already), so they do
/// not wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedDisk;

impl DiskPolicy for SharedDisk {
    fn recording(&self, op: &DiskOp) -> Disposition {
        if op.is_write() { Disposition::AfterAck } else { Disposition::Now }
    }

    fn replaying(&self, op: &DiskOp) -> Disposition {
        if op.is_write() { Disposition::Keep } else { Disposition::Drop }
    }
}
