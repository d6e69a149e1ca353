//! What a seed's pair and its world are like for the whole run: everything drawn before the first event.

use ft_core::Nanos;
use ft_devices::ft::DiskPolicy;
use ft_devices::ft::reads::{OnBackup, OnPrimary};
use ft_devices::ft::sharing::{Separate, Shared};
use ft_policies::detector::{DetectorKind, fixed, phi_accrual};
use ft_policies::pacing::{PacingKind, lag_feedback};
use ft_policies::{Key, Time};

use crate::guest::Profile;
use crate::random::Random;

/// Nanoseconds of a millisecond.
pub const MS: Nanos = 1_000_000;

/// Where the two replicas run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// On one machine, under one launcher, which can kill a process and see it gone. They have the page cache in common.
    OneMachine,
    /// On two, which reach the shared disk past their page caches.
    TwoHosts,
}

/// Conditions that hold all the time, each of which a seed has or lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambient {
    /// Bytes and datagrams take longer now and then.
    Jitter,
    /// Some heartbeats are lost.
    Loss,
    /// Some heartbeats come twice.
    Duplicates,
    /// The log connection is narrow.
    Narrow,
    /// Threads are not run for a while now and then.
    Busy,
    /// The hosts' clocks do not run at the same speed.
    Clocks,
    /// Some answers of the register come late, twice, or never.
    OddAnswers,
    /// Some requests to the disk take very long.
    SlowWrites,
    /// The event loops always come late: the hosts are too small, also once faults have stopped. Not drawn, but by
    /// [`crate::faults::special`].
    Late,
    /// The client sends much more than a log holds that nobody executes. Not drawn either.
    Flood,
    /// Every answer of the register comes once more, later. Not drawn either.
    Echoes,
}

impl Ambient {
    /// Those under which nobody is taken for lost without a reason.
    pub const HARMLESS: &[Self] = &[Self::Duplicates, Self::Clocks];

    /// What may be drawn.
    pub const ALL: &[Self] = &[
        Self::Jitter,
        Self::Loss,
        Self::Duplicates,
        Self::Narrow,
        Self::Busy,
        Self::Clocks,
        Self::OddAnswers,
        Self::SlowWrites,
    ];
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Where the replicas run.
    pub setting: Setting,
    /// The backup reads the shared disk itself.
    pub reads_on_backup: bool,
    /// The failure detector.
    pub detector: DetectorKind,
    /// The pacing.
    pub pacing: PacingKind,
    /// The pair's key, if it has one.
    pub key: Option<Key>,
    /// Most outputs in the gate.
    pub gate: usize,
    /// How long a replica waits for the other one before it starts the guest alone.
    pub start_alone: Nanos,
    /// The guest.
    pub profile: Profile,
    /// Host time of one of its instructions.
    pub instruction: Nanos,
    /// Most instructions between two looks around.
    pub slice: u64,
    /// How much slower the backup executes, in tenths.
    pub backup_pace: u64,
    /// One way through the network.
    pub latency: Nanos,
    /// Bytes in a second, of a narrow connection.
    pub bandwidth: u64,
    /// A client's frame comes about once in this time.
    pub client: Nanos,
    /// Each replica has a copy of the disk of its own.
    pub separate: bool,
    /// Which copies' files are there before the first start.
    pub files: [bool; 2],
    /// The tie-breaker is a person.
    pub by_hand: bool,
    /// The guest's next position may be told before it is there, as where positions are exits of a guest (drawn by
    /// [`crate::faults::pointed`], as the next one is).
    pub exits: bool,
    /// Something may come between the look for effects and that for outputs.
    pub interleaved: bool,
    /// Guest time is a function of position, and jumps where the guest waits. Not drawn here.
    pub virtual_clock: bool,
    /// What a replica says to the launcher, and the frames that it sends, wait in two sockets until that reads them. Not drawn here.
    pub slow_launcher: bool,
    /// What holds all the time.
    pub ambient: Vec<Ambient>,
}

impl Shape {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        let timeout = random.pick(&[60, 100, 200]) * MS;
        let detector = if random.chance(3) {
            DetectorKind::PhiAccrual(phi_accrual::Settings {
                heartbeat: Time(20 * MS),
                threshold: 8,
                acceptable_pause: Time(100 * MS),
                min_deviation: Time(5 * MS),
                max_silence: Time(500 * MS),
                window: 100,
            })
        } else {
            DetectorKind::Fixed(fixed::Settings { heartbeat: Time(timeout / 5), timeout: Time(timeout) })
        };
        let pacing = if random.chance(2) {
            PacingKind::LagFeedback(lag_feedback::Settings { target: Time(20 * MS) })
        } else {
            PacingKind::None
        };
        let ends = random.chance(5);
        let profile = Profile {
            idle: random.pick(&[8, 16, 32]),
            end_after: if ends { random.between(5, 120) } else { u64::MAX },
            sleeps: random.chance(2),
            asks: false,
            hot: false,
            zeroes: false,
        };
        // Each seed leaves about half of them out, some all.
        let most = random.below(3);
        let ambient = Ambient::ALL.iter().copied().filter(|_| random.below(4) < most).collect();
        Self {
            setting: if random.chance(2) { Setting::OneMachine } else { Setting::TwoHosts },
            reads_on_backup: random.chance(2),
            detector,
            pacing,
            key: random.chance(4).then(|| Key::of([7; 32])),
            gate: random.pick(&[3, 20, 200]),
            start_alone: random.pick(&[300, 600]) * MS,
            profile,
            instruction: 50_000,
            slice: random.pick(&[10, 40, 120]),
            backup_pace: random.pick(&[2, 5, 9, 12]),
            latency: random.pick(&[20_000, 200_000, 2_000_000]),
            bandwidth: random.pick(&[50_000, 400_000]),
            client: random.pick(&[5, 20, 100]) * MS,
            separate: false,
            files: [false; 2],
            by_hand: false,
            exits: false,
            interleaved: false,
            virtual_clock: false,
            slow_launcher: false,
            ambient,
        }
    }

    /// Leaves out all conditions but these.
    pub fn keep(&mut self, ambient: &[Ambient]) {
        self.ambient.retain(|own| ambient.contains(own));
    }

    /// True if this holds.
    pub fn has(&self, ambient: Ambient) -> bool {
        self.ambient.contains(&ambient)
    }

    /// How the disk is replicated.
    pub fn policy(&self) -> DiskPolicy {
        match (self.separate, self.reads_on_backup) {
            (false, false) => DiskPolicy::new(Shared, OnPrimary),
            (false, true) => DiskPolicy::new(Shared, OnBackup),
            (true, false) => DiskPolicy::new(Separate, OnPrimary),
            (true, true) => DiskPolicy::new(Separate, OnBackup),
        }
    }
}
