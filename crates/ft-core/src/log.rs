//! The primary's side of the log: what is to be sent, acknowledged, executed.
//!
//! One account bounds both ends: the cost of all records that the backup has not executed. So whatever is sent finds room
//! in the backup's buffer, the backup always reads and acknowledges at once, and a slow backup shows as a stall of the
//! primary and never as silence.

use std::collections::VecDeque;

use crate::record::{Body, LogRecord, MAX_RECORD_COST};
use crate::{Lsn, Nanos};

/// Part of the bound kept free for records that cannot be refused: markers of outputs that the guest has made.
pub const HEADROOM: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Meta {
    lsn: Lsn,
    cost: u64,
    appended: Nanos,
}

/// Why an acknowledgement was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer acknowledges record {claimed}, but only {sent} were sent")]
pub struct BadAck {
    /// What it claims.
    pub claimed: Lsn,
    /// What it was sent.
    pub sent: Lsn,
}

/// Records from the append to the backup's execution.
#[derive(Debug)]
pub struct Log {
    unsent: VecDeque<LogRecord>,
    open: VecDeque<Meta>,
    /// The last record of each frame that was sent and is not acknowledged, and when it was.
    flights: VecDeque<(Lsn, Nanos)>,
    bytes: u64,
    capacity: u64,
    sent: Lsn,
    acked: Lsn,
    executed: Lsn,
    executed_at: Nanos,
}

impl Log {
    /// An empty log after record `last`. `capacity` in bytes must hold two of the largest records (`check` demands it).
    pub fn new(capacity: u64, last: Lsn, now: Nanos) -> Self {
        assert!(capacity >= 2 * MAX_RECORD_COST, "the log holds two of the largest records");
        Self {
            unsent: VecDeque::new(),
            open: VecDeque::new(),
            flights: VecDeque::new(),
            bytes: 0,
            capacity,
            sent: last,
            acked: last,
            executed: last,
            executed_at: now,
        }
    }

    /// True if a record of this cost fits, with room left for the markers of outputs that follow it.
    pub fn has_room(&self, cost: u64) -> bool {
        debug_assert!(cost <= MAX_RECORD_COST);
        self.bytes + cost + HEADROOM <= self.capacity
    }

    /// Appends a record. The caller has asked [`Self::has_room`], but for markers.
    pub fn append(&mut self, lsn: Lsn, position: u64, body: Body, now: Nanos) {
        let cost = body.cost();
        if self.open.is_empty() {
            self.executed_at = now;
        }
        self.bytes += cost;
        self.open.push_back(Meta { lsn, cost, appended: now });
        self.unsent.push_back(LogRecord { lsn, position, body });
    }

    /// Takes records to send: as many as fit in `budget` bytes, at least one if there is one.
    pub fn take_unsent(&mut self, budget: u64, now: Nanos) -> Vec<LogRecord> {
        let mut cost = 0;
        let mut taken = Vec::new();
        while let Some(record) = self.unsent.front() {
            cost += record.body.cost();
            if cost > budget && !taken.is_empty() {
                break;
            }
            self.sent = record.lsn;
            taken.extend(self.unsent.pop_front());
        }
        if !taken.is_empty() {
            self.flights.push_back((self.sent, now));
        }
        taken
    }

    /// True if a record waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The backup has received up to `received` and executed up to `executed`. True if either is news.
    pub fn acknowledge(&mut self, received: Lsn, executed: Lsn, now: Nanos) -> Result<bool, BadAck> {
        if received > self.sent || executed > received {
            return Err(BadAck { claimed: received.max(executed), sent: self.sent });
        }
        let news = received > self.acked || executed > self.executed;
        self.acked = self.acked.max(received);
        while self.flights.front().is_some_and(|(last, _)| *last <= self.acked) {
            self.flights.pop_front();
        }
        if executed > self.executed {
            self.executed = executed;
            self.executed_at = now;
            while self.open.front().is_some_and(|meta| meta.lsn <= executed) {
                self.bytes -= self.open.pop_front().map_or(0, |meta| meta.cost);
            }
        }
        Ok(news)
    }

    /// Highest record acknowledged.
    pub fn acked(&self) -> Lsn {
        self.acked
    }

    /// Highest record sent.
    pub fn sent(&self) -> Lsn {
        self.sent
    }

    /// Highest record executed by the backup.
    pub fn executed(&self) -> Lsn {
        self.executed
    }

    /// Cost of all records that the backup has not executed, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of records that the backup has not executed.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True if the backup has executed everything.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// When the oldest unacknowledged record was sent. One that was not sent yet waits for this side and not for the peer: on a busy
    /// host the thread that sends it may be long in coming.
    pub fn oldest_unacked(&self) -> Option<Nanos> {
        self.flights.front().map(|(_, sent)| *sent)
    }

    /// When the oldest record that the backup has not executed was appended.
    pub fn oldest_unexecuted(&self) -> Option<Nanos> {
        self.open.front().map(|meta| meta.appended)
    }

    /// Since when the backup has had records to run and has run none.
    pub fn no_progress_since(&self) -> Option<Nanos> {
        (!self.open.is_empty()).then_some(self.executed_at)
    }
}
