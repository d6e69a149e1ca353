//! The configuration that the rest of ft-vm works with: typed, complete, with absolute paths.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::detector::DetectorKind;
use crate::diagnostics::Diagnostics;
use crate::key::Key;
use crate::logging::Logging;
use crate::output::Output;
use crate::pacing::PacingKind;
use crate::tie_breaker::TieBreakerKind;
use crate::units::{Size, Time};

/// The guests that are built into ft-vm: `kernel = "builtin:NAME"`.
pub const BUILTIN_GUESTS: &[&str] = &["kv", "cpu", "blk"];
/// The least memory a virtual machine may have.
pub const MIN_MEMORY: Size = Size::mib(16);
/// The most: guest-physical addresses above 3 GiB belong to devices.
pub const MAX_MEMORY: Size = Size::mib(3 * 1024);

/// A whole configuration file, checked, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, absolute.
    pub path: PathBuf,
    /// `[vm]`
    pub vm: Vm,
    /// `[console]`
    pub console: Console,
    /// Each `[[disk]]`, in order: the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// Each `[[net]]`, in order; at most one in this version.
    pub nets: Vec<Net>,
    /// `[replicas]`
    pub replicas: Replicas,
    /// `[logging]`
    pub logging: Logging,
    /// `[output]`
    pub output: Output,
    /// `[detector.KIND]`
    pub detector: DetectorKind,
    /// `[tie-breaker.KIND]`
    pub tie_breaker: TieBreakerKind,
    /// `[pacing.KIND]`
    pub pacing: PacingKind,
}

impl Config {
    /// Reads a config file, applies the `KEY=TOML` overrides in order, and checks everything.
    ///
    /// # Errors
    /// Every mistake that was found, not only the first.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, Diagnostics> {
        crate::check::load(path, sets)
    }

    /// The same for a text that is already in memory. `path` is used in messages, and relative paths in the text are
    /// relative to its folder.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &[u8], sets: &[String]) -> Result<Self, Diagnostics> {
        crate::check::parse(path, text, sets)
    }

    /// What both replicas must have in common, as 128 bits: two replicas with different digests must not form a pair.
    /// It leaves out what may differ between two hosts: every path, and the names of interfaces.  In particular the *content* of a kernel file and the
    /// size of an existing disk are not in it; those are compared apart when the replicas meet.
    pub fn digest(&self) -> u128 {
        crate::digest::config(self)
    }

    /// The same, as the generation register takes it.
    pub fn pair(&self) -> crate::tie_breaker::Pair {
        crate::tie_breaker::Pair { id: self.pair_id(), name: self.vm.name.clone() }
    }

    /// Which pair this is, in frames and in the generation register. It depends on `vm.name` alone, so that every other
    /// setting may change between two starts without making the register another pair's.
    pub fn pair_id(&self) -> u128 {
        crate::digest::pair(self)
    }
}

/// The identity of a replica; it never changes, whatever role (primary, backup) the replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaId {
    /// Primary of the first generation.
    A,
    /// The other one.
    B,
}

impl ReplicaId {
    /// The other replica of the pair.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
    /// `"a"` or `"b"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ReplicaId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            _ => Err("a replica is named `a` or `b`".into()),
        }
    }
}

/// `[vm]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Names the pair: 1 to 63 of `a-z`, `0-9`, `-`.
    pub name: String,
    /// What runs the guest's instructions.
    pub engine: Engine,
    /// Guest memory: a multiple of 4 KiB from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: Size,
    /// What is booted.
    pub kernel: Kernel,
    /// The initial RAM disk. It existed when the config was read.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line: printable ASCII, at most 2047 bytes.
    pub cmdline: String,
    /// What guest time follows.
    pub clock: Clock,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The software engine: any Linux/x86-64 host, no special rights.
    Software,
    /// The host's KVM, for guests that keep to its rules.
    Kvm,
}

/// What is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// One of [`BUILTIN_GUESTS`].
    Builtin(String),
    /// An ELF file or a Linux bzImage. It existed, and began as one of them does, when the config was read.
    File(PathBuf),
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What guest time follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's clock, by logged anchors.
    Host,
    /// The guest's own position: a run is a function of its inputs alone.
    Virtual,
}

/// `[console]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Where the guest's console goes.
    pub output: ConsoleOutput,
    /// How a terminal's keyboard reaches the guest.
    pub input: ConsoleInput,
}

/// How a terminal's keyboard reaches the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleInput {
    /// In whole lines.
    Lines,
    /// Key by key.
    Keys,
}

/// Where the guest's console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleOutput {
    /// `"-"`: standard output (of the launcher, for a pair on this machine).
    Stdout,
    /// A file.
    File(PathBuf),
}

