//! The launcher of a local pair.

pub mod messages;
