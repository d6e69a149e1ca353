//! No replica ends for a reason that its pair does not have: a divergence, a mismatch, a failure of its own.

use ft_core::replica::Exit;

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Divergence;

impl Property for Divergence {
    fn name(&self) -> &'static str {
        "nobody diverges, and nobody ends without a reason"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Halted { node, exit, message } = seen else { return Ok(()) };
        let fine = match exit {
            Exit::LostTieBreaker => facts.is_deposed(*node),
            // Its primary goes on without it, and has written what this one was about to read: it has lost, and does not know yet.
            Exit::Divergence => facts.is_deposed(*node) || facts.damaged == Some(facts.incarnations[*node]),
            // A replica that starts while the other one's guest runs is turned away; so is one that was not armed in time. And one
            // whose own copy of the disk fails it gives up.
            Exit::Failure => facts.restarted || facts.is_left_behind(*node) || facts.disk_errors,
            Exit::Mismatch => facts.corrupt,
        };
        if fine { Ok(()) } else { Err(format!("replica {} ends: {message}", ["a", "b"][*node])) }
    }
}
