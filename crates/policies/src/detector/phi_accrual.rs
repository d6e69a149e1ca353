//! The table of the phi-accrual detector: known to the schema, not available yet.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::At;
use crate::units::Time;

/// The `[detector.phi-accrual]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "DetectorPhiAccrual")]
#[expect(dead_code, reason = "refused as a whole until it exists; the fields are for the schema")]
pub(crate) struct Table {
    /// How often each replica sends a heartbeat.
    #[schemars(extend("default" = "20 ms"))]
    pub(crate) heartbeat: Option<At<Time>>,
    /// The phi from which the peer is suspected: 8 means that the silence had a chance of one in 10^8.
    #[schemars(extend("default" = 8), range(min = 1, max = 16))]
    pub(crate) threshold: Option<At<u64>>,
}
