//! A guest in long mode at ring 0, memory mapped as it is, and a board that writes down what it is asked.

use ft_vcpu::state::{DescriptorTable, Segment};
use ft_vcpu::{Access, CpuState, GuestRam, Platform, Position, memory};
use iced_x86::code_asm::CodeAssembler;
use vm_memory::{Bytes, GuestAddress};

pub(crate) const RAM: usize = 0x20_0000;
const TABLES: u64 = 0x1000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const STUBS: u64 = 0x6000;
/// Where the program is.
pub(crate) const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x9000;
/// Memory for the program's own use.
pub(crate) const DATA: u64 = 0x10_0000;
/// A device's registers.
pub(crate) const DEVICE: u64 = 0xFEB0_0000;
/// A register of it that sees the time.
pub(crate) const CLOCK: u64 = DEVICE + 0x100;
/// A port that makes [`VECTOR`] pending.
pub(crate) const INTERRUPT_PORT: u16 = 0x90;
const VECTOR: u8 = 0x40;
/// A number that an exception's handler leaves in RDI before it halts for ever, with the vector added.
pub(crate) const EXCEPTION: u64 = 0xE000;

/// What the guest did, without positions: these differ between engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    Read(u64, u8),
    Write(u64, u8, u64),
    Interrupt,
}

/// The board. Reads give a number that depends on how many there were.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    pub(crate) did: Vec<Did>,
    pub(crate) positions: Vec<Position>,
    pub(crate) now: u64,
    pub(crate) cr8: u8,
    pub(crate) reads: u64,
    pub(crate) pending: bool,
}

impl Board {
    fn note(&mut self, at: Position, did: Did) {
        self.did.push(did);
        self.positions.push(at);
    }

    fn value(&mut self) -> u64 {
        self.reads += 1;
        self.reads.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl Platform for Board {
    fn pio_read(&mut self, at: Position, port: u16, size: u8) -> u32 {
        self.note(at, Did::PortRead(port, size));
        self.value() as u32
    }
    fn pio_write(&mut self, at: Position, port: u16, size: u8, value: u32) {
        self.note(at, Did::PortWrite(port, size, value));
        self.pending |= port == INTERRUPT_PORT;
    }
    fn mmio_read(&mut self, at: Position, address: u64, size: u8) -> u64 {
        self.note(at, Did::Read(address, size));
        if address == CLOCK { self.now } else { self.value() }
    }
    fn mmio_write(&mut self, at: Position, address: u64, size: u8, value: u64) {
        self.note(at, Did::Write(address, size, value));
    }
    fn tsc(&mut self, _: Position) -> u64 {
        self.now
    }
    fn msr_read(&mut self, _: Position, msr: u32) -> Option<u64> {
        (msr == 0x1B).then_some(0xFEE0_0900)
    }
    fn msr_write(&mut self, _: Position, msr: u32, _: u64) -> bool {
        msr == 0x1B
    }
    fn cr8(&self) -> u8 {
        self.cr8
    }
    fn set_cr8(&mut self, value: u8) {
        self.cr8 = value;
    }
    fn next_timer(&self) -> Position {
        Position::MAX
    }
    fn fire_timers(&mut self, _: Position) {}
    fn pending_interrupt(&self) -> Option<u8> {
        (self.pending && self.cr8 < VECTOR >> 4).then_some(VECTOR)
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.pending = false;
        self.did.push(Did::Interrupt);
        VECTOR
    }
    fn sees_time(&self, access: Access) -> bool {
        matches!(access, Access::MmioRead(CLOCK) | Access::MsrRead(0x10))
    }
    fn wants_stop(&self) -> bool {
        false
    }
}

/// RAM with the program, and the state in which it begins, in long mode with interrupts off.
///
/// An interrupt's handler increments R12; an exception's puts [`EXCEPTION`] and the vector into RDI and halts for ever.
pub(crate) fn guest(program: impl FnOnce(&mut CodeAssembler)) -> (GuestRam, CpuState) {
    let ram = memory::allocate(RAM).expect("guest RAM");
    let put = |address: u64, value: u64| ram.write_obj(value, GuestAddress(address)).unwrap();
    // Pages of 2 MiB, Accessed and Dirty preset.
    put(TABLES, (TABLES + 0x1000) | 0x23);
    put(TABLES + 0x1000, (TABLES + 0x2000) | 0x23);
    put(TABLES + 0x1000 + 8 * 3, (TABLES + 0x2000) | 0x23);
    for page in 0..512 {
        let address = if page < 8 { page << 21 } else { 0xC000_0000 + (page << 21) };
        put(TABLES + 0x2000 + 8 * page, address | 0xE3);
    }
    put(GDT + 8, 0x00AF_9B00_0000_FFFF);
    put(GDT + 16, 0x00CF_9300_0000_FFFF);
    for vector in 0..=u64::from(VECTOR) {
        let stub = STUBS + 32 * vector;
        put(IDT + 16 * vector, stub & 0xFFFF | 8 << 16 | 0x8E00 << 32);
        put(IDT + 16 * vector + 8, 0);
        let code: Vec<u8> = if vector == u64::from(VECTOR) {
            // inc r12; iretq
            vec![0x49, 0xFF, 0xC4, 0x48, 0xCF]
        } else {
            // mov edi, n; hlt
            let number = (EXCEPTION + vector) as u32;
            [&[0xBF][..], &number.to_le_bytes(), &[0xF4]].concat()
        };
        ram.write_slice(&code, GuestAddress(stub)).unwrap();
    }
    let mut assembler = CodeAssembler::new(64).unwrap();
    program(&mut assembler);
    ram.write_slice(&assembler.assemble(CODE).unwrap(), GuestAddress(CODE)).unwrap();

    let mut state = CpuState::reset_pvh(CODE, 0);
    let data = Segment { selector: 16, base: 0, limit: u32::MAX, attributes: 0xC093 };
    let code = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA09B };
    state.segments = [data, code, data, data, data, data];
    state.gdtr = DescriptorTable { base: GDT, limit: 23 };
    state.idtr = DescriptorTable { base: IDT, limit: 16 * 65 - 1 };
    state.cr0 = 0x8001_0033;
    state.cr3 = TABLES;
    state.cr4 = 0x620;
    state.efer = 0x500;
    state.gpr[4] = STACK;
    (ram, state)
}
