//! The wire format: round trips, hostile bytes, sizes.

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input, NetRx};
use ft_core::wire::{
    Ack, Copies, Copy, CpuLeaf, Frame, FrameReader, HEADER, Heartbeat, Hello, LogFrame, Nonces, PeerRole,
    Refusal, Stamp, TAG, Used, WireError,
};
use ft_core::{Body, LogRecord, OutputClass, ReplicaId};
use ft_policies::{Key, RegisterState, Who};
use proptest::collection::vec;
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

fn input() -> impl Strategy<Value = Input> {
    let status = prop_oneof![Just(DiskStatus::Ok), Just(DiskStatus::IoError), Just(DiskStatus::Unsupported)];
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(time, rate)| Input::Anchor(Anchor { time, rate })),
        (any::<u16>(), any::<u64>(), status, bytes()).prop_map(|(disk, request, status, data)| {
            Input::DiskDone(DiskDone { disk, request, status, data })
        }),
        (any::<u16>(), any::<u64>(), vec(bytes(), 0..4))
            .prop_map(|(nic, switch_seq, frames)| Input::NetRx(NetRx { nic, switch_seq, frames })),
        bytes().prop_map(Input::Console),
        (any::<u64>(), bytes()).prop_map(|(request, bytes)| Input::Entropy { request, bytes }),
        Just(Input::PowerButton),
        any::<u64>().prop_map(Input::Date),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::Progress),
        Just(Body::Armed),
        Just(Body::Stop),
        input().prop_map(Body::Input),
        bytes().prop_map(Body::Digest),
        (any::<u16>(), any::<u64>(), any::<u32>()).prop_map(|(disk, request, digest)| Body::OwnRead {
            disk,
            request,
            digest
        }),
        (0u8..4, any::<u64>()).prop_map(|(class, digest)| Body::Output {
            class: OutputClass::from_wire(class).unwrap(),
            digest
        }),
    ]
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u128>(), any::<u64>(), any::<u64>(), any::<u64>())
        .prop_map(|(pair, generation, session, incarnation)| Stamp { pair, generation, session, incarnation })
}

fn role() -> impl Strategy<Value = PeerRole> {
    prop_oneof![
        Just(PeerRole::Waiting),
        Just(PeerRole::Fresh),
        Just(PeerRole::Live),
        Just(PeerRole::Backup),
        Just(PeerRole::Gone)
    ]
}

fn copies() -> impl Strategy<Value = Copies> {
    let used = prop_oneof![Just(Used::None), Just(Used::Some), Just(Used::All)];
    (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>(), used)
        .prop_map(|(live, highest, whole, usable, used)| Copies { live, highest, whole, usable, used })
}

fn register() -> impl Strategy<Value = Option<RegisterState>> {
    let held = (1u64.., replica(), any::<u64>(), any::<u128>()).prop_map(
        |(generation, replica, incarnation, config)| RegisterState {
            generation,
            holder: Some(Who { replica, incarnation, config }),
        },
    );
    prop_oneof![Just(None), Just(Some(RegisterState { generation: 0, holder: None })), held.prop_map(Some)]
}

fn cpu() -> impl Strategy<Value = Vec<CpuLeaf>> {
    let leaf = any::<[u32; 6]>().prop_map(|[leaf, subleaf, a, b, c, d]| CpuLeaf {
        leaf,
        subleaf,
        values: [a, b, c, d],
    });
    vec(leaf, 0..64)
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    prop_oneof![Just(ReplicaId::A), Just(ReplicaId::B)]
}

fn nonces() -> impl Strategy<Value = Option<Nonces>> {
    prop::option::of((any::<u64>(), any::<u64>()).prop_map(|(mine, yours)| Nonces { mine, yours }))
}

fn key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key::of)
}

