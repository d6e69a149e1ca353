//! The backup never executes past what it was told, and guest time never goes back.

use ft_core::Phase;

use super::{Property, Seen};
use crate::world::facts::Facts;

/// Told q, the guest of a backup stands at q at most.
#[derive(Debug)]
pub struct NeverPastTheTold;

impl Property for NeverPastTheTold {
    fn name(&self) -> &'static str {
        "never past the position told"
    }

    fn holds_for_two_guests(&self) -> bool {
        true
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        let Seen::Step { view, position, .. } = seen else { return Ok(()) };
        let follows = matches!(view.phase, Phase::Backup | Phase::TakingOver(_));
        if follows && *position > view.told {
            return Err(format!("the backup's guest stands at {position}, and it was told {}", view.told));
        }
        Ok(())
    }
}

/// A guest that looks at its clock never sees an earlier time than before.
#[derive(Debug)]
pub struct GuestTime;

impl Property for GuestTime {
    fn name(&self) -> &'static str {
        "guest time never goes back"
    }

    fn holds_for_two_guests(&self) -> bool {
        true
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        match seen {
            Seen::Step { node, time_went_back: true, .. } => {
                Err(format!("the guest of replica {} saw it", ["a", "b"][*node]))
            }
            _ => Ok(()),
        }
    }
}
