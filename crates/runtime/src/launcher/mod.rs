//! The launcher of a local pair.

pub mod lan;
pub mod messages;
pub mod packet;
pub(crate) mod poller;
