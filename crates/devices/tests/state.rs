//! Saved states: versions, other machines, and the wire.

mod common;

use common::*;
use ft_core::input::Input;
use ft_devices::{Board, BoardState, RestoreError};

#[test]
fn a_state_survives_the_wire() {
    let mut guest = Guest::new();
    guest.start(DISK, 1, 16);
    guest.board.apply(guest.at, &Input::Console(b"typed".to_vec())).unwrap();
    let bytes = postcard::to_stdvec(&guest.board.save()).unwrap();
    let state: BoardState = postcard::from_bytes(&bytes).unwrap();
    let mut other = Guest::new();
    assert_ne!(other.board.leaves(), guest.board.leaves());
    other.board.restore(&state).unwrap();
    assert_eq!(other.board.leaves(), guest.board.leaves());
}

#[test]
fn a_state_of_another_version_is_refused_by_name() {
    let mut guest = Guest::new();
    let mut state = guest.board.save();
    state.lapic.version += 1;
    let error = guest.board.restore(&state).unwrap_err();
    assert_eq!(error.to_string(), "state of lapic has version 2, this program knows 1");
}

#[test]
fn a_state_of_another_machine_is_refused_and_changes_nothing() {
    let guest = Guest::new();
    let state = guest.board.save();
    let mut other = spec();
    other.disks.pop();
    let mut board = Board::new(&other, guest.ram.clone()).unwrap();
    let before = board.save();
    assert!(matches!(board.restore(&state), Err(RestoreError::OtherMachine(_))));
    let mut other = spec();
    other.disks[0].sectors += 1;
    let mut resized = Board::new(&other, guest.ram.clone()).unwrap();
    assert!(matches!(resized.restore(&state), Err(RestoreError::Bad { component: "disk", .. })));
    assert_eq!(board.save(), before);
}

#[test]
fn leaves_name_the_field_that_differs() {
    let mut a = Guest::new();
    let b = Guest::new();
    a.write(NIC, 0x30, 1);
    let differing: Vec<String> = a
        .board
        .leaves()
        .into_iter()
        .zip(b.board.leaves())
        .filter(|(a, b)| a != b)
        .map(|((path, _), _)| path)
        .collect();
    assert_eq!(differing, ["nics[0].state.slot.transport.queue_sel"]);
}
