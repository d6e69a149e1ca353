//! The `ft-vm` command.

mod args;
mod check;
mod exit;
mod machine;
mod schema;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser as _;
use exit::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match &cli.command {
        None => machine::run(&cli.run),
        Some(Command::Check { file, sets }) => check::check(file, sets),
        Some(Command::Schema) => schema::schema(),
        Some(Command::Status { config, sets, json }) => machine::status(config, sets, *json),
        Some(Command::Promote { config, sets }) => machine::promote(config, sets),
        Some(Command::Witness { .. }) => {
            eprintln!("ft-vm: witness is not available in this version; use [tie-breaker.shared-disk]");
            Exit::BadConfig
        }
    };
    exit.into()
}
