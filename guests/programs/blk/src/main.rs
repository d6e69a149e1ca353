//! `blk`: does to disks what a virtual machine must get right, and knows the answer to every request.
//!
//! Command line:
//! - `mode=random` (the default): `ops=N` operations of `seed=S` ([`blk_core::op`]), `depth=D` in flight; every read is
//!   checked against what was submitted before it, in the end the whole disk. `mode=hold`: the same without an end. The disk
//!   must be blank.
//! - `mode=races`: `ops=N` rounds of requests that overlap on purpose, on the disk and in memory ([`races`]).
//! - `mode=seqread|randread|seqwrite|randwrite`: `ops=N` requests of `size=BYTES`, `depth=D` in flight, and how long they
//!   took.
//! - `disk=K`: which disk, from 0; `disks=all`: every one at once, disk K with seed S + K, its lines beginning with
//!   `disk K: `. The modes of the last kind take one disk only.
//! - `report=N`: a line on progress after every N completions. `indirect=no`: no indirect descriptors, which leaves room for
//!   85 requests in the ring.
//! - `linger=MS`: after a mode that measures has said how long it took, halts for so long before it powers off. Whoever
//!   looks at the machine from outside meanwhile sees what all the requests have cost, and nothing else.
//!
//! Power-off codes: 0 all is well, 2 the command line or the devices do not fit, 3 the disk is wrong, 4 requests failed.
#![no_std]
#![no_main]

extern crate alloc;

mod bench;
mod check;
mod exercise;
mod options;
mod races;

use alloc::vec::Vec;

use rt::virtio::{BlkQueue, DeviceType, discover};
use rt::{BootInfo, println};

use options::{Mode, Options};

rt::entry!(run);

/// Power-off code: the command line or the devices do not fit.
const CODE_USAGE: u8 = 2;
/// Power-off code: a disk holds what it must not.
const CODE_WRONG: u8 = 3;
/// Power-off code: requests failed.
const CODE_ERRORS: u8 = 4;

/// Smallest disk: so that what is done to it finds room.
const MIN_SECTORS: u64 = 256;

/// Whose line it is, where there are several disks.
#[derive(Clone, Copy, Debug)]
struct Name(Option<usize>);

impl core::fmt::Display for Name {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |disk| write!(formatter, "disk {disk}: "))
    }
}

fn run(boot: &BootInfo) -> u8 {
    let options = match Options::parse(boot) {
        Ok(options) => options,
        Err(wrong) => {
            println!("blk: {wrong}");
            return CODE_USAGE;
        }
    };
    let found = discover(boot).into_iter().filter(|found| found.kind() == DeviceType::Block).enumerate();
    let mut disks: Vec<(usize, BlkQueue)> = found
        .filter(|(number, _)| options.disk.is_none_or(|disk| disk == *number))
        .map(|(number, found)| (number, BlkQueue::new(found, options.indirect)))
        .collect();
    if disks.is_empty() || disks.iter().any(|(_, disk)| disk.capacity() < MIN_SECTORS) {
        println!("blk: a virtio disk of at least {MIN_SECTORS} sectors is needed");
        return CODE_USAGE;
    }
    let names_disks = options.disk.is_none();
    let name = |number| Name(names_disks.then_some(number));
    match options.mode {
        Mode::Random | Mode::Hold => exercise::run(&options, disks, name),
        Mode::Races => {
            // One after the other: a race is between the requests of one disk.
            let codes =
                disks.into_iter().map(|(number, disk)| races::run(&options, number, name(number), disk));
            codes.max().unwrap_or(0)
        }
        Mode::Bench(bench) => match disks.pop() {
            Some((_, disk)) if disks.is_empty() => bench::run(&options, bench, disk),
            _ => {
                println!("blk: this mode is for one disk: disk=K");
                CODE_USAGE
            }
        },
    }
}
