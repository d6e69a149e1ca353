//! The disk, with requests on their way to it; and if it is a shared one, what is on it and what is kept apart from it.
//!
//! A request is *queued* with a thread of its process until that makes the system call, and *issued* from then on: it lands whatever
//! becomes of the process, unless its death takes it along. On one machine what landed is in the page cache, which a loss of the
//! host takes back to what was flushed; between hosts it is on the medium.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ft_core::input::{DiskDone, DiskStatus};
use ft_core::output::{DiskOp, DiskRequest};

use super::copies::Store;
use crate::guest::SECTORS;
use crate::guest::data::{self, Sector};

/// Blocks kept apart from the disk, for fear of processes that may still write there (the runtime's quarantine, in a file beside
/// the disk: it outlives everybody).
#[derive(Debug, Clone, Default)]
pub struct Apart {
    /// Which file it is: a process that had looked before does not know it.
    pub file: u64,
    /// The processes, by seat and incarnation.
    pub owners: Vec<(usize, u64)>,
    /// The blocks.
    pub sectors: BTreeMap<u64, Sector>,
}

/// A request on its way.
#[derive(Debug)]
pub struct Flight {
    /// Whose.
    pub node: usize,
    /// Which process's.
    pub incarnation: u64,
    /// The life of the guest that made it.
    pub life: u64,
    /// It.
    pub request: DiskRequest,
    /// The system call was made.
    pub issued: bool,
    /// The file of blocks kept apart that its process knew when it made the call; 0 is none.
    pub apart: u64,
    /// Nobody waits for its end any more.
    pub orphan: bool,
}

impl Flight {
    /// What it leaves on the disk; only those of its sectors that `mask` has.
    pub fn written(&self, mask: u64) -> impl Iterator<Item = (u64, Sector)> {
        let contents = data::contents(self.life, &self.request).into_iter().enumerate();
        contents.filter(move |(offset, _)| mask >> offset & 1 == 1).map(|(_, content)| content)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    sectors: Vec<Sector>,
    flushed: Vec<Sector>,
    /// What is kept apart.
    pub apart: Option<Apart>,
    /// Blocks that were in files of earlier times: what is still written there is nobody's.
    former: BTreeMap<u64, Vec<u64>>,
    files: u64,
    /// Each replica's own copy, if it has one: then the rest here is nobody's.
    pub own: Option<[Arc<Store>; 2]>,
    /// Requests under way, by number.
    pub flights: BTreeMap<u64, Flight>,
    next: u64,
}

impl Default for Disk {
    fn default() -> Self {
        let sectors = vec![Sector::default(); SECTORS as usize];
        Self {
            flushed: sectors.clone(),
            sectors,
            apart: None,
            former: BTreeMap::new(),
            files: 0,
            own: None,
            flights: BTreeMap::new(),
            next: 0,
        }
    }
}

impl Disk {
    /// A disk; with files of their own for the replicas, if this says which of them are there.
    pub fn new(own: Option<[bool; 2]>) -> Self {
        Self { own: own.map(|files| files.map(Store::new)), ..Self::default() }
    }

    /// Takes in a request.
    pub fn add(&mut self, flight: Flight) -> u64 {
        self.next += 1;
        self.flights.insert(self.next, flight);
        self.next
    }

    /// The file of blocks kept apart that a process finds that looks now; 0 is none.
    pub fn look_apart(&self) -> u64 {
        self.apart.as_ref().map_or(0, |apart| apart.file)
    }

    /// What a process sees that knows this file of blocks kept apart.
    pub fn sector(&self, index: u64, file: u64) -> Sector {
        let apart = self.apart.as_ref().filter(|apart| apart.file == file);
        let kept = apart.and_then(|apart| apart.sectors.get(&index));
        kept.copied().unwrap_or(self.sectors[index as usize])
    }

    fn put(&mut self, index: u64, sector: Sector, file: u64) {
        if self.former.get(&file).is_some_and(|sectors| sectors.contains(&index)) {
            return;
        }
        let apart = self.apart.as_mut().filter(|apart| apart.file == file);
        match apart.and_then(|apart| apart.sectors.get_mut(&index)) {
            Some(kept) => *kept = sector,
            None => self.sectors[index as usize] = sector,
        }
    }

    /// Carries out a request; of a write only those of its sectors that `mask` has.
    pub fn execute(&mut self, flight: &Flight, mask: u64, status: DiskStatus) -> DiskDone {
        let (request, apart) = (&flight.request, flight.apart);
        if let Some(own) = &self.own {
            return own[flight.node].execute(flight, mask, status);
        }
        let mut read = Vec::new();
        match &request.op {
            DiskOp::Read { .. } if status == DiskStatus::Ok => {
                read = data::encode(request.op.sectors().map(|index| self.sector(index, apart)));
            }
            DiskOp::Flush if status == DiskStatus::Ok => self.flushed.clone_from(&self.sectors),
            _ => {
                for (index, content) in flight.written(mask) {
                    self.put(index, content, apart);
                }
            }
        }
        DiskDone { disk: request.disk, request: request.request, status, data: read }
    }

    /// Keeps these blocks apart from now on, for fear of a process, with all that is apart already.
    pub fn keep_apart(&mut self, blocks: &[Range<u64>], owner: (usize, u64)) {
        if blocks.iter().all(Range::is_empty) {
            return;
        }
        self.files += 1;
        if let Some(before) = &self.apart {
            self.former.insert(before.file, before.sectors.keys().copied().collect());
        }
        let apart = self.apart.get_or_insert_default();
        apart.file = self.files;
        if !apart.owners.contains(&owner) {
            apart.owners.push(owner);
        }
        for index in blocks.iter().cloned().flatten() {
            apart.sectors.entry(index).or_insert(self.sectors[index as usize]);
        }
    }

    /// Brings them back to the disk. The requests of the process that does it are held up meanwhile.
    pub fn bring_back(&mut self, incarnation: u64) {
        let Some(apart) = self.apart.take() else { return };
        for flight in self.flights.values_mut().filter(|flight| flight.incarnation == incarnation) {
            flight.apart = 0;
        }
        self.former.insert(apart.file, apart.sectors.keys().copied().collect());
        for (index, sector) in apart.sectors {
            self.sectors[index as usize] = sector;
        }
    }

    /// The page cache is lost.
    pub fn lose_cache(&mut self) {
        self.sectors.clone_from(&self.flushed);
    }

    /// What is on the way has landed, as far as `keep` says: bits of sectors for each.
    pub fn settle(&mut self, which: impl Fn(&Flight) -> bool, mut keep: impl FnMut() -> u64) {
        let numbers: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| which(flight)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(flight) = self.flights.remove(&number) else { continue };
            if flight.issued && flight.request.op.is_write() {
                self.execute(&flight, keep(), DiskStatus::Ok);
            }
        }
    }
}
