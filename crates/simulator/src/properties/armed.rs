//! The guest of a pair does not run before its backup is armed, and a backup that was never armed does not ask.

use ft_core::Phase;

use super::{Property, Seen};
use crate::world::facts::Facts;

/// See the module.
#[derive(Debug)]
pub struct Armed;

impl Property for Armed {
    fn name(&self) -> &'static str {
        "armed first"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Step { node, view, .. } = seen else { return Ok(()) };
        let name = ["a", "b"][*node];
        if matches!(view.phase, Phase::TakingOver(_)) && !view.armed {
            return Err(format!("replica {name} takes over and was never armed"));
        }
        // The first record of a session is the one that arms.
        let armed = view
            .session
            .is_none_or(|(id, _)| facts.sessions.get(&id).is_some_and(|known| known.received > 0));
        if view.phase == Phase::Live && view.started && !armed {
            return Err(format!("the guest of replica {name} runs and its backup is not armed"));
        }
        Ok(())
    }
}
