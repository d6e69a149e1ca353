//! The files of a replica's disks, and what stands between them and the guest's requests besides the FT layers.
//!
//! From the file upwards: the file with its lock; for a shared disk the quarantine, idle in ordinary times; faults, if the config asks
//! for them. The pool and the disk policies above see none of it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ft_devices::backend::disk::DiskBackend;
use ft_devices::backend::fault::FaultMedium;
use ft_devices::backend::file::{DiskOptions, FileMedium, Holder, Lock};
use ft_devices::backend::medium::Medium;
use ft_devices::backend::quarantine::{Quarantine, QuarantineError, QuarantineOwner};
use ft_devices::backend::stamp::Stamp;
use ft_policies::{Config, Disk, ReplicaId, Sharing, Size};

use super::Setting;
use super::copies::Copies;
use super::exit::Startup;

/// The open files of all disks, in the order of the config.
#[derive(Debug)]
pub(super) struct Media {
    disks: Vec<OpenDisk>,
    /// Of separate disks, for a replica of a pair.
    pub(super) copies: Arc<Copies>,
}

/// One disk's file.
#[derive(Debug)]
struct OpenDisk {
    file: Arc<FileMedium>,
    /// For a shared disk that the guest writes.
    quarantine: Option<Arc<Quarantine>>,
    path: PathBuf,
    sharing: Sharing,
}

impl OpenDisk {
    fn failed(&self, error: &QuarantineError) -> String {
        format!("disk {}: {error}", self.path.display())
    }
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
        let mut copies = Copies::default();
        for (index, disk) in config.disks.iter().enumerate() {
            let separate = disk.sharing == Sharing::Separate && !disk.read_only && setting != Setting::Solo;
            let path = disk.path_of(Some(replica));
            if separate && std::fs::metadata(&path).map_or(true, |found| found.is_file() && found.len() == 0)
            {
                Stamp::check_gone(&path, config.pair_id()).map_err(Startup::Copy)?;
            }
            let (open, created) = open(disk, replica, setting, holder)?;
            if disk.sharing == Sharing::Separate && setting != Setting::Solo {
                let how = (created, disk.read_only);
                copies
                    .add(&open.file, open.path.clone(), index, config.pair_id(), how)
                    .map_err(Startup::Copy)?;
            }
            let mut medium: Box<dyn Medium> = match &open.quarantine {
                Some(quarantine) => Box::new(Arc::clone(quarantine)),
                None => Box::new(Arc::clone(&open.file)),
            };
            if let Some(faults) = &disk.faults
                && faults.replica.is_none_or(|struck| struck == replica && setting != Setting::Solo)
            {
                medium = Box::new(FaultMedium::new(medium, faults.clone()));
            }
            backends.push(DiskBackend::new(medium, &open.path));
            disks.push(open);
        }
        Ok((Self { disks, copies: Arc::new(copies) }, backends))
    }

    /// Sizes in sectors.
    pub(super) fn sectors(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.file.len() / 512).collect()
    }

    fn quarantines(&self) -> impl Iterator<Item = (usize, &OpenDisk, &Quarantine)> {
        let disks = self.disks.iter().enumerate();
        disks.filter_map(|(index, disk)| Some((index, disk, &**disk.quarantine.as_ref()?)))
    }

    /// Looks for blocks that an earlier live replica kept apart from shared disks, and uses them.
    ///
    /// # Errors
    /// They cannot be used, in words: the disks must not be used then.
    pub(super) fn load_apart(&self, pair: u128) -> Result<(), String> {
        for (_, disk, quarantine) in self.quarantines() {
            quarantine.load(pair).map_err(|error| disk.failed(&error))?;
        }
        Ok(())
    }

    /// Keeps the blocks of `writes` of each shared disk apart, for fear of the process `old`.
    ///
    /// # Errors
    /// It cannot be done, in words: nothing may be written then.
    pub(super) fn keep_apart(
        &self,
        pair: u128,
        generation: u64,
        old: (ReplicaId, u64),
        writes: impl Fn(u16) -> Vec<Range<u64>>,
    ) -> Result<(), String> {
        let (replica, incarnation) = old;
        for (index, disk, quarantine) in self.quarantines() {
            let owner = QuarantineOwner { pair, generation, replica, incarnation };
            quarantine.begin(&writes(index as u16), owner).map_err(|error| disk.failed(&error))?;
        }
        Ok(())
    }

    /// True if blocks are kept apart from any disk.
    pub(super) fn keeps_apart(&self) -> bool {
        self.quarantines().any(|(_, _, quarantine)| quarantine.status().is_some())
    }

    /// Brings blocks back to their disks where every process that they were kept apart from is gone. Gives the number of sectors.
    ///
    /// # Errors
    /// The host's, in words; what is not back stays apart.
    pub(super) fn bring_back(&self, is_gone: impl Fn(ReplicaId, u64) -> bool) -> Result<u64, String> {
        let mut sectors = 0;
        for (_, disk, quarantine) in self.quarantines() {
            let Some(status) = quarantine.status() else { continue };
            if status.owners.iter().all(|owner| is_gone(owner.replica, owner.incarnation)) {
                quarantine.end().map_err(|error| disk.failed(&error))?;
                sectors += status.sectors;
            }
        }
        Ok(sectors)
    }

    /// What the operator is told where the guest ends while blocks are apart: whoever looks at the disk by itself finds old data.
    pub(super) fn left_apart(&self) -> Vec<String> {
        let one = |(_, disk, quarantine): (usize, &OpenDisk, &Quarantine)| {
            let status = quarantine.status()?;
            Some(format!(
                "{} blocks of disk {} are in {} and not on the disk: its old primary is not known to be gone. The two files belong \
                 together until a start of both replicas brings the blocks back",
                status.sectors,
                disk.path.display(),
                status.path.display()
            ))
        };
        self.quarantines().filter_map(one).collect()
    }

    /// What is kept apart, for the status.
    pub(super) fn apart(&self) -> Vec<serde_json::Value> {
        let one = |(index, _, quarantine): (usize, _, &Quarantine)| {
            let status = quarantine.status()?;
            let path = status.path.display().to_string();
            Some(serde_json::json!({"disk": index, "sectors": status.sectors, "path": path}))
        };
        self.quarantines().filter_map(one).collect()
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
pub(crate) fn fold(config: &Config) -> u64 {
    let all = config.pair_id() ^ config.digest();
    all as u64 ^ (all >> 64) as u64
}

/// Opens a disk's file. True beside it if it was not there before.
fn open(
    disk: &Disk,
    replica: ReplicaId,
    setting: Setting,
    holder: Holder,
) -> Result<(OpenDisk, bool), Startup> {
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
    let file = Arc::new(FileMedium::open(&options).map_err(Startup::Disk)?);
    let quarantine = (shared && !disk.read_only).then(|| {
        let beside = (!file.is_block_device()).then_some(path.as_path());
        Arc::new(Quarantine::new(Arc::clone(&file) as Arc<dyn Medium>, beside))
    });
    let created = file.is_new();
    Ok((OpenDisk { file, quarantine, path, sharing: disk.sharing }, created))
}
