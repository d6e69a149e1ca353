//! A backup whose guest was damaged never lives.

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Damage;

impl Property for Damage {
    fn name(&self) -> &'static str {
        "a diverged copy never lives"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        match seen {
            Seen::Live { node, .. } | Seen::Released { node, .. }
                if facts.damaged == Some(facts.incarnations[*node]) =>
            {
                Err(format!("replica {} goes on with a guest that was damaged", ["a", "b"][*node]))
            }
            _ => Ok(()),
        }
    }
}
