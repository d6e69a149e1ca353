//! The launcher of a local pair (or of one replica of a pair on two hosts): replica processes, the network that leads to whichever of them is live, the guest's
//! console, and the operator's view.
//!
//! ```text
//!   host's TCP clients ── lan ── LAN sockets ──┐
//!   terminal ── console ── control sockets ────┼── replica a, replica b (children: process, seat)
//!   ft-vm status ── status ── control sockets ─┘
//! ```
//!
//! One thread (`pair`) does everything that must not wait; writing the console and reading the terminal, which may wait
//! for ever, have threads of their own. The launcher decides nothing about who is live: the pair's register does. It moves
//! the guest's port when a replica that has won says so, and it is the fence on one machine: on request it kills and reaps
//! the other process.

mod console;
mod keyboard;
pub mod lan;
pub mod messages;
pub mod packet;
mod pair;
mod poller;
mod process;
pub mod promote;
mod seat;
pub mod status;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ft_policies::{Config, NetBackend, ReplicaId};
use vmm_sys_util::eventfd::EventFd;

pub use self::console::ConsoleError;
use self::console::{Input, Output, stdin_is_interactive};
use self::lan::{Lan, LanError};
use self::pair::{Pair, Parts};
use self::poller::Poller;
pub use self::process::Program;
use self::process::{Process, Signals, raise_descriptor_limit};
pub use self::promote::{PromoteError, Promoted, promote};
use self::seat::Seat;
use self::status::{Claim, Place};
pub use self::status::{StatusError, print_status, status};
use crate::found::{self, AtStart};
use crate::replica::HOST_LACKS;

/// How long each step of a start's look at what is there may take. Whatever does not answer by then has to answer the replicas
/// before the guest runs, and they say so.
const LOOK: Duration = Duration::from_millis(500);

/// What is launched.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// The configuration, checked, with `sets` applied.
    pub config: Config,
    /// Its file, as the replicas are told.
    pub config_path: PathBuf,
    /// `--set` arguments, handed on.
    pub sets: Vec<String>,
    /// Which replicas are this launcher's.
    pub members: Members,
    /// `--fault` arguments, handed on to each replica.
    pub faults: Vec<String>,
}

/// The replicas of a launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// Both, on this machine.
    Pair,
    /// One machine with no fault tolerance.
    Solo,
    /// One of two: the other one has a launcher of its own, on its own host.
    One(ReplicaId),
}

impl Members {
    fn replicas(self) -> &'static [ReplicaId] {
        match self {
            Self::Pair => &[ReplicaId::A, ReplicaId::B],
            Self::Solo | Self::One(ReplicaId::A) => &[ReplicaId::A],
            Self::One(ReplicaId::B) => &[ReplicaId::B],
        }
    }

    /// The replica that this launcher has of a pair on two hosts.
    fn one(self) -> Option<ReplicaId> {
        match self {
            Self::One(replica) => Some(replica),
            Self::Pair | Self::Solo => None,
        }
    }
}

/// Why nothing was launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Somebody runs this config, or nobody can.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The network.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// What is there is another pair's, or damaged.
    #[error("{what}; nothing was started")]
    Found {
        /// What, and what to do.
        what: String,
        /// The exit code.
        code: u8,
    },
    /// A replica's process.
    #[error("cannot start replica {replica}: {source}")]
    Spawn {
        /// Which.
        replica: ReplicaId,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses something else.
    #[error("the launcher cannot work: {0}")]
    Io(#[from] io::Error),
}

impl LaunchError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Lan(LanError::Tap(_)) => HOST_LACKS,
            Self::Found { code, .. } => *code,
            _ => 1,
        }
    }
}

