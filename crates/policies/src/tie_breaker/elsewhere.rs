//! The tables of the tie-breakers that are known to the schema but not available yet.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::At;
use crate::schema::values::Address;

/// The `[tie-breaker.etcd]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerEtcd")]
#[expect(dead_code, reason = "refused as a whole until it exists; the fields are for the schema")]
pub(crate) struct Etcd {
    /// The addresses of the etcd cluster's members.
    #[schemars(with = "At<Vec<At<Address>>>")]
    pub(crate) endpoints: Option<At<Vec<At<Address>>>>,
    /// What the names of this pair's keys begin with.
    #[schemars(extend("default" = "/ft-vm/"))]
    pub(crate) prefix: Option<At<String>>,
}
