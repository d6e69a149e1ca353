//! Plans with a point of their own that came after those of [`super::pointed`]: from a stream of their own, for seeds that have none of
//! the others, so that these are what they were.

use super::pointed::{BACKUP, PRIMARY, detector};
use super::{Fault, Kind, Plan};
use crate::random::Random;
use crate::shape::{Ambient, MS, Setting, Shape};

/// One seed in so many of those without another plan.
const SHARE: u64 = 12;

/// Draws one, perhaps.
pub fn draw(random: &mut Random, shape: &mut Shape, plan: &mut Plan) {
    if !random.chance(SHARE) {
        return;
    }
    let number = random.next();
    let at = random.below(plan.safety / 2);
    let fault = |kind, victim, at, lasts| Fault { kind, victim, at, early: false, lasts, number };
    shape.keep(Ambient::HARMLESS);
    plan.faults = if random.chance(2) {
        // A backup that reads for itself, and never can any more.
        shape.reads_on_backup = true;
        shape.profile.end_after = u64::MAX;
        plan.safety = plan.safety.max(at + 2500 * MS);
        vec![fault(Kind::DiskErrorsForGood, BACKUP, at, 0)]
    } else {
        // A primary sleeps, and hears nothing when it wakes, while two generations are won.
        shape.setting = Setting::TwoHosts;
        shape.profile.end_after = u64::MAX;
        shape.detector = detector(60);
        let (dies, wakes) = (at + random.between(300, 700) * MS, at + 2500 * MS);
        plan.safety = plan.safety.max(wakes + 800 * MS);
        vec![
            fault(Kind::Pause, PRIMARY, at, 2500 * MS),
            fault(Kind::Deaf, PRIMARY, at + MS, 3200 * MS),
            fault(Kind::Kill, BACKUP, dies, 0),
            fault(Kind::Restart, BACKUP, dies + 100 * MS, 0),
        ]
    };
    plan.faults.sort_by_key(|fault| fault.at);
}
