//! What goes wrong in a run, and when.
//!
//! A [`Plan`] is a list, drawn from the seed before the run: so a fault can be left out ([`crate::shrink`]) without anything else
//! changing but what follows from it. A new kind of fault is a variant of [`Kind`], a line in [`Kind::ALL`], and its two arms in
//! [`strike`] (what it does, and how it ends). What holds for a whole run is a variant of [`crate::shape::Ambient`], asked for where
//! it matters.

pub mod apart;
pub mod corners;
pub mod pointed;
pub mod special;
pub mod strike;
pub mod twins;

use ft_core::Nanos;

use crate::random::Random;
use crate::shape::{MS, Setting};

/// Kinds of fault. Where one has a victim, that is a seat: 0 for replica a, 1 for b.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process dies after so many more steps; its host lives.
    Kill,
    /// The host dies with all that it had in memory. On one machine that is both replicas.
    HostLoss,
    /// The process is stopped after so many more steps, and goes on later.
    Pause,
    /// The thread that runs the guest gets nowhere; everything else of the process works.
    Wedge,
    /// Nothing passes between the replicas.
    Partition,
    /// Nothing passes to the victim.
    OneWay,
    /// The log connection stands still towards the victim; datagrams pass.
    Clog,
    /// The log connection is reset.
    Cut,
    /// A byte of the log connection changes on its way to the victim.
    Corrupt,
    /// The register is out of the victim's reach.
    RegisterCut,
    /// The register answers nobody.
    RegisterDown,
    /// The victim's disk requests fail.
    DiskErrors,
    /// The victim's disk requests take long.
    DiskSlow,
    /// The victim's clock jumps forward.
    ClockJump,
    /// The victim's guest runs much slower than it did.
    Slow,
    /// The operator stops the pair, at the victim.
    Stop,
    /// The victim's process starts anew, if it does not run.
    Restart,
    /// The register's store is put back to what it was at the start.
    Restored,
    /// The thread that runs the guest never gets anywhere any more; everything else of the process works.
    WedgedForGood,
    /// The victim's disk requests never end well any more.
    DiskErrorsForGood,
    /// A bit of the memory of a backup's guest changes.
    Damage,
    /// The process, on two hosts with its host, dies and starts anew before the peer can have noticed.
    Reboot,
    /// The process dies soon after it has asked the tie-breaker.
    KillAsker,
    /// The process starts anew, if it does not run, and reaches the tie-breaker before it reaches its peer.
    Return,
    /// Both processes die, with or without their hosts, and are started anew one after the other.
    Blackout,
    /// The victim's copy of the disk, or its stamp, cannot be used while its process does not run.
    CopyMissing,
    /// The victim's copy of the disk is lost for good while its process does not run.
    CopyLost,
    /// Like a blackout, as soon as a copy of the disk is being copied into.
    CopyCut,
    /// The log connection breaks off in the middle of what is on its way to the victim.
    Truncate,
    /// No datagram reaches the victim; connections are fine.
    Deaf,
    /// Nobody takes the victim's outputs: its launcher does not read.
    Crowded,
    /// Another process of the victim's identity runs elsewhere.
    Twin,
    /// A person promotes the victim as soon as it waits for that; some are careless.
    Promote,
}

impl Kind {
    /// What any pair may meet; [`special`], [`pointed`], [`corners`] and [`apart`] have plans for the others.
    pub const ALL: &[Self] = &[
        Self::Kill,
        Self::HostLoss,
        Self::Pause,
        Self::Wedge,
        Self::Partition,
        Self::OneWay,
        Self::Clog,
        Self::Cut,
        Self::Corrupt,
        Self::RegisterCut,
        Self::RegisterDown,
        Self::DiskErrors,
        Self::DiskSlow,
        Self::ClockJump,
        Self::Slow,
        Self::Stop,
        Self::Restart,
        Self::Restored,
    ];

    /// What a primary does not survive, or seems not to.
    const DEADLY: &[Self] =
        &[Self::Kill, Self::Kill, Self::HostLoss, Self::Pause, Self::Pause, Self::Cut, Self::Partition];

    /// True if a pair with a backup bears one of these alone, and its guest lives.
    pub fn is_borne(self, setting: Setting) -> bool {
        match self {
            Self::HostLoss => setting == Setting::TwoHosts,
            Self::Stop
            | Self::Restored
            | Self::KillAsker
            | Self::Twin
            | Self::Return
            | Self::Blackout
            | Self::CopyCut
            | Self::CopyLost => false,
            _ => true,
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Whose.
    pub victim: usize,
    /// When, after the first start of the guest.
    pub at: Nanos,
    /// `at` counts from the beginning, when nobody has started the guest.
    pub early: bool,
    /// How long it lasts, where it ends by itself.
    pub lasts: Nanos,
    /// What it needs a number for: steps until then, a flavour.
    pub number: u64,
}

/// What goes wrong in a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The faults, by time.
    pub faults: Vec<Fault>,
    /// How long they may go on.
    pub safety: Nanos,
}

impl Plan {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        // A swarm: each seed knows a few kinds only, so that each sees much of what it knows.
        let mut known: Vec<Kind> = Kind::ALL.iter().copied().filter(|_| random.chance(3)).collect();
        // What makes a backup take over is drawn more often.
        known.extend(Kind::DEADLY.iter().filter(|_| random.chance(2)));
        let safety = random.pick(&[400, 1200, 2500]) * MS;
        let count = match random.below(8) {
            0 => 0,
            1..=3 => 1,
            4..=5 => 2,
            6 => 3,
            _ => 6,
        };
        let mut faults: Vec<Fault> = (0..count)
            .filter(|_| !known.is_empty())
            .map(|_| Fault {
                kind: random.pick(&known),
                victim: random.below(2) as usize,
                at: random.below(safety * 3 / 4),
                early: false,
                lasts: random.pick(&[10, 100, 600, 2500]) * MS / 2 + random.below(50 * MS),
                number: random.next(),
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        // A store put back together with anything else is more than one fault, which the protocol does not claim to bear.
        if let Some(restored) = faults.iter().find(|fault| fault.kind == Kind::Restored).copied() {
            faults = vec![restored];
        }
        Self { faults, safety }
    }
}
