//! The replication protocol of ft-vm as state machines without I/O, threads or a clock of their own.
//!
//! [`Replica`] is one side of a pair. The runtime (or a simulator) tells it what happened ([`Replica::handle`] with an
//! [`Event`] and the time) and does what it wants done ([`Replica::poll_effect`], [`Replica::poll_transmit`],
//! [`Replica::poll_release`], [`Replica::poll_timeout`]). The thread that runs the guest appends records and outputs, or,
//! on a backup, takes records and reports that it has executed them.
//!
//! The invariant that everything here serves, asserted where each step is taken:
//!
//! > outputs released in g ⊆ acknowledged in g ⊆ received by the backup when it closes the session ⊆ replayed by the
//! > backup before it goes live.

pub mod backlog;
pub mod gate;
pub mod histogram;
pub mod input;
pub mod log;
pub mod mutation;
pub mod output;
pub mod reads;
pub mod record;
pub mod replica;
pub mod wire;

pub use ft_policies::ReplicaId;
pub use record::{Body, LogRecord, OutputClass};
pub use replica::{Divergence, Effect, Event, Exit, Mode, Phase, Released, Replica, Settings, Status};

/// Log sequence number: 1 for the first record of a guest's life, never restarted and without gaps.
pub type Lsn = u64;

/// Nanoseconds of a monotonic clock of this process, from any origin. Two processes' values are never compared.
pub type Nanos = u64;
