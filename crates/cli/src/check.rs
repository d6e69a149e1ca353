//! `ft-vm check`, and reading a configuration for every other command.

use std::path::Path;

use ft_policies::Config;

use crate::exit::Exit;

/// Reads a configuration, or says everything that is wrong with it on standard error.
pub(crate) fn load(path: &Path, sets: &[String]) -> Result<Config, Exit> {
    Config::load(path, sets).map_err(|mistakes| {
        eprintln!("{mistakes}");
        Exit::BadConfig
    })
}

/// Says whether a configuration is right.
pub(crate) fn check(path: &Path, sets: &[String]) -> Exit {
    match load(path, sets) {
        Ok(config) => {
            eprintln!("{}: ok", path.display());
            if let Some(warning) = config.replicas.warning() {
                eprintln!("{}: warning: {warning}", path.display());
            }
            Exit::Done
        }
        Err(exit) => exit,
    }
}
