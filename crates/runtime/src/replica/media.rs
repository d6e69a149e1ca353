//! The files of a replica's disks, and what stands between them and the guest's requests besides the FT layers.
//!
//! From the file upwards: the file with its lock; on two hosts, for a shared disk, the quarantine; faults, if the config asks
//! for them. The pool and the disk policies above see none of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ft_devices::backend::disk::DiskBackend;
use ft_devices::backend::fault::FaultMedium;
use ft_devices::backend::file::{DiskOptions, FileMedium, Holder, Lock};
use ft_devices::backend::medium::Medium;
use ft_policies::{Config, Disk, ReplicaId, Sharing, Size};

use super::Setting;
use super::exit::Startup;

/// The open files of all disks, in the order of the config.
#[derive(Debug)]
pub(super) struct Media {
    disks: Vec<OpenDisk>,
}

/// One disk's file.
#[derive(Debug)]
struct OpenDisk {
    file: Arc<FileMedium>,
    path: PathBuf,
    sharing: Sharing,
}

impl Media {
    /// Opens all disks, and builds what carries out the guest's requests on them.
    pub(super) fn open(
        config: &Config,
        replica: ReplicaId,
        setting: Setting,
        incarnation: u64,
    ) -> Result<(Self, Vec<DiskBackend>), Startup> {
        let holder = Holder { pair: fold(config), incarnation };
        let mut disks = Vec::new();
        let mut backends = Vec::new();
        for disk in &config.disks {
            let open = open(disk, replica, setting, holder)?;
            let mut medium: Box<dyn Medium> = Box::new(Arc::clone(&open.file));
            if let Some(faults) = &disk.faults
                && faults.replica.is_none_or(|struck| struck == replica && setting != Setting::Solo)
            {
                medium = Box::new(FaultMedium::new(medium, faults.clone()));
            }
            backends.push(DiskBackend::new(medium, &open.path));
            disks.push(open);
        }
        Ok((Self { disks }, backends))
    }

    /// Sizes in sectors.
    pub(super) fn sectors(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.file.len() / 512).collect()
    }

    /// A cold start is about to run the guest: nobody but the processes `known` may have a shared disk open, or what an earlier
    /// process of this pair is still about to write could land in the midst of it.
    ///
    /// # Errors
    /// Somebody has, in words; or the host cannot tell.
    pub(super) fn check_sole(&self, known: &[u64]) -> Result<(), String> {
        for disk in self.disks.iter().filter(|disk| disk.sharing == Sharing::Shared) {
            let path = disk.path.display();
            match disk.file.strangers(known) {
                Ok(false) => {}
                Ok(true) => {
                    return Err(format!(
                        "disk {path}: an earlier process of this pair still has it open and may write it; end that process first"
                    ));
                }
                Err(error) => return Err(format!("disk {path}: cannot tell who else has it open: {error}")),
            }
        }
        Ok(())
    }
}

/// The pair as the lock of a disk names it. Its configuration is in it: two processes that could not be a pair cannot use one disk.
fn fold(config: &Config) -> u64 {
    let all = config.pair_id() ^ config.digest();
    all as u64 ^ (all >> 64) as u64
}

fn open(disk: &Disk, replica: ReplicaId, setting: Setting, holder: Holder) -> Result<OpenDisk, Startup> {
    let path = disk.path_of((setting != Setting::Solo).then_some(replica));
    let shared = disk.sharing == Sharing::Shared;
    let options = DiskOptions {
        path: path.clone(),
        size: disk.size.map(Size::bytes),
        create: disk.size.is_some() && !disk.read_only,
        read_only: disk.read_only,
        direct: shared && setting == Setting::TwoHosts,
        lock: if shared && setting != Setting::Solo { Lock::Member(holder) } else { Lock::Alone },
    };
    let file = FileMedium::open(&options).map_err(Startup::Disk)?;
    Ok(OpenDisk { file: Arc::new(file), path, sharing: disk.sharing })
}

/// A host's failure about a disk, in words.
#[expect(dead_code, reason = "for what follows")]
fn io(path: &std::path::Path, doing: &str, error: &io::Error) -> String {
    format!("disk {}: {doing}: {error}", path.display())
}
