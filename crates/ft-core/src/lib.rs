//! The replication protocol of ft-vm as state machines without I/O, threads or a clock of their own.

pub mod input;
pub mod output;
