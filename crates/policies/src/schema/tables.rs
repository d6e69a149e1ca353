//! The tables of a config file that are not a policy's own.

use schemars::JsonSchema;
use serde::Deserialize;

use super::At;
use super::values::{Address, CommandLine, Interface, Mac, Name, NonEmpty, Share};
use crate::config::Forward;
use crate::units::{Size, Time};
use crate::{detector, logging, output, pacing, tie_breaker};

pub(crate) const DEFAULT_MEMORY: &str = "64 MiB";
pub(crate) const DEFAULT_START_ALONE: &str = "30 s";
pub(crate) const DEFAULT_DELAY: &str = "5 ms";

/// A fault-tolerant virtual machine: one guest, two replicas. Sizes and times are written with their units; relative paths
/// are relative to this file; a policy is a table named for its kind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "ft-vm configuration")]
pub(crate) struct Root {
    /// The virtual machine: what both replicas run.
    #[schemars(with = "Vm")]
    pub(crate) vm: Option<Vm>,
    /// The guest's console.
    pub(crate) console: Option<Console>,
    /// The guest's disks, in the order in which it finds them.
    pub(crate) disk: Option<Vec<Disk>>,
    /// The two replicas and where they find each other.
    #[schemars(with = "Replicas")]
    pub(crate) replicas: Option<Replicas>,
    /// The guest's network interfaces; one at most in this version.
    pub(crate) net: Option<Vec<At<Net>>>,
    /// The log between primary and backup.
    pub(crate) logging: Option<logging::Table>,
    /// What the world may see, and when.
    pub(crate) output: Option<output::Table>,
    /// When a silent peer is suspected to be gone. Without it: `[detector.fixed]`.
    pub(crate) detector: Option<detector::Table>,
    /// Who decides which replica may go on alone.
    #[schemars(with = "tie_breaker::Table")]
    pub(crate) tie_breaker: Option<tie_breaker::Table>,
    /// How fast the primary may run when the backup does not keep up. Without it: `[pacing.lag-feedback]`.
    pub(crate) pacing: Option<pacing::Table>,
}

/// The `[vm]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Vm {
    /// The name of the virtual machine, and so of the pair: both replicas and the tie-breaker's entries carry it.
    #[schemars(with = "At<Name>", extend("examples" = ["kv"]))]
    pub(crate) name: Option<At<Name>>,
    /// What runs the guest's instructions.
    #[schemars(extend("default" = "software"))]
    pub(crate) engine: Option<At<Engine>>,
    /// How much memory the guest has: from "16 MiB" to "3 GiB", in whole 4 KiB pages.
    #[schemars(extend("default" = DEFAULT_MEMORY))]
    pub(crate) memory: Option<At<Size>>,
    /// What is booted: `builtin:NAME` for a guest that is part of ft-vm (`builtin:kv`, `builtin:cpu`, `builtin:blk`), or the
    /// path of Linux as its distribution packages it (vmlinuz), or of an ELF file with a PVH or 64-bit Linux entry point.
    #[schemars(with = "At<NonEmpty>", extend("examples" = ["builtin:kv", "builtin:cpu", "builtin:blk", "vmlinuz"]))]
    pub(crate) kernel: Option<At<NonEmpty>>,
    /// The path of an initial RAM disk for the kernel.
    pub(crate) initrd: Option<At<NonEmpty>>,
    /// The kernel's command line.
    #[schemars(extend("default" = ""))]
    pub(crate) cmdline: Option<At<CommandLine>>,
    /// What the guest's time follows.
    #[schemars(extend("default" = "host"))]
    pub(crate) clock: Option<At<Clock>>,
}

/// `vm.engine`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// The software engine: any Linux/x86-64 host, no special rights.
    Software,
    /// The host's KVM: hardware speed, for guests that read no counter and wait for nothing by spinning, as the built-in ones do.
    /// It needs `/dev/kvm` on both hosts, the same processor features on both, and `clock = "host"`.
    Kvm,
}

/// `vm.clock`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Clock {
    /// The host's clock.
    Host,
    /// The guest's own progress: a run is a function of its inputs alone, and guest time may run faster or slower than
    /// the world's.
    Virtual,
}

/// The `[console]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Console {
    /// Where the guest's console goes: `-` is standard output, anything else is a file.
    #[schemars(extend("default" = "-"))]
    pub(crate) output: Option<At<NonEmpty>>,
    /// How a terminal's keyboard reaches the guest.
    #[schemars(extend("default" = "lines"))]
    pub(crate) input: Option<At<ConsoleInput>>,
}

/// `console.input`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ConsoleInput {
    /// In whole lines, which the terminal shows and lets edit; Ctrl-C stops ft-vm.
    Lines,
    /// Key by key, Ctrl-C too, as a guest with a shell wants it; Ctrl-] stops ft-vm.
    Keys,
}

/// A `[[disk]]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Disk {
    /// The file or block device. A separate disk's path holds `{replica}`, which stands for `a` or `b`, where both replicas
    /// run on one machine.
    #[schemars(with = "At<NonEmpty>", extend("examples" = ["kv.img"]))]
    pub(crate) path: Option<At<NonEmpty>>,
    /// How large the disk is, in whole 512-byte sectors. A missing file is created with this size, a shorter one is
    /// refused. Without it the file must exist, and is used as large as it is.
    #[schemars(extend("examples" = ["64 MiB"]))]
    pub(crate) size: Option<At<Size>>,
    /// Whether both replicas use the same disk.
    #[schemars(extend("default" = "shared"))]
    pub(crate) sharing: Option<At<Sharing>>,
    /// Which replica reads it.
    #[schemars(extend("default" = "primary"))]
    pub(crate) reads: Option<At<Reads>>,
    /// Whether the guest may only read it.
    #[schemars(extend("default" = false))]
    pub(crate) read_only: Option<At<bool>>,
    /// What goes wrong on purpose between a replica and the disk's file, for experiments. The two replicas may have
    /// different faults.
    pub(crate) faults: Option<DiskFaults>,
}

