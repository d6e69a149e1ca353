//! A peer is suspected when its silence has become improbable, judged by how its heartbeats came so far.
//!
//! This is the accrual detector of Hayashibara, Défago, Yared and Katayama, "The φ Accrual Failure Detector" (SRDS 2004). The
//! last intervals between heartbeats are taken for normally distributed, with mean `µ` and standard deviation `σ`. After a
//! silence of `t`,
//!
//! ```text
//! φ(t) = −log10 P(an interval is longer than t)  =  −log10 Q((t − µ − pause) / max(σ, σmin)),    Q the normal tail
//! ```
//!
//! is what the silence is worth: φ = 8 means that a living peer is silent for so long once in 10^8 intervals. `pause` and `σmin`
//! are what implementations of the paper have added since (Akka calls them acceptable heartbeat pause and minimum standard
//! deviation): a quiet hour makes σ tiny, and without them the first busy second after it would be a suspicion.
//!
//! Here φ is never computed: it grows with `t`, so that the peer is suspected from one moment on,
//!
//! ```text
//! t = min(µ + pause + z(threshold) · max(σ, σmin), max-silence),    Q(z(φ)) = 10^−φ
//! ```
//!
//! and `z` is a constant of the threshold. All of it is integers: the deadline is exact to the nanosecond and the same on every
//! machine.
//!
//! *What is an arrival.* Anything heard of the peer ends the silence, but only heartbeats make intervals. Log frames and
//! acknowledgements come in bursts, thousands a second under load; were they counted, µ and σ would fall to nothing, and the end
//! of the load would look like the end of the peer. A silence that began with a log frame is thereby judged as if the peer owed
//! the next heartbeat a whole interval later: never too early.
//!
//! *The beginning.* A session begins with two made-up intervals, 3/4 and 5/4 of `heartbeat` (Akka does the same), which leave the
//! window as others do. Nothing of an earlier session counts: it may have been another process on another host.
//!
//! *The end.* A long pause that was survived makes σ large for a window's length; `max-silence` bounds what that can do.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Detector, Heard};
use crate::check::Check;
use crate::schema::At;
use crate::units::Time;

const DEFAULT_HEARTBEAT: &str = "20 ms";
const DEFAULT_THRESHOLD: u64 = 8;
const DEFAULT_PAUSE: &str = "100 ms";
const DEFAULT_DEVIATION: &str = "5 ms";
const DEFAULT_SILENCE: &str = "1 s";
const DEFAULT_WINDOW: u64 = 100;
const MIN_HEARTBEAT: Time = Time::millis(1);
const MIN_DEVIATION: Time = Time(100_000);
const MAX_TIME: Time = Time(60_000_000_000);

/// `z(φ)` in millionths, rounded up, for the thresholds from 1 on: how many standard deviations above the mean the normal
/// distribution leaves a tail of 10^−φ.
const TAILS: [u64; 16] = [
    1_281_552, 2_326_348, 3_090_233, 3_719_017, 4_264_891, 4_753_425, 5_199_338, 5_612_002, 5_997_808,
    6_361_341, 6_706_024, 7_034_484, 7_348_797, 7_650_629, 7_941_346, 8_222_083,
];
const MILLION: u128 = 1_000_000;

/// What the user chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often each replica sends a heartbeat.
    pub heartbeat: Time,
    /// The φ from which the peer is suspected, 1 to 16.
    pub threshold: u64,
    /// A silence beyond the mean that is always fine.
    pub acceptable_pause: Time,
    /// The least standard deviation that is believed.
    pub min_deviation: Time,
    /// The silence after which the peer is suspected whatever the intervals say.
    pub max_silence: Time,
    /// How many intervals are remembered.
    pub window: u64,
}

impl Settings {
    /// The silence after which the peer is suspected.
    fn patience(&self, mean: u64, deviation: u64) -> u64 {
        let tail = TAILS[(self.threshold.clamp(1, TAILS.len() as u64) - 1) as usize];
        let spread = u128::from(deviation.max(self.min_deviation.nanos())) * u128::from(tail);
        let patience = u128::from(mean)
            + u128::from(self.acceptable_pause.nanos())
            // Rounded up: not a nanosecond too early.
            + spread.div_ceil(MILLION);
        u64::try_from(patience).unwrap_or(u64::MAX).min(self.max_silence.nanos())
    }