fn frame() -> impl Strategy<Value = Frame> {
    let log = (stamp(), any::<u64>(), any::<u64>(), 1..u64::MAX / 2, vec((0..1u64 << 40, body()), 0..12))
        .prop_map(|(stamp, released, sent, first, bodies)| {
            let mut position = 0;
            let records = bodies
                .into_iter()
                .zip(first..)
                .map(|((step, body), lsn)| {
                    position += step;
                    LogRecord { lsn, position, body }
                })
                .collect();
            Frame::Log(LogFrame { stamp, released, sent, records })
        });
    let ack = (stamp(), any::<[u64; 7]>(), any::<bool>()).prop_map(
        |(stamp, [received, executed, position, echo, heard, released, reads], stop)| {
            Frame::Ack(Ack { stamp, received, executed, position, echo, heard, released, reads, stop })
        },
    );
    let beat = (stamp(), replica(), role(), any::<u64>(), any::<u64>()).prop_map(
        |(stamp, replica, role, executed, position)| {
            Frame::Heartbeat(Heartbeat { stamp, replica, role, executed, position })
        },
    );
    let hello =
        (stamp(), replica(), role(), any::<[u128; 2]>(), cpu(), any::<u64>(), copies(), register(), nonces())
            .prop_map(|(stamp, replica, role, [config, image], cpu, next, copies, register, nonces)| {
                Frame::Hello(Hello {
                    stamp,
                    replica,
                    role,
                    config,
                    image,
                    cpu,
                    next,
                    copies,
                    register,
                    nonces,
                })
            });
    let copy = (stamp(), bytes()).prop_map(|(stamp, message)| Frame::Copy(Copy { stamp, message }));
    let refusal = (stamp(), any::<bool>(), "[a-zäöü ]{0,100}")
        .prop_map(|(stamp, mismatch, reason)| Frame::Refusal(Refusal { stamp, mismatch, reason }));
    prop_oneof![4 => log, 1 => ack, 1 => beat, 1 => hello, 1 => refusal, 1 => copy]
}

