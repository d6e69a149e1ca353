//! The config of a test: a template in which a test changes single values.

use std::fmt::Write as _;
use std::time::Duration;

use crate::{DiskPolicy, Etcd, Ports, linux};

/// Which in-tree guest is booted.
#[derive(Clone, Debug)]
pub enum Guest {
    /// `guests/kv`, with a disk and a forwarded port.
    Kv,
    /// `guests/cpu`: this many rounds, this exit code; neither disk nor network.
    Cpu {
        /// Rounds of the checksum.
        rounds: u64,
        /// Exit code at power-off.
        exit: u8,
    },
    /// `guests/blk`: what it is told, and its disks of [`BLK_SECTORS`] each.
    Blk {
        /// The command line.
        cmdline: String,
        /// How many disks there are.
        disks: usize,
    },
    /// Debian's Linux and an initramfs ([`crate::linux`]), with a forwarded port to its HTTP server.
    Linux {
        /// The image that its disk is a copy of; without one it stays in the initramfs.
        image: Option<&'static str>,
    },
}

impl Guest {
    /// How many disks it has.
    pub(crate) fn disks(&self) -> usize {
        match self {
            Self::Kv => 1,
            Self::Cpu { .. } => 0,
            Self::Blk { disks, .. } => *disks,
            Self::Linux { image } => usize::from(image.is_some()),
        }
    }
}

/// Which tie-breaker a pair has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieBreaker {
    /// A folder that both replicas reach.
    SharedDisk,
    /// `ft-vm witness`, which the bed starts.
    Witness,
    /// An etcd, which the bed runs.
    Etcd {
        /// How many members it has.
        members: usize,
    },
    /// A person: [`crate::Bed::promote`].
    Manual,
}

/// Sectors of each disk of `guests/blk`.
pub const BLK_SECTORS: u64 = 16_384;

/// Which of a bed's ports is the witness's.
pub(crate) const WITNESS: usize = 6;

/// Where everybody is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// The addresses of replica a and b.
    pub(crate) replicas: [&'static str; 2],
    /// The address of the witness, where there is one.
    pub(crate) witness: &'static str,
    /// The host's interface that the guest's network is; without it the launcher's own network.
    pub(crate) tap: Option<&'static str>,
}

/// The pair's key, which is the file of the witness's keys too.
pub const KEY: &str = "pair.key";

/// What a test may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The guest.
    pub guest: Guest,
    /// `vm.engine`
    pub engine: &'static str,
    /// Silence after which the detector suspects the peer. Long by default: most tests lose a replica by a closed
    /// connection, and a loaded test machine is no reason to suspect one.
    pub timeout: Duration,
    /// How the guest's disks are replicated.
    pub disk: DiskPolicy,
    /// Who decides which replica goes on alone. [`Settings::with_disk`] takes a witness for separate disks: they have no file
    /// system in common.
    pub tie_breaker: TieBreaker,
    /// Whether the replicas, and their witness, have a key; where others can reach the witness they always have.
    pub keyed: bool,
    /// Whether the witness's state is on a small file system of its own ([`crate::Store`]).
    pub witness_on_store: bool,
    /// Lines added at the end.
    pub extra: String,
}

impl Settings {
    /// The usual settings for a guest.
    pub fn new(guest: Guest) -> Self {
        Self::with_disk(guest, DiskPolicy::SHARED)
    }

    /// The usual settings for a guest with disks of this kind.
    pub fn with_disk(guest: Guest, disk: DiskPolicy) -> Self {
        let tie_breaker = if disk.is_separate() { TieBreaker::Witness } else { TieBreaker::SharedDisk };
        Self {
            guest,
            engine: "software",
            timeout: Duration::from_secs(2),
            disk,
            tie_breaker,
            keyed: false,
            witness_on_store: false,
            extra: String::new(),
        }
    }

