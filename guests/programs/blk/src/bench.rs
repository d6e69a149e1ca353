//! `mode=seqread` and its like: how many requests a second, and how long each takes, by the guest's own clock.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use blk_core::{Random, SECTOR};
use rt::time::Clock;
use rt::virtio::{BlkQueue, Command, Dma};
use rt::{irq, println};

use crate::options::{Bench, Options};
use crate::{CODE_ERRORS, CODE_USAGE};

/// Measures, and prints one line.
pub(crate) fn run(options: &Options, bench: Bench, mut disk: BlkQueue) -> u8 {
    let &Options { ops, seed, depth, size, .. } = options;
    let per_request = (size / SECTOR) as u64;
    let places = disk.capacity() / per_request;
    if places == 0 || ops == 0 {
        println!("blk: nothing to measure: the disk is smaller than a request, or there are none");
        return CODE_USAGE;
    }
    let mut random = Random::new(seed);
    let mut clock = Clock::new();
    let mut spare: VecDeque<Rc<Dma>> = (0..depth).map(|_| Dma::new(size)).collect();
    // When each was submitted; then, for those that are done, how long it took.
    let mut times = vec![0; ops as usize];
    let (mut submitted, mut completed, mut errors) = (0, 0, 0_u64);
    let start = clock.now();
    while completed < ops {
        while submitted < ops && disk.has_room() {
            let Some(data) = spare.pop_front() else { break };
            let place = if bench.is_random { random.below(places) } else { submitted % places };
            let sector = place * per_request;
            let command = if bench.is_write { Command::Write { sector } } else { Command::Read { sector } };
            if bench.is_write {
                // Not the same bytes every time.
                data.write_word(0, submitted + 1);
            }
            times[submitted as usize] = clock.now();
            disk.submit(submitted, command, data, 0..size);
            disk.kick();
            submitted += 1;
        }
        let mut done = disk.wait();
        loop {
            let time = &mut times[done.tag as usize];
            *time = clock.now() - *time;
            errors += u64::from(done.status != 0);
            spare.push_back(done.data);
            completed += 1;
            match disk.poll() {
                Some(next) => done = next,
                None => break,
            }
        }
    }
    let took = clock.now() - start;
    let mut flush = 0;
    if bench.is_write && disk.can_flush() {
        disk.submit_bare(ops, Command::Flush);
        disk.kick();
        errors += u64::from(disk.wait().status != 0);
        flush = clock.now() - start - took;
    }
    report(options, bench, took, flush, times);
    rest(&mut clock, options.linger * 1_000_000);
    if errors > 0 {
        println!("blk: {errors} requests failed");
        return CODE_ERRORS;
    }
    0
}

/// Halts for so many nanoseconds.
fn rest(clock: &mut Clock, time: u64) {
    let until = clock.now() + time;
    loop {
        let now = clock.now();
        if now >= until {
            return;
        }
        clock.wake_at(now, until);
        irq::wait();
    }
}

fn report(options: &Options, bench: Bench, took: u64, flush: u64, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)] / 1000;
    let &Options { ops, depth, size, .. } = options;
    println!(
        "bench {} size {size} depth {depth}: {ops} requests in {} us, p50 {} us, p99 {} us, max {} us, flush {} us",
        bench.name,
        took / 1000,
        at(50),
        at(99),
        at(100),
        flush / 1000
    );
}