/// Runs a pair, or a solo machine, until it ends. To be called from the process's main thread before it starts others: the
/// replicas die with this thread, and it takes over SIGINT, SIGTERM and SIGHUP.
///
/// Returns the command's exit code; whatever there is to say was said on standard error.
pub fn run(options: &LaunchOptions) -> u8 {
    match std::env::current_exe() {
        Ok(path) => run_program(options, &Program { path, arguments: Vec::new() }),
        Err(error) => {
            eprintln!("ft-vm: cannot find the own executable: {error}");
            1
        }
    }
}

/// The same with another executable as replica.
pub fn run_program(options: &LaunchOptions, program: &Program) -> u8 {
    let result = prepare(options, program).and_then(|pair| Ok(pair.run()?));
    result.unwrap_or_else(|error| {
        eprintln!("ft-vm: {error}");
        error.code()
    })
}

/// Everything that can be found to be impossible comes before the first process.
fn prepare(options: &LaunchOptions, program: &Program) -> Result<Pair, LaunchError> {
    let config = &options.config;
    raise_descriptor_limit();
    let claim = Claim::new(Place::of(config, options.members.one()))?;
    let poller = Poller::new()?;
    let net = config.nets.first();
    let mut lan = Lan::new(net, &poller)?;
    // Before any thread is started: they inherit the mask.
    let signals = Signals::new()?;
    let console_news = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    let mut output = Output::open(&config.console.output, console_news.try_clone()?)?;
    if options.members.one().is_some() {
        output.may_begin_later();
    }

    say_what_is_there(options)?;

    let mut seats = Vec::new();
    for (place, &replica) in options.members.replicas().iter().enumerate() {
        let mut process = Process::spawn(program, replica.name(), &arguments(options))
            .map_err(|source| LaunchError::Spawn { replica, source })?;
        if let Some(socket) = process.lan.take() {
            lan.attach(place, socket, &poller)?;
        }
        seats.push(Seat::new(replica, place, process, &poller)?);
    }
    if options.members.one().is_some()
        && let Some(warning) = config.replicas.warning()
    {
        eprintln!("ft-vm: {warning}");
    }
    match net.map(|net| &net.backend) {
        Some(NetBackend::User { forward }) => {
            for forward in forward {
                eprintln!("ft-vm: {} leads to the guest's port {}", forward.listen, forward.guest_port);
            }
        }
        Some(NetBackend::Tap { interface }) => {
            eprintln!("ft-vm: the guest's network is that of the interface {interface}");
        }
        None => {}
    }
    let input = match stdin_is_interactive() {
        true => Some(Input::start(console_news.try_clone()?, config.console.input)),
        false => None,
    };
    let members = options.members;
    Ok(Pair::new(Parts { members, poller, signals, lan, output, input, console_news, claim, seats })?)
}

/// What earlier runs left behind, as far as a person must know of it. To be called with the claim: a pair that runs here already has
/// left nothing behind.
fn say_what_is_there(options: &LaunchOptions) -> Result<(), LaunchError> {
    if options.members == Members::Solo {
        // It asks no tie-breaker, and its copies of separate disks are its own.
        return Ok(());
    }
    let mut end = None;
    for finding in found::look(&options.config, options.members.replicas(), LOOK) {
        match finding.at_start {
            AtStart::Silent => {}
            AtStart::End(code) if end.is_none() => {
                end = Some(LaunchError::Found { what: finding.to_string(), code });
            }
            AtStart::Say | AtStart::End(_) => eprintln!("ft-vm: {finding}"),
        }
    }
    end.map_or(Ok(()), Err)
}

/// The arguments of a replica besides its name.
fn arguments(options: &LaunchOptions) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--config".into(), options.config_path.clone().into()];
    for set in &options.sets {
        arguments.extend(["--set".into(), set.into()]);
    }
    for fault in &options.faults {
        arguments.extend(["--fault".into(), fault.into()]);
    }
    match options.members {
        Members::Pair => {}
        Members::Solo => arguments.push("--solo".into()),
        Members::One(_) => arguments.push("--own-host".into()),
    }
    arguments
}
