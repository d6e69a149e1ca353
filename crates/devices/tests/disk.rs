//! virtio-blk (virtio 1.2, section 5.2): requests, completions, and what a guest may do to them.

mod common;

use common::*;
use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::output::{DiskOp, DiskRequest, MAX_DISK_DATA, OutputBody};
use ft_devices::ApplyError;

const HEADER: u64 = 0x1000;
const STATUS: u64 = 0x1800;
const DATA: u64 = 0x2000;

fn header(guest: &Guest, kind: u32, sector: u64) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    guest.fill(HEADER, &header);
    guest.fill(STATUS, &[0xee]);
}

fn status(guest: &Guest) -> u8 {
    guest.memory(STATUS, 1)[0]
}

/// Offers one request with the data given as (address, length, writable), and notifies.
fn submit(guest: &mut Guest, queue: &mut Queue, kind: u32, sector: u64, data: &[Piece]) -> u16 {
    header(guest, kind, sector);
    let mut chain = vec![(HEADER, 16, false)];
    chain.extend(data);
    chain.push((STATUS, 1, true));
    let head = guest.add(queue, &chain);
    guest.kick(queue);
    head
}

fn done(disk: u16, request: u64, status: DiskStatus, data: Vec<u8>) -> Input {
    Input::DiskDone(DiskDone { disk, request, status, data })
}

#[test]
fn a_read_scatters_its_data_at_the_completion_and_not_before() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    let head = submit(&mut guest, &mut queue, 0, 8, &[(DATA, 512, true), (DATA + 0x1000, 1536, true)]);
    let request = DiskRequest { disk: 0, request: 0, op: DiskOp::Read { sector: 8, len: 2048 } };
    assert_eq!(guest.outputs(), [OutputBody::Disk(request.clone())]);
    assert_eq!(guest.board.pending_disk_requests(), [request]);
    assert!(guest.used(&mut queue).is_empty());
    assert!(!guest.interrupt(DISK));

    let data: Vec<u8> = (0..2048).map(|index| (index % 251) as u8 + 1).collect();
    guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, data.clone())).unwrap();
    assert_eq!(guest.memory(DATA, 512), data[..512]);
    assert_eq!(guest.memory(DATA + 512, 16), [0; 16]);
    assert_eq!(guest.memory(DATA + 0x1000, 1536), data[512..]);
    assert_eq!(status(&guest), 0);
    assert_eq!(guest.used(&mut queue), [(u32::from(head), 2049)]);
    assert!(guest.interrupt(DISK));
    assert!(!guest.interrupt(DISK));
    assert!(guest.board.pending_disk_requests().is_empty());
}

#[test]
fn write_data_are_those_of_the_notification() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    guest.fill(DATA, &[7; 1024]);
    submit(&mut guest, &mut queue, 1, 1, &[(DATA, 1000, false), (DATA + 1000, 24, false)]);
    guest.fill(DATA, &[8; 1024]);
    let op = DiskOp::Write { sector: 1, data: vec![7; 1024] };
    assert_eq!(guest.outputs(), [OutputBody::Disk(DiskRequest { disk: 0, request: 0, op: op.clone() })]);
    assert_eq!(guest.board.pending_disk_requests()[0].op, op);
    guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, vec![])).unwrap();
    assert_eq!(guest.used(&mut queue), [(0, 1)]);
    assert_eq!(status(&guest), 0);
}

#[test]
fn completions_may_come_in_another_order() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    let first = submit(&mut guest, &mut queue, 4, 0, &[]);
    let second = submit(&mut guest, &mut queue, 0, 0, &[(DATA, 512, true)]);
    guest.board.apply(guest.at, &done(0, 1, DiskStatus::IoError, vec![])).unwrap();
    assert_eq!(status(&guest), 1);
    assert_eq!(guest.memory(DATA, 512), [0; 512], "a failed read changes no guest memory");
    guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, vec![])).unwrap();
    assert_eq!(guest.used(&mut queue), [(u32::from(second), 1), (u32::from(first), 1)]);
}