/// `[[disk]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file or block device; [`Disk::path_of`] is the one of a replica.
    pub path: PathBuf,
    /// The size the guest sees, a multiple of 512 bytes: a missing file is created with it (not if read-only), a shorter
    /// one is refused. `None`: the file must exist, and its own size counts.
    pub size: Option<Size>,
    /// Whether both replicas use the same disk.
    pub sharing: Sharing,
    /// Who reads.
    pub reads: Reads,
    /// The guest may not write, and the file is opened for reading only.
    pub read_only: bool,
    /// Faults to inject between the replica and the file, for experiments.
    pub faults: Option<DiskFaults>,
}

impl Disk {
    /// The file of one replica; of a machine without fault tolerance for `None`. Only a separate disk's path holds `{replica}`,
    /// and a machine without fault tolerance has a copy of its own (`solo`), so that a comparison never changes a pair's data.
    pub fn path_of(&self, replica: Option<ReplicaId>) -> PathBuf {
        path_of(&self.path, replica)
    }
}

/// The path of one replica, or of a machine without fault tolerance for `None`.
pub(crate) fn path_of(path: &Path, replica: Option<ReplicaId>) -> PathBuf {
    let name = replica.map_or("solo", ReplicaId::name);
    match path.to_str() {
        Some(text) if text.contains(REPLICA) => PathBuf::from(text.replace(REPLICA, name)),
        _ => path.to_owned(),
    }
}

/// What stands for the replica's name in the path of a separate disk.
pub const REPLICA: &str = "{replica}";

/// Whether both replicas use the same disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One disk that both reach; whoever is live writes.
    Shared,
    /// Each replica has a copy of its own and writes it itself.
    Separate,
}

/// Who reads a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The primary; the log carries the data.
    Primary,
    /// Both; the log carries that the read is done, and the backup reads for itself.
    Backup,
}

/// `[disk.faults]`: what goes wrong on purpose between a replica and its disk's file.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskFaults {
    /// On which replica; `None` is both, and a machine without fault tolerance.
    pub replica: Option<ReplicaId>,
    /// Requests of the disk that are left alone first.
    pub after: u64,
    /// Share of reads that fail, 0 to 1.
    pub read_errors: f64,
    /// Share of writes (discards, write-zeroes) that fail.
    pub write_errors: f64,
    /// Share of flushes that fail.
    pub flush_errors: f64,
    /// Share of reads and writes that the host carries out in pieces.
    pub short: f64,
    /// Share of requests that are delayed.
    pub delayed: f64,
    /// By how much each of those is delayed, before it touches the file.
    pub delay: Time,
    /// Writes reach the file at a flush only, as in a host's cache that a power failure empties: what was not flushed when the
    /// process ends is lost, but for a part of one write.
    pub lose_unflushed: bool,
    /// Which requests are struck: the same seed strikes the same ones.
    pub seed: u64,
}

impl Eq for DiskFaults {}

/// `[[net]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// The guest's address on the link: unicast.
    pub mac: [u8; 6],
    /// What the interface is connected to.
    pub backend: NetBackend,
}

/// What a network interface is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetBackend {
    /// `[net.user]`: the launcher's own small network, with host ports forwarded into it.
    User {
        /// Ports that are forwarded; no two listen at the same place.
        forward: Vec<Forward>,
    },
    /// `[net.tap]`: a TAP interface of the host that exists already.
    Tap {
        /// Its name; hosts may differ in it.
        interface: String,
    },
}

/// `"127.0.0.1:6379 -> 6379"`: a TCP port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Where the host listens; the port is not 0.
    pub listen: SocketAddr,
    /// The guest's TCP port, not 0.
    pub guest_port: u16,
}

/// `[replicas]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Where replica a listens for its peer: an address that the peer can connect to.
    pub a: SocketAddr,
    /// Where replica b listens.
    pub b: SocketAddr,
    /// How long a start waits for the peer before going on alone.
    pub start_alone: Time,
    /// The secret by which the two know each other.
    pub key: Option<Key>,
}

impl Replicas {
    /// Whether both run on one machine, under one launcher: then both addresses are loopback. Otherwise neither is.
    pub fn one_machine(&self) -> bool {
        self.a.ip().is_loopback() && self.b.ip().is_loopback()
    }
    /// What an operator should know who lets others reach the replicas and gave these no key.
    pub fn warning(&self) -> Option<String> {
        (self.key.is_none() && !self.one_machine()).then(|| {
            format!(
                "the replicas do not know each other by a key: whoever reaches {} or {} can depose a live primary, or be taken for \
                 its backup; make one with `ft-vm key pair.key`, give each host a copy, and add key = \"pair.key\" to [replicas]",
                self.a, self.b
            )
        })
    }

    /// The address of one of the two.
    pub fn address(&self, replica: ReplicaId) -> SocketAddr {
        match replica {
            ReplicaId::A => self.a,
            ReplicaId::B => self.b,
        }
    }
}
