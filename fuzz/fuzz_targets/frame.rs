//! A peer's frame whose header and checksum are right: the payload decides. What decodes must encode and decode to itself;
//! signed with a key too, and with that key only.
#![no_main]

use ft_core::wire::{Frame, HEADER, MAX_PAYLOAD, VERSION};
use ft_policies::Key;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (key, other) = (Key::of([7; 32]), Key::of([8; 32]));
    let _ = Frame::decode(data);
    assert!(Frame::decode_with(data, Some(&key)).is_err());
    let Some((kind, payload)) = data.split_first() else { return };
    if payload.len() > MAX_PAYLOAD {
        return;
    }
    let like = Frame::Heartbeat(ft_core::wire::Heartbeat {
        stamp: ft_core::wire::Stamp { pair: 0, generation: 0, session: 0, incarnation: 0 },
        replica: ft_core::ReplicaId::A,
        role: ft_core::wire::PeerRole::Live,
        executed: 0,
        position: 0,
    });
    let mut bytes = like.encode()[..HEADER].to_vec();
    assert_eq!(bytes[4..6], VERSION.to_le_bytes());
    bytes[6] = *kind;
    bytes[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let [head, content] = [&bytes[..12], payload].map(crc32fast::hash);
    bytes[12..16].copy_from_slice(&head.to_le_bytes());
    bytes[16..20].copy_from_slice(&content.to_le_bytes());
    bytes.extend_from_slice(payload);
    if let Ok(frame) = Frame::decode(&bytes) {
        assert_eq!(Frame::decode(&frame.encode()).as_ref(), Ok(&frame));
        let signed = frame.encode_with(Some(&key));
        assert_eq!(Frame::decode_with(&signed, Some(&key)).as_ref(), Ok(&frame));
        assert!(Frame::decode_with(&signed, Some(&other)).is_err() && Frame::decode(&signed).is_err());
    }
});
