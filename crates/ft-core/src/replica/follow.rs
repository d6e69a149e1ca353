//! The backup: takes records in, acknowledges at once what is waited for, executes them later.

use super::{Ack, Divergence, Frame, LogFrame, Nanos, Phase, Replica, Stage, timers};
use crate::input::Input;
use crate::mutation::{Mutation, mutated};
use crate::reads::ReadId;
use crate::record::{Body, LogRecord, OutputClass};

impl<O> Replica<O> {
    pub(super) fn log_received(&mut self, log: LogFrame, now: Nanos) {
        if self.backlog.executed_lsn() == self.backlog.received() {
            self.progress_at = self.progress_at.max(now);
        }
        let (released, stamp) = (log.released, log.sent);
        let waited_for = log.records.is_empty() || log.records.iter().any(is_waited_for);
        let taken =
            self.backlog.receive(log.records, log.sent).map_err(|error| error.to_string()).and_then(|()| {
                if released <= self.backlog.received() {
                    Ok(())
                } else {
                    Err("released what was never sent".to_owned())
                }
            });
        if let Err(error) = taken {
            return self.lose_liar(&format!("the primary breaks the protocol: {error}"), now);
        }
        self.backlog.released(released);
        self.heard_stamp = stamp;
        self.heard(ft_policies::Heard::Log, now);
        self.ack_due |= waited_for;
        self.ack_later(now);
        self.end_if_over();
    }

    /// The guest's end was executed here and its release is known: nothing is left to do. Also for a backup that has lost
    /// its primary meanwhile, which must not go live with a guest that is over.
    fn end_if_over(&mut self) {
        let replays = matches!(self.phase, Phase::Backup | Phase::TakingOver(Stage::Replaying));
        if replays && self.backlog.is_over() && !mutated(Mutation::EndIsACrash) {
            self.ack_due = self.phase == Phase::Backup;
            self.finish();
        }
    }

    /// The next record to execute: run the machine until it stands at the record's position, tell its outputs with
    /// [`Self::made`], do what the record says, then tell [`Self::executed`].
    pub fn take_record(&mut self) -> Option<LogRecord> {
        match self.phase {
            Phase::Backup | Phase::TakingOver(Stage::Replaying) => self.backlog.take(),
            _ => None,
        }
    }

    /// This side's machine made an output. `keep` is its content; `None` for disk writes, which go-live issues again from
    /// the machine's pending requests.
    pub fn made(&mut self, position: u64, class: OutputClass, digest: u64, keep: Option<O>) {
        assert!(
            keep.is_none() || class != OutputClass::DiskWrite || mutated(Mutation::WritesInBothSets),
            "disk writes live in the pending set only"
        );
        self.backlog.made(position, class, digest, keep);
    }

    /// The machine made a read of a shared disk, which this side runs too.
    pub fn own_read_made(&mut self, read: ReadId) {
        self.own_reads.made(read);
    }

    /// This side has the data of such a read. `waited_for` if a write of the same blocks is known to follow: the primary waits
    /// to hear of it. True if an acknowledgement is due now.
    pub fn own_read_finished(&mut self, read: ReadId, waited_for: bool, now: Nanos) -> bool {
        if self.own_reads.finished(read) {
            self.ack_later(now);
        }
        waited_for && self.tell_reads()
    }

    /// The machine made a write of a shared disk whose reads this side runs too: it may wait for one of them. True if an
    /// acknowledgement is due now.
    pub fn tell_reads(&mut self) -> bool {
        let due = self.phase == Phase::Backup && self.own_reads.is_news();
        self.ack_due |= due;
        due
    }

    /// A record from [`Self::take_record`] was executed.
    ///
    /// # Errors
    /// This side's outputs are not the primary's. To be told with [`super::Event::Diverged`].
    pub fn executed(&mut self, record: &LogRecord, now: Nanos) -> Result<(), Divergence> {
        if !matches!(self.phase, Phase::Backup | Phase::TakingOver(Stage::Replaying)) {
            return Ok(());
        }
        self.backlog.executed(record, now)?;
        self.progress_at = self.progress_at.max(now);
        if std::mem::take(&mut self.ask_deferred) {
            self.ask(self.generation);
        }
        self.ack_later(now);
        self.end_if_over();
        self.step_takeover();
        Ok(())
    }

    /// A deliberate mistake: records that come after the session was closed are acknowledged, and not kept.
    pub(super) fn acknowledge_late(&mut self, log: &LogFrame, now: Nanos) {
        if let Some(last) = log.records.last() {
            let ack = Ack { received: last.lsn, ..self.ack(now) };
            self.frames.push_back(Frame::Ack(ack));
        }
    }

    /// An acknowledgement, if one is due and the session is open: after closing it nothing is ever acknowledged.
    pub(super) fn ack_frame(&mut self, now: Nanos) -> Option<Vec<u8>> {
        self.session?;
        if !self.ack_due || !matches!(self.phase, Phase::Backup | Phase::Over) {
            return None;
        }
        self.ack_due = false;
        self.exec_ack_due = None;
        self.acked = self.backlog.received();
        let ack = Frame::Ack(self.ack(now));
        Some(self.encode(&ack))
    }

    /// There is something to tell, and nobody waits for it: the next acknowledgement has it, or one that comes long before the primary
    /// would take its absence for a loss.
    fn ack_later(&mut self, now: Nanos) {
        if self.phase == Phase::Backup && !self.ack_due {
            let delay = timers::EXEC_ACK_DELAY.min(self.settings.ack_timeout / 4);
            self.exec_ack_due.get_or_insert(now + delay);
        }
    }

    fn ack(&mut self, now: Nanos) -> Ack {
        let partial = self.link.as_ref().is_some_and(|link| link.reader.is_partial());
        let early = u64::from(partial && mutated(Mutation::AckBeforeReceipt));
        Ack {
            stamp: self.stamp(),
            received: self.backlog.received() + early,
            executed: self.backlog.executed_lsn(),
            position: self.backlog.position(),
            echo: self.backlog.echo(now),
            heard: self.heard_stamp,
            released: self.backlog.released_lsn(),
            reads: self.own_reads.tell(),
            stop: self.stop_wanted,
        }
    }
}

/// True if the primary, or somebody behind it, waits for a record's acknowledgement. A guest that only computes makes a thousand
/// others in a second, and an answer to each costs both sides a thread's turn.
fn is_waited_for(record: &LogRecord) -> bool {
    !matches!(record.body, Body::Progress | Body::Digest(_) | Body::Input(Input::Anchor(_)))
}
