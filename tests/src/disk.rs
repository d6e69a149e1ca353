//! How a disk is replicated, as a test chooses it.

use std::fmt;

/// Whose disk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Both replicas use one.
    Shared,
    /// Each has a copy of its own.
    Separate,
}

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The primary; the log carries the data.
    Primary,
    /// The backup reads for itself.
    Backup,
}

/// The policy of every disk of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPolicy {
    /// Whose it is.
    pub sharing: Sharing,
    /// Who reads it.
    pub reads: Reads,
}

impl DiskPolicy {
    /// One disk, read by the primary: what a config without a word about it means.
    pub const SHARED: Self = Self { sharing: Sharing::Shared, reads: Reads::Primary };
    /// One disk, read by both.
    pub const SHARED_READ_BY_BOTH: Self = Self { sharing: Sharing::Shared, reads: Reads::Backup };
    /// Two disks, the first of which is read.
    pub const SEPARATE: Self = Self { sharing: Sharing::Separate, reads: Reads::Primary };
    /// Two disks, each read by its own replica.
    pub const SEPARATE_READ_BY_BOTH: Self = Self { sharing: Sharing::Separate, reads: Reads::Backup };

    /// Whether each replica has a disk of its own.
    pub fn is_separate(self) -> bool {
        self.sharing == Sharing::Separate
    }

    /// Name of the image of disk `number`, with the place of the replica's name where there are two of them.
    pub(crate) fn path(self, number: usize) -> String {
        let number = if number == 0 { String::new() } else { number.to_string() };
        let place = if self.is_separate() { ".{replica}" } else { "" };
        format!("disk{number}{place}.img")
    }

    /// The keys of a `[[disk]]` table.
    pub(crate) fn keys(self) -> &'static str {
        match (self.sharing, self.reads) {
            (Sharing::Shared, Reads::Primary) => "sharing = \"shared\"",
            (Sharing::Shared, Reads::Backup) => "sharing = \"shared\"\nreads = \"backup\"",
            (Sharing::Separate, Reads::Primary) => "sharing = \"separate\"\nreads = \"primary\"",
            (Sharing::Separate, Reads::Backup) => "sharing = \"separate\"\nreads = \"backup\"",
        }
    }
}

impl fmt::Display for DiskPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sharing = if self.is_separate() { "separate disks" } else { "a shared disk" };
        let reads = if self.reads == Reads::Backup { "the backup reads" } else { "the primary reads" };
        write!(formatter, "{sharing}, {reads}")
    }
}
