//! Who may go on alone: an atomic compare-and-set of the pair's *generation*, in a store that both replicas reach.
//!
//! A [`Register`] call may block (a hard network mount may hang for ever): it is made in a helper thread with a deadline.
//! When the deadline passes the answer is "unavailable" and *the ask stays outstanding*: whoever asked holds everything
//! back until some later call of the same incarnation has been answered.

mod durable;
pub(crate) mod entry;
pub mod etcd;
pub(crate) mod manual;
mod remedy;
pub(crate) mod shared_disk;
pub mod witness;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{Check, NO_ADDRESS};
use crate::config::{ReplicaId, path_of};
use crate::key::Key;
pub use etcd::Etcd;
pub use manual::Manual;
pub use shared_disk::SharedDisk;
pub use witness::Witness;

/// How long a call to a register on the network may take as a whole, below the second that replicas give every tie-breaker: so
/// the answer says what took so long.
const DEADLINE: Duration = Duration::from_millis(800);

/// A pair, as the register knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its number ([`crate::Config::pair_id`]).
    pub id: u128,
    /// Its `vm.name`, for people.
    pub name: String,
}

/// One process of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The replica.
    pub replica: ReplicaId,
    /// Random per process: a predecessor's win is not mine.
    pub incarnation: u64,
    /// Under which config it runs ([`crate::Config::digest`]).
    pub config: u128,
}

/// What the register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterState {
    /// The highest generation that was won; 0 before the first.
    pub generation: u64,
    /// Who won it; `None` in generation 0 only.
    pub holder: Option<Who>,
}

/// The answer to an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The generation after `from` is the asker's, durably.
    Won,
    /// Somebody else has it, or it is already past.
    Lost(RegisterState),
    /// The register is lower than what the asker knows: the store was restored from an old copy, or is another one. Hold
    /// everything and say so.
    Behind(RegisterState),
    /// Not known: nothing was won, and nothing was lost for certain. Ask again.
    Unavailable(Unavailable),
}

/// Why the register could not be read or advanced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The store did not do what it was asked to.
    #[error("the tie-breaker gives no answer: {doing} {path}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's words, and what to do.
        error: String,
    },
    /// The store belongs to another pair.
    #[error(
        "{path} belongs to the pair `{theirs}`, and this one is `{ours}` (vm.name): give each pair a tie-breaker path of its \
         own. If this pair was called `{theirs}` before, it begins anew with another path, or with this one moved away while \
         both replicas are stopped"
    )]
    ForeignPair {
        /// The entry.
        path: PathBuf,
        /// The pair in the entry.
        theirs: String,
        /// This pair.
        ours: String,
    },
    /// An entry is damaged.
    #[error(
        "{path} is not an intact generation entry ({reason}): the tie-breaker's store is damaged; bring that file back as it was"
    )]
    Corrupt {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Entries below the highest one are missing: nothing ever removes one.
    #[error(
        "{path} is missing although generation {highest} exists: the tie-breaker's store was changed by hand or restored in \
         part; bring that file back as it was"
    )]
    Gap {
        /// The entry that should be there.
        path: PathBuf,
        /// The highest generation that is there.
        highest: u64,
    },
    /// The witness could not be asked, or did not answer.
    #[error(
        "the tie-breaker cannot be reached: the witness at {address}: {doing}: {error}; is `ft-vm witness` running there, and the \
         way to it open?"
    )]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What was tried.
        doing: &'static str,
        /// The operating system's words.
        error: String,
    },
    /// The witness answered, and not with the register's state.
    #[error("the tie-breaker gives no answer: the witness at {address}: {reason}")]
    Witness {
        /// Where it is.
        address: SocketAddr,
        /// What it said, or what is wrong with what it said.
        reason: String,
    },
    /// No member of the etcd cluster did what it was asked to.
    #[error("the tie-breaker cannot be reached: etcd: {}", one_line(failures))]
    Etcd {
        /// What became of each, in the order in which they were asked.
        failures: Vec<etcd::Failure>,
    },
    /// A certificate or key is not there, or is none.
    #[error("the tie-breaker cannot be reached: etcd: {0}")]
    EtcdTls(String),
    /// What is in the etcd is not this pair's generation.
    #[error(
        "the etcd key {key}, read at {address}, is not an intact generation entry ({reason}): the tie-breaker's store is damaged, \
         or something else writes there"
    )]
    EtcdKey {
        /// Which key.
        key: String,
        /// The member that said so.
        address: SocketAddr,
        /// What is wrong with its value.
        reason: String,
    },
    /// The call did not end in time, or could not be made at all.
    #[error("the tie-breaker gives no answer: {place}: {reason}")]
    NoAnswer {
        /// Where the register is ([`TieBreakerKind::place`]).
        place: String,
        /// What happened to the call.
        reason: String,
    },
    /// There is no generation after the last one.
    #[error("the last generation is used up")]
    Exhausted,
}

