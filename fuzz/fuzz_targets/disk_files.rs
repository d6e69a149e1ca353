//! What is found beside a disk: the stamp of a copy, the head of a side file.
#![no_main]

use ft_devices::backend::fuzzing::{side_file, stamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stamp(data);
    side_file(data);
});
