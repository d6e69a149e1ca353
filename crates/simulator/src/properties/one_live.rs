//! At most one replica is live in any generation, and it is the one that won it.

use ft_core::Phase;
use ft_core::replica::View;

use super::{Property, Seen};
use crate::world::facts::Facts;

/// Never two live in one generation.
#[derive(Debug)]
pub struct OneLive;

fn is_live(view: &View) -> bool {
    matches!(view.phase, Phase::Live | Phase::Ending) && view.started && !view.asking
}

impl Property for OneLive {
    fn name(&self) -> &'static str {
        "one live replica"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Step { node, view, .. } = seen else { return Ok(()) };
        match &facts.views[1 - node] {
            Some(other) if is_live(view) && is_live(other) && view.generation == other.generation => {
                Err(format!("both replicas are live in generation {}", view.generation))
            }
            _ => Ok(()),
        }
    }
}

/// Whoever lets something out, or says that it is live, has won that generation itself.
#[derive(Debug)]
pub struct Won;

impl Property for Won {
    fn name(&self) -> &'static str {
        "live only after a win"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let (Seen::Released { node, generation, .. } | Seen::Live { node, generation, .. }) = seen else {
            return Ok(());
        };
        match facts.wins.get(generation) {
            Some(_) if facts.has_won(*generation, facts.incarnations[*node]) => Ok(()),
            Some(who) => Err(format!(
                "replica {} acts in generation {generation}, which replica {} has won",
                ["a", "b"][*node],
                who.replica
            )),
            None => Err(format!(
                "replica {} acts in generation {generation}, which nobody has won",
                ["a", "b"][*node]
            )),
        }
    }
}