    /// The config's text. Ports: 0 is forwarded to the guest, 1 and 2 are the replicas', 6 is the witness's. An etcd runs already.
    pub(crate) fn text(&self, name: &str, network: Network, ports: &Ports, etcd: Option<&Etcd>) -> String {
        let Network { replicas: [at_a, at_b], witness, tap } = network;
        let memory = if matches!(self.guest, Guest::Linux { .. }) { linux::MEMORY } else { "64 MiB" };
        let mut text =
            format!("[vm]\nname = \"{name}\"\nengine = \"{}\"\nmemory = \"{memory}\"\n", self.engine);
        let size = match &self.guest {
            Guest::Kv => {
                text += "kernel = \"builtin:kv\"\n\n";
                "64 MiB"
            }
            Guest::Cpu { rounds, exit } => {
                let _ =
                    writeln!(text, "kernel = \"builtin:cpu\"\ncmdline = \"rounds={rounds} exit={exit}\"\n");
                ""
            }
            Guest::Blk { cmdline, .. } => {
                let _ = writeln!(text, "kernel = \"builtin:blk\"\ncmdline = \"{cmdline}\"\n");
                "8 MiB"
            }
            Guest::Linux { .. } => {
                let [kernel, initrd] = [linux::KERNEL, linux::INITRD].map(linux::asset);
                let _ =
                    writeln!(text, "kernel = \"{}\"\ninitrd = \"{}\"", kernel.display(), initrd.display());
                text += "cmdline = \"console=ttyS0\"\n\n";
                ""
            }
        };
        for disk in 0..self.guest.disks() {
            let (path, keys) = (self.disk.path(disk), self.disk.keys());
            let _ = writeln!(text, "[[disk]]\npath = \"{path}\"\n{keys}");
            // An image that is there already has its size.
            let _ = if size.is_empty() { writeln!(text) } else { writeln!(text, "size = \"{size}\"\n") };
        }
        let served = match self.guest {
            Guest::Kv => Some(6379),
            Guest::Linux { .. } => Some(80),
            Guest::Cpu { .. } | Guest::Blk { .. } => None,
        };
        if let Some(served) = served {
            let _ = writeln!(text, "[[net]]\nmac = \"52:54:00:12:34:56\"\n");
            let _ = match tap {
                Some(interface) => writeln!(text, "[net.tap]\ninterface = \"{interface}\"\n"),
                None => {
                    writeln!(text, "[net.user]\nforward = [\"127.0.0.1:{} -> {served}\"]\n", ports.get(0))
                }
            };
        }
        let (a, b) = (ports.get(1), ports.get(2));
        let _ = writeln!(text, "[replicas]\na = \"{at_a}:{a}\"\nb = \"{at_b}:{b}\"\nstart-alone = \"30 s\"");
        if self.keyed {
            let _ = writeln!(text, "key = \"{KEY}\"");
        }
        text += "\n";
        let timeout = self.timeout.as_millis();
        let _ = writeln!(text, "[detector.fixed]\nheartbeat = \"20 ms\"\ntimeout = \"{timeout} ms\"\n");
        match self.tie_breaker {
            TieBreaker::SharedDisk => text += "[tie-breaker.shared-disk]\npath = \"generation\"\n\n",
            TieBreaker::Witness => {
                let _ =
                    writeln!(text, "[tie-breaker.witness]\naddress = \"{witness}:{}\"", ports.get(WITNESS));
                if self.keyed {
                    let _ = writeln!(text, "key = \"{KEY}\"");
                }
                text += "\n";
            }
            TieBreaker::Etcd { .. } => {
                let etcd = etcd.expect("it was started for this pair");
                let _ = writeln!(text, "{}", etcd.table());
            }
            TieBreaker::Manual => text += "[tie-breaker.manual]\npath = \"{replica}.generation\"\n\n",
        }
        text += "[pacing.lag-feedback]\ntarget = \"100 ms\"\n";
        text += &self.extra;
        text
    }
}
