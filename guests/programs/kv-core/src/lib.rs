//! The parts of `kv` that touch no machine: the protocol, the commands, the store and the log.
//!
//! Everything here is bytes in, bytes out, so that it can be tested on any host. The program around it moves the
//! bytes between network, disk and [`Connection`]s.
#![no_std]

extern crate alloc;

mod commands;
mod connection;
mod crc32;
mod log;
mod number;
mod parser;
mod reply;
mod server;
mod store;

pub use commands::COMMANDS;
pub use connection::Connection;
pub use crc32::crc32;
pub use log::{Disk, Log, OpenError, SECTOR};
pub use parser::{MAX_BULK, Parser, ProtocolError, Step};
pub use server::{Limits, Server};
pub use store::Store;
