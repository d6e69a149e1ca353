//! The register in an etcd cluster that both replicas reach: as durable, and as available, as the majority of its members.
//!
//! [`client`] is the register, [`gateway`] what is said to a member, and `http` and `tls` how.

pub mod client;
pub mod gateway;
mod http;
mod tls;

use schemars::JsonSchema;
use serde::Deserialize;

use super::TieBreakerKind;
use crate::check::Check;
use crate::schema::At;
use crate::schema::values::{Address, KeyPrefix, NonEmpty};

pub use client::{Etcd, Failure};
pub use tls::{Identity, Tls};

/// More are no cluster that anybody runs, and too many to ask in one call.
pub(crate) const MAX_ENDPOINTS: usize = 9;
const DEFAULT_PREFIX: &str = "/ft-vm/";

/// The `[tie-breaker.etcd]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerEtcd")]
pub(crate) struct Table {
    /// Where the members of the cluster serve clients: IP addresses and ports, all of one cluster. Another one is asked when one
    /// does not answer. Without `ca` this is plain HTTP: whoever can
    /// connect there can take a generation.
    #[schemars(with = "At<Vec<At<Address>>>", extend("examples" = [["192.0.2.3:2379", "192.0.2.4:2379", "192.0.2.5:2379"]]))]
    pub(crate) endpoints: Option<At<Vec<At<Address>>>>,
    /// What the names of the keys begin with; the pair's number and `/generation` follow. Never remove or restore such a key while
    /// its pair runs.
    #[schemars(with = "Option<At<KeyPrefix>>", extend("default" = DEFAULT_PREFIX))]
    pub(crate) prefix: Option<At<KeyPrefix>>,
    /// A file with the certificates (PEM) of which one must have signed those of the members: with it the etcd is asked over TLS.
    /// The members' certificates must name their IP addresses.
    #[schemars(with = "Option<At<NonEmpty>>", extend("examples" = ["etcd-ca.pem"]))]
    pub(crate) ca: Option<At<NonEmpty>>,
    /// A file with the certificate (PEM) with which a replica says who it is, for an etcd with `--client-cert-auth`. Users and
    /// passwords of an etcd are not known here.
    #[schemars(with = "Option<At<NonEmpty>>", extend("examples" = ["etcd-client.pem"]))]
    pub(crate) cert: Option<At<NonEmpty>>,
    /// A file with the private key (PEM) of that certificate.
    #[schemars(with = "Option<At<NonEmpty>>", extend("examples" = ["etcd-client-key.pem"]))]
    pub(crate) key: Option<At<NonEmpty>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> TieBreakerKind {
        let given = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        for (name, needed) in [("cert", ["key", "ca"]), ("key", ["cert", "ca"])] {
            let at = given.iter().find(|(given, _)| *given == name).and_then(|(_, at)| at.as_ref());
            let missing = given.iter().find(|(given, at)| {
                needed.contains(given) && at.is_none() && !check.dropped(&format!("tie-breaker.etcd.{given}"))
            });
            if let (Some(at), Some((missing, _))) = (at, missing) {
                let help = "with TLS there is a `ca`, and a `cert` and its `key` together, or neither";
                check.error(at.span(), format!("there is a `{name}` and no `{missing}`"), "", help);
            }
        }
        let identity = self.cert.as_ref().zip(self.key.as_ref());
        let identity = identity.map(|(cert, key)| Identity { cert: check.path(cert), key: check.path(key) });
        let tls = self.ca.as_ref().map(|ca| Tls { ca: check.path(ca), identity });
        let endpoints = self.endpoints.map(At::into_inner).unwrap_or_default();
        TieBreakerKind::Etcd {
            endpoints: endpoints.iter().filter_map(|at| at.socket()).collect(),
            prefix: self.prefix.map_or_else(|| DEFAULT_PREFIX.to_owned(), |at| at.into_inner().0),
            tls,
        }
    }
}
