//! Buffers are bounded: the gate, the log on both sides, what a backup keeps.

use ft_core::log::HEADROOM;
use ft_core::record::MAX_RECORD_COST;

use super::{Property, Seen};
use crate::node::life::LOG;
use crate::world::facts::Facts;

/// What one stop of the guest may make past a bound.
const BURST: usize = 16;
/// What is released in the time that it takes to tell the backup.
const UNTOLD: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct Bounds;

impl Property for Bounds {
    fn name(&self) -> &'static str {
        "buffers are bounded"
    }

    fn holds_for_two_guests(&self) -> bool {
        true
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Step { view, .. } = seen else { return Ok(()) };
        let gate = facts.gate + BURST;
        // A new primary's gate takes what it kept as a backup.
        if view.gate.0 > gate + UNTOLD {
            return Err(format!("{} outputs in a gate for {}", view.gate.0, facts.gate));
        }
        if view.log.2 > LOG || view.backlog.2 > LOG + MAX_RECORD_COST {
            return Err(format!("{} bytes of log, {} of backlog", view.log.2, view.backlog.2));
        }
        if view.kept > gate + UNTOLD {
            return Err(format!("{} outputs kept back", view.kept));
        }
        Ok(())
    }
}

/// An input is taken in only where the log has room for its record, and for the markers of what it makes.
#[derive(Debug)]
pub struct Room;

impl Property for Room {
    fn name(&self) -> &'static str {
        "room before an input"
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        match seen {
            Seen::Input { cost, paired: true, log } if log + cost + HEADROOM > LOG => {
                Err(format!("an input of {cost} bytes is taken in where {log} of {LOG} are in use"))
            }
            _ => Ok(()),
        }
    }
}
