//! Seeds in which another process of one identity runs for a while, beside whatever else goes wrong: drawn from a stream of its own, so
//! that all other seeds are what they were. Plans with a point take its place.

use super::{Fault, Kind, Plan};
use crate::random::Random;
use crate::shape::MS;

/// One seed in so many.
const SHARE: u64 = 16;

/// Adds it, perhaps; some are there before the guest has started.
pub fn draw(random: &mut Random, plan: &mut Plan) {
    // A store put back together with anything else is more than one fault.
    let restored = plan.faults.iter().any(|fault| fault.kind == Kind::Restored);
    if !random.chance(SHARE) || restored {
        return;
    }
    let early = random.chance(4);
    let at = random.below(if early { 60 * MS } else { plan.safety * 3 / 4 });
    // Shorter or longer than start-alone, after which it may ask.
    let lasts = random.pick(&[200, 800, 2500]) * MS;
    let (victim, number) = (random.below(2) as usize, random.next());
    plan.safety = plan.safety.max(at + random.below(2000 * MS));
    plan.faults.push(Fault { kind: Kind::Twin, victim, at, early, lasts, number });
    plan.faults.sort_by_key(|fault| fault.at);
}
