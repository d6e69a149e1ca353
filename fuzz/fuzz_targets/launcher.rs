//! What a replica process sends to its launcher.
#![no_main]

use ft_runtime::launcher::messages::{FromReplica, LanPacket, ToReplica};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(packet) = LanPacket::decode(data) {
        assert_eq!(packet.encode(), data);
    }
    let _ = serde_json::from_slice::<FromReplica>(data);
    let _ = serde_json::from_slice::<ToReplica>(data);
});
