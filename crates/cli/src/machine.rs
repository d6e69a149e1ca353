//! The commands that need a machine, or one that runs: each reads the configuration and hands over to `ft-runtime`.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use ft_policies::{Config, NetBackend, ReplicaId};
use ft_runtime::launcher::{self, LaunchOptions, Members, PromoteError};
use ft_runtime::replica::{self, Fault, ReplicaArgs, Setting};

use crate::args::{LauncherFds, RunArgs};
use crate::check::load;
use crate::exit::Exit;

/// Runs a machine until it ends.
pub(crate) fn run(args: &RunArgs) -> Exit {
    let Some(path) = &args.config else { return Exit::BadConfig };
    let config = match load(path, &args.sets) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let faults: Vec<Fault> = match args.faults.iter().map(|fault| fault.parse()).collect() {
        Ok(faults) => faults,
        Err(error) => {
            eprintln!("ft-vm: --fault: {error}");
            return Exit::BadConfig;
        }
    };
    match (args.replica, args.launcher_fds) {
        (Some(replica), Some(fds)) => {
            let place = match (args.solo, args.own_host) {
                (true, _) => Setting::Solo,
                (false, true) => Setting::TwoHosts,
                (false, false) => Setting::OneMachine,
            };
            run_replica(config, replica, place, fds, faults)
        }
        (Some(replica), None) if args.solo => {
            eprintln!(
                "ft-vm: --replica {replica} --solo: a machine without fault tolerance has no replicas: one of the two"
            );
            Exit::BadConfig
        }
        (Some(replica), None)
            if config.nets.iter().any(|net| matches!(net.backend, NetBackend::User { .. })) =>
        {
            eprintln!(
                "ft-vm: --replica {replica}: {}: [net.user] is a network inside one launcher, and the other replica would have \
                 another one: start the pair without --replica",
                path.display()
            );
            Exit::BadConfig
        }
        (Some(replica), None) => launch(args, config, path, Members::One(replica)),
        (None, _) if !args.solo && !config.replicas.one_machine() => {
            eprintln!(
                "ft-vm: {}: the replicas of {} are on two hosts ({} and {}): start --replica a on the one, --replica b on the \
                 other; a pair on this machine has loopback addresses",
                path.display(),
                config.vm.name,
                config.replicas.a,
                config.replicas.b
            );
            Exit::BadConfig
        }
        (None, _) if args.solo => launch(args, config, path, Members::Solo),
        (None, _) => launch(args, config, path, Members::Pair),
    }
}

fn launch(args: &RunArgs, config: Config, path: &Path, members: Members) -> Exit {
    Exit::Runtime(launcher::run(&LaunchOptions {
        config,
        config_path: path.to_owned(),
        sets: args.sets.clone(),
        members,
        faults: args.faults.clone(),
    }))
}

fn run_replica(
    config: Config,
    replica: ReplicaId,
    setting: Setting,
    fds: LauncherFds,
    faults: Vec<Fault>,
) -> Exit {
    let (Some(control), Some(lan)) = (inherited(fds.control), inherited(fds.lan)) else {
        eprintln!(
            "ft-vm: --launcher-fds: these descriptors are not open; the option is for the launcher only"
        );
        return Exit::BadConfig;
    };
    let code = replica::run(ReplicaArgs { config, replica, setting, control, lan, faults });
    // Threads may be blocked in calls that nobody waits for.
    std::process::exit(code.into())
}

/// Takes over a descriptor that the launcher opened for this process.
fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD has no other effect than to tell whether the descriptor is open.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: the descriptor is open and above standard error, two distinct ones are given (`args`), and nothing else in
    // this process, which has opened nothing that lives on, knows of it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tells how a running pair is.
pub(crate) fn status(path: &Path, sets: &[String], json: bool) -> Exit {
    match load(path, sets) {
        Ok(config) => Exit::Runtime(launcher::print_status(&config, json)),
        Err(exit) => exit,
    }
}

/// Lets a replica go on that waits for a person to say so.
pub(crate) fn promote(path: &Path, sets: &[String], replica: Option<ReplicaId>) -> Exit {
    let config = match load(path, sets) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match launcher::promote(&config, replica) {
        Ok(launcher::Promoted { replica, generation }) => {
            eprintln!("ft-vm: replica {replica} goes on in generation {generation}");
            Exit::Done
        }
        Err(error) => {
            eprintln!("ft-vm: {error}");
            match error {
                PromoteError::OtherTieBreaker { .. } => Exit::BadConfig,
                _ => Exit::Runtime(1),
            }
        }
    }
}
