//! The devices of the virtual machine, and what stands between them and the world outside.
//!
//! - [`board`]: everything of the machine that is neither CPU nor RAM, as one deterministic state machine. It says what it
//!   wants done ([`ft_core::output`]) and is told what happened ([`ft_core::input`]); it does no I/O itself.
//! - [`clock`], [`lapic`], [`ioapic`], [`chipset`], [`serial`], [`reset`], [`virtio`]: the parts of the board.
//! - [`ft`]: for every output, whether it is done now, held until the backup has it, kept back, or dropped.
//! - [`backend`]: disks and entropy of the host.
//! - [`digest`]: turns any state into named leaves, so that a divergence report can name what differs.
//! - [`fuzzing`]: entry points for fuzzers.

pub mod backend;
pub mod board;
pub mod chipset;
pub mod clock;
pub mod digest;
pub mod ft;
pub mod fuzzing;
pub mod ioapic;
pub mod lapic;
pub mod layout;
pub mod reset;
pub mod serial;
pub mod state;
pub mod virtio;

pub use board::{ApplyError, Board, BoardSpec, DiskSpec, NicSpec};
pub use state::{BoardState, RestoreError};
