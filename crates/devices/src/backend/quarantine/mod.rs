//! The fence between hosts for a shared disk: blocks that a deposed replica may still write are kept apart from the disk until
//! that replica is known to be gone.
//!
//! A replica that goes live cannot kill a process on another host. That process may have sent writes to the disk that land
//! late, whatever anybody does: a check before a write is no fence. But it is known *which* writes those may be (those that the
//! backup had acknowledged and not seen completed), and so which blocks. Those blocks are read and written in a durable *side
//! file* beside the disk from before the new live replica's first write until the old process is gone; only then are they
//! copied back. A late write in between lands on a block of the disk that nobody reads and that is overwritten in the end.
//!
//! - [`table`]: which blocks, for whose sake, where they are; the head of the file;
//! - [`side`]: the file.
//!
//! The file has the generation in its name, and the highest generation decides. It appears whole (written under another name,
//! then renamed), and is marked before it is removed, so that a name that a crash brings back means nothing.

mod side;
mod table;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use ft_core::output::SECTOR;

use super::durable;
use super::medium::Medium;
use super::zero;
use side::SideFile;
use table::{Place, Table, Unfit};

pub use table::QuarantineOwner;

/// A disk's medium, and what is kept apart from it.
///
/// Every request holds the lock for reading while it runs, so a change of what is kept apart waits for the requests that run
/// and holds up those that come; in ordinary times the lock is all that this layer costs.
#[derive(Debug)]
pub struct Quarantine {
    inner: Arc<dyn Medium>,
    /// The disk's file; `None` if nothing can be kept beside it.
    disk: Option<PathBuf>,
    active: RwLock<Option<SideFile>>,
}

/// What is kept apart, and for whose sake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineStatus {
    /// The processes whose writes may still land, in the order in which they were deposed. All of them must be known gone
    /// before [`Quarantine::end`].
    pub owners: Vec<QuarantineOwner>,
    /// 512-byte blocks kept apart.
    pub sectors: u64,
    /// Where they are.
    pub path: PathBuf,
}

/// Why blocks cannot be kept apart, or brought back.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// Nothing can be beside a block device.
    #[error(
        "the disk is a block device: there is no place beside it for blocks that another host may still write. Keep shared \
         disks of two hosts in files, or fence the device by reservations"
    )]
    NoPlace,
    /// The caller asks for what cannot be.
    #[error("blocks cannot be kept apart: {0}")]
    Unfit(String),
    /// The side file is of another pair.
    #[error(
        "{}: holds blocks of this disk for another pair ({found:032x}, this one is {wanted:032x}). The disk is incomplete \
         without them: start that pair, or restore the disk from a backup and remove the file",
        .path.display()
    )]
    OtherPair {
        /// The side file.
        path: PathBuf,
        /// Whose it is.
        found: u128,
        /// Who asks.
        wanted: u128,
    },
    /// The side file makes no sense.
    #[error(
        "{}: is damaged: {reason}. The disk is incomplete without it: restore both from a backup, or remove the file and \
         check the guest's file systems",
        .path.display()
    )]
    Damaged {
        /// The side file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refuses.
    #[error("{doing} {}: {error}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
}

impl QuarantineError {
    fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { doing, path: path.clone(), error }
    }
}

impl Quarantine {
    /// Puts the layer around `inner`; nothing is kept apart yet. `disk` is the disk's regular file, beside which blocks can
    /// be kept; `None` for a block device.
    pub fn new(inner: Arc<dyn Medium>, disk: Option<&Path>) -> Self {
        // Both hosts must mean the same directory, also where one of them reaches the disk through a link.
        let disk = disk.map(|disk| std::fs::canonicalize(disk).unwrap_or_else(|_| disk.to_owned()));
        Self { inner, disk, active: RwLock::new(None) }
    }

