//! The tables of the tie-breakers that are known to the schema but not available yet.

use schemars::JsonSchema;
use serde::Deserialize;

/// The `[tie-breaker.manual]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TieBreakerManual")]
pub(crate) struct Manual {}
