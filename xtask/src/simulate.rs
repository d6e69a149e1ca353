//! `cargo xtask simulate`: seeds of the simulator in parallel processes, and its controls.
//!
//! The workers are the binaries of the crate `ft-simulator`. That with the deliberate mistakes is another one than that of the
//! campaign, and is built by its own name and feature only: no build of the product unites that feature with its own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::steps::{cargo, root, target};

/// What is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    seeds: Option<u64>,
    seed: Option<u64>,
    minutes: Option<u64>,
    controls: bool,
}

/// Seeds of a run that says no number.
const SEEDS: u64 = 3000;
/// Seeds given to a worker at once.
const CHUNK: u64 = 200;
/// Failures that are explained.
const EXPLAINED: usize = 3;

impl Plan {
    /// The plan of these words, if they make sense.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let mut plan = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|word| word.parse().ok());
            match *word {
                "--seeds" => plan.seeds = Some(number()?),
                "--seed" => plan.seed = Some(number()?),
                "--minutes" => plan.minutes = Some(number()?),
                "--controls" => plan.controls = true,
                _ => return None,
            }
        }
        Some(plan)
    }
}

/// Names a simulator that is built already, as the tests' is.
pub(crate) const BUILT: &str = "FT_SIMULATOR";

/// Runs it.
pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    if plan.controls && plan.seed.is_none() {
        return controls();
    }
    let path = match std::env::var_os(BUILT) {
        Some(path) => PathBuf::from(path),
        None => build("ft-simulator", &[])?,
    };
    let binary = calls(path);
    if let Some(seed) = plan.seed {
        let status = binary(&["explain", &seed.to_string()]).status().map_err(|error| error.to_string())?;
        return if status.success() { Ok(()) } else { Err(format!("seed {seed} violates a property")) };
    }
    campaign(&binary, plan)
}

fn build(name: &str, features: &[&str]) -> Result<PathBuf, String> {
    let words = ["build", "--release", "--locked", "--quiet", "--package", "ft-simulator", "--bin", name];
    let mut command = cargo(&words);
    command.args(features);
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err(format!("{name} does not compile"));
    }
    Ok(target().join("release").join(name))
}

/// Makes a command of each list of words.
fn calls(path: PathBuf) -> impl Fn(&[&str]) -> Command {
    move |words| {
        let mut command = Command::new(&path);
        command.args(words);
        command
    }
}

