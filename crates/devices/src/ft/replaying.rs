//! A machine that follows the log.

use ft_core::output::OutputBody;

use super::{DiskPolicies, Disposition, Layer};

/// Nothing is done. What the primary may not have done when it dies is kept.
#[derive(Debug, Clone)]
pub struct Replaying {
    disks: DiskPolicies,
}

impl Replaying {
    /// The layer of a machine with these disks.
    pub fn new(disks: DiskPolicies) -> Self {
        Self { disks }
    }
}

impl Layer for Replaying {
    fn decide(&self, output: &OutputBody) -> Disposition {
        match output {
            OutputBody::Disk(request) => {
                let policy = self.disks.get(usize::from(request.disk));
                policy.map_or(Disposition::Keep, |policy| policy.replaying(&request.op))
            }
            OutputBody::Entropy { .. } => Disposition::Drop,
            OutputBody::NetTx { .. }
            | OutputBody::Console { .. }
            | OutputBody::PowerOff { .. }
            | OutputBody::Reset
            | OutputBody::Dead(_) => Disposition::Keep,
        }
    }
}
