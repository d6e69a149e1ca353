//! In-tree guests on a whole machine, driven by hand: no threads, no host clock.

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input};
use ft_core::output::{DiskOp, DiskRequest, Output, OutputBody};
use ft_devices::{BoardSpec, DiskSpec, NicSpec};
use ft_guests::blk::{self, Random};
use ft_runtime::machine::{Discovery, Engine, Machine, MachineSpec};
use ft_vcpu::software::Options;
use ft_vcpu::{Kick, Stop};

const SECTORS: u64 = 16384;

/// A machine, its disk, and everything it said.
struct Bench {
    machine: Machine,
    disk: Vec<u8>,
    console: Vec<u8>,
    frames: usize,
    ended: Option<u8>,
    /// Disk requests that are served later and out of order, if anything is.
    waiting: Option<Shuffle>,
}

/// Disk requests in the order of submission; which of those that may run is served next, a seed decides.
struct Shuffle {
    requests: Vec<DiskRequest>,
    random: Random,
    habit: Habit,
}

/// How a disk behaves.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// As it must.
    Good,
    /// It takes no care of requests that overlap.
    Careless,
    /// One request in twenty fails; of a write that does, some of the sectors may have been written.
    Failing,
}

impl Shuffle {
    /// The next to be served: one that overlaps no earlier one, unless both only read. A flush waits for everything.
    fn next(&mut self) -> Option<DiskRequest> {
        let may_pass = |later: &DiskOp, earlier: &DiskOp| {
            let (one, other) = (later.sectors(), earlier.sectors());
            let apart = one.end <= other.start || other.end <= one.start;
            let harmless = apart || !(later.is_write() || earlier.is_write());
            self.habit == Habit::Careless || (harmless && *later != DiskOp::Flush)
        };
        let is_ready = |index: &usize| {
            let (earlier, later) = (&self.requests[..*index], &self.requests[*index]);
            earlier.iter().all(|earlier| may_pass(&later.op, &earlier.op))
        };
        let ready: Vec<usize> = (0..self.requests.len()).filter(is_ready).collect();
        let pick = *ready.get(self.random.below(ready.len() as u64) as usize)?;
        Some(self.requests.remove(pick))
    }
}

impl Bench {
    fn new(guest: &str, command_line: &str) -> Self {
        let board = BoardSpec {
            disks: vec![DiskSpec { sectors: SECTORS, read_only: false }],
            nics: vec![NicSpec { mac: [2, 0, 0, 0, 0, 1] }],
            rng: true,
            console: true,
        };
        let spec = MachineSpec {
            memory: 64 << 20,
            kernel: ft_guests::builtin(guest).expect("an in-tree guest").to_vec(),
            initrd: Vec::new(),
            discovery: Discovery::CommandLine,
            command_line: command_line.to_owned(),
            board,
            engine: Engine::Software(Options::default()),
        };
        let machine = Machine::new(spec, guest).expect("the machine can be built");
        let disk = vec![0; SECTORS as usize * 512];
        Self { machine, disk, console: Vec::new(), frames: 0, ended: None, waiting: None }
    }

    /// A run of `blk` to its end, with disk requests that wait until the guest halts, or until its run is cut, and complete
    /// out of order.
    fn shuffled(command_line: &str, habit: Habit) -> Self {
        let waiting = Some(Shuffle { requests: Vec::new(), random: Random::new(1), habit });
        let mut bench = Self { waiting, ..Self::new("blk", command_line) };
        bench.run(1 << 32, 50_000);
        bench
    }

    /// Runs to `until`, answering every request at once and jumping over halts. `step` cuts the run into pieces.
    fn run(&mut self, until: u64, step: u64) {
        let kick = Kick::new();
        while self.ended.is_none() && self.machine.position() < until {
            let next = until.min((self.machine.position() / step + 1) * step);
            let stop = self.machine.run(next, &kick);
            for output in self.machine.take_outputs() {
                self.serve(output);
            }
            let next = self.waiting.as_mut().and_then(Shuffle::next);
            if let Some(request) = next {
                self.serve_disk(request);
            } else if stop == Stop::Halted {
                let Some(deadline) = self.machine.next_deadline_ns() else { return };
                let time = deadline.max(self.machine.now_ns());
                self.machine
                    .apply(&Input::Anchor(Anchor { time, rate: 1 << 32 }))
                    .expect("anchors always fit");
            }
        }
    }

    fn serve(&mut self, output: Output) {
        match output.body {
            OutputBody::Console { bytes, .. } => self.console.extend(bytes),
            OutputBody::NetTx { frames, .. } => self.frames += frames.len(),
            OutputBody::PowerOff { code } => self.ended = Some(code),
            OutputBody::Entropy { request, len } => {
                let bytes = vec![7; len as usize];
                self.machine.apply(&Input::Entropy { request, bytes }).expect("it was asked for");
            }
            OutputBody::Disk(request) => match &mut self.waiting {
                Some(waiting) => waiting.requests.push(request),
                None => self.serve_disk(request),
            },
            other => panic!("the guest said {other:?}"),
        }
    }

    fn serve_disk(&mut self, request: DiskRequest) {
        let mut data = Vec::new();
        let range = request.op.sectors();
        let place = &mut self.disk[range.start as usize * 512..range.end as usize * 512];
        let mut status = DiskStatus::Ok;
        let mut done = place.len();
        if let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.habit == Habit::Failing)
            && waiting.random.below(20) == 0
        {
            status = DiskStatus::IoError;
            done = waiting.random.below(range.end - range.start + 1) as usize * 512;
        }
        match &request.op {
            DiskOp::Read { .. } if status == DiskStatus::Ok => data = place.to_vec(),
            DiskOp::Read { .. } | DiskOp::Flush => {}
            DiskOp::Write { data, .. } => place[..done].copy_from_slice(&data[..done]),
            DiskOp::Discard { .. } | DiskOp::WriteZeroes { .. } => place[..done].fill(0),
        }
        let done = DiskDone { disk: 0, request: request.request, status, data };
        self.machine.apply(&Input::DiskDone(done)).expect("it was asked for");
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }
}

