//! Makes a copy of a separate disk equal to another: what both replicas do before a backup is one.
//!
//! The replica that is, or will be, live is the *source*, the other the *target*. The target offers its copy, the source
//! accepts it or says why not; then the target sends digests of its blocks, and the source answers with the blocks that
//! differ. Disks are done one after the other, and the source says when all are.
//!
//! - [`message`]: what the two say to each other, as bytes;
//! - [`source`] and [`target`]: the two sides. They do no networking: messages go in and come out.
//!
//! Digests are XXH3: whoever could make two blocks with the same digest on purpose is the guest, which would spoil its own
//! disk.

pub mod message;
mod rules;
pub mod source;
pub mod target;

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use xxhash_rust::xxh3::xxh3_128;

use super::medium::Medium;
use super::stamp::Stamp;

pub use message::{Block, CopyMessage, Origin};
pub use source::CopySource;
pub use target::CopyTarget;

/// Bytes of a block; the last of a disk may be shorter.
pub const BLOCK: u64 = 64 << 10;

static ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];
static ZERO_DIGEST: LazyLock<u128> = LazyLock::new(|| xxh3_128(&ZEROES));

/// One copy of a disk, on the side of which it is.
#[derive(Debug, Clone)]
pub struct CopyDisk {
    /// Its bytes.
    pub medium: Arc<dyn Medium>,
    /// What it is called in messages to people, as "disk 0 (a.img)".
    pub name: String,
    /// Where its content comes from.
    pub origin: Origin,
}

/// Why copies were not made equal.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source does not want to.
    #[error("{0}")]
    Refused(String),
    /// The other side said what it must not.
    #[error("the other replica broke the protocol of copying disks: {0}")]
    Protocol(&'static str),
    /// The host's disk.
    #[error("{doing} {name}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The disk.
        name: String,
        /// What the host said.
        error: io::Error,
    },
}

impl CopyDisk {
    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> CopyError + '_ {
        move |error| CopyError::Io { doing, name: self.name.clone(), error }
    }

    fn blocks(&self) -> u64 {
        self.medium.len().div_ceil(BLOCK)
    }
}

/// Where the content of a copy comes from, seen from its own side. `created` says that its file was not there before.
///
/// # Errors
/// The host cannot say when it was last changed.
pub fn origin(disk: &Path, created: bool, stamp: Option<&Stamp>) -> io::Result<Origin> {
    Ok(match stamp {
        Some(stamp) => Origin::Stamped {
            state: stamp.state,
            generation: stamp.generation,
            clean: stamp.still_clean(disk)?.map(|clean| (clean.generation, clean.position)),
        },
        None if created => Origin::New,
        None => Origin::Existing,
    })
}

/// Digests of `count` blocks from `first` on.
///
/// # Errors
/// The medium's, or there are not so many blocks.
pub fn block_digests(medium: &dyn Medium, first: u64, count: u64) -> io::Result<Vec<u128>> {
    let last = first.saturating_add(count);
    (first..last).map(|index| read_block(medium, index).map(|data| digest(medium, index, &data))).collect()
}

/// Reads a block; an empty one is all zeroes.
///
/// # Errors
/// The medium's, or there is no such block.
pub fn read_block(medium: &dyn Medium, index: u64) -> io::Result<Vec<u8>> {
    let len = block_len(medium, index).ok_or(io::ErrorKind::InvalidInput)?;
    if medium.is_hole(index * BLOCK, len as u64) {
        return Ok(Vec::new());
    }
    let mut data = vec![0; len];
    medium.read(&mut data, index * BLOCK)?;
    if data == ZEROES[..len] {
        data.clear();
    }
    Ok(data)
}

/// Writes a block; an empty one is all zeroes.
///
/// # Errors
/// The medium's, or there is no such block, or it has another length.
pub fn write_block(medium: &dyn Medium, index: u64, data: &[u8]) -> io::Result<()> {
    match block_len(medium, index) {
        Some(len) if data.is_empty() => medium.zero(index * BLOCK, len as u64, true),
        Some(len) if data.len() == len => {
            if data == &ZEROES[..len] {
                medium.zero(index * BLOCK, len as u64, true)
            } else {
                medium.write(data, index * BLOCK)
            }
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Bytes of a block; `None` if there is no such block.
fn block_len(medium: &dyn Medium, index: u64) -> Option<usize> {
    let left = medium.len().checked_sub(index.checked_mul(BLOCK)?)?;
    (left > 0).then_some(left.min(BLOCK) as usize)
}

/// The digest of what [`read_block`] gave.
fn digest(medium: &dyn Medium, index: u64, data: &[u8]) -> u128 {
    match block_len(medium, index) {
        Some(len) if data.is_empty() && len as u64 == BLOCK => *ZERO_DIGEST,
        Some(len) if data.is_empty() => xxh3_128(&ZEROES[..len]),
        _ => xxh3_128(data),
    }
}

#[cfg(test)]
mod tests;
