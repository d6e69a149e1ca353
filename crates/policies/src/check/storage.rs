//! What a `[[disk]]` table means.

use super::Check;
use super::network::Hosts;
use crate::config::{Disk, REPLICA, Reads, Sharing};
use crate::schema::tables;
use crate::units::Size;

const SECTOR: u64 = 512;
/// Far above any image, far below where arithmetic on file offsets ends.
const MAX_DISK: Size = Size(64 << 40);

impl Check {
    pub(super) fn disk(&mut self, table: tables::Disk, hosts: &Hosts) -> Disk {
        let sharing = match table.sharing.as_deref() {
            Some(tables::Sharing::Separate) => Sharing::Separate,
            Some(tables::Sharing::Shared) | None => Sharing::Shared,
        };
        self.path_per_replica(&table, sharing, hosts);
        let tables::Disk { path, size, sharing: sharing_at, reads, read_only, faults } = table;
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
        let shared_at = sharing_at.map(|at| at.span()).or_else(|| path.as_ref().map(|at| at.span()));
        let shared_at = shared_at.filter(|_| sharing == Sharing::Shared);
        Disk {
            path: path.as_ref().map(|at| self.path(at)).unwrap_or_default(),
            size: size.map(|at| at.into_inner()),
            sharing,
            reads: match reads.as_deref() {
                Some(tables::Reads::Backup) => Reads::Backup,
                Some(tables::Reads::Primary) | None => Reads::Primary,
            },
            read_only: read_only.is_some_and(|at| *at),
            faults: faults.map(|table| self.faults(table, shared_at)),
        }
    }

    /// A disk has two files on one machine if and only if each replica has a copy of its own. (On two hosts the same path is
    /// two files anyway; a name per replica does no harm there.)
    fn path_per_replica(&mut self, table: &tables::Disk, sharing: Sharing, hosts: &Hosts) {
        let Some(at) = &table.path else { return };
        let named = at.value().0.contains(REPLICA);
        match (sharing, &table.sharing) {
            (Sharing::Shared, _) if named => self.error(
                at.span(),
                "a shared disk cannot have a path per replica",
                "",
                "{replica} stands for the replica's name in the paths of separate disks; a shared disk has one path",
            ),
            (Sharing::Separate, Some(sharing)) if !named && *hosts == Hosts::One => self.error_with(
                at.span(),
                "separate disks on one machine need a path per replica",
                "both replicas would write this one file",
                format!("{REPLICA} in the path stands for the replica's name: for example \"{}\"", example(&at.value().0)),
                (sharing.span(), "each replica has a copy of its own".into()),
            ),
            _ => {}
        }
    }
}

/// A path with the replica's name before the ending of its file's name.
fn example(path: &str) -> String {
    let file = path.rfind('/').map_or(0, |at| at + 1);
    match path[file..].rfind('.') {
        Some(dot) if dot > 0 => format!("{}.{REPLICA}{}", &path[..file + dot], &path[file + dot..]),
        _ => format!("{path}.{REPLICA}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_a_path_per_replica() {
        for (path, shown) in [
            ("kv.img", "kv.{replica}.img"),
            ("/dev/vg/kv", "/dev/vg/kv.{replica}"),
            ("../a.b/kv", "../a.b/kv.{replica}"),
            ("a/.hidden", "a/.hidden.{replica}"),
        ] {
            assert_eq!(example(path), shown);
        }
    }
}
