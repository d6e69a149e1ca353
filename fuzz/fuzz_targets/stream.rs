//! A peer's byte stream, cut anywhere, in a pair without a key and in one with a key: there nothing comes out of it, for nobody guesses
//! a tag.
#![no_main]

use ft_core::wire::FrameReader;
use ft_policies::Key;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    frames(data, FrameReader::default());
    assert_eq!(frames(data, FrameReader::new(Some(Key::of([7; 32])))), 0);
});

/// How many frames there are before an error, or the end.
fn frames(data: &[u8], mut reader: FrameReader) -> usize {
    let mut count = 0;
    for piece in data.chunks(13) {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break,
                Err(_) => return count,
            }
        }
    }
    count
}
