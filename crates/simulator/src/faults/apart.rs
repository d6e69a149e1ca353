//! Pairs with a copy of the disk on each side, pairs whose tie-breaker is a person, and what goes wrong with those: drawn for some
//! seeds, after everything else and from a stream of its own, so that all other seeds are what they were.

use super::{Fault, Kind, Plan};
use crate::random::Random;
use crate::shape::{MS, Shape};

/// Changes what was drawn, for the seeds that are of this kind.
pub fn draw(seed: u64, random: &mut Random, shape: &mut Shape, plan: &mut Plan) {
    let by_hand = match seed % 5 {
        1 => false,
        4 => true,
        _ => return,
    };
    shape.by_hand = by_hand;
    shape.separate = random.chance(if by_hand { 2 } else { 1 }) || random.chance(2);
    if shape.separate {
        // Blocks are of 64 KiB.
        shape.bandwidth = random.pick(&[400_000, 1_000_000]);
        shape.files = random.pick(&[[false, false], [true, true], [true, false]]);
    }
    if by_hand {
        // Nobody puts back what each side has for itself.
        plan.faults.retain(|fault| fault.kind != Kind::Restored);
    }
    if plan.faults.iter().any(|fault| fault.kind == Kind::Restored) {
        return;
    }
    if by_hand && random.chance(5) {
        return quarrel(random, plan);
    }
    let mut more = |kind: Kind, random: &mut Random| {
        plan.faults.push(Fault {
            kind,
            victim: random.below(2) as usize,
            at: random.below(plan.safety * 3 / 4),
            lasts: random.pick(&[10, 100, 600]) * MS + random.below(50 * MS),
            early: false,
            number: random.next(),
        });
    };
    if random.chance(2) {
        more(Kind::Blackout, random);
        if random.chance(3) {
            more(Kind::Blackout, random);
        }
    }
    if shape.separate && random.chance(3) {
        more(Kind::CopyCut, random);
        more(Kind::Blackout, random);
    }
    if shape.separate && random.chance(3) {
        more(Kind::CopyMissing, random);
    }
    if shape.separate && random.chance(8) {
        more(Kind::CopyLost, random);
    }
    if random.chance(6) {
        more(Kind::Truncate, random);
    }
    if by_hand && random.chance(2) {
        more(Kind::Promote, random);
        more(Kind::Promote, random);
    }
    plan.faults.sort_by_key(|fault| fault.at);
}

/// The two cannot see each other, and a careless person promotes both.
fn quarrel(random: &mut Random, plan: &mut Plan) {
    plan.safety = 3000 * MS;
    let mut at = random.below(300 * MS);
    let number = random.next() << 3;
    plan.faults =
        vec![Fault { kind: Kind::Partition, victim: 0, at, early: false, lasts: 2500 * MS, number }];
    for victim in 0..2 {
        at += random.below(300 * MS);
        let lasts = 2500 * MS;
        plan.faults.push(Fault { kind: Kind::Promote, victim, at, early: false, lasts, number });
    }
}