    /// The shortest patience that heartbeats which come as they are sent can lead to.
    fn least_patience(&self) -> u64 {
        self.patience(self.heartbeat.nanos(), 0)
    }
}

/// The last intervals, with their sum and the sum of their squares.
#[derive(Clone, Debug, Default)]
struct Window {
    intervals: VecDeque<u64>,
    sum: u128,
    squares: u128,
}

impl Window {
    fn add(&mut self, interval: u64, most: u64) {
        let square = |interval: u64| u128::from(interval) * u128::from(interval);
        while self.intervals.len() as u64 >= most.max(1)
            && let Some(old) = self.intervals.pop_front()
        {
            self.sum -= u128::from(old);
            self.squares -= square(old);
        }
        self.intervals.push_back(interval);
        self.sum += u128::from(interval);
        self.squares += square(interval);
    }

    /// Mean and standard deviation. Intervals are below 2^36 ns and windows below 2^10: nothing here overflows.
    fn estimate(&self) -> (u64, u64) {
        let count = (self.intervals.len() as u128).max(1);
        let variance = count * self.squares - self.sum * self.sum;
        ((self.sum / count) as u64, (variance.isqrt() / count) as u64)
    }
}

/// The detector.
#[derive(Clone, Debug)]
pub struct PhiAccrual {
    settings: Settings,
    window: Window,
    last_heartbeat: Option<u64>,
    last_heard: Option<u64>,
    /// The silence after which the peer is suspected: changes with the window only.
    patience: u64,
}

impl PhiAccrual {
    /// A detector that has heard nothing yet.
    pub fn new(settings: Settings) -> Self {
        let mut detector =
            Self { settings, window: Window::default(), last_heartbeat: None, last_heard: None, patience: 0 };
        detector.begin();
        detector
    }

    fn begin(&mut self) {
        let (heartbeat, quarter) = (self.settings.heartbeat.nanos(), self.settings.heartbeat.nanos() / 4);
        self.window = Window::default();
        self.last_heartbeat = None;
        self.interval(heartbeat - quarter);
        self.interval(heartbeat + quarter);
    }

    fn interval(&mut self, interval: u64) {
        self.window.add(interval.min(MAX_TIME.nanos()), self.settings.window);
        let (mean, deviation) = self.window.estimate();
        self.patience = self.settings.patience(mean, deviation);
    }
}

impl Detector for PhiAccrual {
    fn heard(&mut self, now_ns: u64, what: Heard) {
        match what {
            Heard::Start => self.begin(),
            Heard::Heartbeat => {
                match self.last_heartbeat {
                    Some(last) if now_ns >= last => self.interval(now_ns - last),
                    _ => {}
                }
                self.last_heartbeat = self.last_heartbeat.max(Some(now_ns));
            }
            Heard::Log | Heard::Ack => {}
        }
        self.last_heard = self.last_heard.max(Some(now_ns));
    }
    fn suspect(&self, now_ns: u64) -> bool {
        self.deadline().is_some_and(|deadline| now_ns >= deadline)
    }
    fn deadline(&self) -> Option<u64> {
        Some(self.last_heard?.saturating_add(self.patience))
    }
    fn heartbeat_interval(&self) -> u64 {
        self.settings.heartbeat.nanos()
    }
    fn describe(&self) -> Option<String> {
        let (mean, deviation) = self.window.estimate();
        let ms = |ns: u64| ns as f64 / 1e6;
        Some(format!("heartbeats came every {:.1} ms, give or take {:.1} ms", ms(mean), ms(deviation)))
    }
}

