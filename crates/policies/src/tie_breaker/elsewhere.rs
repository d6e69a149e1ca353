//! The tables of the tie-breakers that are known to the schema but not available yet.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::At;
use crate::schema::values::Address;

/// The `[tie-breaker.witness]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[schemars(rename = "TieBreakerWitness")]
pub(crate) struct Witness {
    /// Where the witness server listens.
    #[schemars(required)]
    pub(crate) address: Option<At<Address>>,
}

/// The `[tie-breaker.etcd]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[schemars(rename = "TieBreakerEtcd")]
pub(crate) struct Etcd {
    /// The addresses of the etcd cluster's members.
    #[schemars(required)]
    pub(crate) endpoints: Option<At<Vec<At<Address>>>>,
    /// What the names of this pair's keys begin with.
    #[schemars(extend("default" = "/ft-vm/"))]
    pub(crate) prefix: Option<At<String>>,
}

/// The `[tie-breaker.manual]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TieBreakerManual")]
pub(crate) struct Manual {}
