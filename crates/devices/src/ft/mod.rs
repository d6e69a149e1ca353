//! The fault-tolerance layers around the back-ends: for each output, what becomes of it.
//!
//! A layer is a pure decision. It is composed from the machine's role ([`live`], [`recording`], [`replaying`]) and, for
//! disks, from the policy of each disk; it is applied by whoever holds the gate and the back-ends.

pub mod disk;
pub mod live;
pub mod reads;
pub mod recording;
pub mod replaying;
pub mod sharing;

use ft_core::output::OutputBody;

pub use disk::{DiskPolicies, DiskPolicy};
pub use live::Live;
pub use recording::Recording;
pub use replaying::Replaying;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::reads::{OnBackup, OnPrimary};
    use super::sharing::{Separate, Shared};
    use super::*;
    use ft_core::output::{DiskOp, DiskRequest};
    use {Disposition::AfterAck, Disposition::Drop, Disposition::Keep, Disposition::Now};

    fn disk(op: DiskOp) -> OutputBody {
        OutputBody::Disk(DiskRequest { disk: 0, request: 0, op })
    }

    fn check(policy: DiskPolicy, cases: impl IntoIterator<Item = (OutputBody, Disposition, Disposition)>) {
        let disks: DiskPolicies = Arc::from([policy]);
        let (recording, replaying) = (Recording::new(Arc::clone(&disks)), Replaying::new(disks));
        for (output, recorded, replayed) in cases {
            assert_eq!(recording.decide(&output), recorded, "{output:?}");
            assert_eq!(replaying.decide(&output), replayed, "{output:?}");
            assert_eq!(Live.decide(&output), Now);
        }
    }

    #[test]
    fn what_is_seen_outside_waits_for_the_backup_and_is_kept_there() {
        check(
            DiskPolicy::new(Shared, OnPrimary),
            [
                (OutputBody::NetTx { nic: 0, frames: vec![] }, AfterAck, Keep),
                (OutputBody::Console { offset: 0, bytes: vec![] }, AfterAck, Keep),
                (OutputBody::PowerOff { code: 0 }, AfterAck, Keep),
                (OutputBody::Reset, AfterAck, Keep),
                (OutputBody::Dead(String::new()), AfterAck, Keep),
                (OutputBody::Entropy { request: 0, len: 1 }, Now, Drop),
            ],
        );
    }

    #[test]
    fn disks_by_sharing_and_reads() {
        let write = || disk(DiskOp::Write { sector: 0, data: vec![] });
        let discard = || disk(DiskOp::Discard { sector: 0, count: 1 });
        let zeroes = || disk(DiskOp::WriteZeroes { sector: 0, count: 1, unmap: false });
        let read = || disk(DiskOp::Read { sector: 0, len: 512 });
        let flush = || disk(DiskOp::Flush);
        let writes = |recorded, replayed| {
            [(write(), recorded, replayed), (discard(), recorded, replayed), (zeroes(), recorded, replayed)]
        };
        let with = |writes: [_; 3], read, flush| writes.into_iter().chain([read, flush]);
        check(
            DiskPolicy::new(Shared, OnPrimary),
            with(writes(AfterAck, Keep), (read(), Now, Drop), (flush(), Now, Drop)),
        );
        check(
            DiskPolicy::new(Shared, OnBackup),
            with(writes(AfterAck, Keep), (read(), Now, Now), (flush(), Now, Drop)),
        );
        check(
            DiskPolicy::new(Separate, OnPrimary),
            with(writes(Now, Now), (read(), Now, Drop), (flush(), Now, Now)),
        );
        check(
            DiskPolicy::new(Separate, OnBackup),
            with(writes(Now, Now), (read(), Now, Now), (flush(), Now, Now)),
        );
    }
}