/// The `[detector.phi-accrual]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "DetectorPhiAccrual")]
pub(crate) struct Table {
    /// How often each replica sends a heartbeat (at least "1 ms").
    #[schemars(extend("default" = DEFAULT_HEARTBEAT))]
    pub(crate) heartbeat: Option<At<Time>>,
    /// The phi from which the peer is suspected: 8 means that a living peer is silent for so long once in 10^8 intervals.
    #[schemars(extend("default" = DEFAULT_THRESHOLD), range(min = 1, max = 16))]
    pub(crate) threshold: Option<At<u64>>,
    /// A silence beyond the mean interval that is always fine, such as that of a host whose every core is busy; at most "1 min".
    #[schemars(extend("default" = DEFAULT_PAUSE))]
    pub(crate) acceptable_pause: Option<At<Time>>,
    /// The least standard deviation of the intervals that is believed (at least "100 us"): however regular they were, they may be
    /// less so.
    #[schemars(extend("default" = DEFAULT_DEVIATION))]
    pub(crate) min_deviation: Option<At<Time>>,
    /// The silence after which the peer is suspected whatever the intervals were (at least twice the heartbeat and the acceptable
    /// pause, at most "1 min"); also how long a record may stay unacknowledged.
    #[schemars(extend("default" = DEFAULT_SILENCE))]
    pub(crate) max_silence: Option<At<Time>>,
    /// How many of the last intervals between heartbeats are remembered.
    #[schemars(extend("default" = DEFAULT_WINDOW), range(min = 2, max = 1000))]
    pub(crate) window: Option<At<u64>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> Settings {
        let time = |check: &Check, value: &Option<At<Time>>, default| {
            check.or_default(value.as_ref(), default, Time::parse)
        };
        let settings = Settings {
            heartbeat: time(check, &self.heartbeat, DEFAULT_HEARTBEAT),
            threshold: self.threshold.as_deref().copied().unwrap_or(DEFAULT_THRESHOLD),
            acceptable_pause: time(check, &self.acceptable_pause, DEFAULT_PAUSE),
            min_deviation: time(check, &self.min_deviation, DEFAULT_DEVIATION),
            max_silence: time(check, &self.max_silence, DEFAULT_SILENCE),
            window: self.window.as_deref().copied().unwrap_or(DEFAULT_WINDOW),
        };
        let in_range = check.range(self.heartbeat.as_ref(), "the heartbeat", MIN_HEARTBEAT, MAX_TIME)
            & check.range(self.acceptable_pause.as_ref(), "the acceptable pause", Time(0), MAX_TIME)
            & check.range(self.min_deviation.as_ref(), "the minimum deviation", MIN_DEVIATION, MAX_TIME)
            & check.range(self.max_silence.as_ref(), "max-silence", MIN_HEARTBEAT, MAX_TIME);
        if in_range && !check.dropped("detector.phi-accrual") {
            self.compare(&settings, check);
        }
        settings
    }

