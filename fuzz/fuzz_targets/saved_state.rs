//! A board saved in any state goes on as if it had not been.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ft_devices::fuzzing::saved_state(data));
