//! The output gate: outputs wait here until the record that tells of them is acknowledged.

use std::collections::VecDeque;

use crate::mutation::{Mutation, mutated};
use crate::record::OutputClass;
use crate::{Lsn, Nanos};

/// An output in the gate.
#[derive(Debug)]
pub struct Held<O> {
    /// LSN of its marker.
    pub lsn: Lsn,
    /// Its kind; `None` for the end of an operator's stop, which has no content.
    pub class: Option<OutputClass>,
    /// Its content.
    pub payload: Option<O>,
    /// When it was made.
    pub since: Nanos,
    size: u64,
}

/// Outputs in the order of their markers, bounded in bytes and number.
#[derive(Debug)]
pub struct Gate<O> {
    held: VecDeque<Held<O>>,
    bytes: u64,
    max_bytes: u64,
    max_outputs: usize,
}

impl<O> Gate<O> {
    /// An empty gate with these bounds.
    pub fn new(max_bytes: u64, max_outputs: usize) -> Self {
        Self { held: VecDeque::new(), bytes: 0, max_bytes, max_outputs }
    }

    /// True if the guest must stall before it makes more outputs. What one stop of the guest makes may go past the bound.
    pub fn is_full(&self) -> bool {
        let full = self.bytes >= self.max_bytes || self.held.len() >= self.max_outputs;
        full && !mutated(Mutation::GateWithoutBound)
    }

    /// Takes an output in. `size` is what it costs in bytes.
    pub fn hold(&mut self, lsn: Lsn, class: Option<OutputClass>, payload: Option<O>, size: u64, now: Nanos) {
        assert!(self.held.back().is_none_or(|last| last.lsn < lsn), "outputs enter the gate in LSN order");
        self.bytes += size;
        self.held.push_back(Held { lsn, class, payload, since: now, size });
    }

    /// The next output, if its marker is at or below `acknowledged`.
    pub fn pass(&mut self, acknowledged: Lsn) -> Option<Held<O>> {
        if self.held.front()?.lsn > acknowledged {
            return None;
        }
        let held = self.held.pop_front()?;
        self.bytes -= held.size;
        Some(held)
    }

    /// True if the next output may pass already.
    pub fn is_releasable(&self, acknowledged: Lsn) -> bool {
        self.held.front().is_some_and(|held| held.lsn <= acknowledged)
    }

    /// Outputs held now.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The LSN below which everything has passed, given that `last` is the log's last.
    pub fn passed(&self, last: Lsn) -> Lsn {
        self.held.front().map_or(last, |held| held.lsn - 1)
    }
}
