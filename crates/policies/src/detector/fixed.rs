//! A peer is suspected after a fixed time of silence.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Detector, Heard};
use crate::check::Check;
use crate::schema::At;
use crate::units::Time;

const DEFAULT_HEARTBEAT: &str = "20 ms";
const DEFAULT_TIMEOUT: &str = "200 ms";
const MIN_HEARTBEAT: Time = Time::millis(1);
const MAX_TIMEOUT: Time = Time(60_000_000_000);

/// What the user chose: `timeout` is at least twice `heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often each replica sends a heartbeat.
    pub heartbeat: Time,
    /// The silence after which the peer is suspected.
    pub timeout: Time,
}

/// The detector.
#[derive(Clone, Debug)]
pub struct Fixed {
    settings: Settings,
    last_heard: Option<u64>,
}

impl Fixed {
    /// A detector that has heard nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, last_heard: None }
    }
}

impl Detector for Fixed {
    fn heard(&mut self, now_ns: u64, _what: Heard) {
        self.last_heard = self.last_heard.max(Some(now_ns));
    }
    fn suspect(&self, now_ns: u64) -> bool {
        self.deadline().is_some_and(|deadline| now_ns >= deadline)
    }
    fn deadline(&self) -> Option<u64> {
        Some(self.last_heard?.saturating_add(self.settings.timeout.nanos()))
    }
    fn heartbeat_interval(&self) -> u64 {
        self.settings.heartbeat.nanos()
    }
}

/// The `[detector.fixed]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "DetectorFixed")]
pub(crate) struct Table {
    /// How often each replica sends a heartbeat (at least "1 ms").
    #[schemars(extend("default" = DEFAULT_HEARTBEAT))]
    pub(crate) heartbeat: Option<At<Time>>,
    /// The silence after which the peer is suspected (at least twice the heartbeat, at most "1 min").
    #[schemars(extend("default" = DEFAULT_TIMEOUT))]
    pub(crate) timeout: Option<At<Time>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> Settings {
        let heartbeat = check.or_default(self.heartbeat.as_ref(), DEFAULT_HEARTBEAT, Time::parse);
        let timeout = check.or_default(self.timeout.as_ref(), DEFAULT_TIMEOUT, Time::parse);
        let in_range = check.range(self.heartbeat.as_ref(), "the heartbeat", MIN_HEARTBEAT, MAX_TIMEOUT)
            & check.range(self.timeout.as_ref(), "the time-out", MIN_HEARTBEAT, MAX_TIMEOUT);
        if in_range
            && !check.dropped("detector.fixed")
            && timeout.nanos() < heartbeat.nanos().saturating_mul(2)
            && let Some(at) = self.timeout.as_ref().or(self.heartbeat.as_ref())
        {
            check.error(
                at.span(),
                "the time-out is too short for the heartbeat",
                format!(
                    "heartbeat \"{heartbeat}\", timeout \"{timeout}\": one late datagram would be a suspicion"
                ),
                format!("a timeout of at least \"{}\", or a shorter heartbeat", Time(heartbeat.nanos() * 2)),
            );
        }
        Settings { heartbeat, timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_exactly_at_the_deadline() {
        let mut detector = Fixed::new(Settings { heartbeat: Time(20), timeout: Time(200) });
        assert!(!detector.suspect(u64::MAX) && detector.deadline().is_none());
        detector.heard(1000, Heard::Start);
        assert!(!detector.suspect(1199));
        assert!(detector.suspect(1200));
        detector.heard(1100, Heard::Heartbeat);
        detector.heard(1050, Heard::Ack);
        assert_eq!(detector.deadline(), Some(1300));
        assert!(!detector.suspect(1299));
        detector.heard(u64::MAX - 1, Heard::Log);
        assert!(!detector.suspect(u64::MAX - 1));
    }
}
