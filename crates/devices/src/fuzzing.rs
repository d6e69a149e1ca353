//! Entry points for fuzzers (and the property tests here): arbitrary bytes drive a board in ways a hostile guest could.
//!
//! Each returns normally for every input, in time linear in its length, and panics only if an invariant is broken.

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input, NetRx};
use ft_core::output::{DiskOp, Output};
use ft_vcpu::memory::allocate;
use ft_vcpu::{GuestRam, Platform, Position};
use vm_memory::{Bytes, GuestAddress};

use crate::board::{Board, BoardSpec, DiskSpec, NicSpec};
use crate::layout::{self, IOAPIC_BASE, LAPIC_BASE, VIRTIO_BASE};

/// Bytes of guest memory of a fuzzed board.
pub const RAM: usize = 256 << 10;

/// A board with two disks, a network device, a source of entropy and a console, driven by bytes.
#[derive(Debug)]
pub struct Fuzzed {
    /// The board.
    pub board: Board,
    /// Its memory.
    pub ram: GuestRam,
    /// Where the machine stands.
    pub at: Position,
}

/// A stream of numbers out of arbitrary bytes; zero at its end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }

    fn size(&mut self) -> u8 {
        1 << (self.byte() % 4)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

impl Default for Fuzzed {
    fn default() -> Self {
        Self::new()
    }
}

impl Fuzzed {
    /// A board as at power-on.
    ///
    /// # Panics
    /// The host has no memory for it.
    pub fn new() -> Self {
        let ram = allocate(RAM).expect("memory of a fuzzed board");
        let board = Board::new(&spec(), ram.clone()).expect("few devices");
        Self { board, ram, at: 0 }
    }

    /// Plays `data` as accesses, memory contents and inputs; gives the outputs made.
    pub fn play(&mut self, data: &[u8]) -> Vec<Output> {
        let mut source = Source(data);
        let mut outputs = Vec::new();
        while !source.0.is_empty() {
            self.at += 1;
            self.step(&mut source);
            if self.board.next_timer() <= self.at {
                self.board.fire_timers(self.at);
            }
            assert!(self.board.next_timer() > self.at, "a timer that is due stays due");
            outputs.append(&mut self.board.take_outputs());
        }
        outputs
    }

    /// A copy of memory and of the board, by way of the saved state.
    ///
    /// # Panics
    /// The state does not restore: a bug.
    pub fn fork(&self) -> Self {
        let mut copy = Self::new();
        let mut bytes = vec![0; RAM];
        self.ram.read_slice(&mut bytes, GuestAddress(0)).expect("all of memory");
        copy.ram.write_slice(&bytes, GuestAddress(0)).expect("all of memory");
        copy.board.restore(&self.board.save()).expect("a saved state restores");
        copy.at = self.at;
        copy
    }

    /// All of guest memory.
    ///
    /// # Panics
    /// Never.
    pub fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM];
        self.ram.read_slice(&mut bytes, GuestAddress(0)).expect("all of memory");
        bytes
    }

    fn step(&mut self, source: &mut Source<'_>) {
        let at = self.at;
        let slots = spec().slots() as u64;
        match source.byte() % 16 {
            0 => {
                // Any register of any slot, and a bit beyond.
                let address = VIRTIO_BASE + u64::from(source.half()) % ((slots + 1) * 0x200);
                let (size, value) = (source.size(), u64::from(source.word()));
                self.board.mmio_write(at, address, size, value);
            }
            1 => {
                let address = VIRTIO_BASE + u64::from(source.half()) % ((slots + 1) * 0x200);
                self.board.mmio_read(at, address, source.size());
            }
            2 => {
                let port = port(source);
                let size = source.size().min(4);
                self.board.pio_write(at, port, size, source.word());
            }
            3 => {
                let port = port(source);
                self.board.pio_read(at, port, source.size().min(4));
            }
            4 => {
                let offset = u64::from(source.half() % 0x400) & !0xf;
                self.board.mmio_write(at, LAPIC_BASE + offset, 4, u64::from(source.word()));
                self.board.mmio_read(at, LAPIC_BASE + offset, 4);
            }
            5 => {
                let (select, value) = (source.byte(), u64::from(source.word()));
                self.board.mmio_write(at, IOAPIC_BASE, 4, u64::from(select));
                self.board.mmio_write(at, IOAPIC_BASE + 0x10, 4, value);
                self.board.mmio_read(at, IOAPIC_BASE + 0x10, 4);
            }
            6 | 7 => {
                let address = u64::from(source.word()) % (RAM as u64 - 32);
                let len = usize::from(source.byte() % 32);
                let bytes = source.bytes(len);
                self.ram.write_slice(&bytes, GuestAddress(address)).expect("inside memory");
            }
            8 => {
                let slot = usize::from(source.byte()) % slots as usize;
                bring_up(&mut self.board, at, slot, 1 << (source.byte() % 5));
            }
            9 | 10 => {
                // A chain of a few descriptors in queue 0 or 1 of a slot, most fields sensible, and a notification.
                let slot = usize::from(source.byte()) % slots as usize;
                let queue = u32::from(source.byte() % 2);
                self.offer(slot, queue, source);
                self.board.mmio_write(at, layout::virtio_address(slot) + 0x50, 4, u64::from(queue));
            }
            11 => self.complete(source),
            12 => {
                let frames = (0..source.byte() % 4).map(|_| {
                    let len = usize::from(source.half()) % 2000;
                    source.bytes(len.min(64)).into_iter().chain(std::iter::repeat(7)).take(len).collect()
                });
                let input = Input::NetRx(NetRx { nic: 0, switch_seq: 0, frames: frames.collect() });
                self.board.apply(at, &input).expect("there is a network device");
            }
            13 => {
                let len = usize::from(source.byte());
                let input = Input::Console(source.bytes(len));
                self.board.apply(at, &input).expect("console input always fits");
                if len == 0 {
                    let date = Input::Date(u64::from(source.word()) << 8);
                    self.board.apply(at, &date).expect("any date fits");
                    self.board.apply(at, &Input::PowerButton).expect("the button is always there");
                }
            }
            14 => {
                let anchor = Anchor { time: u64::from(source.word()), rate: u64::from(source.word()) << 8 };
                self.board.apply(at, &Input::Anchor(anchor)).expect("anchors go forward here");
                self.board.msr_write(at, 0x6e0, u64::from(source.word()));
                self.board.msr_write(at, 0x1b, u64::from(source.word()));
            }
            _ => {
                if self.board.pending_interrupt().is_some() {
                    self.board.acknowledge_interrupt();
                }
                self.board.set_cr8(source.byte());
            }
        }
    }

    fn offer(&mut self, slot: usize, queue: u32, source: &mut Source<'_>) {
        let base = ring_base(slot, queue);
        if source.byte().is_multiple_of(4) {
            self.offer_disk_request(base, source);
            return;
        }
        let count = source.byte() % 4 + 1;
        for index in 0..count {
            let mut descriptor = Vec::new();
            let wild = source.byte().is_multiple_of(8);
            let address = u64::from(source.word());
            descriptor.extend(if wild { address << 20 } else { address % RAM as u64 }.to_le_bytes());
            let len = u32::from(source.half());
            descriptor.extend(
                if wild { len << 16 } else { [1, 12, 16, 512, 600, 4096][len as usize % 6] }.to_le_bytes(),
            );
            let last = index + 1 == count;
            let flags = u16::from(!last) | if source.byte().is_multiple_of(2) || last { 2 } else { 0 };
            descriptor.extend(if wild { source.half() % 8 } else { flags }.to_le_bytes());
            descriptor.extend(u16::from(if wild { source.byte() } else { index + 1 }).to_le_bytes());
            let at = GuestAddress(base + 16 * u64::from(index));
            self.ram.write_slice(&descriptor, at).expect("rings are inside memory");
        }
        let more = if source.byte().is_multiple_of(16) { source.half() } else { 1 };
        self.publish(base, more);
    }

    /// A request as a disk wants it: header, data, status; random bytes would hardly ever make one.
    fn offer_disk_request(&mut self, base: u64, source: &mut Source<'_>) {
        let kind = [0, 1, 4, 8, 11, 13][usize::from(source.byte()) % 6];
        let mut header = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        header.extend(u64::from(source.byte()).to_le_bytes());
        let at = base + 0x800;
        self.ram.write_slice(&header, GuestAddress(at)).expect("rings are inside memory");
        let data = u64::from(source.half());
        let mut len = 512 * u32::from(source.byte() % 8);
        if kind >= 11 {
            len = 16 * (1 + len / 3072);
            let mut segment = u64::from(source.half() % 1024).to_le_bytes().to_vec();
            segment.extend([source.byte(), 0, 0, 0, source.byte() % 4 / 2, 0, 0, 0]);
            self.ram.write_slice(&segment, GuestAddress(data)).expect("inside memory");
        }
        let writable = 2 * u16::from(kind == 0 || kind == 8);
        for (index, (address, len, flags)) in
            [(at, 16, 1), (data, len, 1 | writable), (at + 16, 1, 2)].into_iter().enumerate()
        {
            let mut descriptor = address.to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            let at = GuestAddress(base + 16 * index as u64);
            self.ram.write_slice(&descriptor, at).expect("rings are inside memory");
        }
        self.publish(base, 1);
    }

    fn publish(&mut self, base: u64, more: u16) {
        let avail = GuestAddress(base + 0x400 + 2);
        let index: u16 = self.ram.read_obj(avail).expect("rings are inside memory");
        self.ram.write_obj(index.wrapping_add(more), avail).expect("rings are inside memory");
    }

    /// Completes the first pending request, or one that is not there.
    fn complete(&mut self, source: &mut Source<'_>) {
        let disk = self.board.pending_disk_requests().into_iter().next();
        if let Some(request) = disk {
            let status = [DiskStatus::Ok, DiskStatus::IoError, DiskStatus::Unsupported]
                [usize::from(source.byte()) % 3];
            let len = match (&request.op, status) {
                (DiskOp::Read { len, .. }, DiskStatus::Ok) => *len as usize,
                _ => 0,
            };
            let data = vec![source.byte(); len];
            let done = DiskDone { disk: request.disk, request: request.request, status, data };
            let mut wrong = done.clone();
            wrong.data.push(0);
            let before = self.board.save();
            assert!(self.board.apply(self.at, &Input::DiskDone(wrong)).is_err());
            assert_eq!(self.board.save(), before, "a refused input changed the board");
            self.board.apply(self.at, &Input::DiskDone(done)).expect("it is in flight");
        }
        if let Some((request, len)) = self.board.pending_entropy().into_iter().next() {
            let bytes = vec![source.byte(); len as usize];
            self.board.apply(self.at, &Input::Entropy { request, bytes }).expect("it is in flight");
        }
    }
}

