//! The arguments of `ft-vm`.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ft_policies::ReplicaId;

/// Runs a virtual machine that survives the loss of its host.
#[derive(Debug, Parser)]
#[command(name = "ft-vm", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    /// What to do instead of running a virtual machine.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// How to run one.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Without a subcommand: run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration: a pair on this machine (one launcher, two replicas), unless another option says otherwise.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// Run one replica only, `a` or `b`.
    #[arg(long, value_name = "a|b")]
    pub(crate) replica: Option<ReplicaId>,
    /// Run the same virtual machine with no fault tolerance at all: the baseline of every comparison.
    #[arg(long)]
    pub(crate) solo: bool,
    /// Override one key or table of the configuration, such as vm.memory='"1 GiB"' or pacing='{none={}}'; repeatable.
    #[arg(long = "set", value_name = "KEY=TOML")]
    pub(crate) sets: Vec<String>,
    /// The other replica is on another host.
    #[arg(long, hide = true, requires = "launcher_fds")]
    pub(crate) own_host: bool,
    /// The descriptors that the launcher gives a replica: its control connection, and its port of the network.
    #[arg(long, hide = true, value_name = "CONTROL,LAN", requires = "replica", value_parser = launcher_fds)]
    pub(crate) launcher_fds: Option<LauncherFds>,
    /// A fault to inject, such as flip-bit:POSITION; repeatable. For tests.
    #[arg(long = "fault", hide = true, value_name = "SPEC")]
    pub(crate) faults: Vec<String>,
}

/// The inherited descriptors of a replica that a launcher started; each is above standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LauncherFds {
    /// Messages between launcher and replica.
    pub(crate) control: RawFd,
    /// Frames of the guest's network.
    pub(crate) lan: RawFd,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| "this is not an IP address and a port, such as 127.0.0.1:7100 or [::1]:7100".into())
}

fn launcher_fds(text: &str) -> Result<LauncherFds, String> {
    let (control, lan) = text.split_once(',').ok_or("two descriptors are needed: CONTROL,LAN")?;
    let number = |text: &str| match text.parse::<RawFd>() {
        Ok(fd) if fd > 2 => Ok(fd),
        _ => Err(format!("`{text}` is not a descriptor above 2")),
    };
    let fds = LauncherFds { control: number(control)?, lan: number(lan)? };
    if fds.control == fds.lan { Err("the two descriptors are the same".into()) } else { Ok(fds) }
}

/// What else the command does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a configuration: all mistakes, each with its place and what would be right. If there is none: what earlier runs of
    /// the pair have left behind. Changes nothing.
    Check {
        /// The configuration.
        file: PathBuf,
        /// Override one key or table of it; repeatable.
        #[arg(long = "set", value_name = "KEY=TOML")]
        sets: Vec<String>,
    },
    /// Print the JSON schema of the configuration (draft-07).
    Schema,
    /// Tell how a running pair is.
    Status {
        /// The configuration of the pair.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Override one key or table of it, as the pair was started; repeatable.
        #[arg(long = "set", value_name = "KEY=TOML")]
        sets: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let the surviving replica go on (tie-breaker manual). Refused while it hears the other one.
    Promote {
        /// The configuration of the pair.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Override one key or table of it; repeatable.
        #[arg(long = "set", value_name = "KEY=TOML")]
        sets: Vec<String>,
        /// Which replica, should both wait for it here.
        #[arg(long, value_name = "a|b")]
        replica: Option<ReplicaId>,
    },
    /// Make the secret by which the two replicas of a pair know each other, and a witness the pair. No file is overwritten.
    Key {
        /// The file to make. Only its owner may read it.
        file: PathBuf,
    },
    /// Run the tie-breaker server, for any number of pairs.
    Witness {
        /// Where to listen: an IP address or `localhost`, and a port, such as 192.0.2.3:7100.
        #[arg(long, value_name = "ADDR", value_parser = address)]
        listen: SocketAddr,
        /// The file of the durable register; it is made where it is missing.
        #[arg(long, value_name = "FILE")]
        state: PathBuf,
        /// The keys of the pairs, a line each: a key of `ft-vm key`, and after it the pair's vm.name if it is good for that pair
        /// only. Read at the start. Without it the address must be loopback, and whoever reaches it can take a generation.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("ft-vm").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn accepted() {
        let run =
            parse("--config x.toml --replica b --set a=1 --set b=2 --launcher-fds 5,6 --fault flip-bit:7")
                .unwrap();
        assert!(run.command.is_none());
        assert_eq!(run.run.replica, Some(ReplicaId::B));
        assert_eq!(run.run.sets, ["a=1", "b=2"]);
        assert_eq!(run.run.launcher_fds, Some(LauncherFds { control: 5, lan: 6 }));
        assert_eq!(run.run.faults, ["flip-bit:7"]);
        for line in [
            "--config x.toml",
            "--config x.toml --solo",
            "check x.toml",
            "check x.toml --set a=1",
            "schema",
            "status --config x.toml --json",
            "promote --config x.toml",
            "promote --config x.toml --replica b",
            "witness --listen 127.0.0.1:1 --state s",
            "witness --listen localhost:1 --state s",
            "witness --listen [::1]:0 --state s",
            "witness --listen 192.0.2.3:1 --state s --keys k",
            "key k",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn refused() {
        for line in [
            "",
            "--solo",
            "--config",
            "--config x --replica c",
            "--config x --launcher-fds 5,6",
            "--config x --replica a --launcher-fds 5",
            "--config x --replica a --launcher-fds 5,5",
            "--config x --replica a --launcher-fds 1,5",
            "--config x check y",
            "check",
            "schema x",
            "status",
            "witness --listen 127.0.0.1:1",
            "witness --listen a:1 --state s",
            "witness --listen 127.0.0.1:1 --state s --keys",
            "key",
            "witness --listen 127.0.0.1 --state s",
            "frobnicate",
        ] {
            assert_eq!(parse(line).map(|cli| format!("{cli:?}")).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
