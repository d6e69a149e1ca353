//! The side whose copy is made equal.

use std::io;

use super::message::MAX_DIGESTS;
use super::{CopyDisk, CopyError, CopyMessage, block_digests, write_block};

/// Offers its copies, one after the other, and writes what the source says differs. Send what [`CopyTarget::next_message`]
/// gives until it gives none, and give it the source's messages with [`CopyTarget::handle`].
pub struct CopyTarget<F> {
    disks: Vec<CopyDisk>,
    /// Called, with the disk, before the first write to it.
    mark_incomplete: F,
    /// Blocks of which digests are sent at a time.
    window: u64,
    disk: usize,
    written: Vec<bool>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The disk is to be offered.
    Offer,
    /// It has been, and the source is to answer.
    Offered,
    /// Digests from `next` on are to be sent.
    Digests { next: u64 },
    /// They have been; blocks from `next` to `end` are still to be compared.
    Compare { next: u64, end: u64 },
    /// The source is to say that this was all.
    End,
    /// It has, all is durable, and the source is to be told.
    Finished,
    /// It has been told.
    Done,
}

impl<F> std::fmt::Debug for CopyTarget<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyTarget")
            .field("disk", &self.disk)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<F: FnMut(u16) -> io::Result<()>> CopyTarget<F> {
    /// The target's copies, in the order of the config. `mark_incomplete` is called with the index of a disk before the first
    /// write to it, and must make durable that the copy is of no use until all is done.
    pub fn new(disks: Vec<CopyDisk>, mark_incomplete: F) -> Self {
        let written = vec![false; disks.len()];
        let state = if disks.is_empty() { State::End } else { State::Offer };
        Self { disks, mark_incomplete, window: MAX_DIGESTS as u64, disk: 0, written, state }
    }

    /// True once the copies are the same and durable, and the source knows.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The disks that were written to, in the order of the config.
    pub fn written(&self) -> &[bool] {
        &self.written
    }

    /// The next message for the source, or none until it has said something.
    ///
    /// # Errors
    /// A disk of this side cannot be read.
    pub fn next_message(&mut self) -> Result<Option<CopyMessage>, CopyError> {
        let Ok(disk) = u16::try_from(self.disk) else { return Err(CopyError::Protocol("too many disks")) };
        match self.state {
            State::Offer => {
                let ours = &self.disks[self.disk];
                self.state = State::Offered;
                Ok(Some(CopyMessage::Offer { disk, len: ours.medium.len(), origin: ours.origin }))
            }
            State::Digests { next } => {
                let ours = &self.disks[self.disk];
                let count = self.window.min(ours.blocks() - next);
                let digests = block_digests(&*ours.medium, next, count).map_err(ours.failed("reading"))?;
                self.state = State::Compare { next, end: next + count };
                Ok(Some(CopyMessage::Digests { disk, first: next, digests }))
            }
            State::Finished => {
                self.state = State::Done;
                Ok(Some(CopyMessage::Done))
            }
            State::Offered | State::Compare { .. } | State::End | State::Done => Ok(None),
        }
    }

    /// Takes a message of the source, and writes what it says.
    ///
    /// # Errors
    /// The source refuses, or must not say that now, or a disk of this side cannot be written.
    pub fn handle(&mut self, message: CopyMessage) -> Result<(), CopyError> {
        match (message, self.state) {
            (CopyMessage::Refused { reason }, _) => return Err(CopyError::Refused(reason)),
            (CopyMessage::Accepted { disk, compare }, State::Offered) if usize::from(disk) == self.disk => {
                if !compare {
                    self.next_disk();
                } else if self.disks[self.disk].blocks() == 0 {
                    return Err(CopyError::Protocol("a disk without blocks is to be compared"));
                } else {
                    self.state = State::Digests { next: 0 };
                }
            }
            (CopyMessage::Blocks { disk, end, blocks }, State::Compare { next, end: last })
                if usize::from(disk) == self.disk =>
            {
                // At least one step, or a source could keep the target busy for ever.
                let ordered = blocks.windows(2).all(|two| two[0].index < two[1].index);
                let inside = blocks.iter().all(|block| (next..end).contains(&block.index));
                if !(next < end && end <= last && ordered && inside) {
                    return Err(CopyError::Protocol("blocks that were not compared"));
                }
                for block in blocks {
                    self.write(disk, block.index, &block.data)?;
                }
                self.state = if end < last {
                    State::Compare { next: end, end: last }
                } else {
                    State::Digests { next: end }
                };
                if end == self.disks[self.disk].blocks() {
                    self.next_disk();
                }
            }
            (CopyMessage::Done, State::End) => {
                for (disk, _) in self.disks.iter().zip(&self.written).filter(|(_, written)| **written) {
                    disk.medium.flush().map_err(disk.failed("flushing"))?;
                }
                self.state = State::Finished;
            }
            _ => return Err(CopyError::Protocol("a message out of turn to the target")),
        }
        Ok(())
    }

    fn write(&mut self, disk: u16, index: u64, data: &[u8]) -> Result<(), CopyError> {
        let ours = &self.disks[self.disk];
        if !self.written[self.disk] {
            (self.mark_incomplete)(disk).map_err(ours.failed("marking as incomplete"))?;
            self.written[self.disk] = true;
        }
        write_block(&*ours.medium, index, data).map_err(ours.failed("writing"))
    }

    fn next_disk(&mut self) {
        self.disk += 1;
        self.state = if self.disk < self.disks.len() { State::Offer } else { State::End };
    }

    #[cfg(test)]
    pub(super) fn with_window(mut self, blocks: u64) -> Self {
        self.window = blocks;
        self
    }
}
