//! The guest's side of the devices, for tests: register accesses and a ring writer.

#![allow(dead_code, unreachable_pub, reason = "a module of each test file, which uses a part of it")]

use ft_core::output::{Output, OutputBody};
use ft_devices::{Board, BoardSpec, DiskSpec, NicSpec, layout};
use ft_vcpu::memory::allocate;
use ft_vcpu::{GuestRam, Platform, Position};
use vm_memory::{Bytes, GuestAddress};

pub const RAM: usize = 4 << 20;
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub const VECTOR: u8 = 0x40;

/// Slots of [`Guest::new`]'s devices.
pub const DISK: usize = 0;
pub const READ_ONLY_DISK: usize = 1;
pub const NIC: usize = 2;
pub const RNG: usize = 3;
pub const CONSOLE: usize = 4;

pub struct Guest {
    pub board: Board,
    pub ram: GuestRam,
    pub at: Position,
}

/// One descriptor: address, length, device-writable.
pub type Piece = (u64, u32, bool);

/// A queue as its driver sees it.
pub struct Queue {
    pub slot: usize,
    pub index: u32,
    pub size: u16,
    pub base: u64,
    next: u16,
    avail: u16,
    used: u16,
}

pub fn spec() -> BoardSpec {
    BoardSpec {
        disks: vec![DiskSpec { sectors: 4096, read_only: false }, DiskSpec { sectors: 16, read_only: true }],
        nics: vec![NicSpec { mac: MAC }],
        rng: true,
        console: true,
    }
}

impl Guest {
    /// A machine whose interrupt controllers are set up: line n gives vector 0x40 + n, by level for virtio.
    pub fn new() -> Self {
        let ram = allocate(RAM).unwrap();
        let board = Board::new(&spec(), ram.clone()).unwrap();
        let mut guest = Self { board, ram, at: 1 };
        guest.lapic(0xf0, 0x1ff);
        for pin in 0..24_u64 {
            let level = if pin >= 16 { 1 << 15 } else { 0 };
            guest.ioapic(0x10 + 2 * pin as u32, (u32::from(VECTOR) + pin as u32) | level);
            guest.ioapic(0x11 + 2 * pin as u32, 0);
        }
        guest
    }

    pub fn lapic(&mut self, offset: u64, value: u32) {
        self.board.mmio_write(self.at, layout::LAPIC_BASE + offset, 4, u64::from(value));
    }

    pub fn lapic_read(&mut self, offset: u64) -> u32 {
        self.board.mmio_read(self.at, layout::LAPIC_BASE + offset, 4) as u32
    }

    pub fn ioapic(&mut self, register: u32, value: u32) {
        self.board.mmio_write(self.at, layout::IOAPIC_BASE, 4, u64::from(register));
        self.board.mmio_write(self.at, layout::IOAPIC_BASE + 0x10, 4, u64::from(value));
    }

    pub fn ioapic_read(&mut self, register: u32) -> u32 {
        self.board.mmio_write(self.at, layout::IOAPIC_BASE, 4, u64::from(register));
        self.board.mmio_read(self.at, layout::IOAPIC_BASE + 0x10, 4) as u32
    }

    pub fn write(&mut self, slot: usize, register: u64, value: u32) {
        self.board.mmio_write(self.at, layout::virtio_address(slot) + register, 4, u64::from(value));
    }

    pub fn read(&mut self, slot: usize, register: u64) -> u32 {
        self.board.mmio_read(self.at, layout::virtio_address(slot) + register, 4) as u32
    }

    /// Negotiates VERSION_1 and INDIRECT_DESC and sets up `queues` queues of `size`.
    pub fn start(&mut self, slot: usize, queues: u32, size: u16) -> Vec<Queue> {
        for status in [0, 1, 3] {
            self.write(slot, 0x70, status);
        }
        self.write(slot, 0x24, 0);
        self.write(slot, 0x20, 1 << 28);
        self.write(slot, 0x24, 1);
        self.write(slot, 0x20, 1);
        self.write(slot, 0x70, 11);
        assert_eq!(self.read(slot, 0x70), 11, "features refused");
        let queues = (0..queues).map(|index| self.set_up(slot, index, size)).collect();
        self.write(slot, 0x70, 15);
        queues
    }

