//! Registers and negotiation of virtio-mmio (virtio 1.2, section 4.2).

mod common;

use common::*;
use ft_vcpu::Platform;

#[test]
fn slots_are_disks_nics_rng_console_in_this_order() {
    let mut guest = Guest::new();
    let ids: Vec<u32> = (0..6).map(|slot| guest.read(slot, 8)).collect();
    assert_eq!(ids, [2, 2, 1, 4, 3, u32::MAX]);
    assert_eq!((guest.read(DISK, 0), guest.read(DISK, 4)), (0x7472_6976, 2));
    assert_eq!(spec().command_line().split(' ').nth(2), Some("virtio_mmio.device=0x200@0xfeb00400:18"));
}

#[test]
fn nine_devices_do_not_fit() {
    let mut spec = spec();
    spec.disks = vec![spec.disks[0]; 6];
    let ram = ft_vcpu::memory::allocate(4096).unwrap();
    assert!(ft_devices::Board::new(&spec, ram).is_err());
}

#[test]
fn features_without_version_1_or_never_offered_are_refused() {
    for (low, high, accepted) in
        [(0, 1, true), (0, 0, false), (1 << 29, 1, false), (1 << 28, 1, true), (0, 3, false)]
    {
        let mut guest = Guest::new();
        for status in [0, 1, 3] {
            guest.write(NIC, 0x70, status);
        }
        for (half, value) in [(0, low), (1, high)] {
            guest.write(NIC, 0x24, half);
            guest.write(NIC, 0x20, value);
        }
        guest.write(NIC, 0x70, 11);
        assert_eq!(guest.read(NIC, 0x70) == 11, accepted, "features {high:#x} {low:#x}");
        guest.write(NIC, 0x70, 15);
        assert_eq!(guest.read(NIC, 0x70) == 15, accepted);
    }
}

#[test]
fn configuration_spaces_answer_at_any_width() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(DISK, 0x100), 4096);
    let base = ft_devices::layout::virtio_address(NIC) + 0x100;
    for (index, byte) in MAC.iter().enumerate() {
        assert_eq!(guest.board.mmio_read(0, base + index as u64, 1), u64::from(*byte));
    }
    assert_eq!(guest.board.mmio_read(0, base, 8), u64::from_le_bytes([2, 0, 0, 0, 0, 7, 0, 0]));
    assert_eq!(guest.board.mmio_read(0, base + 0xff, 8), 0);
}

#[test]
fn queues_that_make_no_sense_need_a_reset() {
    let bad: [&[(u64, u32)]; 7] = [
        &[(0x38, 0)],
        &[(0x38, 3)],
        &[(0x38, 512)],
        &[(0x80, 0x10_0001)],
        &[(0x90, 0x10_0001)],
        &[(0xa0, RAM as u32 - 4)],
        &[(0x84, u32::MAX), (0x80, 0xffff_fff0)],
    ];
    for writes in bad {
        let mut guest = Guest::new();
        guest.start(RNG, 0, 0);
        guest.write(RNG, 0x30, 0);
        for (register, value) in [(0x38, 8), (0x80, 0x10_0000), (0x90, 0x10_4000), (0xa0, 0x10_6000)] {
            guest.write(RNG, register, value);
        }
        for (register, value) in writes {
            guest.write(RNG, *register, *value);
        }
        guest.write(RNG, 0x44, 1);
        assert!(guest.needs_reset(RNG), "{writes:?}");
        assert!(guest.interrupt(RNG), "a configuration interrupt tells the driver");
        guest.write(RNG, 0x70, 0);
        assert_eq!(guest.read(RNG, 0x70), 0);
        guest.start(RNG, 1, 8);
        assert!(!guest.needs_reset(RNG));
    }
}

#[test]
fn chains_that_make_no_sense_need_a_reset() {
    // Each writes descriptor 0 (and 1) as (address, length, flags, next).
    let bad: [&[(u64, u32, u16, u16)]; 6] = [
        &[(0x1000, 16, 1, 0)],                     // a loop
        &[(0x1000, 16, 1, 8)],                     // next outside the table
        &[(RAM as u64 - 8, 16, 2, 0)],             // end outside RAM
        &[(u64::MAX - 4, 16, 2, 0)],               // wraps
        &[(0x1000, 16, 3, 1), (0x1000, 16, 0, 0)], // readable after writable
        &[(0x1000, 17, 4, 0)],                     // indirect table of 1.06 descriptors
    ];
    for chain in bad {
        let mut guest = Guest::new();
        let mut queue = guest.start(RNG, 1, 8).remove(0);
        for (index, (address, len, flags, next)) in chain.iter().enumerate() {
            guest.descriptor(queue.base + 16 * index as u64, *address, *len, *flags, *next);
        }
        guest.publish(&mut queue, 0);
        guest.kick(&queue);
        assert!(guest.needs_reset(RNG), "{chain:?}");
        assert!(guest.outputs().is_empty());
    }
}

#[test]
fn a_ring_that_offers_more_than_its_size_needs_a_reset() {
    let mut guest = Guest::new();
    let queue = guest.start(RNG, 1, 8).remove(0);
    guest.fill(queue.base + 0x4002, &9_u16.to_le_bytes());
    guest.kick(&queue);
    assert!(guest.needs_reset(RNG));
}

#[test]
fn an_indirect_chain_longer_than_the_queue_is_refused() {
    let mut guest = Guest::new();
    let mut queue = guest.start(RNG, 1, 8).remove(0);
    for index in 0..9_u16 {
        guest.descriptor(0x2000 + 16 * u64::from(index), 0x1000, 16, 2 | u16::from(index < 8), index + 1);
    }
    guest.descriptor(queue.base, 0x2000, 9 * 16, 4, 0);
    guest.publish(&mut queue, 0);
    guest.kick(&queue);
    assert!(guest.needs_reset(RNG));
}
