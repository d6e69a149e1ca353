//! Messages of the exchange that makes copies of a disk the same, and both sides against a peer that sends anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ft_devices::backend::fuzzing::copy(data));
