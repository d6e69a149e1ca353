//! Builds a machine from a config and runs it: replicas, and the launcher of a local pair.

pub mod boot;
pub mod digest;
pub mod found;
pub mod launcher;
pub mod machine;
pub mod replica;
