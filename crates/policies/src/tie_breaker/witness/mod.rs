//! The register at a witness: a small server (`ft-vm witness`) on a third host, with a durable state, that both replicas reach.
//!
//! [`wire`] is what is said, [`client`] the register as a replica sees it, [`store`] what the witness remembers and [`server`]
//! how it is asked. [`crate::key`] is what makes the two believe each other.

pub mod client;
pub mod server;
mod state;
pub mod store;
pub mod wire;

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::At;
use crate::schema::values::{Address, NonEmpty};

pub use client::Witness;
pub use server::{ServeError, Server};

/// The `[tie-breaker.witness]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerWitness")]
pub(crate) struct Table {
    /// Where the witness listens: an IP address or `localhost`, and a port.
    #[schemars(with = "At<Address>", extend("examples" = ["192.0.2.3:7100"]))]
    pub(crate) address: Option<At<Address>>,
    /// The file of the secret that this pair shares with the witness, relative to this file; `ft-vm key FILE` makes one. Only its
    /// owner may read it. The witness has it in the file of its `--keys`. It may be left out only where the address is loopback:
    /// without a key whoever reaches the witness can take a generation.
    #[schemars(extend("examples" = ["pair.key"]))]
    pub(crate) key: Option<At<NonEmpty>>,
}

impl Table {
    /// The address where it is one.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        self.address.as_ref()?.socket()
    }
}
