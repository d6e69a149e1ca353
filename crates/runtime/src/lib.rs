//! Builds a machine from a config and runs it: replicas, and the launcher of a local pair.

pub mod launcher;
