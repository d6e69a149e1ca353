//! A line to the witness, or from it. What decodes must encode and decode to itself.
#![no_main]

use ft_policies::tie_breaker::witness::wire::{Reply, Request, Said};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(said) = Request::decode(data) {
        assert_eq!(Request::decode(said.what.encode(said.tag).as_bytes()), Ok(said));
    }
    if let Ok(said) = Reply::decode(data) {
        // A reason may be longer than one that is sent.
        let said = Said { what: said.what.shortened(), tag: said.tag };
        assert_eq!(Reply::decode(said.what.encode(said.tag).as_bytes()), Ok(said));
    }
});