    /// Looks for blocks that this or another replica has left apart, and uses them from now on: at a cold start, and again when
    /// going live, since what was there earlier may have changed.
    ///
    /// # Errors
    /// What is there cannot be used, or not looked at. The disk must not be used then.
    pub fn load(&self, pair: u128) -> Result<Option<QuarantineStatus>, QuarantineError> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        *active = self.find(pair)?;
        Ok(active.as_ref().map(status))
    }

    /// Keeps `sectors` apart from now on, for fear of `owner`, together with all that was apart already. They begin with what
    /// the disk holds: the caller issues the writes again that may have been cut short. When it returns, all is durable.
    ///
    /// # Errors
    /// It cannot be done: nothing may be written to the disk then.
    pub fn begin(&self, sectors: &[Range<u64>], owner: QuarantineOwner) -> Result<(), QuarantineError> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        *active = self.find(owner.pair)?;
        if sectors.iter().all(Range::is_empty) {
            return Ok(());
        }
        let disk = self.disk.as_deref().ok_or(QuarantineError::NoPlace)?;
        let before = active.as_ref().map(|side| &side.table);
        let mut owners = before.map_or(Vec::new(), |table| table.owners().to_vec());
        // Asked again after an error, it is the same fear.
        if owners.last() != Some(&owner) {
            owners.push(owner);
        }
        let mut all = sectors.to_vec();
        all.extend(before.into_iter().flat_map(Table::sectors));
        let unfit = |unfit: Unfit| QuarantineError::Unfit(unfit.to_string());
        let table = Table::new(owners, self.inner.len(), &all).map_err(unfit)?;
        let content = View { inner: &*self.inner, side: active.as_ref() };
        let side = SideFile::create(disk, table, &content)?;
        *active = Some(side);
        remove_older(disk, owner.generation)
    }

    /// Brings the blocks back to the disk, durably, and forgets them. To be called when every owner is known gone. Requests
    /// wait meanwhile.
    ///
    /// # Errors
    /// The host's; the blocks stay apart, and it can be tried again.
    pub fn end(&self) -> Result<(), QuarantineError> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let (Some(side), Some(disk)) = (active.as_ref(), &self.disk) else { return Ok(()) };
        let copied = side.copy_back(&*self.inner).and_then(|()| self.inner.flush());
        copied.map_err(QuarantineError::io("copying blocks back to", disk))?;
        let failed = QuarantineError::io("releasing", side.path());
        if let Err(error) = side.mark_released() {
            side.mark_valid().map_err(&failed)?;
            return Err(failed(error));
        }
        let (path, generation) = (side.path().to_owned(), side.table.latest().generation);
        *active = None;
        // From here on the file says itself that it means nothing, as long as no older one is left without it.
        let removed = remove_older(disk, generation).and_then(|()| remove(&path));
        if let Err(error) = removed {
            tracing::warn!(%error, "a side file that is needed no more stays");
        }
        Ok(())
    }

    /// What is kept apart now.
    pub fn status(&self) -> Option<QuarantineStatus> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(status)
    }

    /// The side file that counts. Those that do not are removed, the older ones first: none may outlive the one that stands
    /// for it.
    fn find(&self, pair: u128) -> Result<Option<SideFile>, QuarantineError> {
        let Some(disk) = self.disk.as_deref() else { return Ok(None) };
        let found = side::find(disk)?;
        for path in &found.unfinished {
            // Best effort: it means nothing.
            let _ = std::fs::remove_file(path);
        }
        let Some((generation, path)) = found.files.last() else { return Ok(None) };
        let Some(side) = SideFile::open(path)? else {
            remove_older(disk, *generation)?;
            return remove(path).map(|()| None);
        };
        check(&side.table, path, *generation, pair)?;
        if side.table.disk_len != self.inner.len() {
            let reason = "it is of a disk of another size".to_owned();
            return Err(QuarantineError::Damaged { path: path.clone(), reason });
        }
        remove_older(disk, *generation)?;
        Ok(Some(side))
    }
}

