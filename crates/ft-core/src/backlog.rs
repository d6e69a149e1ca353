//! The backup's side of the log: records received and not yet executed, and the outputs it keeps back.

use std::collections::VecDeque;

use crate::input::Input;
use crate::mutation::{Mutation, mutated};
use crate::record::{Body, LogRecord, MAX_COUNT, MAX_RECORD_COST, OutputClass};
use crate::replica::Divergence;
use crate::{Lsn, Nanos};

/// An output that the backup's own machine made.
#[derive(Debug)]
struct Made<O> {
    position: u64,
    class: OutputClass,
    digest: u64,
    keep: Option<O>,
}

/// An output whose marker was executed; kept until the primary is known to have released it.
#[derive(Debug)]
pub struct Kept<O> {
    /// LSN of the marker; `None` if the primary had not told of it.
    pub lsn: Option<Lsn>,
    /// Its kind.
    pub class: OutputClass,
    /// Its content; `None` for disk writes, which live in the machine's set of pending requests only.
    pub payload: Option<O>,
}

/// Why a batch of records was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecords {
    /// A gap, or a repetition, in the LSNs.
    #[error("record {got} arrived where {expected} was due")]
    Gap {
        /// What arrived.
        got: Lsn,
        /// What was due.
        expected: Lsn,
    },
    /// A position lower than one before it.
    #[error("record {lsn} goes back to position {position}")]
    Backwards {
        /// The record.
        lsn: Lsn,
        /// Its position.
        position: u64,
    },
    /// More than the agreed bound of records not yet executed.
    #[error("the peer sends more log than the agreed bound")]
    TooMuch,
    /// Records before `Armed`, `Armed` twice, or numbers that no log reaches.
    #[error("record {0} does not belong where it stands")]
    Misplaced(Lsn),
}

/// What a backup has received.
#[derive(Debug)]
pub struct Backlog<O> {
    queue: VecDeque<LogRecord>,
    bytes: u64,
    capacity: u64,
    received: Lsn,
    executed: Lsn,
    told: u64,
    position: u64,
    stamps: VecDeque<(Lsn, u64)>,
    executed_stamp: u64,
    executed_at: Nanos,
    made: VecDeque<Made<O>>,
    kept: VecDeque<Kept<O>>,
    released: Lsn,
    armed: bool,
    switch_seq: u64,
    ended: Option<Lsn>,
    stopped: bool,
}

