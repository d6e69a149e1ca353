//! The register in an etcd cluster that both replicas reach: as durable, and as available, as the majority of its members.
//!
//! [`client`] is the register, [`gateway`] what is said to a member, and `http` how.

pub mod client;
pub mod gateway;
mod http;

use schemars::JsonSchema;
use serde::Deserialize;

use super::TieBreakerKind;
use crate::schema::At;
use crate::schema::values::{Address, KeyPrefix};

pub use client::{Etcd, Failure};

/// More are no cluster that anybody runs, and too many to ask in one call.
pub(crate) const MAX_ENDPOINTS: usize = 9;
const DEFAULT_PREFIX: &str = "/ft-vm/";

/// The `[tie-breaker.etcd]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerEtcd")]
pub(crate) struct Table {
    /// Where the members of the cluster serve clients: IP addresses and ports, all of one cluster. Another one is asked when one
    /// does not answer. Plain HTTP, without a password: whoever can connect there can take a generation.
    #[schemars(with = "At<Vec<At<Address>>>", extend("examples" = [["192.0.2.3:2379", "192.0.2.4:2379", "192.0.2.5:2379"]]))]
    pub(crate) endpoints: Option<At<Vec<At<Address>>>>,
    /// What the names of the keys begin with; the pair's number and `/generation` follow. Never remove or restore such a key while
    /// its pair runs.
    #[schemars(with = "Option<At<KeyPrefix>>", extend("default" = DEFAULT_PREFIX))]
    pub(crate) prefix: Option<At<KeyPrefix>>,
}

impl Table {
    pub(crate) fn resolve(self) -> TieBreakerKind {
        let endpoints = self.endpoints.map(At::into_inner).unwrap_or_default();
        TieBreakerKind::Etcd {
            endpoints: endpoints.iter().filter_map(|at| at.socket()).collect(),
            prefix: self.prefix.map_or_else(|| DEFAULT_PREFIX.to_owned(), |at| at.into_inner().0),
        }
    }
}
