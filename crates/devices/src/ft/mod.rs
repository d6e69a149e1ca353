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

#[cfg(test)]
mod tests {
    use super::*;
    use ft_core::output::DiskRequest;

    fn disk(op: DiskOp) -> OutputBody {
        OutputBody::Disk(DiskRequest { disk: 0, request: 0, op })
    }

    #[test]
    fn what_is_seen_outside_waits_for_the_backup_and_is_kept_there() {
        use Disposition::{AfterAck, Drop, Keep, Now};
        let disks: DiskPolicies = Arc::from([Box::new(SharedDisk) as Box<dyn DiskPolicy>]);
        let (recording, replaying) = (Recording::new(Arc::clone(&disks)), Replaying::new(disks));
        let cases = [
            (OutputBody::NetTx { nic: 0, frames: vec![] }, AfterAck, Keep),
            (OutputBody::Console { offset: 0, bytes: vec![] }, AfterAck, Keep),
            (OutputBody::PowerOff { code: 0 }, AfterAck, Keep),
            (OutputBody::Reset, AfterAck, Keep),
            (OutputBody::Dead(String::new()), AfterAck, Keep),
            (disk(DiskOp::Write { sector: 0, data: vec![] }), AfterAck, Keep),
            (disk(DiskOp::Read { sector: 0, len: 512 }), Now, Drop),
            (disk(DiskOp::Flush), Now, Drop),
            (OutputBody::Entropy { request: 0, len: 1 }, Now, Drop),
        ];
        for (output, recorded, replayed) in cases {
            assert_eq!(recording.decide(&output), recorded, "{output:?}");
            assert_eq!(replaying.decide(&output), replayed, "{output:?}");
            assert_eq!(Live.decide(&output), Now);
        }
    }
}
