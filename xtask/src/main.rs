//! The project's tasks: `cargo xtask test` and `cargo xtask bench`.

mod bench;
mod steps;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--full]    tools, formatting, lints, every test; --full: the long campaigns too (hours)
cargo xtask bench [--json] [--quick]
                             measures and prints one table, or JSON; --quick: fewer repeats, for a first look";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test::run(false),
        ["test", "--full"] => test::run(true),
        ["bench", options @ ..] if options.iter().all(|word| ["--json", "--quick"].contains(word)) => {
            bench::run(options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
