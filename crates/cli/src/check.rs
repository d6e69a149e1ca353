//! `ft-vm check`, and reading a configuration for every other command.

use std::path::Path;
use std::time::Duration;

use ft_policies::{Config, ReplicaId};
use ft_runtime::found::{self, Finding, Level};

use crate::exit::Exit;

/// How long each step of the look at what is there may take: as long as replicas give a tie-breaker.
const LOOK: Duration = Duration::from_secs(1);

/// Reads a configuration, or says everything that is wrong with it on standard error.
pub(crate) fn load(path: &Path, sets: &[String]) -> Result<Config, Exit> {
    Config::load(path, sets).map_err(|mistakes| {
        eprintln!("{mistakes}");
        Exit::BadConfig
    })
}

/// Says whether a configuration is right, and if it is, what there is of the pair already.
pub(crate) fn check(path: &Path, sets: &[String]) -> Exit {
    let config = match load(path, sets) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    eprintln!("{}: ok", path.display());
    if let Some(warning) = config.replicas.warning() {
        eprintln!("  warning: {warning}");
    }
    let findings = found::look(&config, &[ReplicaId::A, ReplicaId::B], LOOK);
    for Finding { level, what, todo, .. } in &findings {
        let word = match level {
            Level::Good => "",
            Level::Warning => "warning: ",
            Level::Error => "error: ",
        };
        eprintln!("  {word}{what}");
        if let Some(todo) = todo {
            eprintln!("    {todo}");
        }
    }
    match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Error) => Exit::BadConfig,
        Some(Level::Good | Level::Warning) | None => Exit::Done,
    }
}
