//! Frames: from the launcher's switch to the guest, and back.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ft_core::input::{Input, NetRx};

use super::control::wait_for;
use super::shared::Shared;
use crate::launcher::messages::{LAN_PACKET_MAX, LanPacket};
use crate::launcher::packet::PacketSocket;

/// Bytes before the first frame of a packet, and before each frame.
const PACKET_HEAD: usize = 11;
const FRAME_HEAD: usize = 2;
/// How long a frame waits for the switch to read before it is dropped, as any network may.
const SEND_PATIENCE_MS: i32 = 20;

/// Starts the thread that reads frames for the guest.
pub(super) fn spawn(shared: &Arc<Shared>, lan: Arc<PacketSocket>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("net".into()).spawn(move || {
        let mut buffer = vec![0; LAN_PACKET_MAX];
        loop {
            match lan.recv(&mut buffer) {
                Ok(Some(bytes)) => {
                    if let Some(batch) = LanPacket::decode(bytes).and_then(|packet| shared.news(packet)) {
                        shared.inputs.push_bounded(Input::NetRx(batch));
                        shared.wake_now();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(lan.as_raw_fd(), libc::POLLIN, -1);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The launcher is gone: the control socket tells, and ends the process.
                Ok(None) | Err(_) => return,
            }
        }
    })?;
    Ok(())
}

/// What of a packet the guest has not had yet: after a takeover the switch hands over again what it had no
/// acknowledgement for, and part of that may be in the log.
pub(super) fn unseen(packet: LanPacket, seen: u64) -> Option<NetRx> {
    let LanPacket { nic, number, mut frames } = packet;
    let last = number.checked_add(frames.len() as u64)?.checked_sub(1)?;
    if frames.is_empty() || last <= seen {
        return None;
    }
    let skip = usize::try_from(seen.saturating_add(1).saturating_sub(number)).ok()?;
    frames.drain(..skip.min(frames.len()));
    Some(NetRx { nic, switch_seq: last, frames })
}

/// Sends frames of the guest to the switch. False if some were dropped.
pub(super) fn send(lan: &PacketSocket, generation: u64, nic: u16, frames: Vec<Vec<u8>>) -> bool {
    let mut whole = true;
    let mut batch = Vec::new();
    let mut size = PACKET_HEAD;
    for frame in frames {
        if size + FRAME_HEAD + frame.len() > LAN_PACKET_MAX && !batch.is_empty() {
            whole &= send_one(lan, generation, nic, std::mem::take(&mut batch));
            size = PACKET_HEAD;
        }
        if frame.len() + PACKET_HEAD + FRAME_HEAD > LAN_PACKET_MAX {
            whole = false;
            continue;
        }
        size += FRAME_HEAD + frame.len();
        batch.push(frame);
    }
    if !batch.is_empty() {
        whole &= send_one(lan, generation, nic, batch);
    }
    whole
}

fn send_one(lan: &PacketSocket, generation: u64, nic: u16, frames: Vec<Vec<u8>>) -> bool {
    let packet = LanPacket { nic, number: generation, frames }.encode();
    for _ in 0..2 {
        match lan.send(&packet) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(lan.as_raw_fd(), libc::POLLOUT, SEND_PATIENCE_MS);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u64, count: u8) -> LanPacket {
        LanPacket { nic: 0, number, frames: (0..count).map(|tag| vec![tag; 60]).collect() }
    }

    #[test]
    fn frames_that_were_seen_are_not_taken_again() {
        assert_eq!(unseen(packet(1, 3), 0).map(|batch| (batch.switch_seq, batch.frames.len())), Some((3, 3)));
        let rest = unseen(packet(1, 3), 2).expect("one is new");
        assert_eq!((rest.switch_seq, rest.frames), (3, vec![vec![2; 60]]));
        assert_eq!(unseen(packet(1, 3), 3), None);
        assert_eq!(unseen(packet(10, 2), 3).map(|batch| batch.frames.len()), Some(2));
        assert_eq!(unseen(packet(u64::MAX, 2), 3), None);
    }

    /// A guest that goes from host to host, each with a switch of its own: what is asserted here holds for any order of events.
    mod from_host_to_host {
        use proptest::prelude::*;

        use super::*;
        use crate::launcher::lan::switch::Switch;

        #[derive(Debug, Clone, Copy)]
        enum Event {
            /// Frames come from the network of the host where the guest is.
            Frames(u8),
            /// The live replica takes what its switch has.
            Hand,
            /// The backup has it in its log.
            Log,
            /// The other host takes over.
            Takeover,
            /// The same, and the other host's launcher is a new one.
            TakeoverOfANewLauncher,
        }

        fn event() -> impl Strategy<Value = Event> {
            prop_oneof![
                4 => (1u8..5).prop_map(Event::Frames),
                4 => Just(Event::Hand),
                3 => Just(Event::Log),
                1 => Just(Event::Takeover),
                1 => Just(Event::TakeoverOfANewLauncher),
            ]
        }

        proptest! {
            /// Every frame that comes to the guest's host while the guest is there is new to the guest, and given to it once; no
            /// acknowledgement is a violation.
            #[test]
            fn no_new_frame_is_taken_for_an_old_one(events in prop::collection::vec(event(), 0..60)) {
                let mut switches = [Switch::new(), Switch::new()];
                let (mut live, mut generation, mut tag) = (0, 1, 0u32);
                // What the live guest has seen, and its backup; what it was given, by tag.
                let (mut seen, mut logged, mut given) = (0, 0, Vec::new());
                // The frames that came since the guest is where it is.
                let mut came = Vec::new();
                switches[0].go_live(0, generation, 0, &mut Vec::new()).unwrap();
                for event in events {
                    match event {
                        Event::Frames(count) => for _ in 0..count {
                            tag += 1;
                            let frame = [&[0; 56][..], &tag.to_le_bytes()].concat();
                            switches[live].to_guest(frame);
                            came.push(tag);
                        },
                        Event::Hand => {
                            let mut buffer = Vec::new();
                            while let Some((_, count)) = switches[live].next_packet(&mut buffer) {
                                switches[live].sent(count);
                                let packet = LanPacket::decode(&buffer).unwrap();
                                prop_assert!(packet.number > seen);
                                let batch = unseen(packet, seen).unwrap();
                                prop_assert_eq!(batch.frames.len() as u64, count);
                                seen = batch.switch_seq;
                                for frame in batch.frames {
                                    given.push(u32::from_le_bytes(frame[56..].try_into().unwrap()));
                                }
                            }
                            prop_assert!(came.iter().all(|tag| given.contains(tag)), "{:?} {:?}", came, given);
                        }
                        Event::Log => {
                            prop_assert!(seen >= logged);
                            logged = seen;
                            prop_assert_eq!(switches[live].acknowledged(0, generation, seen), Ok(()));
                        }
                        Event::Takeover | Event::TakeoverOfANewLauncher => {
                            live = 1 - live;
                            came.clear();
                            generation += 1;
                            if matches!(event, Event::TakeoverOfANewLauncher) {
                                switches[live] = Switch::new();
                            }
                            // What only the old primary had is lost with it, as on any network.
                            seen = logged;
                            let mut early = Vec::new();
                            prop_assert_eq!(switches[live].go_live(0, generation, seen, &mut early), Ok(()));
                        }
                    }
                }
                let all = given.len();
                given.sort_unstable();
                given.dedup();
                prop_assert_eq!(given.len(), all);
            }
        }
    }
}