impl<O> Backlog<O> {
    /// An empty backlog that expects the record after `last`, of a machine that stands at `position`.
    pub fn new(capacity: u64, last: Lsn, position: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            capacity,
            received: last,
            executed: last,
            told: position,
            position,
            stamps: VecDeque::new(),
            executed_stamp: 0,
            executed_at: 0,
            made: VecDeque::new(),
            kept: VecDeque::new(),
            released: last,
            armed: false,
            switch_seq: 0,
            ended: None,
            stopped: false,
        }
    }

    /// Takes in the records of one frame, all or none.
    pub fn receive(&mut self, records: Vec<LogRecord>, stamp: u64) -> Result<(), BadRecords> {
        let (mut expected, mut told, mut bytes, mut armed) =
            (self.received, self.told, self.bytes, self.armed);
        for record in &records {
            expected = expected.saturating_add(1);
            if record.lsn != expected {
                return Err(BadRecords::Gap { got: record.lsn, expected });
            }
            if record.position < told {
                return Err(BadRecords::Backwards { lsn: record.lsn, position: record.position });
            }
            if record.lsn >= MAX_COUNT || record.position >= MAX_COUNT {
                return Err(BadRecords::Misplaced(record.lsn));
            }
            if (record.body == Body::Armed) == armed {
                return Err(BadRecords::Misplaced(record.lsn));
            }
            armed = true;
            told = record.position;
            bytes += record.body.cost();
        }
        // The primary keeps within the bound itself, but for markers; more than a record above it is no honest mistake.
        if bytes > self.capacity + MAX_RECORD_COST {
            return Err(BadRecords::TooMuch);
        }
        (self.received, self.told, self.bytes, self.armed) = (expected, told, bytes, armed);
        if !records.is_empty() {
            self.stamps.push_back((expected, stamp));
        }
        self.queue.extend(records);
        Ok(())
    }

    /// The primary has released the outputs of all markers up to `watermark`: they need no keeping.
    pub fn released(&mut self, watermark: Lsn) {
        self.released = self.released.max(watermark);
        if mutated(Mutation::KeepReleased) {
            return;
        }
        while self.kept.front().is_some_and(|kept| kept.lsn.is_some_and(|lsn| lsn <= self.released)) {
            self.kept.pop_front();
        }
    }

    /// The next record to execute, taken out; [`Self::executed`] must follow for it.
    pub fn take(&mut self) -> Option<LogRecord> {
        self.queue.pop_front()
    }

    /// The machine made an output.
    pub fn made(&mut self, position: u64, class: OutputClass, digest: u64, keep: Option<O>) {
        self.made.push_back(Made { position, class, digest, keep });
    }

    /// The machine stands at the record's position and has done what it says.
    ///
    /// # Errors
    /// The machine's outputs are not those that the primary told of.
    pub fn executed(&mut self, record: &LogRecord, now: Nanos) -> Result<(), Divergence> {
        assert_eq!(record.lsn, self.executed + 1, "records are executed in order");
        let verdict = self.compare(record);
        if verdict.is_err() && !mutated(Mutation::DivergedBackupAsks) {
            return verdict;
        }
        if let Body::Input(Input::NetRx(batch)) = &record.body {
            self.switch_seq = self.switch_seq.max(batch.switch_seq);
        }
        if record.body == Body::Stop {
            // The guest's own end may be on its way out already.
            self.ended.get_or_insert(record.lsn);
            self.stopped = true;
        }
        self.executed = record.lsn;
        self.position = record.position;
        self.bytes -= record.body.cost();
        while let Some((last, stamp)) = self.stamps.front().copied()
            && last <= self.executed
        {
            (self.executed_stamp, self.executed_at) = (stamp, now);
            self.stamps.pop_front();
        }
        verdict
    }

    /// Compares this side's outputs with what the record says of the primary's.
    fn compare(&mut self, record: &LogRecord) -> Result<(), Divergence> {
        if let Body::Output { class, digest } = record.body {
            return self.match_marker(record, class, digest);
        }
        if let Some(made) = self.made.front()
            && (made.position < record.position || !may_precede_its_marker(&record.body))
        {
            // An input may itself make outputs, at its own position; their markers follow. So does that of the guest's end
            // follow the digest of the state in which it ended. And a position may be told before the primary has been there.
            return Err(Divergence {
                position: made.position,
                what: format!("this side made {} that the primary did not", describe(made.class)),
            });
        }
        Ok(())
    }

    fn match_marker(
        &mut self,
        record: &LogRecord,
        class: OutputClass,
        digest: u64,
    ) -> Result<(), Divergence> {
        let diverged = |what| Err(Divergence { position: record.position, what });
        let Some(made) = self.made.pop_front() else {
            return diverged(format!("the primary made {} that this side did not", describe(class)));
        };
        if made.position != record.position || made.class != class {
            return diverged(format!(
                "this side made {} at position {}, the primary {}",
                describe(made.class),
                made.position,
                describe(class)
            ));
        }
        if made.digest != digest {
            return diverged(format!("the content of {} differs from the primary's", describe(class)));
        }
        if class == OutputClass::End {
            self.ended.get_or_insert(record.lsn);
        }
        if record.lsn > self.released || mutated(Mutation::KeepReleased) {
            self.kept.push_back(Kept { lsn: Some(record.lsn), class, payload: made.keep });
        }
        Ok(())
    }

    /// Takes what this side must emit when it goes live: outputs not known to be released, then outputs that the primary
    /// had not told of.
    pub fn take_kept(&mut self) -> Vec<Kept<O>> {
        let mut kept: Vec<_> = self.kept.drain(..).collect();
        let made = self.made.drain(..).filter(|_| !mutated(Mutation::DropUnmarked));
        kept.extend(made.map(|made| Kept { lsn: None, class: made.class, payload: made.keep }));
        kept
    }

    /// Everything received was executed.
    pub fn is_replayed(&self) -> bool {
        self.executed == self.received
            || mutated(Mutation::ReplayOneTooFew) && self.executed + 1 == self.received
    }

    /// True once `Armed` was received: this side may ask.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// True if the guest's end, or a stop, was executed here and its release is known.
    pub fn is_over(&self) -> bool {
        self.ended.is_some_and(|lsn| lsn <= self.released)
    }

    /// True if the operator's stop was executed here: whoever goes on from here only ends.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Highest record received.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Highest record executed.
    pub fn executed_lsn(&self) -> Lsn {
        self.executed
    }

    /// Position of the last record executed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The switch's number of the last inbound frame executed.
    pub fn switch_seq(&self) -> u64 {
        self.switch_seq
    }

    /// Highest position told.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Highest watermark heard.
    pub fn released_lsn(&self) -> Lsn {
        self.released
    }

    /// The stamp of the last frame that was wholly executed, and how long ago that was: an acknowledgement that was put off is no lag. 0
    /// before there was one.
    pub fn echo(&self, now: Nanos) -> Nanos {
        match self.executed_stamp {
            0 => 0,
            stamp => stamp.saturating_add(now.saturating_sub(self.executed_at)),
        }
    }

    /// Cost of the records that wait, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if no record waits (one may be in execution).
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Outputs kept back.
    pub fn kept(&self) -> usize {
        self.kept.len() + self.made.len()
    }
}

fn may_precede_its_marker(body: &Body) -> bool {
    body.is_input() || matches!(body, Body::Digest(_) | Body::Progress)
}

fn describe(class: OutputClass) -> &'static str {
    match class {
        OutputClass::Net => "network frames",
        OutputClass::Console => "console bytes",
        OutputClass::DiskWrite => "a disk write",
        OutputClass::End => "a power-off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The primary ends with what it releases first: the guest's own end, say, while the operator's stop is on its way. A backup that
    /// has executed both waits for no other release, or it would take the closed connection for a crash.
    #[test]
    fn the_first_of_two_ends_is_the_end() {
        let (class, digest) = (OutputClass::End, 7);
        let bodies = [Body::Armed, Body::Output { class, digest }, Body::Stop];
        let records = (1..).zip(bodies).map(|(lsn, body)| LogRecord { lsn, position: 5, body }).collect();
        let mut backlog = Backlog::new(1 << 20, 0, 5);
        backlog.receive(records, 0).unwrap();
        let armed = backlog.take().unwrap();
        backlog.executed(&armed, 0).unwrap();
        backlog.made(5, class, digest, Some(()));
        while let Some(record) = backlog.take() {
            backlog.executed(&record, 0).unwrap();
        }
        assert!(!backlog.is_over(), "nothing is released");
        backlog.released(2);
        assert!(backlog.is_over());
    }
}
