//! A replica's generation never goes back, and a higher one is heeded.

use ft_core::Phase;

use super::{Property, Seen};
use crate::world::facts::Facts;

/// What a process has had it does not lose.
#[derive(Debug)]
pub struct Generations;

impl Property for Generations {
    fn name(&self) -> &'static str {
        "generations never go back"
    }

    fn holds_for_two_guests(&self) -> bool {
        true
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

/// Whoever has heard of a higher generation than its own, and has no ask outstanding, is neither live nor a backup any more.
#[derive(Debug)]
pub struct Heard;

impl Property for Heard {
    fn name(&self) -> &'static str {
        "a higher generation is heeded"
    }

    fn holds_for_two_guests(&self) -> bool {
        true
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Datagram { node, generation } = seen else { return Ok(()) };
        let Some(view) = &facts.views[*node] else { return Ok(()) };
        let takes_part = matches!(view.phase, Phase::Live | Phase::Backup | Phase::TakingOver(_));
        if takes_part && !view.asking && view.generation < *generation {
            let name = ["a", "b"][*node];
            return Err(format!(
                "replica {name} goes on in {} and was told of {generation}",
                view.generation
            ));
        }
        Ok(())
    }
}
