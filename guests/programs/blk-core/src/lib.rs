//! What the guest `blk` does to a disk, and what the disk must hold then.
//!
//! Operation number `i` of a seed is a pure function of the seed, `i` and the size of the disk ([`op`]), and so is what a
//! write puts into each sector ([`content`]). Requests that overlap take effect in the order of submission: so the whole
//! history of a disk is known from its seed and the number of operations, to the guest, which checks every read, and to a
//! test on the host, which looks at the image file.
//!
//! Every written sector says in clear which operation of which seed wrote it: whoever finds a wrong one can tell whose it
//! is ([`explain`]).
#![no_std]

extern crate alloc;

pub mod content;
mod crash;
mod hash;
mod image;
mod model;
mod ops;
mod random;

pub use content::{Origin, Which, explain};
pub use crash::check_crashed;
pub use hash::{ImageHash, image_hash};
pub use image::{Wrong, check_image, compare, expected_image};
pub use model::{Model, Stamp};
pub use ops::{HOT, Kind, MAX_COUNT, Op, op, ops};
pub use random::Random;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The content of a sector.
pub type Sector = [u8; SECTOR];
