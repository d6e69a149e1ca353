//! The paper's slow loop (section 2.4): while the backup lags by more than the target, the primary gets a few per cent
//! less of the processor, again and again; while it does not, a little more.
//!
//! The loop acts on a fixed beat rather than on every acknowledgement: acknowledgements come thousands of times a
//! second under load, and the effect of a smaller share shows only after the backup has worked off what is under way.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{FULL_SHARE, Pacing, PerMille};
use crate::check::Check;
use crate::schema::At;
use crate::units::Time;

/// How often the share may change.
const BEAT_NS: u64 = 50_000_000;
/// How much of the present share is taken away on a beat with too much lag: 3 %.
const DOWN: PerMille = 30;
/// The same when the lag is over four times the target: 12 %. The target may be small against the beat.
const DOWN_FAR: PerMille = 120;
/// How much is added on a beat without.
const UP: PerMille = 10;
/// The guest always gets on: the share never falls under 5 %.
const FLOOR: PerMille = 50;
const DEFAULT_TARGET: &str = "100 ms";
const MIN_TARGET: Time = Time::millis(1);
const MAX_TARGET: Time = Time(60_000_000_000);

/// What the user chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The lag that is still fine.
    pub target: Time,
}

/// The loop.
#[derive(Clone, Debug)]
pub struct LagFeedback {
    target_ns: u64,
    share: PerMille,
    next_beat: Option<u64>,
}

impl LagFeedback {
    /// A loop that begins with the full share.
    pub fn new(settings: Settings) -> Self {
        Self { target_ns: settings.target.nanos(), share: FULL_SHARE, next_beat: None }
    }
}

impl Pacing for LagFeedback {
    fn on_lag(&mut self, now_ns: u64, lag_ns: u64) {
        let Some(next) = self.next_beat else {
            self.next_beat = Some(now_ns.saturating_add(BEAT_NS));
            return;
        };
        if now_ns < next {
            return;
        }
        self.next_beat = Some(now_ns.saturating_add(BEAT_NS));
        let down = if lag_ns > self.target_ns.saturating_mul(4) { DOWN_FAR } else { DOWN };
        self.share = if lag_ns > self.target_ns {
            (self.share - (self.share * down).div_ceil(FULL_SHARE)).max(FLOOR)
        } else {
            (self.share + UP).min(FULL_SHARE)
        };
    }
    fn share(&self) -> PerMille {
        self.share
    }
}

/// The `[pacing.lag-feedback]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "PacingLagFeedback")]
pub(crate) struct Table {
    /// The execution lag that is still fine (from "1 ms" to "1 min"); above it the primary is slowed down.
    #[schemars(extend("default" = DEFAULT_TARGET))]
    pub(crate) target: Option<At<Time>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> Settings {
        let target = check.or_default(self.target.as_ref(), DEFAULT_TARGET, Time::parse);
        check.range(self.target.as_ref(), "the target lag", MIN_TARGET, MAX_TARGET);
        Settings { target }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A backup that runs `backup` thousandths of the primary's full speed: how the lag and the share develop.
    fn simulate(backup: u64, seconds: u64) -> (u64, PerMille, u64) {
        let mut pacing = LagFeedback::new(Settings { target: Time::millis(100) });
        let (mut lag, mut worst_late) = (0u64, 0);
        for step in 0..seconds * 1000 {
            let made = u64::from(pacing.share()) * MS / 1000;
            lag = (lag + made).saturating_sub(backup * MS / 1000);
            pacing.on_lag(step * MS, lag);
            if step > seconds * 500 {
                worst_late = worst_late.max(lag);
            }
        }
        (lag, pacing.share(), worst_late)
    }

    #[test]
    fn a_backup_that_keeps_up_costs_nothing() {
        assert_eq!(simulate(1000, 10).1, FULL_SHARE);
        assert_eq!(simulate(1300, 10).1, FULL_SHARE);
    }

    #[test]
    fn a_slow_backup_keeps_the_lag_bounded() {
        for backup in [950, 800, 500, 200] {
            let (_, share, worst) = simulate(backup, 60);
            assert!(worst < 1500 * MS, "backup at {backup}: lag {} ms", worst / MS);
            assert!(u64::from(share) < backup + 150, "backup at {backup}: share {share}");
        }
    }

    #[test]
    fn floor_and_recovery() {
        let mut pacing = LagFeedback::new(Settings { target: Time::millis(100) });
        for beat in 0..2000 {
            pacing.on_lag(beat * BEAT_NS, u64::MAX);
        }
        assert_eq!(pacing.share(), FLOOR);
        for beat in 2000..2000 + u64::from((FULL_SHARE - FLOOR).div_ceil(UP)) {
            pacing.on_lag(beat * BEAT_NS, 0);
        }
        assert_eq!(pacing.share(), FULL_SHARE);
    }

    #[test]
    fn many_acknowledgements_in_one_beat_count_once() {
        let mut pacing = LagFeedback::new(Settings { target: Time::millis(100) });
        for now in 0..=BEAT_NS / MS {
            pacing.on_lag(now * MS, 200 * MS);
        }
        assert_eq!(pacing.share(), FULL_SHARE - DOWN);
    }
}
