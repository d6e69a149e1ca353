//! Tests by tiny programs.

mod combining;
mod compatibility;
mod contexts;
mod debugging;
mod exactness;
mod extended_state;
mod memory_model;
mod platform;
mod programs;
mod remembering;
mod wandering;

use iced_x86::code_asm::CodeAssembler;
use vm_memory::{Bytes, GuestAddress};

use self::platform::Bench;
use super::{Options, SoftwareVcpu};
use crate::memory::allocate;
use crate::state::{DescriptorTable, Segment};
use crate::{CpuState, GuestRam, Kick, Position, Stop, Vcpu};

/// How many random programs where `normal` is the default, and their seed: as in the differential tests, `FT_CASES`
/// multiplies the one and `FT_SEED` replaces the other.
pub(super) fn cases(normal: u64) -> (u64, u64) {
    let number = |name: &str, other: u64| {
        std::env::var(name).map_or(other, |text| text.parse().expect("a decimal number"))
    };
    (normal * number("FT_CASES", 1), number("FT_SEED", 1))
}

/// Where programs start.
pub(super) const CODE: u64 = 0x10_0000;
/// Top of the stack.
pub(super) const STACK: u64 = 0x8_0000;
/// Where the page tables are: 4 KiB pages over the first 4 MiB, then 2 MiB pages.
pub(super) const TABLES: u64 = 0x1000;
/// First page table: entry of virtual page n at `PAGE_TABLE + 8 * n`.
pub(super) const PAGE_TABLE: u64 = 0x4000;
pub(super) const GDT: u64 = 0x8000;
pub(super) const IDT: u64 = 0x9000;
pub(super) const TSS: u64 = 0xA000;
pub(super) const RAM: usize = 16 << 20;

/// RAM with page tables that map it onto itself, user-accessible, and a GDT with flat segments.
pub(super) fn ram() -> GuestRam {
    let ram = allocate(RAM).unwrap();
    let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at)).unwrap();
    put(TABLES, 0x2007);
    put(0x2000, 0x3007);
    put(0x3000, PAGE_TABLE | 7);
    put(0x3008, (PAGE_TABLE + 0x1000) | 7);
    for large in 2..8 {
        put(0x3000 + 8 * large, large << 21 | 0x87);
    }
    for page in 0..1024 {
        put(PAGE_TABLE + 8 * page, page << 12 | 7);
    }
    // 0x08 kernel code, 0x10 kernel data, 0x18 user data, 0x20 user code, 0x28 TSS.
    put(GDT + 8, 0x00AF_9B00_0000_FFFF);
    put(GDT + 16, 0x00CF_9300_0000_FFFF);
    put(GDT + 24, 0x00CF_F300_0000_FFFF);
    put(GDT + 32, 0x00AF_FB00_0000_FFFF);
    put(GDT + 40, 0x0000_8900_0000_0067 | TSS << 16);
    put(TSS + 4, STACK);
    ram
}

/// Long mode at privilege level 0, about to run `CODE`.
pub(super) fn long_mode() -> CpuState {
    let mut state = CpuState::reset_pvh(CODE, 0);
    state.cr0 = 0x8001_0033;
    state.cr3 = TABLES;
    state.cr4 = 0x6A0;
    state.efer = 0xD01;
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xC093 };
    state.segments = [data; 6];
    state.segments[1] = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA09B };
    state.gdtr = DescriptorTable { base: GDT, limit: 0xFF };
    state.idtr = DescriptorTable { base: IDT, limit: 0xFFF };
    state.tr = Segment { selector: 0x28, base: TSS, limit: 0x67, attributes: 0x8B };
    state.gpr[4] = STACK;
    state
}

/// The bytes of a program at an address.
pub(super) fn assemble(at: u64, program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    program(&mut assembler);
    assembler.assemble(at).unwrap()
}

/// A machine with a program at [`CODE`].
pub(super) struct Machine {
    pub ram: GuestRam,
    pub cpu: SoftwareVcpu,
    pub platform: Bench,
    pub kick: Kick,
}

impl Machine {
    pub(super) fn new(program: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::with(Options::default(), &assemble(CODE, program))
    }

    pub(super) fn with(options: Options, code: &[u8]) -> Self {
        let ram = ram();
        ram.write_slice(code, GuestAddress(CODE)).unwrap();
        let mut cpu = SoftwareVcpu::new(ram.clone(), options).unwrap();
        cpu.restore(&long_mode());
        Self { ram, cpu, platform: Bench::default(), kick: Kick::new() }
    }

    pub(super) fn run(&mut self, until: Position) -> Stop {
        self.cpu.run(until, &self.kick, &mut self.platform)
    }

    /// Runs until HLT with interrupts off.
    pub(super) fn finish(&mut self) -> CpuState {
        let stop = self.run(1_000_000_000);
        assert_eq!(
            stop,
            Stop::Dead(crate::Dead::HaltedForEver),
            "{:?} {:x?}",
            self.cpu.take_unimplemented(),
            self.cpu.state()
        );
        self.cpu.state()
    }

    /// An interrupt gate (or with kind 0xF a trap gate) for a vector.
    pub(super) fn gate(&self, vector: u64, target: u64, dpl: u64) {
        let low = target & 0xFFFF | 8 << 16 | (0x8E00 | dpl << 13) << 32 | target >> 16 << 48;
        self.ram.write_obj(low, GuestAddress(IDT + 16 * vector)).unwrap();
        self.ram.write_obj(target >> 32, GuestAddress(IDT + 16 * vector + 8)).unwrap();
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(super) fn u64(&self, at: u64) -> u64 {
        self.ram.read_obj(GuestAddress(at)).unwrap()
    }

    /// Everything: registers and memory.
    pub(super) fn all(&self) -> (CpuState, Vec<u8>) {
        let mut bytes = vec![0; RAM];
        self.ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        (self.cpu.state(), bytes)
    }
}
