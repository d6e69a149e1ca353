//! In-tree guests on a whole machine, driven by hand: no threads, no host clock.

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input};
use ft_core::output::{DiskOp, Output, OutputBody};
use ft_devices::{BoardSpec, DiskSpec, NicSpec};
use ft_runtime::machine::{Machine, MachineSpec};
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
            command_line: command_line.to_owned(),
            board,
            engine: Options::default(),
        };
        let machine = Machine::new(spec, guest).expect("the machine can be built");
        let disk = vec![0; SECTORS as usize * 512];
        Self { machine, disk, console: Vec::new(), frames: 0, ended: None }
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
            if stop == Stop::Halted {
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
            OutputBody::Disk(request) => {
                let mut data = Vec::new();
                match &request.op {
                    DiskOp::Read { sector, len } => {
                        let start = *sector as usize * 512;
                        data = self.disk[start..start + *len as usize].to_vec();
                    }
                    DiskOp::Write { sector, data } => {
                        let start = *sector as usize * 512;
                        self.disk[start..start + data.len()].copy_from_slice(data);
                    }
                    DiskOp::Flush => {}
                    DiskOp::Discard { sector, count } | DiskOp::WriteZeroes { sector, count, .. } => {
                        let start = *sector as usize * 512;
                        self.disk[start..start + *count as usize * 512].fill(0);
                    }
                }
                let done = DiskDone { disk: 0, request: request.request, status: DiskStatus::Ok, data };
                self.machine.apply(&Input::DiskDone(done)).expect("it was asked for");
            }
            other => panic!("the guest said {other:?}"),
        }
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
