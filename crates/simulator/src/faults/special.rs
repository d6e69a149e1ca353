//! Plans for what the ordinary draw does not bring about, or hardly ever: faults of the start, faults that must be alone, and those that
//! mean something only after another one.
//!
//! They have a stream of their own: a seed without a special plan is what it was before there were any.

use super::{Fault, Kind, Plan};
use crate::random::Random;
use crate::shape::{Ambient, MS, Setting, Shape};

/// One seed in so many has a special plan.
const SHARE: u64 = 4;

/// Gives this seed a special plan in the place of its own, perhaps. True if it has one now.
pub fn draw(random: &mut Random, shape: &mut Shape, plan: &mut Plan) -> bool {
    if !random.chance(SHARE) {
        return false;
    }
    let number = random.next();
    let victim = random.below(2) as usize;
    let at = random.below(plan.safety / 2);
    let fault = |kind, victim, at| Fault { kind, victim, at, early: false, lasts: 1200 * MS, number };
    // Replica a is the first primary.
    let first = if random.chance(4) { 1 } else { 0 };
    plan.faults = match random.below(10) {
        // A backup whose guest is damaged must notice, and end: there is nobody to take over from.
        0 => {
            shape.keep(Ambient::HARMLESS);
            shape.profile.end_after = u64::MAX;
            vec![fault(Kind::Damage, 0, at), fault(Kind::Damage, 1, at)]
        }
        // The pair is undisturbed otherwise: a thread that gets nowhere and a peer that is taken for lost without a reason are two faults.
        1 => {
            shape.keep(&[Ambient::Duplicates, Ambient::Clocks, Ambient::SlowWrites, Ambient::OddAnswers]);
            if random.chance(3) {
                shape.ambient.push(Ambient::Flood);
                plan.safety = plan.safety.max(at + 2500 * MS);
            }
            vec![fault(Kind::WedgedForGood, victim, at)]
        }
        2 => {
            shape.setting = Setting::TwoHosts;
            vec![fault(Kind::Reboot, first, at)]
        }
        3 => {
            let lost = random.pick(&[Kind::Kill, Kind::Pause, Kind::Cut, Kind::Partition, Kind::HostLoss]);
            vec![
                fault(Kind::Restored, victim, at),
                fault(lost, random.below(2) as usize, at + MS + random.below(200 * MS)),
            ]
        }
        // Both, or one, ask; one dies of it, and comes again while its call may still be on its way.
        4 | 5 => {
            let lost = random.pick(&[Kind::Kill, Kind::Cut, Kind::Partition, Kind::HostLoss]);
            let asker = random.below(2) as usize;
            shape.ambient.push(Ambient::OddAnswers);
            let again = at + random.between(100, 600) * MS;
            plan.safety = plan.safety.max(again + 1500 * MS);
            vec![
                fault(Kind::KillAsker, asker, at),
                fault(lost, random.below(2) as usize, at + MS),
                fault(Kind::Restart, asker, again),
            ]
        }
        6 => {
            plan.safety = plan.safety.max(at + 2000 * MS);
            let later = at + random.between(20, 600) * MS;
            vec![fault(Kind::Kill, victim, at), fault(Kind::Return, victim, later)]
        }
        // The start itself.
        7 => {
            let kinds = [
                Kind::Cut,
                Kind::Partition,
                Kind::OneWay,
                Kind::Pause,
                Kind::Clog,
                Kind::RegisterCut,
                Kind::RegisterDown,
            ];
            let kind = if random.chance(2) { Kind::Corrupt } else { random.pick(&kinds) };
            let victim = if kind == Kind::Corrupt { 1 } else { victim };
            let (early, lasts) = (true, random.between(10, 900) * MS);
            vec![Fault { early, lasts, ..fault(kind, victim, random.below(70 * MS)) }]
        }
        8 => {
            shape.setting = Setting::TwoHosts;
            shape.ambient.push(Ambient::Late);
            vec![fault(Kind::HostLoss, first, at)]
        }
        // A primary that wakes with acknowledgements in its socket, long after its backup has gone live.
        _ => {
            shape.setting = Setting::TwoHosts;
            shape.latency = 2 * MS;
            plan.safety = plan.safety.max(at + 1500 * MS);
            vec![fault(Kind::Pause, 0, at)]
        }
    };
    plan.faults.sort_by_key(|fault| fault.at);
    true
}
