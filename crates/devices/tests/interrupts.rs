//! Interrupt controllers and the timer (Intel SDM volume 3, APIC chapter; 82093AA data sheet).

mod common;

use common::*;
use ft_core::input::{Anchor, Input};
use ft_devices::clock::ONE_NS;
use ft_devices::layout::virtio_gsi;
use ft_vcpu::Platform;
use proptest::prelude::*;

const TIMER: u8 = 0x80;
const LVT_TIMER: u64 = 0x320;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const EOI: u64 = 0xb0;

#[test]
fn higher_classes_go_first_and_the_task_priority_holds_the_rest_back() {
    let mut guest = Guest::new();
    for vector in [0x35, 0x52, 0x31] {
        guest.lapic(0x300, 1 << 18 | vector);
    }
    assert_eq!(guest.board.pending_interrupt(), Some(0x52));
    guest.board.set_cr8(5);
    assert_eq!((guest.board.pending_interrupt(), guest.board.cr8()), (None, 5));
    guest.board.set_cr8(4);
    assert_eq!(guest.board.acknowledge_interrupt(), 0x52);
    assert_eq!(guest.board.pending_interrupt(), None, "same or lower class than what is in service");
    guest.board.set_cr8(0);
    assert_eq!(guest.lapic_read(0xa0), 0x50);
    guest.lapic(EOI, 0);
    assert_eq!(guest.board.acknowledge_interrupt(), 0x35);
    guest.lapic(EOI, 0);
    assert_eq!(guest.board.acknowledge_interrupt(), 0x31);
}

#[test]
fn a_software_disabled_apic_delivers_nothing() {
    let mut guest = Guest::new();
    guest.lapic(0xf0, 0xff);
    guest.lapic(0x300, 1 << 18 | 0x35);
    assert_eq!(guest.board.pending_interrupt(), None);
    guest.lapic(LVT_TIMER, u32::from(TIMER));
    assert_eq!(guest.lapic_read(LVT_TIMER), 1 << 16 | u32::from(TIMER), "entries stay masked");
}

#[test]
fn the_apic_base_can_be_switched_off_but_not_moved() {
    let mut guest = Guest::new();
    assert_eq!(guest.board.msr_read(0, 0x1b), Some(0xfee0_0900));
    assert!(!guest.board.msr_write(0, 0x1b, 0xfed0_0900));
    assert!(!guest.board.msr_write(0, 0x1b, 0xfee0_0d00), "x2APIC");
    assert!(guest.board.msr_write(0, 0x1b, 0xfee0_0100));
    assert_eq!(guest.lapic_read(0x30), u32::MAX);
    assert!(guest.board.msr_write(0, 0x1b, 0xfee0_0900));
    assert_eq!(guest.lapic_read(0x30), 0x0005_0014);
    assert_eq!(guest.board.msr_read(0, 0x10), None);
    assert!(!guest.board.msr_write(0, 0x10, 0));
}

/// Leaves a used buffer on the source of entropy's slot: its line is up until the status is acknowledged.
fn raise_virtio(guest: &mut Guest) {
    let mut queue = guest.start(RNG, 1, 8).remove(0);
    guest.add(&mut queue, &[(0x2000, 0, true)]);
    guest.kick(&queue);
}

#[test]
fn a_level_interrupts_again_until_its_cause_is_gone() {
    let mut guest = Guest::new();
    let vector = VECTOR + virtio_gsi(RNG);
    let entry = 0x10 + 2 * u32::from(virtio_gsi(RNG));
    raise_virtio(&mut guest);
    assert_eq!(guest.board.acknowledge_interrupt(), vector);
    assert_eq!(guest.ioapic_read(entry) & 1 << 14, 1 << 14, "remote IRR");
    assert_eq!(guest.board.pending_interrupt(), None);
    guest.lapic(EOI, 0);
    assert_eq!(guest.board.acknowledge_interrupt(), vector, "still asserted at the end of interrupt");
    guest.write(RNG, 0x64, 1);
    guest.lapic(EOI, 0);
    assert_eq!(guest.board.pending_interrupt(), None);
    assert_eq!(guest.ioapic_read(entry) & 1 << 14, 0);
}

#[test]
fn a_masked_level_is_delivered_when_unmasked() {
    let mut guest = Guest::new();
    let vector = VECTOR + virtio_gsi(RNG);
    let entry = 0x10 + 2 * u32::from(virtio_gsi(RNG));
    guest.ioapic(entry, 1 << 16 | 1 << 15 | u32::from(vector));
    raise_virtio(&mut guest);
    assert_eq!(guest.board.pending_interrupt(), None);
    guest.ioapic(entry, 1 << 15 | u32::from(vector));
    assert_eq!(guest.board.pending_interrupt(), Some(vector));
}

#[test]
fn a_level_that_the_apic_refused_comes_when_it_is_switched_on() {
    let mut guest = Guest::new();
    guest.lapic(0xf0, 0xff);
    raise_virtio(&mut guest);
    assert_eq!(guest.board.pending_interrupt(), None);
    guest.lapic(0xf0, 0x1ff);
    assert_eq!(guest.board.pending_interrupt(), Some(VECTOR + virtio_gsi(RNG)));
}

