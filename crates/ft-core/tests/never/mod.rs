//! A detector that never suspects and a pace that never slows, for tests in which time alone brings nothing about; and the settings of
//! a replica, of which each test names those that it is about.

use ft_core::replica::{STUCK, Settings};
use ft_policies::{Detector, Heard, Pacing, Who};

pub(crate) const MS: u64 = 1_000_000;

pub(crate) fn settings(me: Who, pair: u128) -> Settings {
    Settings {
        me,
        pair,
        config: 5,
        image: 6,
        cpu: Vec::new(),
        divergence_hint: "",
        log_capacity: 16 << 20,
        gate_bytes: 1 << 20,
        gate_outputs: 4,
        start_alone: 30_000 * MS,
        ack_timeout: 60_000 * MS,
        stuck: STUCK,
        hold_outputs: true,
        copies: None,
        by_hand: false,
        key: None,
    }
}

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
