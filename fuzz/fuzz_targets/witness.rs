//! A line to the witness, or from it. What decodes must encode and decode to itself.
#![no_main]

use ft_policies::tie_breaker::witness::wire::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(request.encode().as_bytes()), Ok(request));
    }
    match Reply::decode(data) {
        // A reason may be longer than one that is sent.
        Ok(Reply::Unavailable(_) | Reply::Refused(_)) | Err(_) => {}
        Ok(state) => assert_eq!(Reply::decode(state.encode().as_bytes()).as_ref(), Ok(&state)),
    }
});
