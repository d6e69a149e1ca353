//! `cpu`: runs `rounds=N` rounds of the kernels (100 unless told), prints the checksum, and powers off with
//! `exit=K` (0 unless told).
#![no_std]
#![no_main]

extern crate alloc;

mod kernels;

use rt::{BootInfo, println};

rt::entry!(run);

/// Power-off code of a command line that cannot be understood.
const CODE_USAGE: u8 = 2;

fn run(boot: &BootInfo) -> u8 {
    let rounds = boot.option("rounds").map_or(Ok(100), str::parse);
    let exit = boot.option("exit").map_or(Ok(0), str::parse);
    let (Ok(rounds), Ok(exit)) = (rounds, exit) else {
        println!("cpu: rounds=N and exit=K are numbers");
        return CODE_USAGE;
    };
    println!("cpu: {rounds} rounds, checksum {:016x}", kernels::checksum(rounds));
    exit
}
