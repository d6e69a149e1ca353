//! The `ft-vm` command.

mod args;
mod check;
mod exit;
mod key;
mod machine;
mod schema;
mod witness;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser as _;

/// The command is never built with the simulator's deliberate mistakes, whatever features a build of the workspace unites.
const _: () = assert!(
    !ft_core::mutation::COMPILED_IN,
    "ft-vm must not be built with `mutations`: see ft_core::mutation"
);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    let exit = match &cli.command {
        None => machine::run(&cli.run),
        Some(Command::Check { file, sets }) => check::check(file, sets),
        Some(Command::Schema) => schema::schema(),
        Some(Command::Status { config, sets, json }) => machine::status(config, sets, *json),
        Some(Command::Promote { config, sets, replica }) => machine::promote(config, sets, *replica),
        Some(Command::Key { file }) => key::key(file),
        Some(Command::Witness { listen, state, keys }) => witness::witness(*listen, state, keys.as_deref()),
    };
    exit.into()
}

/// Warnings and errors of the libraries go to standard error; `FT_LOG` asks for more (`FT_LOG=debug`, `FT_LOG=ft_devices=debug`).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
        .with_env_var("FT_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}
