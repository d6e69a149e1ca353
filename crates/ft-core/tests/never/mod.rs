//! A detector that never suspects and a pace that never slows, for tests in which time alone brings nothing about.

use ft_policies::{Detector, Heard, Pacing};

pub(crate) const MS: u64 = 1_000_000;

pub(crate) struct Never;
impl Detector for Never {
    fn heard(&mut self, _now: u64, _what: Heard) {}
    fn suspect(&self, _now: u64) -> bool {
        false
    }
    fn deadline(&self) -> Option<u64> {
        None
    }
    fn heartbeat_interval(&self) -> u64 {
        20 * MS
    }
}
impl Pacing for Never {
    fn on_lag(&mut self, _now: u64, _lag: u64) {}
    fn share(&self) -> u32 {
        1000
    }
}
