//! One replica: the process that runs a machine, live or following.
//!
//! The threads (who may touch what is the whole design):
//!
//! - **vcpu** is the only one that touches the machine and that appends to the log. Live it runs [`live`], on a backup
//!   [`follow`]; which of the two is [`ft_core`]'s decision.
//! - **link** reads the log connection: on a primary it takes acknowledgements and releases outputs itself, on a backup it
//!   takes records and acknowledges them at once.
//! - **net** reads frames from the launcher's switch.
//! - **events** (the thread that called [`run`]) has the datagrams, the launcher, signals, the timers, and whatever a full
//!   socket left behind.
//! - **disk** threads carry out requests; **register** asks the tie-breaker; **chores** does what may take long besides (fences,
//!   making copies of disks the same).
//!
//! The protocol itself is in [`ft_core::Replica`], behind one lock; these threads only tell it what happens and do what it
//! says.

mod addresses;
mod chores;
mod control;
pub mod copies;
mod disks;
mod events;
mod exit;
mod exits;
mod fault;
mod fence;
mod follow;
mod guest_clock;
mod inputs;
mod link;
mod live;
mod media;
mod net;
mod outside;
mod pi_mutex;
mod prompt;
mod register;
mod shared;
mod vcpu;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ft_core::replica::{GATE, STUCK};
use ft_core::wire::CpuLeaf;
use ft_core::{Event, Settings};
use ft_policies::{Config, ReplicaId, Who};

pub(crate) use exit::BAD_CONFIG;
pub use exit::{HOST_LACKS, Startup};
pub use fault::{BadFault, Fault};
pub(crate) use media::fold;

use crate::launcher::packet::PacketSocket;
use crate::machine::Machine;
use control::Control;
use media::Media;
use shared::Shared;

/// Where a replica's peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Nowhere: the machine without fault tolerance. No peer, no register, no Output Rule.
    Solo,
    /// On this machine, with the same launcher, which can kill it.
    OneMachine,
    /// On another host, where nobody here can kill it.
    TwoHosts,
}

/// What a replica is started with.
#[derive(Debug)]
pub struct ReplicaArgs {
    /// The whole configuration.
    pub config: Config,
    /// Which replica this is.
    pub replica: ReplicaId,
    /// Where its peer is, if it has one.
    pub setting: Setting,
    /// The launcher's control socket.
    pub control: OwnedFd,
    /// The port of the launcher's switch.
    pub lan: OwnedFd,
    /// Faults to inject, while this side is a backup.
    pub faults: Vec<Fault>,
}

/// Runs a replica to its end and gives the process's exit code. The process must end then: threads may still be blocked in
/// calls that nobody waits for.
pub fn run(args: ReplicaArgs) -> u8 {
    let ReplicaArgs { config, replica, setting, control, lan, faults } = args;
    fail_stop();
    let control = match Control::new(control) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("ft-vm: the launcher's socket: {error}");
            return 1;
        }
    };
    match start(&config, replica, setting, control.clone(), lan, faults) {
        Ok((shared, events)) => events.run(&shared),
        Err(startup) => {
            control.end(startup.code(), startup.to_string());
            control.drain();
            startup.code()
        }
    }
}

fn start(
    config: &Config,
    replica: ReplicaId,
    setting: Setting,
    control: Arc<Control>,
    lan: OwnedFd,
    faults: Vec<Fault>,
) -> Result<(Arc<Shared>, events::Events), Startup> {
    // Before any thread exists, so that all of them leave the signals to the event loop.
    let signals = events::block_signals().map_err(Startup::Host)?;
    let incarnation = incarnation().map_err(Startup::Host)?;
    let sockets = match setting {
        Setting::Solo => None,
        Setting::OneMachine | Setting::TwoHosts => Some(link::Sockets::bind(config, replica)?),
    };
    let (media, disks) = Media::open(config, replica, setting, incarnation)?;
    let sectors = media.sectors();
    let machine = Machine::build(config, &sectors)?;
    let settings = Settings {
        me: Who { replica, incarnation, config: config.digest() },
        pair: config.pair_id(),
        config: config.digest(),
        image: machine.image_digest() ^ disk_identity(&sectors),
        cpu: cpu_leaves(&machine),
        divergence_hint: machine.engine().divergence_hint(),
        log_capacity: config.logging.buffer.bytes(),
        gate_bytes: GATE.0,
        gate_outputs: GATE.1,
        start_alone: config.replicas.start_alone.nanos(),
        ack_timeout: config.detector.ack_timeout().nanos(),
        stuck: STUCK,
        hold_outputs: config.output.rule.holds(),
        copies: media.copies.worth(),
        by_hand: config.tie_breaker.by_hand(),
        key: config.replicas.key.clone(),
    };
    let lan = Arc::new(PacketSocket::from(lan));
    control::set_nonblocking(&*lan).map_err(Startup::Host)?;
    let shared = Shared::new(config, settings, setting, Arc::clone(&control), Arc::clone(&lan), disks, media)
        .map_err(Startup::Host)?;
    control.hello(replica, incarnation);
    if let Some(warning) = config.output.rule.warning() {
        control.notice(warning);
    }
    let events = events::Events::new(&shared, signals, sockets.as_ref()).map_err(Startup::Host)?;
    register::spawn(&shared, config).map_err(Startup::Host)?;
    chores::spawn(&shared).map_err(Startup::Host)?;
    net::spawn(&shared, lan).map_err(Startup::Host)?;
    vcpu::spawn(&shared, config, machine, faults).map_err(Startup::Host)?;
    if let Some(sockets) = sockets {
        // Before anybody can connect: the protocol begins with this.
        shared.handle(Event::Start);
        link::spawn(&shared, sockets, replica).map_err(Startup::Host)?;
    }
    shared.pump();
    Ok((shared, events))
}

/// A broken assertion in any thread ends the process: a replica that is wrong about itself must not go on, and its peer
/// can.
fn fail_stop() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(1);
    }));
}

/// Sizes of existing disks are not in the config, but the guest sees them.
fn disk_identity(sectors: &[u64]) -> u128 {
    let bytes: Vec<u8> = sectors.iter().flat_map(|size| size.to_le_bytes()).collect();
    xxhash_rust::xxh3::xxh3_128(&bytes)
}

/// What the guest finds its processor to be, as the other side is told.
fn cpu_leaves(machine: &Machine) -> Vec<CpuLeaf> {
    let leaves = machine.cpu_leaves().iter();
    leaves.map(|leaf| CpuLeaf { leaf: leaf.leaf, subleaf: leaf.subleaf, values: leaf.values }).collect()
}

fn incarnation() -> std::io::Result<u64> {
    let bytes = ft_devices::backend::entropy::entropy(8)?;
    Ok(bytes.iter().fold(1, |all, byte| (all << 8) | u64::from(*byte)))
}
