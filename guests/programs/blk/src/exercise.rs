//! `mode=random` and `mode=hold`: the operations of a seed, many in flight, each read checked when it completes.
//!
//! What a test on the host reads from the console:
//! - `done N submitted M`: all operations below N have completed, all below M are submitted.
//! - `flush I covers J`: flush I has completed, and before it was submitted every change below J had: those are durable.
//!   (One that failed is not: see its line.)
//! - `error op I kind K status S`: operation I failed. Flushes and reads fail without consequence; on a change see [`Doubts`].

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use blk_core::{ImageHash, Kind, Model, Op, SECTOR, Stamp, op};
use rt::virtio::{BlkQueue, Command, Completion, Dma};
use rt::{irq, println};

use crate::check::{self, Doubts};
use crate::options::{MAX_BYTES, Mode, Options};
use crate::{CODE_ERRORS, CODE_WRONG, Name};

/// Lines about failed requests at most.
const MAX_ERROR_LINES: u64 = 20;
/// Bytes of each request that reads the whole disk at the end.
const READ_BACK: u64 = 512 << 10;

/// The disk is wrong; the line that says how is printed.
#[derive(Debug)]
struct Violation;

/// An operation in flight.
struct Pending {
    op: Op,
    /// What a read must find.
    stamps: Vec<Stamp>,
    /// Below here every change had completed when a flush was submitted.
    covers: u64,
    bytes: usize,
}

/// A disk and what is done to it.
struct Exercise {
    name: Name,
    disk: BlkQueue,
    model: Model,
    doubts: Doubts,
    ops: u64,
    depth: usize,
    report: u64,
    /// The next operation.
    next: u64,
    in_flight: BTreeMap<u64, Pending>,
    bytes: usize,
    completions: u64,
    reads: u64,
    changes: u64,
    flushes: u64,
    errors: u64,
}

/// Exercises all disks side by side.
pub(crate) fn run(options: &Options, disks: Vec<(usize, BlkQueue)>, name: impl Fn(usize) -> Name) -> u8 {
    let mut all: Vec<Exercise> = disks
        .into_iter()
        .map(|(number, disk)| {
            let seed = options.seed.wrapping_add(number as u64);
            Exercise {
                name: name(number),
                model: Model::new(seed, disk.capacity()),
                disk,
                doubts: Doubts::default(),
                ops: options.ops,
                depth: options.depth,
                report: options.report,
                next: 0,
                in_flight: BTreeMap::new(),
                bytes: 0,
                completions: 0,
                reads: 0,
                changes: 0,
                flushes: 0,
                errors: 0,
            }
        })
        .collect();
    if options.mode == Mode::Hold {
        println!("blk: holding");
    }
    match exercise(&mut all) {
        Ok(()) if all.iter().any(|exercise| exercise.errors > 0) => CODE_ERRORS,
        Ok(()) => 0,
        Err(Violation) => CODE_WRONG,
    }
}

fn exercise(all: &mut [Exercise]) -> Result<(), Violation> {
    while !all.iter().all(Exercise::is_over) {
        let mut progress = false;
        for exercise in all.iter_mut() {
            exercise.submit();
            while let Some(done) = exercise.disk.poll() {
                exercise.complete(done)?;
                progress = true;
            }
        }
        if progress {
            continue;
        }
        all.iter_mut().for_each(|exercise| exercise.disk.set_interrupts(true));
        if !all.iter().any(|exercise| exercise.disk.is_ready()) {
            irq::wait();
        }
        all.iter_mut().for_each(|exercise| exercise.disk.set_interrupts(false));
    }
    all.iter_mut().try_for_each(Exercise::finish)
}

/// The type of `virtio_blk_req`, for lines on the console.
fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Read => 0,
        Kind::Write => 1,
        Kind::Flush => 4,
        Kind::Discard => 11,
        Kind::WriteZeroes => 13,
    }
}

impl Exercise {
    fn is_over(&self) -> bool {
        self.next == self.ops && self.in_flight.is_empty()
    }

    /// Fills the ring.
    fn submit(&mut self) {
        while self.next < self.ops && self.in_flight.len() < self.depth && self.disk.has_room() {
            let op = op(self.model.seed(), self.next, self.model.sectors());
            let bytes = op.count as usize * SECTOR;
            // So that memory does not run out however long the requests are that happen to meet.
            if self.bytes + bytes > MAX_BYTES && !self.in_flight.is_empty() {
                break;
            }
            self.next += 1;
            self.start(op, bytes);
        }
        self.disk.kick();
    }

