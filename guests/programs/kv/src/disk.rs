//! The log's disk: blocking requests for opening and compaction, and the group commit that goes on beside the network.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use kv_core::{Disk, SECTOR};
use rt::virtio::{Blk, Request};

/// Bytes of one disk request at most.
const PIECE: usize = 128 << 10;

/// A disk request failed.
#[derive(Debug)]
pub(crate) struct DiskError(&'static str);

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the disk failed to {}", self.0)
    }
}

fn check((buffer, good): (Vec<u8>, bool), what: &'static str) -> Result<Vec<u8>, DiskError> {
    if good { Ok(buffer) } else { Err(DiskError(what)) }
}

fn run(blk: &mut Blk, request: Request, sector: u64, mut buffer: Vec<u8>) -> Result<Vec<u8>, DiskError> {
    let what = if request == Request::Read { "read" } else { "write" };
    let length = buffer.len();
    for at in (0..length).step_by(PIECE) {
        let sector = sector + (at / SECTOR) as u64;
        buffer = check(blk.run(request, sector, buffer, at..length.min(at + PIECE)), what)?;
    }
    Ok(buffer)
}

/// The disk for whoever waits for each request.
pub(crate) struct Blocking<'a>(pub(crate) &'a mut Blk);

impl Disk for Blocking<'_> {
    type Error = DiskError;

    fn sectors(&self) -> u64 {
        self.0.capacity()
    }

    fn read(&mut self, sector: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        run(self.0, Request::Read, sector, vec![0; length])
    }

    fn write(&mut self, sector: u64, data: Vec<u8>) -> Result<Vec<u8>, DiskError> {
        run(self.0, Request::Write, sector, data)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.0.can_flush() {
            check(self.0.run(Request::Flush, 0, Vec::new(), 0..0), "flush")?;
        }
        Ok(())
    }
}

/// A batch on its way to the disk: its pieces are written one after the other, then flushed.
#[derive(Debug, Default)]
pub(crate) struct Commit(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Writing {
        batch: u64,
        sector: u64,
        at: usize,
    },
    Flushing {
        batch: u64,
    },
}

impl Commit {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.0, State::Idle)
    }

    /// Starts writing `data`, the batch known as `batch`, at `sector`.
    pub(crate) fn start(&mut self, blk: &mut Blk, batch: u64, sector: u64, data: Vec<u8>) {
        let end = data.len().min(PIECE);
        blk.start(Request::Write, sector, data, 0..end);
        self.0 = State::Writing { batch, sector, at: end };
    }

    /// Goes on if the disk has completed something; the batch that has become durable by that.
    pub(crate) fn poll(&mut self, blk: &mut Blk) -> Result<Option<u64>, DiskError> {
        let Some(done) = blk.poll() else { return Ok(None) };
        match self.0 {
            State::Idle => Ok(None),
            State::Writing { batch, sector, at } => {
                let data = check(done, "write")?;
                if at < data.len() {
                    let end = data.len().min(at + PIECE);
                    blk.start(Request::Write, sector + (at / SECTOR) as u64, data, at..end);
                    self.0 = State::Writing { batch, sector, at: end };
                    Ok(None)
                } else if blk.can_flush() {
                    blk.start(Request::Flush, 0, Vec::new(), 0..0);
                    self.0 = State::Flushing { batch };
                    Ok(None)
                } else {
                    self.0 = State::Idle;
                    Ok(Some(batch))
                }
            }
            State::Flushing { batch } => {
                check(done, "flush")?;
                self.0 = State::Idle;
                Ok(Some(batch))
            }
        }
    }
}