/// What is kept apart from a disk that nobody need have open. Nothing is changed, not even what was left behind by mistake.
///
/// # Errors
/// A start would refuse what is there.
pub fn look(disk: &Path, pair: u128) -> Result<Option<QuarantineStatus>, QuarantineError> {
    let disk = std::fs::canonicalize(disk).unwrap_or_else(|_| disk.to_owned());
    let found = side::find(&disk)?;
    let Some((generation, path)) = found.files.last() else { return Ok(None) };
    let Some(table) = SideFile::look(path)? else { return Ok(None) };
    check(&table, path, *generation, pair)?;
    Ok(Some(QuarantineStatus {
        owners: table.owners().to_vec(),
        sectors: table.bytes() / SECTOR,
        path: path.clone(),
    }))
}

/// Checks that a side file is of this pair, and has the name that it should have.
fn check(table: &Table, path: &Path, generation: u64, pair: u128) -> Result<(), QuarantineError> {
    let owner = table.latest();
    if owner.pair != pair {
        return Err(QuarantineError::OtherPair { path: path.to_owned(), found: owner.pair, wanted: pair });
    }
    if owner.generation != generation {
        let reason = "its name has another generation".to_owned();
        return Err(QuarantineError::Damaged { path: path.to_owned(), reason });
    }
    Ok(())
}

/// For fuzzers: a head of any bytes, also with the right checksum.
pub(super) fn check_decoder(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    if let Some(end) = sealed.len().checked_sub(4) {
        let crc = crc32fast::hash(&sealed[..end]).to_le_bytes();
        sealed[end..].copy_from_slice(&crc);
    }
    for head in [bytes, &sealed] {
        if let Ok(table) = Table::decode(head) {
            assert!(!table.owners().is_empty());
        }
    }
}

fn status(side: &SideFile) -> QuarantineStatus {
    QuarantineStatus {
        owners: side.table.owners().to_vec(),
        sectors: side.table.bytes() / SECTOR,
        path: side.path().to_owned(),
    }
}

fn remove_older(disk: &Path, generation: u64) -> Result<(), QuarantineError> {
    let found = side::find(disk)?.files;
    found.iter().filter(|(other, _)| *other < generation).try_for_each(|(_, path)| remove(path))
}

fn remove(path: &Path) -> Result<(), QuarantineError> {
    match std::fs::remove_file(path) {
        // Another replica may have come first.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => durable::sync_directory(path),
    }
    .map_err(QuarantineError::io("removing", path))
}

/// A disk with what is kept apart from it in its place.
#[derive(Debug)]
struct View<'a> {
    inner: &'a dyn Medium,
    side: Option<&'a SideFile>,
}

impl View<'_> {
    /// Calls `on_disk` or `beside` for each part of a request.
    fn each(
        &self,
        offset: u64,
        len: usize,
        mut step: impl FnMut(Range<usize>, Place) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.side {
            None => step(0..len, Place::Disk(offset)),
            Some(side) => {
                side.table.parts(offset, len).into_iter().try_for_each(|part| step(part.within, part.place))
            }
        }
    }

    /// To the side file; without one, nothing has such a place.
    fn side(&self) -> io::Result<&SideFile> {
        self.side.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Medium for View<'_> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.each(offset, buffer.len(), |within, place| match place {
            Place::Disk(offset) => self.inner.read(&mut buffer[within], offset),
            Place::Side(place) => self.side()?.read(&mut buffer[within], place),
        })
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.each(offset, data.len(), |within, place| match place {
            Place::Disk(offset) => self.inner.write(&data[within], offset),
            Place::Side(place) => self.side()?.write(&data[within], place),
        })
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.each(offset, size, |within, place| match place {
            Place::Disk(offset) => self.inner.zero(offset, within.len() as u64, unmap),
            Place::Side(place) => {
                let side = self.side()?;
                zero::in_chunks(place, within.len() as u64, |zeroes, place| side.write(zeroes, place))
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.side.map_or(Ok(()), SideFile::sync)?;
        self.inner.flush()
    }
}

impl Medium for Quarantine {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|view| view.read(buffer, offset))
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|view| view.write(data, offset))
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.with(|view| view.zero(offset, len, unmap))
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|view| view.flush())
    }
}

impl Quarantine {
    fn with<T>(&self, request: impl FnOnce(&View<'_>) -> T) -> T {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        request(&View { inner: &*self.inner, side: active.as_ref() })
    }
}

#[cfg(test)]
mod tests;
