//! What a disk may hold when everything stopped in the middle.

use alloc::vec;

use crate::{Kind, Model, SECTOR, Which, Wrong, explain, op};

/// Checks an image after a crash: every sector holds what it held after the first `durable` operations of `seed`, which the
/// disk was told to keep, or what one of those up to `submitted` put there since.
///
/// # Errors
/// The first sector that is older than that, or is nobody's.
pub fn check_crashed(seed: u64, image: &[u8], durable: u64, submitted: u64) -> Result<(), Wrong> {
    let (contents, _) = image.as_chunks::<SECTOR>();
    let sectors = contents.len() as u64;
    let model = Model::after(seed, durable, sectors);
    let mut zeroed = vec![false; contents.len()];
    for op in (durable..submitted).map(|index| op(seed, index, sectors)) {
        if matches!(op.kind, Kind::Discard | Kind::WriteZeroes) {
            zeroed[op.sector as usize..(op.sector + op.count) as usize].fill(true);
        }
    }
    let since = |sector, found| match found {
        Which::Zero => zeroed[sector as usize],
        Which::Written(origin) => {
            let writer = op(seed, origin.op, sectors);
            origin.seed == seed
                && origin.sector == sector
                && (durable..submitted).contains(&origin.op)
                && writer.kind == Kind::Write
                && writer.sectors().contains(&sector)
        }
        Which::Torn(_) | Which::Foreign(_) => false,
    };
    for ((sector, stamp), bytes) in (0..).zip(model.stamps(0..sectors)).zip(contents) {
        let found = explain(bytes);
        if !stamp.is(seed, sector, found) && !since(sector, found) {
            return Err(Wrong { sector, expected: *stamp, found });
        }
    }
    Ok(())
}
