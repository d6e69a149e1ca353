//! A replica's generation never goes back.

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Generations;

impl Property for Generations {
    fn name(&self) -> &'static str {
        "generations never go back"
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        let Seen::Step { node, view, before: Some(before), .. } = seen else { return Ok(()) };
        if view.generation < before.generation {
            let name = ["a", "b"][*node];
            return Err(format!("replica {name} goes from {} to {}", before.generation, view.generation));
        }
        Ok(())
    }
}
