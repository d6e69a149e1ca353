//! No pacing: only a full buffer holds the primary up.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{FULL_SHARE, Pacing, PerMille};

/// The virtual CPU always has the whole time.
#[derive(Clone, Copy, Debug)]
pub struct NoPacing;

impl Pacing for NoPacing {
    fn on_lag(&mut self, _now_ns: u64, _lag_ns: u64) {}
    fn share(&self) -> PerMille {
        FULL_SHARE
    }
}

/// The `[pacing.none]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PacingNone")]
pub(crate) struct Table {}
