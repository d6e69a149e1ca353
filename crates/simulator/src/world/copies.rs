//! A replica's own copy of the disk, with its stamp: what outlives its process, and, but for the page cache, its host.
//!
//! The copy is the medium that the real exchange ([`ft_devices::backend::copy`]) reads and writes, and the place where the real
//! rules ([`ft_runtime::replica::copies`]) keep the stamp.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ft_core::input::{DiskDone, DiskStatus};
use ft_core::output::DiskOp;
use ft_devices::backend::copy::{BLOCK, Origin};
use ft_devices::backend::medium::Medium;
use ft_devices::backend::stamp::{CopyState, Stamp, StampError};
use ft_runtime::replica::copies::{Copies, Place};

use super::disk::Flight;
use crate::guest::SECTORS;
use crate::guest::data::{self, SECTOR, Sector};
use crate::random::Random;

/// Identity of the pair.
pub const PAIR: u128 = 77;
/// Sectors of the guest's that lie at the beginning of each block of an exchange: so there is more than one block.
const PER_BLOCK: u64 = 8;
/// Bytes of a copy.
const LEN: u64 = SECTORS.div_ceil(PER_BLOCK) * BLOCK;

/// What a copy holds, and what is known about it.
#[derive(Debug)]
pub struct Content {
    /// As a process sees it.
    pub sectors: Vec<Sector>,
    /// What a loss of the host leaves.
    pub flushed: Vec<Sector>,
    /// Writes of an exchange that are being made.
    landing: Vec<(u64, Sector)>,
    /// The stamp beside it.
    pub stamp: Option<Stamp>,
    /// The file is there.
    pub there: bool,
    /// The stamp can be read.
    pub intact: bool,
    /// When it was last changed.
    changed: i64,
    /// The next requests of an exchange fail.
    pub fails: bool,
    /// Stamps that were written and not judged yet, each with the one before.
    pub stamped: Vec<(Option<Stamp>, Stamp)>,
    /// It was copied into without being marked.
    pub unmarked: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Store(Mutex<Content>);

/// Where its stamp is.
#[derive(Debug)]
struct Beside(Arc<Store>);

impl Store {
    /// A copy: a file that `there` was before the pair's first start, or none.
    pub fn new(there: bool) -> Arc<Self> {
        let sectors = vec![Sector::default(); SECTORS as usize];
        Arc::new(Self(Mutex::new(Content {
            flushed: sectors.clone(),
            sectors,
            landing: Vec::new(),
            stamp: None,
            there,
            intact: true,
            changed: 1,
            fails: false,
            stamped: Vec::new(),
            unmarked: false,
        })))
    }

    /// What it holds.
    pub fn content(&self) -> MutexGuard<'_, Content> {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        content.land(usize::MAX);
        content
    }

    /// Opens it for a process, as the runtime does (`replica/{media,copies}.rs`).
    ///
    /// # Errors
    /// It cannot be used, in words.
    pub fn open(self: &Arc<Self>) -> Result<Copies, &'static str> {
        let mut content = self.content();
        let found = content.stamp;
        let in_use = found.is_some_and(|stamp| matches!(stamp.state, CopyState::Live | CopyState::Backup));
        if !content.intact {
            return Err("its copy's stamp is damaged");
        }
        if !content.there && in_use {
            return Err("its copy is gone, and is in use");
        }
        let created = !std::mem::replace(&mut content.there, true);
        let found = found.filter(|_| !created);
        let origin = match found {
            Some(stamp) => {
                let clean = stamp.clean.filter(|clean| clean.mtime_ns == content.changed);
                let clean = clean.map(|clean| (clean.generation, clean.position));
                Origin::Stamped { state: stamp.state, generation: stamp.generation, clean }
            }
            None if created => Origin::New,
            None => Origin::Existing,
        };
        let stamp = found.unwrap_or_else(|| Copies::first_stamp(PAIR));
        if created {
            let empty = vec![Sector::default(); SECTORS as usize];
            (content.sectors, content.flushed) = (empty.clone(), empty);
            content.stamp = Some(stamp);
        }
        drop(content);
        let mut copies = Copies::default();
        let place = Box::new(Beside(Arc::clone(self)));
        copies.push(Arc::clone(self) as Arc<dyn Medium>, place, 0, origin, stamp);
        Ok(copies)
    }

    /// Carries out a request of the guest's; of a write only those of its sectors that `mask` has.
    pub fn execute(&self, flight: &Flight, mask: u64, status: DiskStatus) -> DiskDone {
        let request = &flight.request;
        let mut content = self.content();
        let mut read = Vec::new();
        match &request.op {
            DiskOp::Read { .. } if status == DiskStatus::Ok => {
                read = data::encode(request.op.sectors().map(|index| content.sectors[index as usize]));
            }
            DiskOp::Flush if status == DiskStatus::Ok => content.flush(),
            _ => flight.written(mask).for_each(|(index, sector)| content.put(index, sector)),
        }
        DiskDone { disk: request.disk, request: request.request, status, data: read }
    }

    /// Its process dies: of what it was writing in an exchange only a part is done.
    pub fn cut_short(&self, random: &mut Random) {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = random.below(content.landing.len() as u64 + 1) as usize;
        content.land(done);
    }

    /// Its host is lost: of what was not flushed the kernel had written back some.
    pub fn lose_cache(&self, random: &mut Random) {
        let mut content = self.content();
        for index in 0..content.sectors.len() {
            if random.chance(2) {
                content.sectors[index] = content.flushed[index];
            }
        }
        content.flush();
    }

    /// The disk is lost for good, with all that lay beside it.
    pub fn lose(&self) {
        let mut content = self.content();
        (content.there, content.stamp) = (false, None);
    }
}

