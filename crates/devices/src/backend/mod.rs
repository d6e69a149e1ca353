//! The host's side of the devices: what carries out outputs and gives inputs. Not deterministic, and outside the machine.

pub mod copy;
mod direct;
pub mod disk;
mod durable;
pub mod entropy;
pub mod fault;
pub mod file;
pub mod fuzzing;
mod lock;
pub mod medium;
pub mod memory;
mod overlay;
pub mod pool;
pub mod quarantine;
pub mod schedule;
pub mod stamp;
mod zero;