#[test]
fn what_cannot_be_done_fails_at_once() {
    let big = MAX_DISK_DATA as u32 + 512;
    let cases: [(usize, u32, u64, &[Piece], u8); 8] = [
        (DISK, 0, 4096, &[(DATA, 512, true)], 1),
        (DISK, 0, 4095, &[(DATA, 1024, true)], 1),
        (DISK, 1, u64::MAX, &[(DATA, 512, false)], 1),
        (DISK, 0, 0, &[(DATA, 511, true)], 1),
        (DISK, 0, 0, &[], 1),
        (DISK, 0, 0, &[(DATA, big, true)], 1),
        (DISK, 99, 0, &[], 2),
        (READ_ONLY_DISK, 1, 0, &[(DATA, 512, false)], 1),
    ];
    for (slot, kind, sector, data, expected) in cases {
        let mut guest = Guest::new();
        let mut queue = guest.start(slot, 1, 16).remove(0);
        submit(&mut guest, &mut queue, kind, sector, data);
        assert_eq!(status(&guest), expected, "type {kind} sector {sector} {data:?}");
        assert_eq!(guest.used(&mut queue), [(0, 1)]);
        assert!(guest.outputs().is_empty());
        assert!(guest.interrupt(slot));
    }
}

fn segment(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut segment = sector.to_le_bytes().to_vec();
    segment.extend(count.to_le_bytes());
    segment.extend(flags.to_le_bytes());
    segment
}

#[test]
fn discards_and_zeroes_are_requests_of_one_segment() {
    let cases = [
        (11, segment(4000, 96, 0), DiskOp::Discard { sector: 4000, count: 96 }),
        (13, segment(0, 1, 0), DiskOp::WriteZeroes { sector: 0, count: 1, unmap: false }),
        (13, segment(7, 4089, 1), DiskOp::WriteZeroes { sector: 7, count: 4089, unmap: true }),
    ];
    for (kind, segment, op) in cases {
        let mut guest = Guest::new();
        let mut queue = guest.start(DISK, 1, 16).remove(0);
        guest.fill(DATA, &segment);
        // In two pieces, because where a driver cuts is its own affair.
        let head = submit(&mut guest, &mut queue, kind, 99, &[(DATA, 5, false), (DATA + 5, 11, false)]);
        let request = DiskRequest { disk: 0, request: 0, op };
        assert_eq!(guest.outputs(), [OutputBody::Disk(request.clone())]);
        assert_eq!(guest.board.pending_disk_requests(), [request]);
        assert_eq!(status(&guest), 0xee);
        guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, vec![])).unwrap();
        assert_eq!(guest.used(&mut queue), [(u32::from(head), 1)]);
        assert_eq!(status(&guest), 0);
    }
}

#[test]
fn discards_and_zeroes_that_cannot_be_done_fail_at_once() {
    let (discard, zeroes) = (11, 13);
    let (io_error, unsupported) = (1, 2);
    let two = [segment(0, 1, 0), segment(1, 1, 0)].concat();
    for (slot, kind, segments, expected) in [
        (DISK, discard, segment(4095, 2, 0), io_error),
        (DISK, discard, segment(u64::MAX, 1, 0), io_error),
        (DISK, zeroes, segment(0, u32::MAX, 0), io_error),
        (DISK, zeroes, segment(0, 0, 0), io_error),
        (DISK, discard, segment(0, 1, 0)[..15].to_vec(), io_error),
        (DISK, discard, [segment(0, 1, 0), vec![0]].concat(), io_error),
        (DISK, discard, vec![], io_error),
        (DISK, discard, segment(0, 1, 1), unsupported),
        (DISK, discard, segment(0, 1, 2), unsupported),
        (DISK, zeroes, segment(0, 1, 3), unsupported),
        (DISK, zeroes, segment(0, 1, 1 << 31), unsupported),
        (DISK, zeroes, two, unsupported),
        // Not offered there, so unknown.
        (READ_ONLY_DISK, discard, segment(0, 1, 0), unsupported),
        (READ_ONLY_DISK, zeroes, segment(0, 1, 0), unsupported),
        (DISK, 14, segment(0, 1, 0), unsupported),
    ] {
        let mut guest = Guest::new();
        let mut queue = guest.start(slot, 1, 16).remove(0);
        guest.fill(DATA, &segments);
        submit(&mut guest, &mut queue, kind, 0, &[(DATA, segments.len() as u32, false)]);
        assert_eq!(status(&guest), expected, "type {kind} {segments:?}");
        assert_eq!(guest.used(&mut queue), [(0, 1)]);
        assert!(guest.outputs().is_empty());
    }
}

