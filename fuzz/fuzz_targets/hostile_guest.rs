//! A guest that does anything to its devices.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ft_devices::fuzzing::hostile_guest(data));
