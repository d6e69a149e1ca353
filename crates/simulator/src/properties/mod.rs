//! What must hold. A property that can be judged at every step implements [`Property`] in a file of its own and is listed in [`all`];
//! one that is judged when a run is over is a function listed in [`at_the_end`] or [`on_the_disk`].

pub mod acknowledged;
pub mod address;
pub mod armed;
pub mod bounds;
pub mod copies;
pub mod damage;
pub mod deposed;
pub mod divergence;
pub mod durable;
pub mod generations;
pub mod history;
pub mod honest;
pub mod inbound;
pub mod one_live;
pub mod positions;
pub mod transcript;

use ft_core::replica::{Exit, View};
use ft_core::{Lsn, Nanos};

use crate::guest::data::Frame;
use crate::world::World;
use crate::world::facts::Facts;

/// Something that an observer sees.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A process looks different than before.
    Step {
        /// Its seat.
        node: usize,
        /// What it looks like.
        view: &'a View,
        /// What it looked like.
        before: Option<&'a View>,
        /// Where its guest stands.
        position: u64,
        /// Its guest has seen time go back.
        time_went_back: bool,
    },
    /// It lets an output out.
    Released {
        /// Its seat.
        node: usize,
        /// In which generation.
        generation: u64,
        /// The output's marker.
        lsn: Lsn,
        /// Its session.
        session: Option<(u64, u64)>,
        /// An ask is outstanding.
        asking: bool,
    },
    /// It says that it is live.
    Live {
        /// Its seat.
        node: usize,
        /// In which generation.
        generation: u64,
        /// Its process.
        incarnation: u64,
    },
    /// A process has heard a heartbeat of this generation.
    Datagram {
        /// Its seat.
        node: usize,
        /// The generation.
        generation: u64,
    },
    /// A live guest is given an input, which becomes a record.
    Input {
        /// The record's cost, in bytes.
        cost: u64,
        /// There is a backup.
        paired: bool,
        /// The cost of what that has not executed yet, in bytes.
        log: u64,
    },
    /// A frame of the guest's has come out of a switch.
    Frame {
        /// The frame.
        frame: Frame,
    },
    /// Console bytes were let out.
    Console {
        /// In which life.
        life: u64,
        /// Where in all that was ever written.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A process ends by itself, not in order.
    Halted {
        /// Its seat.
        node: usize,
        /// Why.
        exit: Exit,
        /// In words.
        message: &'a str,
    },
}

/// A property that was violated.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub property: &'static str,
    /// How, in words.
    pub what: String,
    /// When.
    pub at: Nanos,
}

/// Something that must hold at every step.
pub trait Property {
    /// Its name.
    fn name(&self) -> &'static str;

    /// True if it holds even where a person has promoted both replicas.
    fn holds_for_two_guests(&self) -> bool {
        false
    }

    /// Judges what is seen.
    ///
    /// # Errors
    /// It does not hold, in words.
    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String>;
}

/// All that must hold at every step.
pub fn all() -> Vec<Box<dyn Property>> {
    vec![
        Box::new(one_live::OneLive),
        Box::new(one_live::Won),
        Box::new(acknowledged::Acknowledged),
        Box::new(acknowledged::BindingAsk),
        Box::new(acknowledged::NotAgain),
        Box::new(address::Address),
        Box::new(armed::Armed),
        Box::new(damage::Damage),
        Box::new(deposed::Deposed),
        Box::new(positions::NeverPastTheTold),
        Box::new(positions::GuestTime),
        Box::new(generations::Generations),
        Box::new(generations::Heard),
        Box::new(bounds::Bounds),
        Box::new(bounds::Room),
        Box::new(divergence::Divergence),
        Box::new(honest::Honest),
        Box::<history::Frames>::default(),
        Box::<history::Console>::default(),
    ]
}

/// A judgement of a run that is over.
pub type Judge = fn(&World) -> Result<(), String>;

/// All that must hold when a run is over.
pub fn at_the_end() -> Vec<(&'static str, Judge)> {
    vec![
        ("transcript", transcript::judge),
        ("disk content", transcript::judge_reads),
        ("inbound frames", inbound::judge),
    ]
}

/// All that must hold of the disk once nobody uses it any more.
pub fn on_the_disk() -> Vec<(&'static str, Judge)> {
    vec![("acknowledged writes", durable::judge)]
}
