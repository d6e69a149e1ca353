//! `mode=races`: requests that meet on purpose, on the disk or in memory, round after round.
//!
//! What virtio leaves open is folded into a hash: whatever it is, both replicas must see the same, at the same instruction.
//! What ft-vm promises is checked: requests that overlap on the disk take effect in the order of submission, and what a
//! write writes is what its buffer held at the notification.

use alloc::rc::Rc;
use alloc::vec::Vec;

use blk_core::{ImageHash, Kind, Model, Op, Random, SECTOR, Stamp, Wrong, compare, explain};
use rt::virtio::{BlkQueue, Command, Dma};
use rt::{port, println};

use crate::options::Options;
use crate::{CODE_ERRORS, CODE_WRONG, Name};

/// Sectors of the disk that a round is about.
const PLACE: u64 = 64;
/// Sectors of one request at most, but for those that read the whole place.
const MAX_COUNT: u64 = 24;
/// How often a wait computes before it halts.
const COMPUTE: usize = 256;
/// A port that answers and does nothing: the line status of the serial line.
const QUIET_PORT: u16 = 0x3fd;

/// Why a run ends before its time.
enum Stop {
    /// The disk is wrong.
    Wrong { what: &'static str, wrong: Wrong },
    /// A request failed.
    Failed { status: u8 },
}

/// A read in flight, and what it must find.
struct Read {
    op: Op,
    stamps: Vec<Stamp>,
    data: Rc<Dma>,
}

struct Races {
    disk: BlkQueue,
    model: Model,
    random: Random,
    hash: ImageHash,
    /// Number of the next operation.
    next: u64,
    /// First sector of this round's place.
    place: u64,
}

/// Runs `ops` rounds on a disk.
pub(crate) fn run(options: &Options, number: usize, name: Name, disk: BlkQueue) -> u8 {
    let seed = options.seed.wrapping_add(number as u64);
    let sectors = disk.capacity();
    let mut races = Races {
        disk,
        model: Model::new(seed, sectors),
        random: Random::new(seed),
        hash: ImageHash::default(),
        next: 0,
        place: 0,
    };
    for round in 1..=options.ops {
        races.place = races.random.below(sectors - PLACE + 1);
        match races.round() {
            Ok(()) => {}
            Err(Stop::Wrong { what, wrong }) => {
                println!("{name}races: round {round}: {what}: {wrong}");
                return CODE_WRONG;
            }
            Err(Stop::Failed { status }) => {
                println!("{name}races: round {round}: a request failed with status {status}");
                return CODE_ERRORS;
            }
        }
        if options.report > 0 && round.is_multiple_of(options.report) {
            println!("{name}races: round {round}, hash {:016x}", races.hash.finish());
        }
    }
    println!("{name}races: {} rounds, hash {:016x}", options.ops, races.hash.finish());
    0
}

impl Races {
    fn round(&mut self) -> Result<(), Stop> {
        self.writes_that_overlap()?;
        self.a_read_into_memory_in_use()?;
        self.a_read_in_front_of_a_write()?;
        self.two_reads_into_one_buffer()?;
        self.a_write_from_memory_in_use()
    }

    /// Several writes of the same sectors at once: the last one wins, for a read in flight with them and for a later one.
    fn writes_that_overlap(&mut self) -> Result<(), Stop> {
        let writes = 2 + self.random.below(3);
        for _ in 0..writes {
            let op = self.op(Kind::Write);
            self.write(&op);
            // One notification for several, or one for each.
            if self.random.below(2) == 0 {
                self.disk.kick();
            }
        }
        let beside = self.read_place();
        self.wait(writes + 1)?;
        self.check(beside, "a read in flight with the writes in front of it")?;
        let after = self.read_place();
        self.wait(1)?;
        self.check(after, "a read after writes that overlapped")
    }

    /// The CPU writes to the buffer of a read until it has completed.
    fn a_read_into_memory_in_use(&mut self) -> Result<(), Stop> {
        let op = self.op(Kind::Read);
        let read = self.read(op);
        self.disk.kick();
        let rounds = self.scribble(&read.data);
        self.hash.update_word(rounds);
        self.wait(1)?;
        self.fold(&read.data);
        Ok(())
    }

    /// A write of the same sectors is submitted right behind a read: the read finds what was there before.
    fn a_read_in_front_of_a_write(&mut self) -> Result<(), Stop> {
        let op = self.op(Kind::Read);
        let read = self.read(op);
        if self.random.below(2) == 0 {
            self.disk.kick();
        }
        let write = Op { sector: op.sector, count: op.count, ..self.op(Kind::Write) };
        self.write(&write);
        self.wait(2)?;
        self.check(read, "a read in front of a write of the same sectors")
    }