/// The same checksums as the format's, so that damage reaches the decoder behind them.
fn seal(frame: &mut [u8]) {
    let [head, content] = [&frame[..12], &frame[HEADER..]].map(crc32fast::hash);
    frame[12..16].copy_from_slice(&head.to_le_bytes());
    frame[16..20].copy_from_slice(&content.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn frames_survive_the_wire(
        frames in vec(frame(), 1..5),
        cut in 1usize..50,
        key in prop::option::of(key()),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.encode_with(key.as_ref())).collect();
        let mut reader = FrameReader::new(key);
        let mut read = Vec::new();
        for part in stream.chunks(cut) {
            reader.push(part);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push(frame);
            }
        }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn damage_is_seen(frame in frame(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Frame::decode(&bytes).is_err());
    }

    /// Whoever does not have the key changes nothing: not even where he makes the checksum right again.
    #[test]
    fn what_was_signed_cannot_be_changed(
        frame in frame(),
        (key, stranger) in (key(), key()),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let bytes = frame.encode_with(Some(&key));
        prop_assert_eq!(Frame::decode_with(&bytes, Some(&key)), Ok(frame.clone()));
        let mut other = bytes.clone();
        let at = at.index(other.len());
        other[at] ^= 1 << bit;
        prop_assert!(Frame::decode_with(&other, Some(&key)).is_err());
        let signed = other.len() - TAG;
        seal(&mut other[..signed]);
        if other != bytes {
            prop_assert!(Frame::decode_with(&other, Some(&key)).is_err());
        }
        let refused = |bytes: &[u8], key: Option<&Key>, error| {
            let mut reader = FrameReader::new(key.cloned());
            reader.push(bytes);
            Frame::decode_with(bytes, key) == Err(error) && reader.next_frame() == Err(error)
        };
        prop_assert!(refused(&frame.encode_with(Some(&stranger)), Some(&key), WireError::OtherKey));
        prop_assert!(refused(&frame.encode(), Some(&key), WireError::Untagged));
        prop_assert!(refused(&bytes, None, WireError::Tagged));
        // A tag that is taken off, or put on.
        let mut bare = bytes[..signed].to_vec();
        bare[7] = 0;
        seal(&mut bare);
        prop_assert_eq!(&bare, &frame.encode());
        prop_assert!(Frame::decode_with(&bytes[..signed], Some(&key)).is_err());
        prop_assert!(refused(&[&bytes[..signed], &[0; TAG]].concat(), Some(&key), WireError::OtherKey));
    }

    #[test]
    fn a_sender_that_lies_behind_a_right_checksum_is_survived(
        frame in frame(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frame.encode();
        for (at, value) in changes {
            let at = at.index(bytes.len() - HEADER) + HEADER;
            bytes[at] = value;
        }
        bytes.truncate(HEADER + cut.index(bytes.len() - HEADER + 1));
        let length = (bytes.len() - HEADER) as u32;
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        seal(&mut bytes);
        // Whatever it is taken for, encoding it again gives the same bytes: there is one form of everything.
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn garbage_is_survived(bytes in vec(any::<u8>(), 0..300)) {
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        let _whatever = reader.next_frame();
        prop_assert!(Frame::decode(&bytes).is_err());
    }
}

const STAMP: Stamp = Stamp { pair: 7, generation: 1, session: 2, incarnation: 3 };

fn log(records: Vec<LogRecord>) -> Frame {
    Frame::Log(LogFrame { stamp: STAMP, released: 100_000, sent: 60_000_000_000, records })
}

#[test]
fn an_anchor_costs_a_few_bytes() {
    let anchor = |n: u64| LogRecord {
        lsn: 1000 + n,
        position: 5_000_000_000 + n * 400_000,
        body: Body::Input(Input::Anchor(Anchor {
            time: 60_000_000_000 + n * 1_000_000,
            rate: (10 << 30) + n % 3,
        })),
    };
    let one = log(vec![anchor(0)]).encode().len();
    let hundred = log((0..100).map(anchor).collect()).encode().len();
    assert!(hundred - one <= 99 * 9, "{} bytes for each anchor", (hundred - one) / 99);
    assert!(one <= 110, "{one} bytes for a frame with one anchor");
}

#[test]
fn another_version_is_named() {
    let mut bytes = log(Vec::new()).encode();
    bytes[4] = 9;
    assert_eq!(Frame::decode(&bytes), Err(WireError::Version(9)));
}

#[test]
fn a_length_that_no_frame_has_is_refused_before_it_is_waited_for() {
    let mut bytes = log(Vec::new()).encode();
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    seal(&mut bytes);
    let mut reader = FrameReader::default();
    reader.push(&bytes);
    assert_eq!(reader.next_frame(), Err(WireError::TooLong(u32::MAX)));
}

/// A damaged length would have the reader wait for bytes that may never come.
#[test]
fn a_damaged_header_is_found_before_its_payload_is_there() {
    let bytes = log(Vec::new()).encode();
    for bit in 0..8 * 16 {
        let mut reader = FrameReader::default();
        let mut header = bytes[..HEADER].to_vec();
        header[bit / 8] ^= 1 << (bit % 8);
        reader.push(&header);
        assert!(reader.next_frame().is_err(), "bit {bit}");
    }
}

/// What a peer without the key claims to send is not waited for.
#[test]
fn a_stranger_is_known_by_its_first_bytes() {
    let mut reader = FrameReader::new(Some(Key::of([1; 32])));
    let bytes = log(Vec::new()).encode();
    reader.push(&bytes[..HEADER - 1]);
    assert_eq!(reader.next_frame(), Ok(None));
    reader.push(&bytes[HEADER - 1..HEADER]);
    assert_eq!(reader.next_frame(), Err(WireError::Untagged));
}

#[test]
fn counts_larger_than_the_frame_are_refused() {
    // A log frame that claims many records, and has none.
    let mut bytes = log(Vec::new()).encode();
    let last = bytes.len() - 1;
    bytes[last] = 0x7F;
    seal(&mut bytes);
    assert_eq!(Frame::decode(&bytes), Err(WireError::Malformed("length")));
}
