//! What a replica says of itself to the operator.

use serde::Serialize;

use super::{Phase, Replica, Stage};
use crate::Nanos;

/// A replica's account of itself. Times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// `primary`, `backup` or `none`.
    pub role: &'static str,
    /// `waiting`, `live`, `alone`, `asking`, `following`, `taking-over`, `deposed`, `ending`, `over`.
    pub state: &'static str,
    /// Generation.
    pub generation: u64,
    /// Last position logged, or executed.
    pub position: u64,
    /// Execution lag: of a primary, how far its backup is behind it.
    pub lag_ms: f64,
    /// Bytes of log sent in all.
    pub log_bytes: u64,
    /// Bytes of log that the backup has not executed.
    pub log_waiting: u64,
    /// Records in all.
    pub records: u64,
    /// Outputs in the gate, or kept back.
    pub outputs_held: usize,
    /// How long outputs were held.
    pub output_delay_ms: Percentiles,
    /// Execution lag as acknowledgements told it.
    pub lag: Percentiles,
    /// For how long nothing has been heard of the peer; 0 without one.
    pub silence_ms: f64,
    /// The longest silence of the peer that ended, since it became one: what a detector's time-out must be well above.
    pub silence_max_ms: f64,
    /// How often the guest stood still because a bound was reached.
    pub stalls: u64,
    /// For how long in all.
    pub stalled_ms: f64,
    /// How often it was not run for so long that it held everything until its backup had answered.
    pub doubts: u64,
    /// Stale frames dropped.
    pub stale: u64,
    /// Datagrams that were none of this pair's, or not signed with its key.
    pub bad_datagrams: u64,
    /// Log connections of somebody who does not have the pair's key, or is of another version.
    pub turned_away: u64,
    /// The generation in which it would go on if a person said so (`ft-vm promote`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for_promotion: Option<u64>,
    /// Share of time that pacing leaves to the vCPU, per mille.
    pub share: u32,
}

/// Percentiles of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Half are at or below.
    pub p50: f64,
    /// 99 of 100 are at or below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How many there were.
    pub count: u64,
}

fn ms(time: Nanos) -> f64 {
    time as f64 / 1e6
}

fn percentiles(histogram: &crate::histogram::Histogram) -> Percentiles {
    Percentiles {
        p50: ms(histogram.percentile(50.0)),
        p99: ms(histogram.percentile(99.0)),
        max: ms(histogram.max()),
        count: histogram.count(),
    }
}

impl<O> Replica<O> {
    /// This replica's account of itself.
    pub fn status(&self, now: Nanos) -> Status {
        let live = matches!(self.phase, Phase::Live | Phase::Ending);
        let role = match self.phase {
            Phase::Live | Phase::Ending => "primary",
            Phase::Backup | Phase::TakingOver(_) => "backup",
            _ => "none",
        };
        let state = match self.phase {
            Phase::Waiting => "waiting",
            Phase::Live if self.ask.is_some() => "asking",
            Phase::Live if !self.started => "starting",
            Phase::Live if self.session.is_some() => "live",
            Phase::Live => "alone",
            Phase::Backup => "following",
            Phase::TakingOver(Stage::Replaying | Stage::Fencing | Stage::Reissuing) => "taking-over",
            Phase::Deposed => "deposed",
            Phase::Ending => "ending",
            Phase::Over => "over",
        };
        Status {
            role,
            state,
            generation: self.generation,
            position: if live { self.position } else { self.backlog.position() },
            lag_ms: ms(self.current_lag(now)),
            log_bytes: self.counters.log_bytes,
            log_waiting: if live { self.log.bytes() } else { self.backlog.bytes() },
            records: if live { self.last } else { self.backlog.received() },
            outputs_held: if live { self.gate.len() } else { self.backlog.kept() },
            output_delay_ms: percentiles(&self.output_delay),
            lag: percentiles(&self.lag),
            silence_ms: self.session.map_or(0.0, |_| ms(now.saturating_sub(self.last_heard))),
            silence_max_ms: ms(self.silence_max),
            stalls: self.counters.stalls,
            stalled_ms: ms(
                self.counters.stalled + self.stalled_since.map_or(0, |since| now.saturating_sub(since))
            ),
            doubts: self.counters.doubts,
            stale: self.counters.stale,
            bad_datagrams: self.counters.bad_datagrams,
            turned_away: self.counters.turned_away,
            waits_for_promotion: self.wants_promotion(),
            share: self.share(),
        }
    }

    /// How far the backup is behind now, on the primary's clock.
    pub fn current_lag(&self, now: Nanos) -> Nanos {
        match (self.session, self.log.oldest_unexecuted()) {
            (Some(_), Some(since)) => {
                let since = self.behind_promise(now).map_or(since, |reached| reached.max(since));
                now.saturating_sub(since)
            }
            _ => 0,
        }
    }
}