    /// What the values mean together.
    fn compare(&self, settings: &Settings, check: &mut Check) {
        let Settings { heartbeat, acceptable_pause: pause, max_silence, .. } = *settings;
        let two = Time(heartbeat.nanos() * 2);
        let needed = Time(two.nanos() + pause.nanos());
        let first = [&self.max_silence, &self.acceptable_pause, &self.heartbeat];
        if max_silence < needed
            && let Some(at) = first.into_iter().flatten().next()
        {
            check.error(
                at.span(),
                "max-silence leaves the intervals nothing to say",
                format!(
                    "heartbeat \"{heartbeat}\", acceptable-pause \"{pause}\", max-silence \"{max_silence}\""
                ),
                format!(
                    "a max-silence of at least \"{needed}\", twice the heartbeat and the acceptable pause"
                ),
            );
            return;
        }
        let first =
            [&self.acceptable_pause, &self.min_deviation, &self.heartbeat].into_iter().flatten().next();
        let span = first.map(|at| at.span()).or(self.threshold.as_ref().map(|at| at.span()));
        let least = settings.least_patience();
        if least < two.nanos()
            && let Some(span) = span
        {
            check.error(
                span,
                "the detector has too little patience for the heartbeat",
                format!(
                    "regular heartbeats every \"{heartbeat}\" would lead to a suspicion after \"{}\": one late datagram would be one",
                    Time(least)
                ),
                format!("an acceptable-pause of at least \"{heartbeat}\", or a shorter heartbeat"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn settings() -> Settings {
        Settings {
            heartbeat: Time::millis(20),
            threshold: 8,
            acceptable_pause: Time::millis(100),
            min_deviation: Time::millis(5),
            max_silence: Time::millis(1000),
            window: 100,
        }
    }

    /// Told of heartbeats with these intervals, the first at one second.
    fn after(settings: Settings, intervals: impl IntoIterator<Item = u64>) -> (PhiAccrual, u64) {
        let mut detector = PhiAccrual::new(settings);
        let mut now = 1000 * MS;
        detector.heard(now, Heard::Start);
        detector.heard(now, Heard::Heartbeat);
        for interval in intervals {
            now += interval;
            detector.heard(now, Heard::Heartbeat);
        }
        (detector, now)
    }

    fn patience(detector: &PhiAccrual) -> u64 {
        detector.deadline().unwrap() - detector.last_heard.unwrap()
    }

    /// The formula, with a tail that is integrated rather than looked up: Q(x) = ∫ of the density from x on.
    fn phi(settings: &Settings, intervals: &[u64], silence: f64) -> f64 {
        let count = intervals.len() as f64;
        let mean = intervals.iter().map(|&interval| interval as f64).sum::<f64>() / count;
        let square = |interval: &u64| (*interval as f64 - mean).powi(2);
        let deviation = (intervals.iter().map(square).sum::<f64>() / count).sqrt();
        let deviation = deviation.max(settings.min_deviation.nanos() as f64);
        let x = (silence - mean - settings.acceptable_pause.nanos() as f64) / deviation;
        // Simpson's rule over twelve deviations; what is beyond is far below a millionth of the rest.
        let (steps, width) = (4000, 12.0);
        let step = width / f64::from(steps);
        let density = |at: f64| (-at * at / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let weight = |index| match index {
            0 => 1.0,
            index if index == steps => 1.0,
            index if index % 2 == 1 => 4.0,
            _ => 2.0,
        };
        let tail: f64 =
            (0..=steps).map(|index| weight(index) * density(x + f64::from(index) * step)).sum::<f64>();
        -(tail * step / 3.0).log10()
    }

    #[test]
    fn before_anything_is_heard() {
        let detector = PhiAccrual::new(settings());
        assert!(!detector.suspect(u64::MAX) && detector.deadline().is_none());
    }

    #[test]
    fn regular_heartbeats_lead_to_the_least_patience() {
        let (detector, now) = after(settings(), [20 * MS; 200]);
        // 20 + 100 + 5.612002 * 5
        assert_eq!(patience(&detector), 148_060_010);
        assert_eq!(patience(&detector), settings().least_patience());
        assert!(!detector.suspect(now + 148_060_009));
        assert!(detector.suspect(now + 148_060_010));
    }

    #[test]
    fn irregular_heartbeats_are_given_longer() {
        let (detector, _) = after(settings(), [10 * MS, 30 * MS].repeat(100));
        assert_eq!(patience(&detector), 176_120_020);
        let (detector, _) = after(settings(), [MS, 99 * MS].repeat(100));
        assert_eq!(patience(&detector), 50 * MS + 100 * MS + 274_988_098);
    }

    #[test]
    fn the_first_session_begins_with_two_intervals() {
        let (detector, _) = after(settings(), []);
        assert_eq!(detector.window.estimate(), (20 * MS, 5 * MS));
        assert_eq!(patience(&detector), settings().least_patience());
    }

    #[test]
    fn a_new_session_forgets() {
        let (mut detector, now) = after(settings(), [MS, 99 * MS].repeat(100));
        detector.heard(now + 500 * MS, Heard::Start);
        assert_eq!(detector.deadline(), Some(now + 500 * MS + settings().least_patience()));
        // The time between the sessions is no interval.
        detector.heard(now + 510 * MS, Heard::Heartbeat);
        assert_eq!(patience(&detector), settings().least_patience());
    }

    /// Frames under load prove life and say nothing of heartbeats.
    #[test]
    fn bursts_of_frames_make_no_intervals() {
        let (mut detector, now) = after(settings(), [20 * MS; 200]);
        for step in 1..2000 {
            let what = if step % 2 == 0 { Heard::Log } else { Heard::Ack };
            detector.heard(now + step * 10_000, what);
        }
        let last = now + 1999 * 10_000;
        assert_eq!(detector.deadline(), Some(last + settings().least_patience()));
        detector.heard(now + 20 * MS, Heard::Heartbeat);
        assert_eq!(detector.window.estimate(), (20 * MS, 0));
    }

    #[test]
    fn times_that_were_told_before_are_ignored() {
        let (mut detector, now) = after(settings(), [20 * MS; 200]);
        let before = detector.deadline();
        for what in [Heard::Heartbeat, Heard::Log, Heard::Ack] {
            detector.heard(now - 7 * MS, what);
        }
        assert_eq!(detector.deadline(), before);
        detector.heard(u64::MAX - 1, Heard::Log);
        assert!(!detector.suspect(u64::MAX - 1) && detector.suspect(u64::MAX));
    }

    #[test]
    fn what_it_says_of_itself() {
        let (detector, _) = after(settings(), [10 * MS, 30 * MS].repeat(100));
        let said = detector.describe().unwrap();
        assert_eq!(said, "heartbeats came every 20.0 ms, give or take 10.0 ms");
    }

    fn any_settings() -> impl Strategy<Value = Settings> {
        (1..100u64, 1..=16u64, 0..500u64, 1..100u64, 1000..60_000u64, 2..=1000u64).prop_map(
            |(heartbeat, threshold, pause, deviation, silence, window)| Settings {
                heartbeat: Time::millis(heartbeat),
                threshold,
                acceptable_pause: Time::millis(pause),
                min_deviation: Time::millis(deviation),
                max_silence: Time::millis(silence),
                window,
            },
        )
    }

    fn any_what() -> impl Strategy<Value = Heard> {
        prop::sample::select(vec![Heard::Heartbeat, Heard::Heartbeat, Heard::Log, Heard::Ack, Heard::Start])
    }

    proptest! {
        /// The deadline is where suspicion begins, whatever was told in whatever order, and it is bounded.
        #[test]
        fn suspicion_begins_at_the_deadline(
            settings in any_settings(),
            told in prop::collection::vec((prop_oneof![0..200 * MS, 0..u64::MAX / 2], any_what()), 1..300),
        ) {
            let mut detector = PhiAccrual::new(settings);
            let mut latest = 0;
            for (now, what) in told {
                detector.heard(now, what);
                latest = latest.max(now);
                let deadline = detector.deadline().unwrap();
                prop_assert!(deadline > latest && deadline <= latest + settings.max_silence.nanos());
                prop_assert!(!detector.suspect(latest) && !detector.suspect(deadline - 1));
                prop_assert!(detector.suspect(deadline) && detector.suspect(u64::MAX));
            }
        }

        /// What is kept up from interval to interval is what the window says when it is looked at anew.
        #[test]
        fn the_sums_are_those_of_the_window(
            intervals in prop::collection::vec(prop_oneof![0..100 * MS, 0..u64::MAX / 2], 0..300),
            most in 2..=200u64,
        ) {
            let mut window = Window::default();
            for &interval in &intervals {
                window.add(interval.min(MAX_TIME.nanos()), most);
            }
            let last: Vec<u128> =
                intervals.iter().rev().take(most as usize).map(|&interval| u128::from(interval.min(MAX_TIME.nanos()))).collect();
            prop_assert_eq!(window.sum, last.iter().sum::<u128>());
            prop_assert_eq!(window.squares, last.iter().map(|interval| interval * interval).sum::<u128>());
        }

        /// At the deadline the paper's phi is the threshold: a little before it is less, a little later more.
        #[test]
        fn phi_is_the_threshold_at_the_deadline(
            settings in any_settings(),
            intervals in prop::collection::vec(0..200 * MS, 2..100),
        ) {
            let settings = Settings { max_silence: MAX_TIME, window: 1000, ..settings };
            let (detector, _) = after(settings, intervals.iter().copied());
            let quarter = settings.heartbeat.nanos() / 4;
            let seeds = [settings.heartbeat.nanos() - quarter, settings.heartbeat.nanos() + quarter];
            let all = [&seeds[..], &intervals].concat();
            let patience = patience(&detector) as f64;
            let threshold = settings.threshold as f64;
            prop_assert!((phi(&settings, &all, patience) - threshold).abs() < 1e-3);
            prop_assert!(phi(&settings, &all, patience * 0.99) < threshold);
            prop_assert!(phi(&settings, &all, patience * 1.01) > threshold);
        }
    }
}
