//! Random moments that can be had again: splitmix64 from a seed that is printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `FT_SEED`, or from the clock. The seed is printed, so that a failed test's output has it.
    pub fn new(what: &str) -> Self {
        let seed = match std::env::var("FT_SEED") {
            Ok(text) => text.parse().expect("FT_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
        };
        eprintln!("{what}: FT_SEED={seed}");
        Self(seed)
    }

    /// Another generator, for another thread.
    pub fn derived(from: &mut Self) -> Self {
        Self(from.next_u64())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end.max(1)
    }

    /// A span of time below `end`, in microseconds.
    pub fn time(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(end.as_micros() as u64))
    }
}
