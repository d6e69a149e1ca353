//! What a `[[disk]]` table means.

use super::Check;
use crate::config::{Disk, Reads, Sharing};
use crate::schema::tables;
use crate::units::Size;

const SECTOR: u64 = 512;
/// Far above any image, far below where arithmetic on file offsets ends.
const MAX_DISK: Size = Size(64 << 40);

impl Check {
    pub(super) fn disk(&mut self, table: tables::Disk) -> Disk {
        let tables::Disk { path, size, sharing, reads, read_only } = table;
        if let Some(at) = &sharing
            && **at == tables::Sharing::Separate
        {
            self.unavailable_at(at.span(), "sharing = \"separate\"", "use sharing = \"shared\"");
        } else if let Some(at) = &path
            && at.value().0.contains("{replica}")
        {
            let help = "{replica} stands for the replica's name in the paths of separate disks; a shared disk has one path";
            self.error(at.span(), "a shared disk cannot have a path per replica", "", help);
        }
        if let Some(at) = &reads
            && **at == tables::Reads::Backup
        {
            self.unavailable_at(at.span(), "reads = \"backup\"", "use reads = \"primary\"");
        }
        if self.range(size.as_ref(), "the disk's size", Size(SECTOR), MAX_DISK)
            && let Some(at) = &size
            && at.bytes() % SECTOR != 0
        {
            let up = Size(at.bytes().next_multiple_of(SECTOR));
            self.error(
                at.span(),
                "the disk is not whole sectors",
                "not a multiple of 512 B",
                format!("for example \"{up}\""),
            );
        }
        Disk {
            path: path.as_ref().map(|at| self.path(at)).unwrap_or_default(),
            size: size.map(|at| at.into_inner()),
            sharing: Sharing::Shared,
            reads: Reads::Primary,
            read_only: read_only.is_some_and(|at| *at),
            faults: None,
        }
    }
}
