//! A primary that was not run, or heard nothing, lets nothing out once its backup has gone live without it.

use ft_core::{Nanos, Phase};

use super::{Property, Seen};
use crate::shape::MS;
use crate::world::facts::Facts;

/// Acknowledgements may be on their way to it for as long as it does not notice the silence: the longest of any detector that is drawn
/// here, and what the network adds. What it lets out so long after the fact it must have doubted.
const NOTICE: Nanos = 700 * MS;

/// See the module.
#[derive(Debug)]
pub struct Deposed;

impl Property for Deposed {
    fn name(&self) -> &'static str {
        "a deposed replica lets nothing out"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Released { node, generation, lsn, .. } = seen else { return Ok(()) };
        let other = 1 - node;
        let Some(view) = &facts.views[other] else { return Ok(()) };
        let live = view.phase == Phase::Live && view.started && !view.asking && view.generation > *generation;
        let since = facts.live_since.get(&facts.incarnations[other]);
        match since {
            Some(since) if live && facts.now > since + NOTICE => Err(format!(
                "replica {} lets output {lsn} out in generation {generation}, and the other one has been live in {} for {} ms",
                ["a", "b"][*node],
                view.generation,
                (facts.now - since) / MS
            )),
            _ => Ok(()),
        }
    }
}
