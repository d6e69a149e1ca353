//! The commands that need a machine, or one that runs: each reads the configuration and hands over to `ft-runtime`.

use std::path::Path;

use ft_policies::Config;

use crate::args::{LauncherFds, RunArgs};
use crate::check::load;
use crate::exit::Exit;

/// What `ft-vm --config` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A launcher with two replicas.
    Pair,
    /// One replica, by itself or under a launcher.
    Replica(ft_policies::ReplicaId, Option<LauncherFds>),
    /// The machine without fault tolerance.
    Solo,
}

/// Runs a machine until it ends.
pub(crate) fn run(args: &RunArgs) -> Exit {
    let Some(path) = &args.config else { return Exit::BadConfig };
    let config = match load(path, &args.sets) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let mode = match args.replica {
        Some(replica) => Mode::Replica(replica, args.launcher_fds),
        None if args.solo => Mode::Solo,
        None => Mode::Pair,
    };
    start(&config, mode, &args.sets, &args.faults)
}

/// The hand-over to the runtime: the one place where it is called for running.
fn start(config: &Config, mode: Mode, _sets: &[String], _faults: &[String]) -> Exit {
    eprintln!("ft-vm: running {} ({mode:?}) is not available in this version", config.vm.name);
    Exit::Failed
}

/// Tells how a running pair is.
pub(crate) fn status(path: &Path, sets: &[String], _json: bool) -> Exit {
    match load(path, sets) {
        Ok(config) => {
            eprintln!("ft-vm: the status of {} is not available in this version", config.vm.name);
            Exit::Failed
        }
        Err(exit) => exit,
    }
}

/// Lets the survivor go on: only the tie-breaker `manual` needs that, and it is not there yet.
pub(crate) fn promote(path: &Path, sets: &[String]) -> Exit {
    match load(path, sets) {
        Ok(config) => {
            eprintln!(
                "ft-vm: promote is not available in this version: it is for the tie-breaker `manual`, and {} has `{}`",
                config.vm.name,
                config.tie_breaker.name()
            );
            Exit::BadConfig
        }
        Err(exit) => exit,
    }
}