    fn set_up(&mut self, slot: usize, index: u32, size: u16) -> Queue {
        let base = 0x10_0000 + 0x1_0000 * slot as u64 + 0x8000 * u64::from(index);
        self.ram.write_slice(&[0; 0x8000], GuestAddress(base)).unwrap();
        self.write(slot, 0x30, index);
        assert!(self.read(slot, 0x34) >= u32::from(size));
        self.write(slot, 0x38, u32::from(size));
        for (register, address) in [(0x80, base), (0x90, base + 0x4000), (0xa0, base + 0x6000)] {
            self.write(slot, register, address as u32);
            self.write(slot, register + 4, 0);
        }
        self.write(slot, 0x44, 1);
        Queue { slot, index, size, base, next: 0, avail: 0, used: 0 }
    }

    /// Makes a chain of (address, length, device-writable) available; gives its head.
    pub fn add(&mut self, queue: &mut Queue, chain: &[Piece]) -> u16 {
        let head = queue.next % queue.size;
        for (index, (address, len, writable)) in chain.iter().enumerate() {
            let last = index + 1 == chain.len();
            let slot = queue.next % queue.size;
            queue.next = queue.next.wrapping_add(1);
            let flags = u16::from(!last) | u16::from(*writable) << 1;
            self.descriptor(
                queue.base + 16 * u64::from(slot),
                *address,
                *len,
                flags,
                queue.next % queue.size,
            );
        }
        self.publish(queue, head);
        head
    }

    pub fn descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    pub fn publish(&self, queue: &mut Queue, head: u16) {
        let avail = queue.base + 0x4000;
        let slot = u64::from(queue.avail % queue.size);
        self.ram.write_obj(head, GuestAddress(avail + 4 + 2 * slot)).unwrap();
        queue.avail = queue.avail.wrapping_add(1);
        self.ram.write_obj(queue.avail, GuestAddress(avail + 2)).unwrap();
    }

    pub fn set_no_interrupt(&self, queue: &Queue, on: bool) {
        self.ram.write_obj(u16::from(on), GuestAddress(queue.base + 0x4000)).unwrap();
    }

    pub fn kick(&mut self, queue: &Queue) {
        self.at += 1;
        self.write(queue.slot, 0x50, queue.index);
    }

    /// Buffers given back since the last call, as (head, length).
    pub fn used(&self, queue: &mut Queue) -> Vec<(u32, u32)> {
        let used = queue.base + 0x6000;
        let index: u16 = self.ram.read_obj(GuestAddress(used + 2)).unwrap();
        let mut list = Vec::new();
        while queue.used != index {
            let at = used + 4 + 8 * u64::from(queue.used % queue.size);
            let id = self.ram.read_obj(GuestAddress(at)).unwrap();
            list.push((id, self.ram.read_obj(GuestAddress(at + 4)).unwrap()));
            queue.used = queue.used.wrapping_add(1);
        }
        list
    }

    /// Takes the interrupt of a slot as its driver would; true if there was one.
    pub fn interrupt(&mut self, slot: usize) -> bool {
        let vector = VECTOR + layout::virtio_gsi(slot);
        if self.board.pending_interrupt() != Some(vector) {
            return false;
        }
        assert_eq!(self.board.acknowledge_interrupt(), vector);
        let status = self.read(slot, 0x60);
        assert_ne!(status, 0);
        self.write(slot, 0x64, status);
        self.lapic(0xb0, 0);
        true
    }

    pub fn outputs(&mut self) -> Vec<OutputBody> {
        let outputs = self.board.take_outputs();
        outputs.into_iter().map(|Output { body, .. }| body).collect()
    }

    pub fn memory(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub fn fill(&self, address: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn needs_reset(&mut self, slot: usize) -> bool {
        self.read(slot, 0x70) & 64 != 0
    }
}
