//! Entry points for fuzzers of what this crate reads from beside a disk, and from the other replica about a disk.
//!
//! Each returns normally for every input, in time linear in its length, and panics only if an invariant is broken.

use std::sync::Arc;

use super::copy::{CopyDisk, CopyMessage, CopySource, CopyTarget, Origin};
use super::memory::MemoryMedium;
use super::quarantine;
use super::stamp::Stamp;

/// The stamp of a copy: what is understood is what would be written.
pub fn stamp(bytes: &[u8]) {
    Stamp::check_decoder(bytes);
}

/// The head of a side file.
pub fn side_file(bytes: &[u8]) {
    quarantine::check_decoder(bytes);
}

/// Bytes of the disks in [`copy`].
const DISK: usize = 3 * 64 * 1024 + 512;

/// A message of the exchange of copies, and both sides of it against a peer that sends nothing else. The first byte chooses the
/// side.
pub fn copy(bytes: &[u8]) {
    let Some((side, mut rest)) = bytes.split_first() else { return };
    let disk = || CopyDisk {
        medium: Arc::new(MemoryMedium::new(vec![7; DISK])),
        name: "a disk".to_owned(),
        origin: if side & 2 == 0 { Origin::New } else { Origin::Existing },
    };
    let mut source = CopySource::new(vec![disk(), disk()]);
    let mut target = CopyTarget::new(vec![disk(), disk()], |_| Ok(()));
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        rest = after;
        let Ok(message) = CopyMessage::decode(message) else { continue };
        assert_eq!(CopyMessage::decode(&message.encode()).as_ref(), Ok(&message));
        // A side that was told nonsense is done with its peer.
        let goes_on = if side & 1 == 0 {
            source.handle(message).is_ok() && (0..8).all(|_| source.next_message().is_ok())
        } else {
            target.next_message().is_ok() && target.handle(message).is_ok()
        };
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Messages that are understood now and then.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let some = prop_oneof![
            any::<[u8; 1]>().prop_map(|_| CopyMessage::Done),
            (0..3_u16, any::<bool>()).prop_map(|(disk, compare)| CopyMessage::Accepted { disk, compare }),
            (0..3_u16, 0..5_u64, 0..5_usize).prop_map(|(disk, first, count)| CopyMessage::Digests {
                disk,
                first,
                digests: vec![1; count]
            }),
            (0..3_u16, prop_oneof![Just(DISK as u64), any::<u64>()])
                .prop_map(|(disk, len)| { CopyMessage::Offer { disk, len, origin: Origin::New } }),
        ];
        let framed = |message: CopyMessage| {
            let bytes = message.encode();
            [&(bytes.len() as u16).to_le_bytes()[..], &bytes].concat()
        };
        let list = prop::collection::vec(some.prop_map(framed), 0..12);
        (any::<u8>(), list).prop_map(|(side, list)| [vec![side], list.concat()].concat())
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            stamp(&bytes);
            side_file(&bytes);
            copy(&bytes);
        }

        #[test]
        fn messages_out_of_place(bytes in messages()) {
            copy(&bytes);
        }
    }
}
