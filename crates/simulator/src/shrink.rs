//! Makes a failing run smaller: fewer faults, fewer conditions, a shorter time, as long as the same property is violated.

use crate::run::{Without, draw, run};
use crate::shape::MS;

/// What can be left out of a failing seed's run.
pub fn shrink(seed: u64) -> Without {
    let mut without = Without::default();
    let Some(violation) = run(seed, &without, 0).violation else { return without };
    let fails = |candidate: &Without| {
        run(seed, candidate, 0).violation.is_some_and(|found| found.property == violation.property)
    };
    let (shape, plan) = draw(seed, &without);
    let mut again = true;
    while again {
        again = false;
        for index in 0..plan.faults.len() {
            if !without.faults.contains(&index) {
                let mut candidate = without.clone();
                candidate.faults.push(index);
                if fails(&candidate) {
                    (without, again) = (candidate, true);
                }
            }
        }
        for ambient in &shape.ambient {
            if !without.ambient.contains(ambient) {
                let mut candidate = without.clone();
                candidate.ambient.push(*ambient);
                if fails(&candidate) {
                    (without, again) = (candidate, true);
                }
            }
        }
    }
    let (mut fine, mut wrong) = (0, plan.safety);
    while wrong - fine > 5 * MS {
        let middle = (fine + wrong) / 2;
        let candidate = Without { safety: Some(middle), ..without.clone() };
        if fails(&candidate) {
            (without, wrong) = (candidate, middle);
        } else {
            fine = middle;
        }
    }
    without
}