#[test]
fn cpu_prints_the_checksum_that_the_host_computes() {
    let mut bench = Bench::new("cpu", "rounds=3 exit=7");
    bench.run(1 << 30, u64::MAX / 2);
    let expected = format!("{:016x}", ft_guests::cpu_checksum(3));
    assert!(bench.console().contains(&expected), "{} lacks {expected}", bench.console());
    assert_eq!(bench.ended, Some(7));
}

#[test]
fn kv_gets_ready_on_a_blank_disk() {
    let mut bench = Bench::new("kv", "");
    bench.run(200_000_000, u64::MAX / 2);
    assert!(bench.console().contains("kv: ready"), "console: {}", bench.console());
    assert_eq!(bench.ended, None);
}

/// Where the host stops a run changes nothing.
#[test]
fn a_run_in_pieces_is_the_same_run() {
    let mut whole = Bench::new("kv", "");
    let mut pieces = Bench::new("kv", "");
    whole.run(20_000_000, u64::MAX / 2);
    pieces.run(20_000_000, 9_973);
    assert_eq!(whole.machine.position(), pieces.machine.position());
    assert_eq!(whole.console(), pieces.console());
    let digest = whole.machine.digest(true);
    pieces.machine.compare_digest(&digest).expect("the same state");
}

#[test]
fn a_flipped_bit_is_named() {
    let mut one = Bench::new("cpu", "rounds=3");
    let mut other = Bench::new("cpu", "rounds=3");
    one.run(5_000_000, u64::MAX / 2);
    other.run(5_000_000, u64::MAX / 2);
    other.machine.flip_register_bit(12);
    let digest = one.machine.digest(false);
    let difference = other.machine.compare_digest(&digest).expect_err("a register differs");
    assert_eq!(difference.first, "register r12");

    let mut third = Bench::new("cpu", "rounds=3");
    third.run(5_000_000, u64::MAX / 2);
    third.machine.flip_memory_bit(0x1234).expect("in RAM");
    let digest = one.machine.digest(true);
    let difference = third.machine.compare_digest(&digest).expect_err("a page differs");
    assert_eq!(difference.first, "memory page 0x1000");
}

/// Every read finds what was written before it, and the image is the one that the host computes, in whatever order
/// requests complete.
#[test]
fn blk_random_ops_match_the_model() {
    const OPS: u64 = 1500;
    for (seed, depth, indirect) in [(1, 1, "yes"), (2, 16, "yes"), (3, 128, "yes"), (4, 85, "no")] {
        let command_line = format!("ops={OPS} seed={seed} depth={depth} indirect={indirect} report=100");
        let bench = Bench::shuffled(&command_line, Habit::Good);
        let console = bench.console();
        assert_eq!(bench.ended, Some(0), "{command_line}: {console}");
        blk::check_image(seed, OPS, &bench.disk).unwrap_or_else(|wrong| panic!("{command_line}: {wrong}"));
        assert!(bench.disk == blk::expected_image(seed, OPS, SECTORS), "{command_line}: the image");
        let hash = format!("image {:016x}", blk::image_hash(&bench.disk));
        assert!(console.contains(&hash), "{command_line}: no {hash} in {console}");
        assert!(console.contains("covers ") && console.contains("done "), "{command_line}: {console}");
    }
}

/// The judge is no rubber stamp: a disk that lets overlapping requests pass each other is found out, in both modes.
#[test]
fn blk_finds_a_careless_disk() {
    for (command_line, words) in [("ops=1500 depth=64", "blk: op "), ("mode=races ops=100", "races: round ")]
    {
        let bench = Bench::shuffled(command_line, Habit::Careless);
        let console = bench.console();
        assert_eq!(bench.ended, Some(3), "{command_line}: {console}");
        assert!(console.contains(words) && console.contains(": expected "), "{command_line}: {console}");
    }
}

/// A request that fails is counted, and what it may have left behind is not called wrong.
#[test]
fn blk_lives_with_a_failing_disk() {
    for seed in 1..=4 {
        let bench = Bench::shuffled(&format!("ops=1000 depth=32 seed={seed}"), Habit::Failing);
        let console = bench.console();
        assert_eq!(bench.ended, Some(4), "seed {seed}: {console}");
        assert!(console.contains("error op "), "seed {seed}: {console}");
        assert!(console.contains("blk: 1000 ops, "), "seed {seed}: {console}");
    }
}

/// Memory and sectors that several requests are about at once.
#[test]
fn blk_races_end_well() {
    let bench = Bench::shuffled("mode=races ops=300 seed=5", Habit::Good);
    let console = bench.console();
    assert_eq!(bench.ended, Some(0), "{console}");
    assert!(console.contains("races: 300 rounds, hash "), "{console}");
}

#[test]
fn blk_measures() {
    for mode in ["seqread", "randread", "seqwrite", "randwrite"] {
        let bench = Bench::shuffled(&format!("mode={mode} ops=200 size=8192 depth=4"), Habit::Good);
        let console = bench.console();
        assert_eq!(bench.ended, Some(0), "{console}");
        let line = format!("bench {mode} size 8192 depth 4: 200 requests in ");
        assert!(console.contains(&line), "{console}");
    }
}
