//! No replica finds that its peer breaks the protocol: both are this code, and what comes of a mistake is a loss without a reason.

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Honest;

impl Property for Honest {
    fn name(&self) -> &'static str {
        "nobody breaks the protocol"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Step { node, view, .. } = seen else { return Ok(()) };
        // Bytes may be damaged on their way, and so may a backup's guest be, which then reads what its primary does not.
        if view.lies == 0 || facts.corrupt || facts.damaged.is_some() {
            return Ok(());
        }
        Err(format!("replica {} finds that the other one does", ["a", "b"][*node]))
    }
}
