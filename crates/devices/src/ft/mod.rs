//! The fault-tolerance layers around the back-ends: for each output, what becomes of it.
//!
//! A layer is a pure decision. It is composed from the machine's role ([`live`], [`recording`], [`replaying`]) and, for
//! disks, from the policy of each disk; it is applied by whoever holds the gate and the back-ends.

pub mod live;
pub mod recording;
pub mod replaying;
pub mod shared_disk;

use std::sync::Arc;

use ft_core::output::{DiskOp, OutputBody};

pub use live::Live;
pub use recording::Recording;
pub use replaying::Replaying;
pub use shared_disk::SharedDisk;

/// What becomes of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Done now, without a marker in the log.
    Now,
    /// A marker goes into the log, and it is done when the backup has acknowledged it (the Output Rule).
    AfterAck,
    /// Not done, and kept until the primary is known to have done it; what is left is done at go-live.
    Keep,
    /// Not done and not kept: the primary does it, and what is unfinished at go-live is among the board's pending requests.
    Drop,
}

/// Decides for each output.
pub trait Layer: Send {
    /// What becomes of `output`.
    fn decide(&self, output: &OutputBody) -> Disposition;
}

/// How requests to one disk are replicated. A new kind of disk is one new file beside [`shared_disk`].
pub trait DiskPolicy: Send + Sync + std::fmt::Debug {
    /// On a machine with a backup.
    fn recording(&self, op: &DiskOp) -> Disposition;
    /// On a backup.
    fn replaying(&self, op: &DiskOp) -> Disposition;
}

/// The policies of a machine's disks, in the order of the config.
pub type DiskPolicies = Arc<[Box<dyn DiskPolicy>]>;