/// Offsets as in struct virtio_blk_config (virtio 1.2, section 5.2.4).
#[test]
fn features_and_configuration_say_what_the_disk_can_do() {
    let mut guest = Guest::new();
    guest.write(DISK, 0x14, 0);
    let size_max = guest.read(DISK, 0x108);
    let seg_max = guest.read(DISK, 0x10c);
    assert_eq!(size_max * seg_max, MAX_DISK_DATA as u32);
    assert_eq!(guest.read(DISK, 0x10) & 0xff_ffff, 1 << 1 | 1 << 2 | 1 << 9 | 1 << 13 | 1 << 14);
    assert_eq!((guest.read(DISK, 0x100), guest.read(DISK, 0x104)), (4096, 0));
    assert!((0x110..0x124).step_by(4).all(|offset| guest.read(DISK, offset) == 0));
    let limits: Vec<u32> = (0x124..0x148).step_by(4).map(|offset| guest.read(DISK, offset)).collect();
    assert_eq!(limits, [16384, 1, 1, 16384, 1, 1, 0, 0, 0]);

    guest.write(READ_ONLY_DISK, 0x14, 0);
    assert_eq!(guest.read(READ_ONLY_DISK, 0x10) & 0xff_ffff, 1 << 1 | 1 << 2 | 1 << 5 | 1 << 9);
    assert!((0x110..0x148).step_by(4).all(|offset| guest.read(READ_ONLY_DISK, offset) == 0));
}

#[test]
fn the_id_is_given_at_once_and_cut_to_the_buffer() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    submit(&mut guest, &mut queue, 8, 0, &[(DATA, 20, true)]);
    assert_eq!(guest.memory(DATA, 20), *b"ft-vm-disk-0\0\0\0\0\0\0\0\0");
    assert_eq!(guest.used(&mut queue), [(0, 21)]);
    submit(&mut guest, &mut queue, 8, 0, &[(DATA + 0x100, 5, true)]);
    assert_eq!(guest.memory(DATA + 0x100, 6), *b"ft-vm\0");
    assert_eq!(status(&guest), 0);
}

#[test]
fn without_a_status_byte_or_a_header_the_device_needs_a_reset() {
    let chains: [&[Piece]; 2] = [&[(HEADER, 16, false)], &[(HEADER, 15, false), (STATUS, 1, true)]];
    for chain in chains {
        let mut guest = Guest::new();
        let mut queue = guest.start(DISK, 1, 16).remove(0);
        header(&guest, 0, 0);
        guest.add(&mut queue, chain);
        guest.kick(&queue);
        assert!(guest.needs_reset(DISK));
    }
}

#[test]
fn no_interrupt_while_the_driver_wants_none() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    guest.set_no_interrupt(&queue, true);
    submit(&mut guest, &mut queue, 8, 0, &[(DATA, 20, true)]);
    assert_eq!(guest.used(&mut queue).len(), 1);
    assert!(!guest.interrupt(DISK));
    guest.set_no_interrupt(&queue, false);
    submit(&mut guest, &mut queue, 8, 0, &[(DATA, 20, true)]);
    assert!(guest.interrupt(DISK));
}