    fn start(&mut self, op: Op, bytes: usize) {
        let Op { index, sector, .. } = op;
        let count = op.count as u32;
        let covers = self.in_flight.values().find(|other| other.op.changes());
        let covers = covers.map_or(index, |other| other.op.index);
        let mut pending = Pending { op, stamps: Vec::new(), covers, bytes };
        self.model.apply(&op);
        match op.kind {
            Kind::Read => {
                pending.stamps = self.model.stamps(op.sectors()).to_vec();
                self.disk.submit(index, Command::Read { sector }, Dma::new(bytes), 0..bytes);
            }
            Kind::Write => {
                let mut data = Dma::new(bytes);
                self.fill(&op, &mut data);
                self.disk.submit(index, Command::Write { sector }, data, 0..bytes);
            }
            // A disk without a cache has nothing to flush: what has completed is durable.
            Kind::Flush if !self.disk.can_flush() => return self.flushed(&pending),
            Kind::Flush => self.disk.submit_bare(index, Command::Flush),
            Kind::Discard if count <= self.disk.max_discard() => {
                self.disk.submit_bare(index, Command::Discard { sector, count });
            }
            Kind::WriteZeroes if count <= self.disk.max_write_zeroes() => {
                let unmap = index % 2 == 0;
                self.disk.submit_bare(index, Command::WriteZeroes { sector, count, unmap });
            }
            // Where the disk cannot do it by itself, zeroes are written.
            Kind::Discard | Kind::WriteZeroes => {
                self.disk.submit(index, Command::Write { sector }, Dma::new(bytes), 0..bytes);
            }
        }
        self.bytes += bytes;
        self.in_flight.insert(index, pending);
    }

    fn fill(&self, op: &Op, data: &mut Rc<Dma>) {
        let bytes = Rc::get_mut(data).expect("a new buffer").bytes();
        let (contents, _) = bytes.as_chunks_mut::<SECTOR>();
        for ((sector, stamp), content) in op.sectors().zip(self.model.stamps(op.sectors())).zip(contents) {
            stamp.fill(self.model.seed(), sector, content);
        }
    }

    fn complete(&mut self, done: Completion) -> Result<(), Violation> {
        let Completion { tag, status, mut data } = done;
        let pending = self.in_flight.remove(&tag).expect("a tag of ours");
        let op = &pending.op;
        self.bytes -= pending.bytes;
        if status != 0 {
            self.failed(op, status);
            if op.changes() {
                self.doubts.failed(op);
            }
        } else if op.kind == Kind::Read {
            let data = Rc::get_mut(&mut data).expect("the disk has given it back").bytes();
            self.check(op, &pending.stamps, data)?;
        } else if op.kind == Kind::Flush {
            self.flushed(&pending);
        } else {
            self.doubts.succeeded(op);
        }
        match op.kind {
            Kind::Read => self.reads += 1,
            Kind::Flush => {}
            _ => self.changes += 1,
        }
        self.completions += 1;
        if self.report > 0 && self.completions.is_multiple_of(self.report) {
            let watermark = self.in_flight.keys().next().copied().unwrap_or(self.next);
            println!("{}done {watermark} submitted {}", self.name, self.next);
        }
        Ok(())
    }

    fn failed(&mut self, op: &Op, status: u8) {
        self.errors += 1;
        if self.errors <= MAX_ERROR_LINES {
            let (name, index) = (self.name, op.index);
            println!("{name}error op {index} kind {} status {status}", kind_number(op.kind));
        }
    }

    fn check(&self, op: &Op, stamps: &[Stamp], data: &[u8]) -> Result<(), Violation> {
        check::read(&self.model, &self.doubts, op.index, op.sector, stamps, data).map_err(|wrong| {
            println!("{}blk: op {} read {}+{}: {wrong}", self.name, op.index, op.sector, op.count);
            Violation
        })
    }

    fn flushed(&mut self, pending: &Pending) {
        self.flushes += 1;
        println!("{}flush {} covers {}", self.name, pending.op.index, pending.covers);
    }

    /// Flushes, reads the whole disk back, and says how it went.
    fn finish(&mut self) -> Result<(), Violation> {
        let mut last = Op { index: self.ops, kind: Kind::Flush, sector: 0, count: 0 };
        if self.disk.can_flush() {
            self.disk.submit_bare(last.index, Command::Flush);
            self.disk.kick();
            let status = self.disk.wait().status;
            if status != 0 {
                self.failed(&last, status);
            }
        }
        let mut hash = ImageHash::default();
        let sectors = self.model.sectors();
        let step = READ_BACK / SECTOR as u64;
        let mut data = Dma::new(READ_BACK as usize);
        for sector in (0..sectors).step_by(step as usize) {
            last = Op { kind: Kind::Read, sector, count: step.min(sectors - sector), ..last };
            let bytes = last.count as usize * SECTOR;
            self.disk.submit(last.index, Command::Read { sector }, Rc::clone(&data), 0..bytes);
            self.disk.kick();
            let status = self.disk.wait().status;
            if status != 0 {
                self.failed(&last, status);
                continue;
            }
            let found = &Rc::get_mut(&mut data).expect("the disk has given it back").bytes()[..bytes];
            self.check(&last, self.model.stamps(last.sectors()), found)?;
            hash.update(found);
        }
        println!(
            "{}blk: {} ops, {} reads, {} writes, {} flushes, {} errors, image {:016x}",
            self.name,
            self.ops,
            self.reads,
            self.changes,
            self.flushes,
            self.errors,
            hash.finish()
        );
        Ok(())
    }
}
