//! virtio-net, virtio-entropy (virtio 1.2, sections 5.1 and 5.4).

mod common;

use common::*;
use ft_core::input::{Input, NetRx};
use ft_core::output::{MAX_ENTROPY, OutputBody};
use ft_devices::virtio::net::{MAX_BACKLOG, MAX_FRAME};

const DATA: u64 = 0x2000;

fn frames(list: &[Vec<u8>]) -> Input {
    Input::NetRx(NetRx { nic: 0, switch_seq: 9, frames: list.to_vec() })
}

#[test]
fn one_notification_is_one_output_and_completes_at_once() {
    let mut guest = Guest::new();
    let mut tx = guest.start(NIC, 2, 16).remove(1);
    guest.fill(DATA, &[0; 12]);
    guest.fill(DATA + 12, &[1; 60]);
    guest.fill(DATA + 0x100, &[0; 12]);
    guest.fill(DATA + 0x200, &[2; 100]);
    guest.add(&mut tx, &[(DATA, 72, false)]);
    guest.add(&mut tx, &[(DATA + 0x100, 12, false), (DATA + 0x200, 100, false)]);
    guest.kick(&tx);
    let position = guest.at;
    let outputs = guest.board.take_outputs();
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].position, position);
    assert_eq!(outputs[0].body, OutputBody::NetTx { nic: 0, frames: vec![vec![1; 60], vec![2; 100]] });
    assert_eq!(guest.used(&mut tx), [(0, 0), (1, 0)]);
    assert!(guest.interrupt(NIC));
    assert!(!guest.interrupt(NIC));
}

#[test]
fn frames_too_short_or_too_long_are_not_sent() {
    let mut guest = Guest::new();
    let mut tx = guest.start(NIC, 2, 16).remove(1);
    for len in [0, 12 + 13, 12 + MAX_FRAME as u32 + 1] {
        guest.add(&mut tx, &[(DATA, len, false)]);
    }
    guest.add(&mut tx, &[(DATA, 12 + MAX_FRAME as u32, false)]);
    guest.kick(&tx);
    let outputs = guest.outputs();
    let [OutputBody::NetTx { frames, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_FRAME]);
    assert_eq!(guest.used(&mut tx).len(), 4);
}

#[test]
fn a_batch_received_fills_buffers_with_one_interrupt() {
    let mut guest = Guest::new();
    let mut rx = guest.start(NIC, 2, 16).remove(0);
    guest.add(&mut rx, &[(DATA, 12, true), (DATA + 0x100, 2000, true)]);
    guest.add(&mut rx, &[(DATA + 0x1000, 2000, true)]);
    guest.kick(&rx);
    guest.board.apply(guest.at, &frames(&[vec![3; 60], vec![4; 1514]])).unwrap();
    assert_eq!(guest.memory(DATA, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(guest.memory(DATA + 0x100, 61), [&[3; 60][..], &[0]].concat());
    assert_eq!(guest.memory(DATA + 0x1000 + 12, 1514), [4; 1514]);
    assert_eq!(guest.used(&mut rx), [(0, 72), (2, 1526)]);
    assert!(guest.interrupt(NIC));
    assert!(!guest.interrupt(NIC));
}

#[test]
fn frames_wait_for_buffers_up_to_a_bound() {
    let mut guest = Guest::new();
    let mut rx = guest.start(NIC, 2, 256).remove(0);
    let numbered: Vec<Vec<u8>> = (0..MAX_BACKLOG as u32 + 10)
        .map(|number| [number.to_le_bytes().to_vec(), vec![0; 60]].concat())
        .collect();
    guest.board.apply(guest.at, &frames(&numbered)).unwrap();
    assert!(guest.used(&mut rx).is_empty());
    let mut received = Vec::new();
    for _ in 0..3 {
        let buffers: Vec<_> = (0..256_u64).map(|index| 0x2_0000 + index * 128).collect();
        for buffer in &buffers {
            guest.add(&mut rx, &[(*buffer, 128, true)]);
        }
        guest.kick(&rx);
        let used = guest.used(&mut rx);
        for (head, len) in used {
            assert_eq!(len, 76);
            received.push(guest.memory(buffers[head as usize] + 12, 4)[..4].to_vec());
        }
    }
    let expected: Vec<_> = (0..MAX_BACKLOG as u32).map(|number| number.to_le_bytes().to_vec()).collect();
    assert_eq!(received, expected);
}

#[test]
fn a_buffer_too_small_for_a_frame_is_left_for_a_smaller_one() {
    let mut guest = Guest::new();
    let mut rx = guest.start(NIC, 2, 16).remove(0);
    guest.add(&mut rx, &[(DATA, 100, true)]);
    guest.kick(&rx);
    guest.board.apply(guest.at, &frames(&[vec![1; 1000], vec![2; 60]])).unwrap();
    assert_eq!(guest.used(&mut rx), [(0, 72)]);
    assert_eq!(guest.memory(DATA + 12, 60), [2; 60]);
}

#[test]
fn frames_before_the_driver_is_up_are_dropped() {
    let mut guest = Guest::new();
    guest.board.apply(guest.at, &frames(&[vec![1; 60]])).unwrap();
    let mut rx = guest.start(NIC, 2, 16).remove(0);
    guest.add(&mut rx, &[(DATA, 100, true)]);
    guest.kick(&rx);
    assert!(guest.used(&mut rx).is_empty());
    let wrong = Input::NetRx(NetRx { nic: 1, switch_seq: 0, frames: vec![] });
    assert!(guest.board.apply(guest.at, &wrong).is_err());
}

#[test]
fn entropy_is_an_output_and_its_answer_an_input() {
    let mut guest = Guest::new();
    let mut queue = guest.start(RNG, 1, 8).remove(0);
    guest.add(&mut queue, &[(DATA, 10, true), (DATA + 0x100, 6, true)]);
    guest.add(&mut queue, &[(DATA + 0x1000, 2 * MAX_ENTROPY, true)]);
    guest.kick(&queue);
    assert_eq!(
        guest.outputs(),
        [OutputBody::Entropy { request: 0, len: 16 }, OutputBody::Entropy { request: 1, len: MAX_ENTROPY }]
    );
    assert_eq!(guest.board.pending_entropy(), [(0, 16), (1, MAX_ENTROPY)]);
    let wrong = Input::Entropy { request: 0, bytes: vec![1; 15] };
    assert!(guest.board.apply(guest.at, &wrong).is_err());
    let right = Input::Entropy { request: 0, bytes: (0..16).collect() };
    guest.board.apply(guest.at, &right).unwrap();
    assert!(guest.board.apply(guest.at, &right).is_err(), "answered already");
    assert_eq!(guest.memory(DATA, 10), (0..10).collect::<Vec<u8>>());
    assert_eq!(guest.memory(DATA + 0x100, 6), (10..16).collect::<Vec<u8>>());
    assert_eq!(guest.used(&mut queue), [(0, 16)]);
    assert!(guest.interrupt(RNG));
}