    /// Two reads into memory that overlaps. Each sector of it is one's or the other's.
    fn two_reads_into_one_buffer(&mut self) -> Result<(), Stop> {
        const WHAT: &str = "two reads into one buffer";
        let (one, two) = (self.op(Kind::Read), self.op(Kind::Read));
        let shift = self.random.below(one.count);
        let mut data = Dma::new((one.count.max(shift + two.count)) as usize * SECTOR);
        for (op, at) in [(one, 0), (two, shift)] {
            let range = at as usize * SECTOR..(at + op.count) as usize * SECTOR;
            self.disk.submit(op.index, Command::Read { sector: op.sector }, Rc::clone(&data), range);
        }
        self.wait(2)?;
        self.fold(&data);
        let seed = self.model.seed();
        let bytes = Rc::get_mut(&mut data).expect("the disk has given it back").bytes();
        let (contents, _) = bytes.as_chunks::<SECTOR>();
        for (index, content) in (0..).zip(contents) {
            let inside = |op: &Op, at: u64| {
                let offset = u64::checked_sub(index, at).filter(|offset| *offset < op.count)?;
                Some(op.sector + offset)
            };
            let candidates = [inside(&one, 0), inside(&two, shift)].into_iter().flatten();
            let stamped = candidates.map(|sector| (sector, self.model.stamps(sector..sector + 1)[0]));
            let mut wrong = None;
            let is_good = stamped.into_iter().any(|(sector, stamp)| {
                wrong.get_or_insert(Wrong { sector, expected: stamp, found: explain(content) });
                stamp.matches(seed, sector, content)
            });
            if let Some(wrong) = wrong.filter(|_| !is_good) {
                return Err(Stop::Wrong { what: WHAT, wrong });
            }
        }
        Ok(())
    }

    /// The CPU writes to the buffer of a write right after the notification: the disk gets what was there before.
    fn a_write_from_memory_in_use(&mut self) -> Result<(), Stop> {
        let op = self.op(Kind::Write);
        let data = self.write(&op);
        self.disk.kick();
        self.scribble(&data);
        self.wait(1)?;
        self.fold(&data);
        let read = self.read(Op { kind: Kind::Read, ..op });
        self.wait(1)?;
        self.check(read, "a write from memory that was changed after the notification")
    }

    /// The next operation, about some sectors of the place.
    fn op(&mut self, kind: Kind) -> Op {
        let count = 1 + self.random.below(MAX_COUNT);
        let sector = self.place + self.random.below(PLACE - count + 1);
        let index = self.next;
        self.next += 1;
        Op { index, kind, sector, count }
    }

    fn write(&mut self, op: &Op) -> Rc<Dma> {
        self.model.apply(op);
        let bytes = op.count as usize * SECTOR;
        let mut data = Dma::new(bytes);
        let (contents, _) = Rc::get_mut(&mut data).expect("a new buffer").bytes().as_chunks_mut::<SECTOR>();
        for ((sector, stamp), content) in op.sectors().zip(self.model.stamps(op.sectors())).zip(contents) {
            stamp.fill(self.model.seed(), sector, content);
        }
        self.disk.submit(op.index, Command::Write { sector: op.sector }, Rc::clone(&data), 0..bytes);
        data
    }

    fn read(&mut self, op: Op) -> Read {
        let bytes = op.count as usize * SECTOR;
        let data = Dma::new(bytes);
        self.disk.submit(op.index, Command::Read { sector: op.sector }, Rc::clone(&data), 0..bytes);
        Read { op, stamps: self.model.stamps(op.sectors()).to_vec(), data }
    }

    fn read_place(&mut self) -> Read {
        let op = self.op(Kind::Read);
        self.read(Op { sector: self.place, count: PLACE, ..op })
    }

    /// Waits until `count` requests have completed.
    fn wait(&mut self, count: u64) -> Result<(), Stop> {
        self.disk.kick();
        for _ in 0..count {
            let status = self.disk.wait().status;
            if status != 0 {
                return Err(Stop::Failed { status });
            }
        }
        Ok(())
    }

    /// Computes in a buffer that the disk has, until something has completed or it is enough; after how many rounds.
    fn scribble(&mut self, data: &Dma) -> u64 {
        let mut state = self.random.next_u64();
        let words = data.len() / 8;
        for round in 0..COMPUTE {
            for step in 0..64 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(step);
                let at = (state >> 33) as usize % words * 8;
                let found = data.read_word(at);
                data.write_word(at, found.rotate_left(7) ^ state);
            }
            // A wait may not look at memory alone: an engine that counts exits lets the answer in at one.
            port::inb(QUIET_PORT);
            if self.disk.is_ready() {
                return round as u64;
            }
        }
        COMPUTE as u64
    }

    fn fold(&mut self, data: &Dma) {
        for at in (0..data.len()).step_by(8) {
            self.hash.update_word(data.read_word(at));
        }
    }

    fn check(&mut self, mut read: Read, what: &'static str) -> Result<(), Stop> {
        let data = Rc::get_mut(&mut read.data).expect("the disk has given it back").bytes();
        match compare(self.model.seed(), read.op.sector, &read.stamps, data).next() {
            None => Ok(()),
            Some(wrong) => Err(Stop::Wrong { what, wrong }),
        }
    }
}
