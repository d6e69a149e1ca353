//! Nothing is let out before the guest's address has moved to the replica, in the generation in which it lets it out.

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Address;

impl Property for Address {
    fn name(&self) -> &'static str {
        "the address first"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Released { node, generation, lsn, .. } = seen else { return Ok(()) };
        match facts.live_in.get(&facts.incarnations[*node]) {
            Some(live) if live == generation => Ok(()),
            live => Err(format!(
                "replica {} lets output {lsn} out in generation {generation}, and has said that it is live in {live:?}",
                ["a", "b"][*node]
            )),
        }
    }
}
