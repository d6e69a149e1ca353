//! The side that has the copy to go on with.

use super::message::{MAX_BLOCKS, MAX_FULL_BLOCKS};
use super::rules::{Plan, plan};
use super::{Block, CopyDisk, CopyError, CopyMessage, digest, read_block};

/// Answers what the target sends. Give it the target's messages with [`CopySource::handle`], and send what
/// [`CopySource::next_message`] gives until it gives none.
#[derive(Debug)]
pub struct CopySource {
    disks: Vec<CopyDisk>,
    disk: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The target is to offer the disk.
    Offer,
    /// It has, and is to be answered.
    Answer(Plan),
    /// It is to send digests of the blocks from `next` on.
    Digests { next: u64, must_be_equal: Option<&'static str> },
    /// It has, and what differs is to be sent.
    Compare { next: u64, digests: std::vec::IntoIter<u128>, must_be_equal: Option<&'static str> },
    /// The target is to say that all is durable.
    Durable,
    /// It has.
    Done,
    /// Nothing more comes.
    Refused(String),
}

impl CopySource {
    /// The source's copies, in the order of the config.
    pub fn new(disks: Vec<CopyDisk>) -> Self {
        Self { disks, disk: 0, state: State::Offer }
    }

    /// True once the target's copies are the same and durable.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Why the target's copies were refused, if they were.
    pub fn refusal(&self) -> Option<&str> {
        match &self.state {
            State::Refused(reason) => Some(reason),
            _ => None,
        }
    }

    /// Takes a message of the target.
    ///
    /// # Errors
    /// It must not say that now.
    pub fn handle(&mut self, message: CopyMessage) -> Result<(), CopyError> {
        let protocol = |what| Err(CopyError::Protocol(what));
        match (message, &mut self.state) {
            (CopyMessage::Offer { disk, len, origin }, State::Offer) => {
                let Some(ours) = self.disks.get(self.disk).filter(|_| usize::from(disk) == self.disk) else {
                    return protocol("an offer of another disk");
                };
                let found = ours.medium.len();
                self.state = State::Answer(if len == found {
                    plan(ours.origin, origin)
                } else {
                    Plan::Refuse(format!("the other replica's copy has {len} bytes, this one {found}"))
                });
            }
            (CopyMessage::Digests { disk, first, digests }, State::Digests { next, must_be_equal }) => {
                let blocks = self.disks[self.disk].blocks();
                let end = first.saturating_add(digests.len() as u64);
                if usize::from(disk) != self.disk || first != *next || end > blocks || digests.is_empty() {
                    return protocol("digests that nobody asked for");
                }
                let (next, must_be_equal) = (*next, *must_be_equal);
                self.state = State::Compare { next, digests: digests.into_iter(), must_be_equal };
            }
            (CopyMessage::Done, State::Durable) => self.state = State::Done,
            _ => return protocol("a message out of turn to the source"),
        }
        Ok(())
    }

    /// The next message for the target, or none until it has said something.
    ///
    /// # Errors
    /// A disk of this side cannot be read.
    pub fn next_message(&mut self) -> Result<Option<CopyMessage>, CopyError> {
        let Ok(disk) = u16::try_from(self.disk) else { return Err(CopyError::Protocol("too many disks")) };
        match &mut self.state {
            State::Offer if self.disk == self.disks.len() => {
                self.state = State::Durable;
                Ok(Some(CopyMessage::Done))
            }
            State::Answer(plan) => {
                let must_be_equal = match plan {
                    Plan::Refuse(reason) => {
                        let reason = std::mem::take(reason);
                        return Ok(Some(self.refuse(&reason)));
                    }
                    Plan::MustBeEqual(otherwise) => Some(*otherwise),
                    Plan::Skip | Plan::Copy => None,
                };
                let compare = *plan != Plan::Skip && self.disks[self.disk].blocks() > 0;
                if compare {
                    self.state = State::Digests { next: 0, must_be_equal };
                } else {
                    self.next_disk();
                }
                Ok(Some(CopyMessage::Accepted { disk, compare }))
            }
            State::Compare { .. } => self.compare(disk).map(Some),
            State::Offer | State::Digests { .. } | State::Durable | State::Done | State::Refused(_) => {
                Ok(None)
            }
        }
    }

    /// Compares blocks until a message is full or the digests are used up.
    fn compare(&mut self, disk: u16) -> Result<CopyMessage, CopyError> {
        let ours = &self.disks[self.disk];
        let State::Compare { next, digests, must_be_equal } = &mut self.state else {
            return Err(CopyError::Protocol("nothing to compare"));
        };
        let mut blocks = Vec::new();
        let mut full = 0;
        while full < MAX_FULL_BLOCKS && blocks.len() < MAX_BLOCKS {
            let Some(theirs) = digests.next() else { break };
            let index = *next;
            let data = read_block(&*ours.medium, index).map_err(ours.failed("reading"))?;
            if digest(&*ours.medium, index, &data) != theirs {
                if let Some(otherwise) = must_be_equal {
                    let at = index * super::BLOCK;
                    let reason = format!(
                        "the two copies differ (first in the {} bytes from {at} on), and {otherwise}",
                        super::BLOCK
                    );
                    return Ok(self.refuse(&reason));
                }
                full += usize::from(!data.is_empty());
                blocks.push(Block { index, data });
            }
            *next += 1;
        }
        let (end, must_be_equal) = (*next, *must_be_equal);
        if digests.len() == 0 {
            if end == ours.blocks() {
                self.next_disk();
            } else {
                self.state = State::Digests { next: end, must_be_equal };
            }
        }
        Ok(CopyMessage::Blocks { disk, end, blocks })
    }

    fn next_disk(&mut self) {
        self.disk += 1;
        self.state = State::Offer;
    }

    fn refuse(&mut self, reason: &str) -> CopyMessage {
        let reason = format!("{}: {reason}", self.disks[self.disk].name);
        self.state = State::Refused(reason.clone());
        CopyMessage::Refused { reason }
    }
}
