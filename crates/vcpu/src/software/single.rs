//! Instructions that run alone, decoded once: those that straddle two pages, and all of them where a stop is near or each
//! is a boundary (TF, breakpoints).
//!
//! What an instruction decodes to depends on its bytes, its offset in the page and the mode, and on nothing else. All three
//! are compared before a decoded form is used again, so nothing that writes memory or changes a mapping concerns this memo.

use super::block::Block;
use super::decode::LONGEST;

/// Entries; direct-mapped.
const ENTRIES: usize = 1024;

/// An instruction decoded alone.
#[derive(Debug)]
struct Single {
    mode: u8,
    /// As many as the block is long count.
    bytes: [u8; LONGEST],
    block: Box<Block>,
}

/// The decoded instructions.
#[derive(Debug)]
pub(super) struct Singles {
    entries: Vec<Option<Single>>,
}

fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (ENTRIES - 1)
}

impl Singles {
    pub(super) fn new() -> Self {
        Self { entries: std::iter::repeat_with(|| None).take(ENTRIES).collect() }
    }

    /// Forgets all. None may be running.
    pub(super) fn clear(&mut self) {
        self.entries.fill_with(|| None);
    }

    fn candidate(&self, rip: u64, mode: u8, bytes: &[u8]) -> Option<&Single> {
        let single = self.entries[slot(rip)].as_ref()?;
        let same = single.mode == mode && single.block.offset == (rip & 0xFFF) as u16;
        let len = usize::from(single.block.len).min(bytes.len());
        (same && single.bytes[..len] == bytes[..len]).then_some(single)
    }

    /// The instruction at `rip`, where these bytes lie, if all of it is among them.
    pub(super) fn find(&self, rip: u64, mode: u8, bytes: &[u8]) -> Option<&Block> {
        let single = self.candidate(rip, mode, bytes)?;
        (usize::from(single.block.len) <= bytes.len()).then_some(&*single.block)
    }

    /// True if the bytes from `rip` to the end of its page are known not to hold all of the instruction.
    pub(super) fn straddles(&self, rip: u64, mode: u8, bytes: &[u8]) -> bool {
        bytes.len() < LONGEST
            && self
                .candidate(rip, mode, bytes)
                .is_some_and(|single| usize::from(single.block.len) > bytes.len())
    }

    /// Keeps what these bytes were decoded to.
    pub(super) fn keep(&mut self, rip: u64, mode: u8, from: &[u8], block: Box<Block>) -> &Block {
        let mut bytes = [0; LONGEST];
        let len = usize::from(block.len);
        bytes[..len].copy_from_slice(&from[..len]);
        let entry = &mut self.entries[slot(rip)];
        &entry.insert(Single { mode, bytes, block }).block
    }
}
