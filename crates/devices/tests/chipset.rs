//! The parts of a PC's chipset on the board: how their lines reach the CPU, their timers, and the end of the machine.

mod common;

use common::*;
use ft_core::input::{Anchor, Input};
use ft_core::output::OutputBody;
use ft_devices::chipset::{pic, power, rtc};
use ft_devices::clock::ONE_NS;
use ft_vcpu::Platform;

const LVT_LINT0: u64 = 0x350;
const EXTERNAL: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;
const MILLISECOND: u64 = 1_000_000;

fn out(guest: &mut Guest, port: u16, value: u8) {
    let at = guest.at;
    guest.board.pio_write(at, port, 1, value.into());
}

fn read(guest: &mut Guest, port: u16) -> u8 {
    let at = guest.at;
    guest.board.pio_read(at, port, 1) as u8
}

/// Lets guest time reach `time`.
fn pass(guest: &mut Guest, time: u64) {
    let anchor = Input::Anchor(Anchor { time, rate: ONE_NS });
    guest.board.apply(guest.at, &anchor).unwrap();
}

/// The interval timer at 100 Hz.
fn tick(guest: &mut Guest) {
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        out(guest, port, value);
    }
}

/// Both 8259A with vectors 0x30 to 0x3f, all lines open.
fn pics(guest: &mut Guest) {
    for (port, base, cascade) in [(pic::MASTER_PORT, 0x30, 4), (pic::SLAVE_PORT, 0x38, 2)] {
        out(guest, port, 0x11);
        for word in [base, cascade, 1, 0] {
            out(guest, port + 1, word);
        }
    }
}

#[test]
fn the_interval_timer_is_pin_2_of_the_io_apic() {
    let mut guest = Guest::new();
    tick(&mut guest);
    pass(&mut guest, 9 * MILLISECOND);
    assert_eq!(guest.board.pending_interrupt(), None);
    pass(&mut guest, 11 * MILLISECOND);
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + 2);
    guest.lapic(0xb0, 0);
    assert_eq!(guest.board.pending_interrupt(), None);
    pass(&mut guest, 21 * MILLISECOND);
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + 2);
}

#[test]
fn the_8259_reaches_the_cpu_through_lint0_only() {
    let mut guest = Guest::new();
    guest.ioapic(0x14, MASKED);
    pics(&mut guest);
    tick(&mut guest);
    pass(&mut guest, 11 * MILLISECOND);
    assert_eq!(guest.board.pending_interrupt(), None, "LINT0 is masked");
    guest.lapic(LVT_LINT0, EXTERNAL);
    assert_eq!(guest.board.pending_interrupt(), Some(0x30));
    guest.board.set_cr8(15);
    assert_eq!(guest.board.acknowledge_interrupt(), 0x30, "the task priority is not theirs");
    assert_eq!(guest.board.pending_interrupt(), None);
    out(&mut guest, pic::MASTER_PORT, 0x20);
    pass(&mut guest, 21 * MILLISECOND);
    assert_eq!(guest.board.pending_interrupt(), Some(0x30));
    guest.lapic(LVT_LINT0, EXTERNAL | MASKED);
    assert_eq!(guest.board.pending_interrupt(), None);
}

#[test]
fn the_power_button_is_an_acpi_event_and_the_old_bit() {
    let mut guest = Guest::new();
    guest.ioapic(0x10 + 2 * 9, u32::from(VECTOR + 9) | 1 << 15);
    out(&mut guest, power::EVENT_PORT + 3, 1);
    guest.board.apply(1, &Input::PowerButton).unwrap();
    assert_eq!(read(&mut guest, 0xf4), 1);
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + 9);
    guest.lapic(0xb0, 0);
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + 9, "a level, and its cause is there");
    out(&mut guest, power::EVENT_PORT + 1, 1);
    guest.lapic(0xb0, 0);
    assert_eq!(guest.board.pending_interrupt(), None);
}

#[test]
fn s5_switches_off_after_the_console_was_seen() {
    let mut guest = Guest::new();
    out(&mut guest, 0x3f8, b'x');
    out(&mut guest, power::CONTROL_PORT + 1, 0x20 | power::SLEEP_S5 << 2);
    let outputs = guest.board.take_outputs();
    let bodies: Vec<_> = outputs.into_iter().map(|output| output.body).collect();
    assert_eq!(
        bodies,
        [OutputBody::Console { offset: 0, bytes: b"x".to_vec() }, OutputBody::PowerOff { code: 0 }]
    );
    out(&mut guest, power::RESET_PORT, power::RESET_VALUE);
    assert_eq!(guest.board.take_outputs()[0].body, OutputBody::Reset);
}

#[test]
fn the_clock_is_told_the_date_and_its_alarm_interrupts() {
    let mut guest = Guest::new();
    assert!(guest.board.wants_date());
    guest.board.apply(1, &Input::Date(1_709_251_199)).unwrap();
    assert!(!guest.board.wants_date());
    let register = |guest: &mut Guest, index| {
        out(guest, rtc::PORT, index);
        read(guest, rtc::PORT + 1)
    };
    assert_eq!(
        [9, 8, 7, 4, 2, 0].map(|index| register(&mut guest, index)),
        [0x24, 2, 0x29, 0x23, 0x59, 0x59]
    );
    // Every second, by the update-ended interrupt.
    out(&mut guest, rtc::PORT, 0x0b);
    out(&mut guest, rtc::PORT + 1, 0x12);
    pass(&mut guest, 1001 * MILLISECOND);
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + rtc::IRQ);
    guest.lapic(0xb0, 0);
    pass(&mut guest, 2001 * MILLISECOND);
    assert_eq!(guest.board.pending_interrupt(), None, "the line is still up: no edge");
    assert_eq!(register(&mut guest, 0x0c) & 0x90, 0x90);
    pass(&mut guest, 3001 * MILLISECOND);
    assert_eq!(guest.board.pending_interrupt(), Some(VECTOR + rtc::IRQ));
}

#[test]
fn a_restored_chipset_goes_on_where_it_was() {
    let mut guest = Guest::new();
    tick(&mut guest);
    pics(&mut guest);
    guest.lapic(LVT_LINT0, EXTERNAL);
    guest.board.apply(1, &Input::Date(1_000_000_000)).unwrap();
    out(&mut guest, rtc::PORT, 0x0b);
    out(&mut guest, rtc::PORT + 1, 0x12);
    let mut other = Guest::new();
    other.board.restore(&guest.board.save()).unwrap();
    assert_eq!(other.board.next_deadline_ns(), guest.board.next_deadline_ns());
    for time in [11, 1001] {
        pass(&mut guest, time * MILLISECOND);
        pass(&mut other, time * MILLISECOND);
        assert_eq!(guest.board.acknowledge_interrupt(), other.board.acknowledge_interrupt());
    }
    assert_eq!(guest.board.leaves(), other.board.leaves());
}
