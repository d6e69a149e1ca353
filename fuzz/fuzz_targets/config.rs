//! A configuration file of any bytes.
#![no_main]

use std::path::Path;

use ft_policies::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(mistakes) = Config::parse(Path::new("/nowhere/pair.toml"), data, &[]) {
        let _ = mistakes.to_string();
    }
});
