//! Measures whether io_uring would pay for disks: the pool that ft-vm has with 2 and with 8 threads, 2 bare threads without the
//! pool's order of overlapping requests, and io_uring, on the same file and the same requests.
//!
//! `cargo run --release -p ft-devices --example disk_engines [DIRECTORY [ROUNDS]]`: the table has the median of the rounds, in
//! thousands of requests per second. Runs of the engines alternate, so that a busy host slows all of them.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ft_core::output::{DiskOp, DiskRequest};
use ft_devices::backend::disk::DiskBackend;
use ft_devices::backend::file::{DiskOptions, Lock};
use ft_devices::backend::pool::{DiskPool, Over};
use ft_devices::backend::schedule::Start;
use io_uring::{IoUring, opcode, types};

const SIZE: u64 = 256 << 20;
const RUN: Duration = Duration::from_millis(300);
const THREADS: usize = 2;
const ALIGNMENT: usize = 4096;

#[derive(Clone, Copy)]
struct Case {
    write: bool,
    random: bool,
    bytes: usize,
    depth: usize,
    direct: bool,
}

/// Offsets of a case, one after the other.
struct Offsets {
    case: Case,
    next: u64,
}

impl Offsets {
    fn next(&mut self) -> u64 {
        let blocks = SIZE / self.case.bytes as u64;
        if self.case.random {
            self.next ^= self.next << 13;
            self.next ^= self.next >> 7;
            self.next ^= self.next << 17;
            self.next % blocks * self.case.bytes as u64
        } else {
            self.next += 1;
            self.next % blocks * self.case.bytes as u64
        }
    }
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .expect("the file was just written")
}

