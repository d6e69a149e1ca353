//! The serial line, the virtio console, and the one stream of bytes they make; the ways a guest ends the machine.

mod common;

use common::*;
use ft_core::input::{Anchor, Input};
use ft_core::output::OutputBody;
use ft_devices::clock::ONE_NS;
use ft_devices::layout::{COM1_GSI, COM1_PORT, EXIT_PORT};
use ft_vcpu::Platform;

fn print(guest: &mut Guest, text: &[u8]) {
    for byte in text {
        guest.at += 1;
        guest.board.pio_write(guest.at, COM1_PORT, 1, u32::from(*byte));
    }
}

fn console(offset: u64, text: &[u8]) -> OutputBody {
    OutputBody::Console { offset, bytes: text.to_vec() }
}

#[test]
fn serial_bytes_are_handed_out_by_lines() {
    let mut guest = Guest::new();
    print(&mut guest, b"hello");
    assert!(!guest.board.wants_stop());
    print(&mut guest, b"\n");
    assert!(guest.board.wants_stop());
    print(&mut guest, b"x\n");
    assert_eq!(guest.outputs(), [console(0, b"hello\n"), console(6, b"x\n")]);
    assert!(!guest.board.wants_stop());
    print(&mut guest, &[b'.'; 300]);
    assert_eq!(guest.outputs(), [console(8, &[b'.'; 256])]);
}

#[test]
fn bytes_without_an_end_of_line_are_handed_out_after_a_guest_millisecond() {
    let mut guest = Guest::new();
    guest.at = 1000;
    guest.board.pio_write(guest.at, COM1_PORT, 1, u32::from(b'>'));
    guest.board.pio_write(guest.at + 5, COM1_PORT, 1, u32::from(b' '));
    assert_eq!(guest.board.next_deadline_ns(), Some(1_001_000));
    assert_eq!(guest.board.next_timer(), 1_001_000);
    guest.board.fire_timers(1_000_999);
    assert!(!guest.board.wants_stop());
    guest.board.fire_timers(1_001_000);
    let outputs = guest.board.take_outputs();
    assert_eq!((outputs[0].position, &outputs[0].body), (1_001_000, &console(0, b"> ")));
    assert_eq!(guest.board.next_timer(), u64::MAX);

    // In HLT an anchor moves time, and what becomes due fires with it.
    guest.board.pio_write(1_002_000, COM1_PORT, 1, u32::from(b'!'));
    let anchor = Input::Anchor(Anchor { time: 9_000_000, rate: ONE_NS });
    guest.board.apply(1_002_000, &anchor).unwrap();
    assert_eq!(guest.outputs(), [console(2, b"!")]);
}

#[test]
fn typed_bytes_come_through_the_serial_line_with_an_interrupt() {
    let mut guest = Guest::new();
    guest.board.pio_write(0, COM1_PORT + 1, 1, 1);
    let typed: Vec<u8> = (0..200).collect();
    guest.board.apply(guest.at, &Input::Console(typed.clone())).unwrap();
    assert_eq!(guest.board.pending_interrupt(), Some(VECTOR + COM1_GSI));
    let mut read = Vec::new();
    while guest.board.pio_read(0, COM1_PORT + 5, 1) & 1 != 0 {
        read.push(guest.board.pio_read(0, COM1_PORT, 1) as u8);
    }
    assert_eq!(read, typed);
}

#[test]
fn a_restored_serial_line_does_not_interrupt_again() {
    let mut guest = Guest::new();
    guest.board.pio_write(0, COM1_PORT + 1, 1, 1);
    guest.board.apply(guest.at, &Input::Console(b"x".to_vec())).unwrap();
    assert_eq!(guest.board.acknowledge_interrupt(), VECTOR + COM1_GSI);
    guest.lapic(0xb0, 0);
    let state = guest.board.save();
    guest.board.restore(&state).unwrap();
    assert_eq!(guest.board.pending_interrupt(), None);
    assert_eq!(guest.board.pio_read(0, COM1_PORT, 1), u32::from(b'x'));
    assert_eq!(guest.board.pending_interrupt(), None);
}

#[test]
fn the_virtio_console_shares_the_stream_and_takes_the_input_once_it_is_up() {
    let mut guest = Guest::new();
    print(&mut guest, b"boot");
    let mut queues = guest.start(CONSOLE, 2, 16);
    let mut tx = queues.remove(1);
    let mut rx = queues.remove(0);
    guest.fill(0x2000, b"one\ntwo");
    guest.add(&mut tx, &[(0x2000, 4, false), (0x2004, 3, false)]);
    guest.kick(&tx);
    assert_eq!(guest.outputs(), [console(0, b"bootone\ntwo")]);
    assert_eq!(guest.used(&mut tx), [(0, 0)]);
    assert!(guest.interrupt(CONSOLE));

    guest.board.apply(guest.at, &Input::Console(b"abcdef".to_vec())).unwrap();
    guest.add(&mut rx, &[(0x3000, 4, true)]);
    guest.add(&mut rx, &[(0x3100, 4, true)]);
    guest.kick(&rx);
    assert_eq!(guest.used(&mut rx), [(0, 4), (1, 2)]);
    assert_eq!((guest.memory(0x3000, 4), guest.memory(0x3100, 2)), (b"abcd".to_vec(), b"ef".to_vec()));
    assert_eq!(guest.board.pio_read(0, COM1_PORT + 5, 1) & 1, 0);
}

#[test]
fn the_end_comes_after_what_was_printed_before_it() {
    let mut guest = Guest::new();
    print(&mut guest, b"bye");
    guest.board.pio_write(guest.at, EXIT_PORT, 4, 3);
    assert_eq!(guest.outputs(), [console(0, b"bye"), OutputBody::PowerOff { code: 3 }]);
    guest.board.pio_write(guest.at, 0x64, 1, 0xfe);
    assert_eq!(guest.outputs(), [OutputBody::Reset]);
    guest.board.pio_write(guest.at, 0x60, 1, 0xfe);
    assert!(guest.outputs().is_empty());
}

#[test]
fn the_power_button_shows_at_the_exit_port() {
    let mut guest = Guest::new();
    assert_eq!(guest.board.pio_read(0, EXIT_PORT, 1), 0);
    guest.board.apply(1, &Input::PowerButton).unwrap();
    assert_eq!(guest.board.pio_read(0, EXIT_PORT, 1), 1);
}

#[test]
fn nobody_answers_elsewhere() {
    let mut guest = Guest::new();
    assert_eq!(guest.board.pio_read(0, 0x2f8, 1), 0xff);
    assert_eq!(guest.board.pio_read(0, 0xcfc, 4), u32::MAX);
    assert_eq!(guest.board.mmio_read(0, 0xd000_0000, 2), 0xffff);
    assert_eq!(guest.board.mmio_read(0, u64::MAX - 3, 8), u64::MAX);
    guest.board.mmio_write(0, u64::MAX, 8, 1);
    guest.board.pio_write(0, 0xffff, 4, 1);
}
