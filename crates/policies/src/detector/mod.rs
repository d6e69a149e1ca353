//! When a silent peer is suspected to be gone.
//!
//! A suspicion decides nothing: it makes a replica ask the tie-breaker. A closed connection is a suspicion at once, and
//! needs no detector.

pub mod fixed;
pub mod phi_accrual;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::Check;
use crate::units::Time;
pub use fixed::Fixed;
pub use phi_accrual::PhiAccrual;

/// What was heard of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The session begins: silence counts from here.
    Start,
    /// A heartbeat datagram.
    Heartbeat,
    /// A frame of the log (heard by the backup).
    Log,
    /// An acknowledgement (heard by the primary).
    Ack,
}

/// A failure detector. All times are nanoseconds of one monotonic clock.
pub trait Detector {
    /// Something was heard at `now_ns`. Earlier times than one already told are ignored.
    fn heard(&mut self, now_ns: u64, what: Heard);
    /// Whether the peer is suspected at `now_ns`. Never before the first [`Detector::heard`].
    fn suspect(&self, now_ns: u64) -> bool;
    /// The first moment at which [`Detector::suspect`] is true if nothing is heard until then; `None` before the first
    /// [`Detector::heard`].
    fn deadline(&self) -> Option<u64>;
    /// How often this side sends a heartbeat of its own, in nanoseconds.
    fn heartbeat_interval(&self) -> u64;
    /// What the detector knows of the peer beyond the silence, for the message of a suspicion.
    fn describe(&self) -> Option<String> {
        None
    }
}

/// `[detector.KIND]`, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorKind {
    /// `[detector.fixed]`
    Fixed(fixed::Settings),
    /// `[detector.phi-accrual]`
    PhiAccrual(phi_accrual::Settings),
}

impl DetectorKind {
    /// A fresh detector that has heard nothing yet.
    pub fn build(&self) -> Box<dyn Detector + Send> {
        match self {
            Self::Fixed(settings) => Box::new(Fixed::new(*settings)),
            Self::PhiAccrual(settings) => Box::new(PhiAccrual::new(*settings)),
        }
    }
    /// The name of its table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::PhiAccrual(_) => "phi-accrual",
        }
    }
    /// How often a heartbeat is sent.
    pub fn heartbeat(&self) -> Time {
        match self {
            Self::Fixed(settings) => settings.heartbeat,
            Self::PhiAccrual(settings) => settings.heartbeat,
        }
    }
    /// The longest that an unacknowledged record may wait before the peer is suspected, whatever else arrives.
    pub fn ack_timeout(&self) -> Time {
        match self {
            Self::Fixed(settings) => settings.timeout,
            // The intervals of heartbeats say nothing of how long a record takes: the bound of all patience.
            Self::PhiAccrual(settings) => settings.max_silence,
        }
    }
}

/// When a silent peer is suspected to be gone: exactly one of these tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Detector")]
pub(crate) enum Table {
    /// After a fixed time of silence.
    Fixed(fixed::Table),
    /// When the silence has become improbable, judged by how heartbeats came lately (phi accrual: Hayashibara and others, SRDS
    /// 2004): after the mean of the last intervals, and the acceptable pause, and as many standard deviations as the normal
    /// distribution exceeds once in 10^threshold times (5.6 for 8). Log and acknowledgements end a silence too, but make no
    /// intervals. With the defaults that is 148 ms while heartbeats come regularly, more while they do not.
    PhiAccrual(phi_accrual::Table),
}

impl Table {
    pub(crate) fn resolve(table: Option<Self>, check: &mut Check) -> DetectorKind {
        match table {
            Some(Self::Fixed(table)) => DetectorKind::Fixed(table.resolve(check)),
            Some(Self::PhiAccrual(table)) => DetectorKind::PhiAccrual(table.resolve(check)),
            None => DetectorKind::Fixed(fixed::Table::default().resolve(check)),
        }
    }
}
