//! The worker's command line. `cargo xtask simulate` starts workers and reads what they print: one JSON object a line.
//!
//! ```text
//! run FIRST COUNT             runs seeds; prints progress, and each failure
//! explain SEED [LINES]        shrinks a failing seed's run and prints it for a person
//! control NAME FIRST COUNT    runs seeds with a mutation until one catches it (of the mutated binary)
//! mutated NAME SEED           explains a seed that catches a mutation (of the mutated binary)
//! mutations                   their names and budgets
//! ```

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::run::{Outcome, Without, run};
use crate::shrink::shrink;

/// Seeds between two lines of progress.
const REPORT: u64 = 100;

/// Runs the command. Exit code 1 means that a property was violated, 2 that the arguments make no sense.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok();
    match words[..] {
        ["run", first, count] => match (number(first), number(count)) {
            (Some(first), Some(count)) => campaign(first, count),
            _ => usage(),
        },
        ["explain", seed] | ["explain", seed, _] => {
            let lines = words.get(2).map_or(Some(150), |lines| number(lines));
            match (number(seed), lines) {
                (Some(seed), Some(lines)) => explain(seed, lines as usize),
                _ => usage(),
            }
        }
        #[cfg(feature = "mutations")]
        ["control", name, first, count] => match (mutation(name), number(first), number(count)) {
            (Some(mutation), Some(first), Some(count)) => control(mutation, first, count),
            _ => usage(),
        },
        #[cfg(feature = "mutations")]
        ["mutated", name, seed] => match (mutation(name), number(seed)) {
            (Some(mutation), Some(seed)) => {
                ft_core::mutation::choose(Some(mutation));
                explain(seed, 150)
            }
            _ => usage(),
        },
        ["mutations"] => {
            for mutation in ft_core::mutation::Mutation::ALL {
                let (name, what) = (mutation.name(), mutation.what());
                say(&json!({"name": name, "what": what, "budget": crate::controls::budget(*mutation)}));
            }
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "ft-simulator run FIRST COUNT | explain SEED [LINES] | control NAME FIRST COUNT | mutated NAME SEED | mutations"
    );
    ExitCode::from(2)
}

fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: there is nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn campaign(first: u64, count: u64) -> ExitCode {
    let (mut total, mut failed) = (Total::default(), false);
    for seed in first..first.saturating_add(count) {
        let outcome = run(seed, &Without::default(), 0);
        total.add(&outcome);
        if let Some(violation) = &outcome.violation {
            failed = true;
            say(&json!({"failed": seed, "property": violation.property, "what": violation.what}));
        }
        if total.seeds == REPORT || seed + 1 == first.saturating_add(count) {
            say(&total.take());
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: u64,
    events: u64,
    releases: u64,
    takeovers: u64,
    faults: Map<String, Value>,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.counters.events;
        self.releases += outcome.counters.releases;
        self.takeovers += outcome.counters.takeovers;
        for (kind, count) in &outcome.counters.faults {
            let known = self.faults.entry(format!("{kind:?}")).or_insert_with(|| json!(0));
            *known = json!(known.as_u64().unwrap_or(0) + count);
        }
    }

    fn take(&mut self) -> Value {
        let Self { seeds, simulated, events, releases, takeovers, faults } = std::mem::take(self);
        json!({
            "seeds": seeds, "simulated_ns": simulated, "events": events, "releases": releases, "takeovers": takeovers,
            "faults": faults,
        })
    }
}

fn explain(seed: u64, lines: usize) -> ExitCode {
    let first = run(seed, &Without::default(), 0);
    if first.violation.is_none() {
        println!("seed {seed}: nothing is violated in {:.3} simulated seconds", first.simulated as f64 / 1e9);
        return ExitCode::SUCCESS;
    }
    let without = shrink(seed);
    let outcome = run(seed, &without, lines);
    println!("{}", outcome.trace);
    println!("{}", outcome.what);
    println!("left out: {without:?}");
    if let Some(violation) = outcome.violation {
        println!(
            "seed {seed}, after {:.6} ms: {} is violated: {}",
            violation.at as f64 / 1e6,
            violation.property,
            violation.what
        );
    }
    ExitCode::FAILURE
}

#[cfg(feature = "mutations")]
fn mutation(name: &str) -> Option<ft_core::mutation::Mutation> {
    ft_core::mutation::Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name)
}

#[cfg(feature = "mutations")]
fn control(mutation: ft_core::mutation::Mutation, first: u64, count: u64) -> ExitCode {
    ft_core::mutation::choose(Some(mutation));
    for seed in first..first.saturating_add(count) {
        if let Some(violation) = run(seed, &Without::default(), 0).violation {
            let seeds = seed - first + 1;
            say(&json!({
                "mutation": mutation.name(), "caught": violation.property, "seeds": seeds, "seed": seed,
                "what": violation.what,
            }));
            return ExitCode::SUCCESS;
        }
    }
    say(&json!({"mutation": mutation.name(), "caught": null, "seeds": count}));
    ExitCode::FAILURE
}