#[test]
fn logical_destinations_reach_the_cpu_by_its_mask() {
    let mut guest = Guest::new();
    guest.lapic(0xd0, 1 << 24);
    for (mask, reached) in [(1, true), (2, false), (0xff, true)] {
        guest.lapic(0x310, mask << 24);
        guest.lapic(0x300, 1 << 11 | 0x60);
        assert_eq!(guest.board.pending_interrupt().is_some(), reached, "mask {mask:#x}");
        if reached {
            guest.board.acknowledge_interrupt();
            guest.lapic(EOI, 0);
        }
    }
}

#[test]
fn a_one_shot_timer_fires_at_its_position_and_counts_down_to_it() {
    let mut guest = Guest::new();
    guest.at = 1000;
    guest.lapic(DIVIDE, 3); // by 16
    guest.lapic(LVT_TIMER, u32::from(TIMER));
    guest.lapic(INITIAL, 10);
    assert_eq!((guest.board.next_timer(), guest.board.next_deadline_ns()), (1160, Some(1160)));
    guest.at = 1081;
    assert_eq!(guest.lapic_read(CURRENT), 5);
    guest.board.fire_timers(1159);
    assert_eq!(guest.board.pending_interrupt(), None);
    guest.board.fire_timers(1160);
    assert_eq!(guest.board.pending_interrupt(), Some(TIMER));
    assert_eq!(guest.board.next_timer(), u64::MAX);
    guest.at = 1200;
    assert_eq!(guest.lapic_read(CURRENT), 0);
}

#[test]
fn the_tsc_deadline_fires_when_the_tsc_reaches_it() {
    let mut guest = Guest::new();
    guest.lapic(LVT_TIMER, 2 << 17 | u32::from(TIMER));
    assert!(guest.board.msr_write(1, 0x6e0, 5000));
    assert_eq!(guest.board.msr_read(1, 0x6e0), Some(5000));
    guest.board.apply(10, &Input::Anchor(Anchor { time: 100, rate: 2 * ONE_NS })).unwrap();
    assert_eq!(guest.board.next_timer(), 10 + (5000 - 100) / 2);
    assert_eq!(guest.board.tsc(2460), 5000);
    guest.board.fire_timers(2460);
    assert_eq!(guest.board.pending_interrupt(), Some(TIMER));
    assert_eq!(guest.board.msr_read(1, 0x6e0), Some(0));
    // In the past: due at once.
    assert!(guest.board.msr_write(2460, 0x6e0, 1));
    assert!(guest.board.next_timer() <= 2460);
    // Changing the mode disarms it.
    guest.lapic(LVT_TIMER, u32::from(TIMER));
    assert_eq!(guest.board.next_timer(), u64::MAX);
}

#[test]
fn an_anchor_that_jumps_over_many_periods_gives_one_tick_and_keeps_the_beat() {
    let mut guest = Guest::new();
    guest.lapic(DIVIDE, 0xb); // by 1
    guest.lapic(LVT_TIMER, 1 << 17 | u32::from(TIMER));
    guest.lapic(INITIAL, 1000);
    assert_eq!(guest.board.next_deadline_ns(), Some(1001));
    guest.board.apply(5, &Input::Anchor(Anchor { time: 10_500, rate: ONE_NS })).unwrap();
    assert_eq!(guest.board.acknowledge_interrupt(), TIMER);
    guest.lapic(EOI, 0);
    assert_eq!(guest.board.pending_interrupt(), None);
    assert_eq!(guest.board.next_deadline_ns(), Some(11_001));
}

#[test]
fn an_anchor_before_the_one_in_force_is_refused() {
    let mut guest = Guest::new();
    let anchor = Input::Anchor(Anchor { time: 5, rate: ONE_NS });
    guest.board.apply(100, &anchor).unwrap();
    assert!(guest.board.apply(99, &anchor).is_err());
    assert_eq!(guest.board.now_ns(100), 100, "time never goes back");
}

/// Runs a periodic timer up to `end` as an engine does, stopping besides at `stops`; gives where it ticked.
fn ticks(rate: u64, count: u32, end: u64, stops: &[u64]) -> (Vec<u64>, Vec<(String, u64)>) {
    let mut guest = Guest::new();
    guest.board.apply(1, &Input::Anchor(Anchor { time: 0, rate })).unwrap();
    guest.lapic(DIVIDE, 0xb);
    guest.lapic(LVT_TIMER, 1 << 17 | u32::from(TIMER));
    guest.lapic(INITIAL, count);
    let mut stops = stops.to_vec();
    stops.sort_unstable();
    stops.push(end);
    let mut ticks = Vec::new();
    for until in stops {
        loop {
            let at = guest.board.next_timer().min(until);
            guest.board.fire_timers(at);
            if guest.board.pending_interrupt().is_some() {
                ticks.push(at);
                guest.board.acknowledge_interrupt();
                guest.lapic(EOI, 0);
            }
            if at == until {
                break;
            }
        }
    }
    (ticks, guest.board.leaves())
}

proptest! {
    /// Where the machine is stopped in between changes nothing: `run(a); run(b)` equals `run(b)`.
    #[test]
    fn stopping_in_between_changes_no_tick(rate in ONE_NS / 8..ONE_NS * 8, count in 50..5000_u32, stops in prop::collection::vec(2..20_000_u64, 0..20)) {
        prop_assert_eq!(ticks(rate, count, 20_000, &stops), ticks(rate, count, 20_000, &[]));
    }
}
