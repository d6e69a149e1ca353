//! An answer of an etcd, or of whoever listens in its place.
#![no_main]

use ft_policies::tie_breaker::etcd::gateway::{read_range, read_txn, refusal};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "/ft-vm/x/generation";

fuzz_target!(|data: &[u8]| {
    for held in [read_range(data, KEY), read_txn(data, KEY)].into_iter().flatten().flatten() {
        assert!(held.revision > 0 && held.value.len() <= data.len());
    }
    assert!(refusal(500, data).len() < 3000);
});