/// Keeps `depth` requests going for the time of a run; gives requests per second.
fn drive(case: Case, mut submit: impl FnMut(u64, u64), mut wait: impl FnMut() -> u64) -> f64 {
    let mut offsets = Offsets { case, next: 0x9e37_79b9_7f4a_7c15 };
    let start = Instant::now();
    for index in 0..case.depth as u64 {
        submit(index, offsets.next());
    }
    let mut done = 0;
    while start.elapsed() < RUN {
        let index = wait();
        done += 1;
        submit(index, offsets.next());
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    for _ in 0..case.depth {
        wait();
    }
    rate
}

fn pool<const THREADS: usize>(path: &Path, case: Case) -> f64 {
    let options = DiskOptions {
        path: path.to_owned(),
        size: None,
        create: false,
        read_only: false,
        direct: case.direct,
        lock: Lock::Alone,
    };
    let (sender, receiver) = channel();
    let disk = DiskBackend::open(&options).expect("nobody else has it");
    let done = move |done| {
        sender.send(done).expect("the receiver outlives the pool");
        Over::Yes
    };
    let pool = DiskPool::new(vec![disk], THREADS, done).expect("two threads");
    let mut request = 0;
    let submit = |_, offset: u64| {
        let sector = offset / 512;
        let op = if case.write {
            DiskOp::Write { sector, data: vec![7; case.bytes] }
        } else {
            DiskOp::Read { sector, len: case.bytes as u32 }
        };
        pool.submit(DiskRequest { disk: 0, request, op }, Start::Now, false).expect("there is a disk 0");
        request += 1;
    };
    drive(case, submit, || receiver.recv().expect("the pool lives").done.request)
}

/// Memory for direct I/O, which a real back-end would copy from and to, as is done here.
struct Buffer(Vec<u8>, usize);

impl Buffer {
    fn new(len: usize) -> Self {
        let memory = vec![7; len + ALIGNMENT];
        let from = memory.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        Self(memory, from)
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

fn threads(path: &Path, case: Case) -> f64 {
    let file = Arc::new(open(path, case.direct));
    let (sender, receiver) = channel::<(u64, u64)>();
    let receiver: Arc<Mutex<Receiver<(u64, u64)>>> = Arc::new(Mutex::new(receiver));
    let (done_sender, done) = channel();
    let work = |file: Arc<File>, requests: Arc<Mutex<Receiver<(u64, u64)>>>, done: Sender<(u64, Vec<u8>)>| {
        move || {
            let mut buffer = Buffer::new(case.bytes);
            loop {
                let next = requests.lock().expect("no panics").recv();
                let Ok((index, offset)) = next else { return };
                let bytes = buffer.bytes(case.bytes);
                let mut data = vec![7; case.bytes];
                if case.write {
                    bytes.copy_from_slice(&data);
                    file.write_all_at(bytes, offset).expect("a good disk");
                } else {
                    file.read_exact_at(bytes, offset).expect("a good disk");
                    data.copy_from_slice(bytes);
                }
                done.send((index, data)).expect("the receiver outlives the threads");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work(Arc::clone(&file), Arc::clone(&receiver), done_sender.clone()));
        }
        let submit = |index, offset| sender.send((index, offset)).expect("the threads live");
        let rate = drive(case, submit, || done.recv().expect("the threads live").0);
        drop(sender);
        rate
    })
}

fn uring(path: &Path, case: Case) -> f64 {
    let file = open(path, case.direct);
    let fd = types::Fd(file.as_raw_fd());
    let mut buffers: Vec<Buffer> = (0..case.depth).map(|_| Buffer::new(case.bytes)).collect();
    let ring = std::cell::RefCell::new(IoUring::new(256).expect("this host has io_uring"));
    let mut ready = Vec::new();
    let buffers = std::cell::RefCell::new(&mut buffers);
    let submit = |index: u64, offset| {
        let mut buffers = buffers.borrow_mut();
        let bytes = buffers[index as usize].bytes(case.bytes);
        let len = case.bytes as u32;
        let entry = if case.write {
            bytes.copy_from_slice(&vec![7; case.bytes]);
            opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset).build()
        } else {
            opcode::Read::new(fd, bytes.as_mut_ptr(), len).offset(offset).build()
        };
        // SAFETY: the buffer of an index is not touched until its completion was seen, and both it and the file outlive the ring's
        // last completion, for which `drive` waits.
        unsafe { ring.borrow_mut().submission().push(&entry.user_data(index)) }.expect("256 are enough");
    };
    let wait = || {
        let mut ring = ring.borrow_mut();
        while ready.is_empty() {
            ring.submit_and_wait(1).expect("a good ring");
            for done in ring.completion() {
                assert_eq!(done.result(), case.bytes as i32, "a good disk");
                ready.push(done.user_data());
            }
        }
        let index = ready.pop().expect("not empty");
        if !case.write {
            let copy = buffers.borrow_mut()[index as usize].bytes(case.bytes).to_vec();
            std::hint::black_box(copy);
        }
        index
    };
    drive(case, submit, wait)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = args.next().map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let path = dir.join(format!("disk-engines-{}", std::process::id()));
    std::fs::write(&path, vec![7; SIZE as usize]).expect("room for the file");
    File::open(&path).and_then(|file| file.sync_all()).expect("a good disk");
    println!(
        "{:<40} {:>9} {:>9} {:>9} {:>9}",
        "thousand requests per second", "pool of 2", "pool of 8", "threads", "io_uring"
    );
    for direct in [false, true] {
        for (write, random, bytes) in
            [(false, true, 4096), (true, true, 4096), (false, false, 65536), (true, false, 65536)]
        {
            for depth in [1, 8, 32, 128] {
                let case = Case { write, random, bytes, depth, direct };
                let engines = [pool::<2>, pool::<8>, threads, uring];
                let mut rates = [const { Vec::new() }; 4];
                for _ in 0..rounds {
                    for (engine, rates) in engines.iter().zip(&mut rates) {
                        rates.push(engine(&path, case) / 1000.0);
                    }
                }
                let name = format!(
                    "{} {} {} KiB, {depth} at a time",
                    if direct { "direct" } else { "cached" },
                    match (random, write) {
                        (true, true) => "random write",
                        (true, false) => "random read",
                        (false, true) => "sequential write",
                        (false, false) => "sequential read",
                    },
                    bytes / 1024
                );
                let [two, eight, threads, uring] = rates.map(median);
                println!("{name:<40} {two:>9.1} {eight:>9.1} {threads:>9.1} {uring:>9.1}");
            }
        }
    }
    std::fs::remove_file(&path).expect("the file is ours");
}
