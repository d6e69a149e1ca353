//! The project's tasks: `cargo xtask test` and `cargo xtask bench`.

mod bench;
mod steps;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--full]    tools, formatting, lints, every test; --full: the long campaigns too (hours)
cargo xtask bench [disks] [--json] [--quick]
                             measures and prints one table, or JSON; disks: only what each kind of disk costs;
                             --quick: fewer repeats, for a first look
cargo xtask bench kvm [--json] [--quick]
                             the KVM engine's speed, and what fault tolerance costs under it
cargo xtask bench detectors [--deaths N] [--busy MINUTES] [--detector fixed|phi-accrual|both]
                             how soon a silent death is detected, and how often a busy host looks dead";

fn are_bench_options(words: &[&str]) -> bool {
    words.iter().all(|word| ["--json", "--quick"].contains(word))
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test::run(false),
        ["test", "--full"] => test::run(true),
        ["bench", "disks", options @ ..] if are_bench_options(options) => {
            bench::run(bench::Section::Disks, options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["bench", "detectors", options @ ..] => match bench::detectors::Plan::parse(options) {
            Some(plan) => bench::detectors::run(&plan),
            None => return usage(),
        },
        ["bench", "kvm", options @ ..] if are_bench_options(options) => {
            bench::kvm::run(options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["bench", options @ ..] if are_bench_options(options) => {
            bench::run(bench::Section::All, options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
