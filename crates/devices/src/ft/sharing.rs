//! Whether both replicas use the same disk: what becomes of its writes and flushes.

use std::fmt::Debug;

use super::Disposition;

/// One disk for both replicas, or one for each. A new kind is one more implementation.
pub trait Sharing: Send + Sync + Debug {
    /// What becomes of a write (discard, write-zeroes), on a machine with a backup.
    fn write_recording(&self) -> Disposition;
    /// What becomes of it on a backup.
    fn write_replaying(&self) -> Disposition;
    /// What becomes of a flush on a backup; a machine with a backup does it now: it shows nothing new.
    fn flush_replaying(&self) -> Disposition;
    /// Each replica has its own: a write or flush that fails on one of them makes it another disk than its peer's.
    fn is_own(&self) -> bool;
}

/// One disk that both reach; whoever is live writes. So a write is an output, seen by whoever goes live later.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared;

impl Sharing for Shared {
    fn write_recording(&self) -> Disposition {
        Disposition::AfterAck
    }

    fn write_replaying(&self) -> Disposition {
        Disposition::Keep
    }

    fn flush_replaying(&self) -> Disposition {
        Disposition::Drop
    }

    fn is_own(&self) -> bool {
        false
    }
}

/// A copy for each replica. A write changes nothing that anybody else sees, so it waits for nobody, and both do it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Separate;

impl Sharing for Separate {
    fn write_recording(&self) -> Disposition {
        Disposition::Now
    }

    fn write_replaying(&self) -> Disposition {
        Disposition::Now
    }

    fn flush_replaying(&self) -> Disposition {
        Disposition::Now
    }

    fn is_own(&self) -> bool {
        true
    }
}
