//! More plans with a point of their own. Each brings about one situation that the ordinary draw hardly ever has: what a deliberate
//! mistake needs to show itself, and with it a corner of the protocol that is seldom entered.
//!
//! They are drawn, from a stream of their own, for seeds that have no plan of [`super::special`].

use ft_policies::Time;
use ft_policies::detector::{DetectorKind, fixed};

use super::{Fault, Kind, Plan};
use crate::random::Random;
use crate::shape::{Ambient, MS, Setting, Shape};

/// One seed in so many of those that have no special plan has one of these.
const SHARE: u64 = 3;
/// One seed in so many has a guest whose next position may be told before it is there.
const EXITS: u64 = 4;
/// The replica that starts the guest, and its backup.
pub(super) const PRIMARY: usize = 0;
pub(super) const BACKUP: usize = 1;

/// What is drawn for every seed with one shared disk and a register. True if it has a plan of this kind now.
pub fn draw(random: &mut Random, special: bool, shape: &mut Shape, plan: &mut Plan) -> bool {
    if random.chance(EXITS) {
        shape.exits = true;
        shape.interleaved = random.chance(2);
    }
    if !random.chance(SHARE) || special {
        return false;
    }
    let number = random.next();
    let at = random.below(plan.safety / 2);
    let fault = |kind, victim, at| Fault { kind, victim, at, early: false, lasts: 1200 * MS, number };
    let lasting = |kind, victim, at, lasts| Fault { lasts, ..fault(kind, victim, at) };
    let safety = plan.safety;
    let mut until = |end| plan.safety = safety.max(end);
    plan.faults = match random.below(11) {
        // The guest's end, or the operator's, and nothing else.
        0 => {
            shape.keep(Ambient::HARMLESS);
            shape.backup_pace = shape.backup_pace.min(9);
            if random.chance(3) {
                vec![fault(Kind::Stop, random.below(2) as usize, at)]
            } else {
                shape.profile.end_after = random.between(5, 60);
                vec![]
            }
        }
        // The guest ends, and its backup never gets so far.
        1 => {
            shape.keep(Ambient::HARMLESS);
            shape.profile.end_after = random.between(5, 80);
            vec![fault(Kind::WedgedForGood, BACKUP, random.below(150 * MS))]
        }
        // The primary gives up a backup that gets nowhere, and is asked away from by it if that does not know its state.
        2 => {
            shape.keep(Ambient::HARMLESS);
            shape.profile.end_after = u64::MAX;
            shape.latency = MS / 50;
            if random.chance(2) {
                shape.ambient.push(Ambient::Flood);
            }
            until(at + 2500 * MS);
            vec![fault(Kind::WedgedForGood, BACKUP, at)]
        }
        // Writes that wait for a read whose end the backup is never told of.
        3 => {
            shape.keep(Ambient::HARMLESS);
            shape.reads_on_backup = false;
            (shape.profile.sleeps, shape.profile.hot) = (false, true);
            // As long as a slow read may take, the primary does not know that it has lost its backup.
            shape.detector = detector(400);
            let slow = random.between(5, 60) * MS;
            let cut = at + slow;
            until(cut + 1500 * MS);
            vec![
                lasting(Kind::DiskSlow, PRIMARY, at, slow),
                fault(Kind::Partition, PRIMARY, cut),
                lasting(Kind::RegisterCut, PRIMARY, cut, 1000 * MS),
            ]
        }
        // A primary dies with outputs that are acknowledged and not let out.
        4 => {
            let dies = at + random.between(5, 400) * MS;
            until(dies + 800 * MS);
            vec![fault(Kind::Crowded, PRIMARY, at), fault(Kind::Kill, PRIMARY, dies)]
        }
        // An answer to the first ask comes once more, while a second one is outstanding.
        5 => {
            shape.ambient.push(Ambient::Echoes);
            let at = random.below(300 * MS);
            until(at + 1500 * MS);
            vec![fault(Kind::Kill, BACKUP, at), fault(Kind::RegisterCut, PRIMARY, at)]
        }
        // A backup suspects its primary while that has nothing to say, and hears it again before the tie-breaker has answered.
        6 => {
            shape.keep(Ambient::HARMLESS);
            shape.detector = detector(60);
            if random.chance(3) {
                // The other way round: a primary hears its backup again while its ask is on its way.
                shape.ambient.push(Ambient::OddAnswers);
                until(at + 2000 * MS);
                plan.faults = vec![lasting(Kind::OneWay, PRIMARY, at, random.between(62, 110) * MS)];
                return true;
            }
            shape.profile.sleeps = true;
            shape.client = 100 * MS;
            let lasts = random.between(55, 110) * MS;
            vec![lasting(Kind::OneWay, BACKUP, at, lasts), lasting(Kind::RegisterCut, BACKUP, at, 600 * MS)]
        }
        // A primary that was not run wakes with acknowledgements in its socket, long after its backup has gone live.
        7 => {
            shape.keep(Ambient::HARMLESS);
            shape.setting = Setting::TwoHosts;
            shape.latency = 2 * MS;
            shape.detector = detector(60);
            shape.profile.sleeps = false;
            until(at + 2500 * MS);
            // No heartbeat tells it of the new generation first.
            vec![
                lasting(Kind::Pause, PRIMARY, at, 1500 * MS),
                lasting(Kind::Deaf, PRIMARY, at + 30 * MS, 1700 * MS),
            ]
        }
        // Hosts whose event loops are always late, and one of them is lost.
        8 => {
            shape.keep(Ambient::HARMLESS);
            shape.ambient.push(Ambient::Late);
            shape.setting = Setting::TwoHosts;
            shape.detector = detector(200);
            vec![fault(Kind::HostLoss, PRIMARY, at)]
        }
        // A backup that died is started anew where it cannot see the replica that goes on alone, and waits for longer than a start does.
        9 if random.chance(3) => {
            shape.keep(Ambient::HARMLESS);
            shape.setting = Setting::TwoHosts;
            let back = at + 300 * MS;
            until(back + 2000 * MS);
            vec![
                fault(Kind::Kill, BACKUP, at),
                lasting(Kind::Partition, PRIMARY, back - 100 * MS, 2000 * MS),
                fault(Kind::Restart, BACKUP, back),
            ]
        }
        // A primary's host starts anew at once, while its backup has nothing to say on the connection, and so does not find it dead.
        9 => {
            shape.keep(Ambient::HARMLESS);
            shape.setting = Setting::TwoHosts;
            shape.latency = MS / 50;
            shape.backup_pace = 2;
            shape.profile.sleeps = true;
            shape.client = 100 * MS;
            vec![fault(Kind::Reboot, PRIMARY, at)]
        }
        // A primary dies on its way to a position that its backup was told.
        _ => {
            shape.exits = true;
            shape.slice = 120;
            shape.profile.asks = random.chance(2);
            let kind = random.pick(&[Kind::Kill, Kind::HostLoss, Kind::Pause]);
            vec![fault(kind, PRIMARY, at)]
        }
    };
    plan.faults.sort_by_key(|fault| fault.at);
    true
}

/// One that waits for so many milliseconds.
pub(super) fn detector(timeout: u64) -> DetectorKind {
    let timeout = timeout * MS;
    DetectorKind::Fixed(fixed::Settings { heartbeat: Time(timeout / 5), timeout: Time(timeout) })
}