impl Unavailable {
    /// True if the store is there and what is in it is no whole register: no waiting mends that.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Gap { .. } | Self::EtcdKey { .. } => true,
            Self::ForeignPair { .. }
            | Self::Io { .. }
            | Self::Unreachable { .. }
            | Self::Witness { .. }
            | Self::Etcd { .. }
            | Self::EtcdTls(_)
            | Self::NoAnswer { .. }
            | Self::Exhausted => false,
        }
    }
}

fn one_line(failures: &[etcd::Failure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The generation register. Any number of threads and processes may use the same store at once.
pub trait Register {
    /// What the register holds now.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn read(&self) -> Result<RegisterState, Unavailable>;
    /// Asks for generation `from + 1`. The same `who` asking again after its own win gets [`Answer::Won`] again, as long as
    /// nobody has gone past it.
    fn advance(&self, from: u64, who: &Who) -> Answer;
    /// A generation is known to be somebody else's. Of interest only where each replica has a register of its own.
    ///
    /// # Errors
    /// When it could not be written down.
    fn learn(&self, _state: RegisterState) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// Whether an ask was won: follows from the state after it.
pub(crate) fn answer(from: u64, who: &Who, state: RegisterState) -> Answer {
    match state.generation {
        generation if generation <= from => Answer::Behind(state),
        generation if generation - 1 == from && state.holder == Some(*who) => Answer::Won,
        _ => Answer::Lost(state),
    }
}

/// `[tie-breaker.KIND]`, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TieBreakerKind {
    /// `[tie-breaker.shared-disk]`
    SharedDisk {
        /// The folder of the generation entries; it is made at the first advance, its parent must exist.
        path: PathBuf,
    },
    /// `[tie-breaker.witness]`
    Witness {
        /// Where it listens.
        address: SocketAddr,
        /// What it knows this pair by.
        key: Option<Key>,
    },
    /// `[tie-breaker.manual]`
    Manual {
        /// The file of each replica's memory; it holds `{replica}`.
        path: PathBuf,
    },
    /// `[tie-breaker.etcd]`
    Etcd {
        /// The members of the cluster.
        endpoints: Vec<SocketAddr>,
        /// What the names of its keys begin with.
        prefix: String,
        /// The files for TLS; none without TLS.
        tls: Option<etcd::Tls>,
    },
}

impl TieBreakerKind {
    /// The register of this kind for a replica of a pair. Does no I/O yet.
    pub fn build(&self, pair: &Pair, replica: ReplicaId) -> Box<dyn Register + Send + Sync> {
        match self {
            Self::Manual { path } => Box::new(Manual::new(path_of(path, Some(replica)), pair.clone())),
            Self::SharedDisk { path } => Box::new(SharedDisk::new(path.clone(), pair.clone())),
            Self::Witness { address, key } => Box::new(Witness::new(*address, pair.id, key.clone())),
            Self::Etcd { endpoints, prefix, tls } => {
                Box::new(Etcd::new(endpoints.clone(), prefix, tls.clone(), pair.clone()))
            }
        }
    }
    /// True if a person decides, and each replica has a register of its own.
    pub fn by_hand(&self) -> bool {
        matches!(self, Self::Manual { .. })
    }
    /// Where the register is, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::SharedDisk { path } | Self::Manual { path } => path.display().to_string(),
            Self::Witness { address, .. } => format!("the witness at {address}"),
            Self::Etcd { endpoints, .. } => {
                let members: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                format!("the etcd at {}", members.join(", "))
            }
        }
    }
    /// Where the register of one replica is: its own, where each has one.
    pub fn place_of(&self, replica: ReplicaId) -> String {
        match self {
            Self::Manual { path } => path_of(path, Some(replica)).display().to_string(),
            Self::SharedDisk { .. } | Self::Witness { .. } | Self::Etcd { .. } => self.place(),
        }
    }
    /// What a person does to begin anew, as if no generation had ever been won: the end of a sentence.
    pub fn begin_anew(&self) -> String {
        let place = self.place();
        match self {
            Self::SharedDisk { .. } => {
                format!("with both replicas stopped, move the folder {place} away, or name another path")
            }
            Self::Manual { .. } => format!(
                "with both replicas stopped, move {place} away, the one of replica a and the one of replica b"
            ),
            Self::Witness { .. } => format!(
                "with both replicas stopped, give the pair another vm.name: {place} never forgets a pair, and must not"
            ),
            Self::Etcd { .. } => format!(
                "with both replicas stopped, give the pair another vm.name, or another prefix in {place}"
            ),
        }
    }
    /// The name of its table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SharedDisk { .. } => "shared-disk",
            Self::Witness { .. } => "witness",
            Self::Manual { .. } => "manual",
            Self::Etcd { .. } => "etcd",
        }
    }
}

