//! Whole images, for those who have room for one: tests on the host.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::{Model, SECTOR, Stamp, Which, explain};

/// A sector that does not hold what it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its number.
    pub sector: u64,
    /// What it must hold.
    pub expected: Stamp,
    /// What it holds.
    pub found: Which,
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sector {}: expected {}, found {}", self.sector, self.expected, self.found)
    }
}

impl core::error::Error for Wrong {}

/// The sectors that differ from their stamps, where `bytes` are the content from sector `first` on.
pub fn compare<'a>(
    seed: u64,
    first: u64,
    stamps: &'a [Stamp],
    bytes: &'a [u8],
) -> impl Iterator<Item = Wrong> + use<'a> {
    let (contents, _) = bytes.as_chunks::<SECTOR>();
    (first..).zip(stamps).zip(contents).filter_map(move |((sector, stamp), content)| {
        let wrong = || Wrong { sector, expected: *stamp, found: explain(content) };
        (!stamp.matches(seed, sector, content)).then(wrong)
    })
}

/// What a blank disk of `sectors` holds after the first `ops` operations of `seed`.
pub fn expected_image(seed: u64, ops: u64, sectors: u64) -> Vec<u8> {
    let model = Model::after(seed, ops, sectors);
    let mut image = vec![0; model.sectors() as usize * SECTOR];
    let (contents, _) = image.as_chunks_mut::<SECTOR>();
    for ((sector, stamp), bytes) in (0..).zip(model.stamps(0..sectors)).zip(contents) {
        stamp.fill(seed, sector, bytes);
    }
    image
}

/// Compares an image with a disk that was blank before the first `ops` operations of `seed`.
///
/// # Errors
/// The first sector that is wrong.
pub fn check_image(seed: u64, ops: u64, image: &[u8]) -> Result<(), Wrong> {
    let sectors = (image.len() / SECTOR) as u64;
    let model = Model::after(seed, ops, sectors);
    compare(seed, 0, model.stamps(0..sectors), image).next().map_or(Ok(()), Err)
}
