//! Who reads a disk.

use std::fmt::Debug;

use super::Disposition;

/// The primary alone, or both. A new kind is one more implementation.
pub trait Reads: Send + Sync + Debug {
    /// What becomes of a read on a backup; the machine that is live does it now.
    fn replaying(&self) -> Disposition;
    /// The log carries what was read. Otherwise it carries that the read is done, and a backup reads for itself.
    fn are_logged(&self) -> bool;
}

/// The primary reads, and the log carries the data (paper, section 4.2, first paragraph).
#[derive(Debug, Clone, Copy, Default)]
pub struct OnPrimary;

impl Reads for OnPrimary {
    fn replaying(&self) -> Disposition {
        Disposition::Drop
    }

    fn are_logged(&self) -> bool {
        true
    }
}

/// The backup reads for itself, and has the data by the position of the completion: less log, more lag (paper, section 4.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct OnBackup;

impl Reads for OnBackup {
    fn replaying(&self) -> Disposition {
        Disposition::Now
    }

    fn are_logged(&self) -> bool {
        false
    }
}