/// `disk.sharing`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sharing {
    /// One disk that both replicas reach; whoever is live writes (paper, section 2.2).
    Shared,
    /// Each replica has and writes a copy of its own (paper, section 4.1). The tie-breaker cannot be `shared-disk` then.
    Separate,
}

/// `disk.reads`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reads {
    /// The primary reads, and the log carries the data.
    Primary,
    /// The backup reads for itself (paper, section 4.2): less log, more disk work.
    Backup,
}

/// The `[disk.faults]` table. A share is a number from 0 to 1.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DiskFaults {
    /// On which replica. Without it: on both, and on a machine without fault tolerance.
    pub(crate) replica: Option<At<Replica>>,
    /// How many requests of the disk are left alone first.
    #[schemars(extend("default" = 0))]
    pub(crate) after: Option<At<u64>>,
    /// The share of reads that fail.
    #[schemars(extend("default" = 0))]
    pub(crate) read_errors: Option<At<Share>>,
    /// The share of writes (and discards, and write-zeroes) that fail.
    #[schemars(extend("default" = 0, "examples" = [0.1]))]
    pub(crate) write_errors: Option<At<Share>>,
    /// The share of flushes that fail.
    #[schemars(extend("default" = 0))]
    pub(crate) flush_errors: Option<At<Share>>,
    /// The share of reads and writes that the host carries out in pieces.
    #[schemars(extend("default" = 0))]
    pub(crate) short: Option<At<Share>>,
    /// The share of requests that are delayed before they touch the file.
    #[schemars(extend("default" = 0))]
    pub(crate) delayed: Option<At<Share>>,
    /// By how much each of those is delayed; at most "1 min".
    #[schemars(extend("default" = DEFAULT_DELAY))]
    pub(crate) delay: Option<At<Time>>,
    /// Whether writes reach the file at a flush only, as in a host's cache that a power failure empties: what was not flushed
    /// when the process ends is lost, but for a part of one write. For separate disks.
    #[schemars(extend("default" = false))]
    pub(crate) lose_unflushed: Option<At<bool>>,
    /// Which requests are struck: the same seed strikes the same ones.
    #[schemars(extend("default" = 0))]
    pub(crate) seed: Option<At<u64>>,
}

/// The name of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Replica {
    /// The primary of the first generation.
    A,
    /// The other one.
    B,
}

/// The `[replicas]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Replicas {
    /// Where replica a, the primary of the first generation, listens for its peer: an IP address or `localhost`, and a port.
    /// Two loopback addresses are a pair on one machine; otherwise each replica is started on a host of its own, `--replica a`
    /// on the one with this address.
    #[schemars(with = "At<Address>", extend("examples" = ["127.0.0.1:7001"]))]
    pub(crate) a: Option<At<Address>>,
    /// Where replica b listens for its peer.
    #[schemars(with = "At<Address>", extend("examples" = ["127.0.0.1:7002"]))]
    pub(crate) b: Option<At<Address>>,
    /// How long a start waits for the other replica before the guest runs without it; at most "60 min". Only the replica
    /// that holds the last generation (`a`, before the first) starts alone: the other cannot know what it missed.
    #[schemars(extend("default" = DEFAULT_START_ALONE))]
    pub(crate) start_alone: Option<At<Time>>,
    /// The file of the secret by which the two replicas know each other, relative to this file; `ft-vm key FILE` makes one, and
    /// each host has a copy. Only its owner may read it. Without it whoever reaches the replicas' addresses can depose a live
    /// primary or be taken for its backup: leave it out only where nobody else does. It may be the key of `[tie-breaker.witness]`
    /// too.
    #[schemars(extend("examples" = ["pair.key"]))]
    pub(crate) key: Option<At<NonEmpty>>,
    /// Whether a replica that was lost is started again and joins. Not available in this version.
    pub(crate) rejoin: Option<At<bool>>,
}

/// A `[[net]]` table: exactly one of `[net.user]` and `[net.tap]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["user"]}, {"required": ["tap"]}]))]
pub(crate) struct Net {
    /// The guest's link-layer address; unicast. Without it: 02:66:74:76:6d:00 with `[net.user]`, and with `[net.tap]` one that
    /// is made from the name of the virtual machine.
    #[schemars(extend("examples" = ["02:66:74:76:6d:00"]))]
    pub(crate) mac: Option<At<Mac>>,
    /// A small network inside the launcher, with ports of the host forwarded into it. No special rights needed, and only for
    /// a pair on one machine.
    pub(crate) user: Option<At<NetUser>>,
    /// A TAP interface of the host, through which the guest is on a network of the host's (usually as a port of a bridge). Each
    /// host of a pair has one.
    pub(crate) tap: Option<At<NetTap>>,
}

/// The `[net.user]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NetUser {
    /// TCP ports of the host that lead to ports of the guest.
    #[schemars(extend("default" = [], "examples" = [["127.0.0.1:6379 -> 6379"]]))]
    pub(crate) forward: Option<Vec<At<Forward>>>,
}

/// The `[net.tap]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NetTap {
    /// The name of the TAP interface, which must exist: `ip tuntap add dev ft0 mode tap user NAME`. It may have another name on
    /// the other host.
    #[schemars(with = "At<Interface>", extend("examples" = ["ft0"]))]
    pub(crate) interface: Option<At<Interface>>,
}
