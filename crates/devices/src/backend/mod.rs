//! The host's side of the devices: what carries out outputs and gives inputs. Not deterministic, and outside the machine.

pub mod disk;
pub mod entropy;
pub mod pool;
pub mod schedule;
