//! How fast the primary may run when the backup does not keep up (paper, section 2.4).
//!
//! A strategy turns the execution lag into the share of time that the primary's virtual CPU may run.

pub mod lag_feedback;
pub(crate) mod none;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::Check;
pub use lag_feedback::LagFeedback;
pub use none::NoPacing;

/// A share in thousandths.
pub type PerMille = u32;
/// The virtual CPU may run all the time.
pub const FULL_SHARE: PerMille = 1000;

/// A pacing strategy.
pub trait Pacing {
    /// The execution lag as an acknowledgement told it: `lag_ns` is how long ago, on the primary's clock, the primary
    /// was where the backup now stands. `now_ns` is any monotonic clock, always the same one.
    fn on_lag(&mut self, now_ns: u64, lag_ns: u64);
    /// The share of time that the primary's virtual CPU may run now: 1 to [`FULL_SHARE`].
    fn share(&self) -> PerMille;
}

/// `[pacing.KIND]`, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacingKind {
    /// `[pacing.none]`
    None,
    /// `[pacing.lag-feedback]`
    LagFeedback(lag_feedback::Settings),
}

impl PacingKind {
    /// A fresh strategy of this kind.
    pub fn build(&self) -> Box<dyn Pacing + Send> {
        match self {
            Self::None => Box::new(NoPacing),
            Self::LagFeedback(settings) => Box::new(LagFeedback::new(*settings)),
        }
    }
    /// The name of its table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::LagFeedback(_) => "lag-feedback",
        }
    }
}

/// How fast the primary may run when the backup does not keep up: exactly one of these tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Pacing")]
pub(crate) enum Table {
    /// The primary runs at full speed until the log buffer is full.
    None(none::Table),
    /// The paper's slow loop: a few per cent less while the execution lag is over the target, a little more when it is
    /// not.
    LagFeedback(lag_feedback::Table),
}

impl Table {
    pub(crate) fn resolve(table: Option<Self>, check: &mut Check) -> PacingKind {
        match table {
            None => PacingKind::LagFeedback(lag_feedback::Table::default().resolve(check)),
            Some(Self::None(none::Table {})) => PacingKind::None,
            Some(Self::LagFeedback(table)) => PacingKind::LagFeedback(table.resolve(check)),
        }
    }
}