#[test]
fn a_completion_that_fits_nothing_is_refused() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    submit(&mut guest, &mut queue, 0, 0, &[(DATA, 512, true)]);
    let at = guest.at;
    let before = guest.board.save();
    for (input, error) in [
        (done(2, 0, DiskStatus::Ok, vec![]), "completion for disk 2, which is not there"),
        (done(0, 1, DiskStatus::Ok, vec![]), "disk 0, request 1: no such request is in flight"),
        (done(0, 0, DiskStatus::Ok, vec![0; 511]), "disk 0, request 0: 511 bytes of data, 512 wanted"),
        (done(0, 0, DiskStatus::IoError, vec![0]), "disk 0, request 0: 1 bytes of data, 0 wanted"),
    ] {
        let refused: ApplyError = guest.board.apply(at, &input).unwrap_err();
        assert_eq!(refused.to_string(), error);
    }
    assert_eq!(guest.board.save(), before);
}

#[test]
fn requests_outlive_a_reset_of_the_device_but_touch_no_memory() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    submit(&mut guest, &mut queue, 0, 0, &[(DATA, 512, true)]);
    guest.write(DISK, 0x70, 0);
    assert_eq!(guest.board.pending_disk_requests().len(), 1);
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    submit(&mut guest, &mut queue, 0, 1, &[(DATA + 0x1000, 512, true)]);
    guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, vec![5; 512])).unwrap();
    assert_eq!(guest.memory(DATA, 512), [0; 512]);
    assert!(guest.used(&mut queue).is_empty());
    guest.board.apply(guest.at, &done(0, 1, DiskStatus::Ok, vec![6; 512])).unwrap();
    assert_eq!(guest.memory(DATA + 0x1000, 512), [6; 512]);
    assert_eq!(guest.used(&mut queue).len(), 1);
}

#[test]
fn data_in_flight_are_bounded_and_the_rest_follows_the_completions() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 256).remove(0);
    header(&guest, 0, 0);
    for _ in 0..40 {
        guest.add(&mut queue, &[(HEADER, 16, false), (DATA, MAX_DISK_DATA as u32, true), (STATUS, 1, true)]);
    }
    guest.kick(&queue);
    assert_eq!(guest.outputs().len(), 32);
    guest.board.apply(guest.at, &done(0, 3, DiskStatus::IoError, vec![])).unwrap();
    assert_eq!(guest.outputs().len(), 1);
    for request in (0..40).filter(|request| *request != 3) {
        guest.board.apply(guest.at, &done(0, request, DiskStatus::IoError, vec![])).unwrap();
    }
    assert_eq!(guest.used(&mut queue).len(), 40);
}

#[test]
fn sectors_of_discards_in_flight_are_bounded_like_data() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 256).remove(0);
    header(&guest, 11, 0);
    guest.fill(DATA, &segment(0, 4096, 0));
    for _ in 0..40 {
        guest.add(&mut queue, &[(HEADER, 16, false), (DATA, 16, false), (STATUS, 1, true)]);
    }
    guest.kick(&queue);
    assert_eq!(guest.outputs().len(), 16);
    guest.board.apply(guest.at, &done(0, 0, DiskStatus::Ok, vec![])).unwrap();
    assert_eq!(guest.outputs().len(), 1);
}

#[test]
fn an_indirect_chain_is_a_request_like_any_other() {
    let mut guest = Guest::new();
    let mut queue = guest.start(DISK, 1, 16).remove(0);
    header(&guest, 0, 2);
    guest.descriptor(0x8000, HEADER, 16, 1, 1);
    guest.descriptor(0x8010, DATA, 512, 3, 2);
    guest.descriptor(0x8020, STATUS, 1, 2, 0);
    guest.descriptor(queue.base, 0x8000, 48, 4, 0);
    guest.publish(&mut queue, 0);
    guest.kick(&queue);
    let op = DiskOp::Read { sector: 2, len: 512 };
    assert_eq!(guest.outputs(), [OutputBody::Disk(DiskRequest { disk: 0, request: 0, op })]);
}
