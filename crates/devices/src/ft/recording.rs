//! A machine with a backup.

use ft_core::output::OutputBody;

use super::{DiskPolicies, Disposition, Layer};

/// What can be seen outside waits for the backup; what only the guest sees does not.
#[derive(Debug, Clone)]
pub struct Recording {
    disks: DiskPolicies,
}

impl Recording {
    /// The layer of a machine with these disks.
    pub fn new(disks: DiskPolicies) -> Self {
        Self { disks }
    }
}

impl Layer for Recording {
    fn decide(&self, output: &OutputBody) -> Disposition {
        match output {
            OutputBody::Disk(request) => {
                // The board makes requests for disks of the config only; anything else is held, the safe side.
                let policy = self.disks.get(usize::from(request.disk));
                policy.map_or(Disposition::AfterAck, |policy| policy.recording(&request.op))
            }
            OutputBody::Entropy { .. } => Disposition::Now,
            OutputBody::NetTx { .. }
            | OutputBody::Console { .. }
            | OutputBody::PowerOff { .. }
            | OutputBody::Reset
            | OutputBody::Dead(_) => Disposition::AfterAck,
        }
    }
}