/// A port: of the serial line, of the chipset, or any.
fn port(source: &mut Source<'_>) -> u16 {
    const CHIPSET: [u16; 8] = [0x20, 0x40, 0x60, 0x70, 0xa0, 0x4d0, 0x600, 0x608];
    match source.byte() % 4 {
        0 | 1 => 0x3f8 + source.half() % 8,
        2 => {
            let choice = source.half();
            CHIPSET[usize::from(choice % 8)] + (choice >> 8) % 4
        }
        _ => source.half(),
    }
}

fn spec() -> BoardSpec {
    BoardSpec {
        disks: vec![DiskSpec { sectors: 1024, read_only: false }, DiskSpec { sectors: 8, read_only: true }],
        nics: vec![NicSpec { mac: [2, 0, 0, 0, 0, 1] }],
        rng: true,
        console: true,
    }
}

/// Where the rings of a queue are that [`bring_up`] sets up: descriptors, then at 0x400 the available ring and at 0x600 the used
/// ring.
fn ring_base(slot: usize, queue: u32) -> u64 {
    0x1_0000 + 0x2000 * slot as u64 + 0x1000 * u64::from(queue)
}

/// What an honest driver does to start a device.
fn bring_up(board: &mut Board, at: Position, slot: usize, size: u32) {
    let base = layout::virtio_address(slot);
    let mut write = |offset: u64, value: u64| board.mmio_write(at, base + offset, 4, value);
    for status in [0, 1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    for queue in 0..2 {
        write(0x30, u64::from(queue));
        write(0x38, u64::from(size));
        let ring = ring_base(slot, queue);
        for (register, address) in [(0x80, ring), (0x90, ring + 0x400), (0xa0, ring + 0x600)] {
            write(register, address);
            write(register + 4, 0);
        }
        write(0x44, 1);
    }
    write(0x70, 15);
}

/// Plays arbitrary bytes to a board.
pub fn hostile_guest(data: &[u8]) {
    Fuzzed::new().play(data);
}

/// Plays the first part of `data`, copies the board through its saved state, and plays the rest to both.
///
/// # Panics
/// The copy behaves otherwise than the original.
pub fn saved_state(data: &[u8]) {
    let (first, rest) = data.split_at(data.len() / 2);
    let mut original = Fuzzed::new();
    original.play(first);
    let mut copy = original.fork();
    assert_eq!(original.board.leaves(), copy.board.leaves());
    assert_eq!(original.play(rest), copy.play(rest));
    assert_eq!(original.board.leaves(), copy.board.leaves());
    assert!(original.memory() == copy.memory(), "guest memories differ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_guest_makes_the_board_panic(data in prop::collection::vec(any::<u8>(), 0..4000)) {
            hostile_guest(&data);
        }

        #[test]
        fn a_restored_board_behaves_as_the_saved_one(data in prop::collection::vec(any::<u8>(), 0..4000)) {
            saved_state(&data);
        }
    }

    /// The bytes above would prove little if they never got past the negotiation.
    #[test]
    fn random_bytes_reach_every_kind_of_output() {
        use ft_core::output::OutputBody;
        let mut state = 1_u64;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(400_000)
        .collect();
        let mut outputs = Vec::new();
        for piece in data.chunks(4000) {
            outputs.extend(Fuzzed::new().play(piece));
        }
        let count =
            |wanted: fn(&OutputBody) -> bool| outputs.iter().filter(|output| wanted(&output.body)).count();
        assert!(count(|body| matches!(body, OutputBody::NetTx { .. })) > 0);
        let disk = |wanted: fn(&DiskOp) -> bool| {
            let ops = outputs.iter().filter_map(|output| match &output.body {
                OutputBody::Disk(request) => Some(&request.op),
                _ => None,
            });
            ops.filter(|op| wanted(op)).count()
        };
        assert!(disk(|op| matches!(op, DiskOp::Read { .. })) > 0);
        assert!(disk(|op| matches!(op, DiskOp::Write { .. })) > 0);
        assert!(disk(|op| matches!(op, DiskOp::Flush)) > 0);
        assert!(disk(|op| matches!(op, DiskOp::Discard { .. })) > 0);
        assert!(disk(|op| matches!(op, DiskOp::WriteZeroes { .. })) > 0);
        assert!(count(|body| matches!(body, OutputBody::Console { .. })) > 0);
        assert!(count(|body| matches!(body, OutputBody::Entropy { .. })) > 0);
    }
}