/// Who decides which replica may go on alone: exactly one of these tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "TieBreaker")]
pub(crate) enum Table {
    /// Generation entries in a folder on the file system that holds the shared disk.
    SharedDisk(shared_disk::Table),
    /// A witness: a small server (`ft-vm witness`) on a third host. Bringing an old copy of its state back while a replica is
    /// paused that won a generation since then are two faults at once, which it cannot tell from none.
    Witness(witness::Table),
    /// A key in an etcd cluster (3.4 or later). It answers as long as a majority of the members does, so neither of two hosts may
    /// have so many of them that the rest is none. Restoring an old copy of it while a replica is paused that won a generation
    /// since then are two faults at once, which it cannot tell from none.
    Etcd(etcd::Table),
    /// Nobody goes on until a person says so (`ft-vm promote`). Whoever promotes both sides of a pair that cannot see each other
    /// has two guests.
    Manual(manual::Table),
}

impl Table {
    pub(crate) fn resolve(table: Option<Self>, name: &str, check: &mut Check) -> TieBreakerKind {
        match table {
            Some(Self::SharedDisk(table)) => table.resolve(check),
            Some(Self::Witness(table)) => {
                let key = check.witness_key(&table);
                TieBreakerKind::Witness { address: table.socket().unwrap_or(NO_ADDRESS), key }
            }
            Some(Self::Etcd(table)) => table.resolve(check),
            Some(Self::Manual(table)) => table.resolve(name, check),
            // Missing: already reported, it is required.
            None => TieBreakerKind::SharedDisk { path: PathBuf::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_follows_from_the_state() {
        let (me, other) = (
            Who { replica: ReplicaId::A, incarnation: 1, config: 0 },
            Who { replica: ReplicaId::A, incarnation: 2, config: 0 },
        );
        let state = |generation, holder| RegisterState { generation, holder };
        assert_eq!(answer(2, &me, state(3, Some(me))), Answer::Won);
        assert_eq!(answer(2, &me, state(3, Some(other))), Answer::Lost(state(3, Some(other))));
        assert_eq!(answer(2, &me, state(4, Some(me))), Answer::Lost(state(4, Some(me))));
        assert_eq!(answer(2, &me, state(1, Some(me))), Answer::Behind(state(1, Some(me))));
        assert_eq!(answer(2, &me, state(0, None)), Answer::Behind(state(0, None)));
        assert_eq!(
            answer(u64::MAX, &me, state(u64::MAX, Some(me))),
            Answer::Behind(state(u64::MAX, Some(me)))
        );
    }
}
