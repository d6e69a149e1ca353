//! The configuration of a pair, and the policies it chooses between.
//!
//! * [`Config::load`] reads a TOML file (and `--set` overrides) and gives either a [`Config`] with every default filled
//!   in, every unit parsed and every path absolute, or [`Diagnostics`]: *all* the mistakes, each with its place.
//! * [`schema`] is the same schema as JSON (draft-07), for editors.
//! * Each policy is a trait ([`Pacing`], [`Detector`], [`Register`]) with one implementation per file; a policy is chosen
//!   by the *name of a table* in the file, so changing a policy is changing one header line.
//!
//! Policies are pure: they are told the time (nanoseconds of any monotonic clock) and never look at a clock. The one
//! exception to "no I/O" is the tie-breaker, whose whole point is a durable store that both replicas reach.
//!
//! Adding a policy: one new file with its TOML table, its check and its implementation, and one variant in the enum of
//! the `mod.rs` beside it.

mod check;
mod config;
pub mod detector;
mod diagnostics;
mod digest;
mod document;
mod hex;
pub mod key;
pub mod logging;
pub mod output;
pub mod pacing;
pub mod schema;
pub mod tie_breaker;
pub mod units;

pub use config::{
    BUILTIN_GUESTS, Clock, Config, Console, ConsoleInput, ConsoleOutput, Disk, DiskFaults, Engine, Forward,
    Kernel, MAX_MEMORY, MIN_MEMORY, Net, NetBackend, REPLICA, Reads, ReplicaId, Replicas, Sharing, Vm,
};
pub use detector::{Detector, DetectorKind, Heard};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use key::Key;
pub use logging::{Logging, MAX_RECORD};
pub use output::{Output, OutputRule};
pub use pacing::{FULL_SHARE, Pacing, PacingKind, PerMille};
pub use tie_breaker::{Answer, Pair, Register, RegisterState, TieBreakerKind, Unavailable, Who};
pub use units::{Size, Time};