/// The first seed of a run: fresh with every commit, and known to whoever has that.
fn first_seed() -> u64 {
    let head = Command::new("git").current_dir(root()).args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    u64::from_str_radix(head.get(..8).unwrap_or_default(), 16).unwrap_or(1) << 20
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the workers have said so far.
#[derive(Default)]
struct Total {
    numbers: BTreeMap<&'static str, u64>,
    faults: BTreeMap<String, u64>,
    failures: Vec<(u64, String, String)>,
}

impl Total {
    fn add(&mut self, line: &Value) {
        if let Some(seed) = line["failed"].as_u64() {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            println!("seed {seed} violates: {}: {}", text("property"), text("what"));
            self.failures.push((seed, text("property"), text("what")));
            return;
        }
        for name in ["seeds", "simulated_ns", "events", "releases", "takeovers"] {
            *self.numbers.entry(name).or_default() += line[name].as_u64().unwrap_or(0);
        }
        for (kind, count) in line["faults"].as_object().into_iter().flatten() {
            *self.faults.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }

    fn get(&self, name: &'static str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    fn progress(&self, began: Instant, jobs: usize) -> String {
        let elapsed = began.elapsed().as_secs_f64().max(0.001);
        let (seeds, simulated) = (self.get("seeds") as f64, self.get("simulated_ns") as f64 / 1e9);
        format!(
            "{seeds} seeds, {simulated:.0} simulated s ({:.0} a second), {:.1} million events, {} outputs, {} takeovers, {} failures; \
             {:.0} seeds a minute in each of {jobs} processes",
            simulated / elapsed,
            self.get("events") as f64 / 1e6,
            self.get("releases"),
            self.get("takeovers"),
            self.failures.len(),
            seeds * 60.0 / elapsed / jobs as f64,
        )
    }
}

fn campaign(binary: &impl Fn(&[&str]) -> Command, plan: &Plan) -> Result<(), String> {
    let (first, jobs, began) = (first_seed(), jobs(), Instant::now());
    let seeds = plan.seeds.unwrap_or(if plan.minutes.is_some() { u64::MAX >> 1 } else { SEEDS });
    let end = first.saturating_add(seeds);
    let until = plan.minutes.map(|minutes| began + Duration::from_secs(60 * minutes));
    println!("seeds from {first} on, in {jobs} processes");
    let mut total = Total::default();
    let (mut next, mut told) = (first, began);
    let chunks = std::iter::from_fn(|| {
        let count = CHUNK.min(end - next);
        if count == 0 || until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let chunk = binary(&["run", &next.to_string(), &count.to_string()]);
        next += count;
        Some(chunk)
    });
    let outcome = in_parallel(jobs, chunks, |line| {
        total.add(line);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            println!("{}", total.progress(began, jobs));
        }
    });
    println!("{}", total.progress(began, jobs));
    println!("faults injected: {}", listed(&total.faults));
    outcome?;
    for (seed, ..) in total.failures.iter().take(EXPLAINED) {
        println!("\n== seed {seed}");
        binary(&["explain", &seed.to_string()]).status().map_err(|error| error.to_string())?;
    }
    match total.failures.len() {
        0 => Ok(()),
        count => Err(format!("{count} seeds violate a property; `cargo xtask simulate --seed S` shows one")),
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
}

/// Runs workers, so many at a time, and hears their lines. After an error no more are started; those that run are waited for.
fn in_parallel(
    jobs: usize,
    mut workers: impl Iterator<Item = Command>,
    mut hear: impl FnMut(&Value),
) -> Result<(), String> {
    let (sender, lines) = mpsc::channel();
    let (mut running, mut outcome) = (0, Ok(()));
    loop {
        while running < jobs
            && outcome.is_ok()
            && let Some(worker) = workers.next()
        {
            spawn(worker, &sender)?;
            running += 1;
        }
        if running == 0 {
            return outcome;
        }
        match lines.recv().map_err(|error| error.to_string())? {
            Ok(Value::Null) => running -= 1,
            Ok(line) => hear(&line),
            Err(text) => outcome = Err(text),
        }
    }
}

/// Starts a worker; its lines come through the channel, and `Null` when it is done.
fn spawn(mut command: Command, sender: &mpsc::Sender<Result<Value, String>>) -> Result<(), String> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("the simulator: {error}"))?;
    let sender = sender.clone();
    std::thread::spawn(move || {
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
            let line = line.map_err(|error| error.to_string());
            let value =
                line.and_then(|line| serde_json::from_str(&line).map_err(|error| format!("{line}: {error}")));
            // Nobody listens any more only when the campaign has failed.
            let _ = sender.send(value);
        }
        match child.wait() {
            Ok(status) if status.code().is_some_and(|code| code < 2) => {}
            Ok(status) => drop(sender.send(Err(format!("a worker ended with {status}")))),
            Err(error) => drop(sender.send(Err(error.to_string()))),
        }
        let _ = sender.send(Ok(Value::Null));
    });
    Ok(())
}

/// Every mutation must be caught within its budget of seeds.
fn controls() -> Result<(), String> {
    let binary = calls(build("ft-simulator-mutated", &["--features", "mutations"])?);
    let listed = binary(&["mutations"]).output().map_err(|error| error.to_string())?;
    let mutations: Vec<Value> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let (mut survivors, mut count) = (Vec::new(), 0);
    println!("{:<26} {:<46} {:>6}  seed", "mutation", "caught by", "after");
    let tries = mutations.iter().map(|mutation| {
        let (name, budget) = (mutation["name"].as_str().unwrap_or_default(), mutation["budget"].to_string());
        binary(&["control", name, "0", &budget])
    });
    in_parallel(jobs(), tries, |line| {
        let name = line["mutation"].as_str().unwrap_or_default().to_owned();
        let caught = line["caught"].as_str();
        println!(
            "{name:<26} {:<46} {:>6}  {}",
            caught.unwrap_or("NOBODY"),
            line["seeds"].to_string(),
            line["seed"]
        );
        count += 1;
        if caught.is_none() {
            survivors.push(name);
        }
    })?;
    if count != mutations.len() || mutations.is_empty() {
        return Err(format!("{count} of {} mutations were tried", mutations.len()));
    }
    if survivors.is_empty() {
        println!("all {count} mutations are caught");
        return Ok(());
    }
    Err(format!("{} of {count} mutations survive: {}", survivors.len(), survivors.join(", ")))
}