impl Content {
    fn put(&mut self, index: u64, sector: Sector) {
        self.sectors[index as usize] = sector;
        self.changed += 1;
    }

    fn flush(&mut self) {
        self.flushed.clone_from(&self.sectors);
    }

    fn land(&mut self, most: usize) {
        for (index, sector) in std::mem::take(&mut self.landing).into_iter().take(most) {
            self.put(index, sector);
        }
    }

    /// The stop in order after which nobody has changed it.
    pub fn clean(&self) -> Option<(u64, u64)> {
        let clean = self.stamp.and_then(|stamp| stamp.clean);
        let still = clean.filter(|clean| clean.mtime_ns == self.changed);
        still.map(|clean| (clean.generation, clean.position))
    }

    fn fail(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fails) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn copied_into(&mut self) {
        self.unmarked |= self.stamp.is_none_or(|stamp| stamp.state != CopyState::Incomplete);
    }
}

/// The sectors of the blocks from `offset` on, so many bytes: each with its place among the bytes.
fn sectors(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let first = offset / BLOCK;
    let blocks = first..first + len.div_ceil(BLOCK);
    blocks.flat_map(move |block| {
        let indices = block * PER_BLOCK..((block + 1) * PER_BLOCK).min(SECTORS);
        indices.map(move |index| {
            let place = (block - first) * BLOCK + (index % PER_BLOCK) * SECTOR as u64;
            (index, place as usize)
        })
    })
}

impl Medium for Store {
    fn len(&self) -> u64 {
        LEN
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut content = self.content();
        content.fail()?;
        buffer.fill(0);
        for (index, place) in sectors(offset, buffer.len() as u64) {
            let bytes = data::encode([content.sectors[index as usize]]);
            if let Some(to) = buffer.get_mut(place..place + SECTOR) {
                to.copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.content();
        content.fail()?;
        content.copied_into();
        for (index, place) in sectors(offset, data.len() as u64) {
            let sector = data.get(place..place + SECTOR).and_then(|bytes| data::decode(bytes).next());
            content.landing.extend(sector.map(|sector| (index, sector)));
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        let mut content = self.content();
        content.fail()?;
        content.copied_into();
        content.landing.extend(sectors(offset, len).map(|(index, _)| (index, Sector::default())));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut content = self.content();
        content.fail()?;
        content.flush();
        Ok(())
    }
}

impl Place for Beside {
    fn write(&self, stamp: &Stamp) -> Result<(), StampError> {
        let mut content = self.0.content();
        if let Err(error) = content.fail() {
            return Err(StampError::Io { doing: "writing", path: "the stamp".into(), error });
        }
        let before = content.stamp.replace(*stamp);
        content.stamped.push((before, *stamp));
        Ok(())
    }

    fn mtime_ns(&self) -> io::Result<i64> {
        Ok(self.0.content().changed)
    }

    fn name(&self) -> String {
        "this side's copy".to_owned()
    }
}
