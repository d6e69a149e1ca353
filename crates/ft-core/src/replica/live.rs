//! The replica whose guest is the real one: log, gate, acknowledgements, the orderly end.

use super::{Ack, Effect, Frame, LogFrame, Nanos, Phase, Released, Replica, timers};
use crate::Lsn;
use crate::input::Input;
use crate::mutation::{Mutation, mutated};
use crate::reads::ReadId;
use crate::record::{Body, LogRecord, OutputClass, RECORD_OVERHEAD};
use crate::wire::{FRAME_BUDGET, VERSION};

/// Most reads that the backup runs too and is not known to have finished: later writes look through them.
pub(super) const MAX_FOLLOWED: usize = 16 * 1024;

impl<O> Replica<O> {
    /// True if the guest may run now. False while a bound is reached: that is a stall, counted until this is true again.
    /// To be asked again when an acknowledgement has come.
    pub fn may_run(&mut self, now: Nanos) -> bool {
        if self.phase != Phase::Live || !self.started || self.stopping {
            return false;
        }
        let room = !self.gate.is_full()
            && self.followed.len() < MAX_FOLLOWED
            && (self.session.is_none() || self.log.has_room(0));
        self.recount_stall(now);
        room
    }

    /// Reserves space for a record of this cost, before its input is applied. False is a stall, as with [`Self::may_run`].
    pub fn reserve(&mut self, cost: u64, now: Nanos) -> bool {
        let room = self.session.is_none() || self.log.has_room(cost);
        if !room {
            self.refused = self.refused.max(cost);
        } else if cost >= self.refused {
            self.refused = 0;
        }
        self.recount_stall(now);
        room
    }

    /// The guest stands still if the gate is full, or the log, or if a record found no room and would find none now.
    fn recount_stall(&mut self, now: Nanos) {
        self.ran_at = self.ran_at.max(Some(now));
        let full = self.session.is_some() && !self.log.has_room(self.refused);
        if !full {
            self.refused = 0;
        }
        let reads = self.followed.len() >= MAX_FOLLOWED;
        self.count_stall(full || reads || self.gate.is_full(), now);
    }

    fn count_stall(&mut self, stalled: bool, now: Nanos) {
        match (self.stalled_since, stalled) {
            (None, true) => {
                self.stalled_since = Some(now);
                self.counters.stalls += 1;
            }
            (Some(since), false) => {
                self.stalled_since = None;
                self.counters.stalled += now.saturating_sub(since);
                // The threads that tell the time may differ by a little.
                self.stalls.push_back((since, now.max(since)));
                while self.stalls.front().is_some_and(|(_, end)| end + timers::STALL_WINDOW < now) {
                    self.stalls.pop_front();
                }
            }
            _ => {}
        }
    }

    /// True if what the guest does still counts. False for a guest that was running when its replica was deposed or ended:
    /// what it did since is dropped, seen by nobody.
    fn writes_log(&self) -> bool {
        assert!(
            !matches!(self.phase, Phase::Waiting | Phase::Backup | Phase::TakingOver(_)),
            "only a replica that is live, or was, writes the log"
        );
        self.phase == Phase::Live
    }

    /// Appends a record at the position where the machine stands. Ignored if this side was deposed or ended while the guest
    /// was running.
    pub fn append(&mut self, position: u64, body: Body, now: Nanos) -> Lsn {
        if !self.writes_log() {
            return self.last;
        }
        assert!(position >= self.position, "positions never decrease");
        self.position = position;
        self.last += 1;
        if let Body::Input(Input::NetRx(batch)) = &body
            && batch.switch_seq != 0
        {
            if self.session.is_none() {
                // Nothing will be acknowledged one by one: the answer of the register covers all, the last tells of all.
                self.rx_unacked.clear();
            }
            self.rx_unacked.push_back((self.last, batch.switch_seq));
        }
        if self.session.is_some() {
            self.log.append(self.last, position, body, now);
        }
        self.acknowledge_frames();
        self.last
    }

    /// The completion of a read of a shared disk was appended, with its data, as record `lsn`. A later write of the same blocks
    /// waits for [`Effect::ReadFinished`]: were it on the disk before the backup has the data, a backup that goes live would
    /// run the read again and find what the guest wrote after it.
    pub fn read_logged(&mut self, lsn: Lsn, read: ReadId) {
        if self.session.is_some() && self.writes_log() {
            self.reads_unacked.push_back((lsn, read));
            if mutated(Mutation::LoggedReadUnacked) {
                self.effects.push_back(Effect::ReadFinished { disk: read.0, request: read.1 });
            }
        }
    }

    /// True if the backup has executed everything that was logged.
    pub fn backup_is_level(&self) -> bool {
        self.session.is_some() && self.log.is_empty()
    }

    fn acknowledge_reads(&mut self) {
        let acked = self.log.acked();
        while let Some((_, (disk, request))) = self.reads_unacked.pop_front_if(|(lsn, _)| *lsn <= acked) {
            self.effects.push_back(Effect::ReadFinished { disk, request });
        }
    }

    /// The machine made a read of a shared disk that a backup runs too. True if there is a backup that has not finished it: then later
    /// writes of the same blocks wait for [`Effect::ReadFinished`], or for [`Effect::Live`] alone.
    pub fn read_followed(&mut self, read: ReadId) -> bool {
        let paired = self.session.is_some() && self.phase == Phase::Live;
        if paired {
            return self.followed.made(read);
        }
        false
    }

    /// The machine made an output that the Output Rule holds; `size` is what it takes in the gate, in bytes.
    #[allow(clippy::too_many_arguments, reason = "an output has as many parts")]
    pub fn emit(
        &mut self,
        position: u64,
        class: OutputClass,
        digest: u64,
        size: u64,
        payload: O,
        now: Nanos,
    ) {
        if !self.writes_log() {
            return;
        }
        let skip = mutated(Mutation::SkipMarker);
        let body = if skip { Body::Progress } else { Body::Output { class, digest } };
        let lsn = self.append(position, body, now);
        self.gate.hold(lsn, Some(class), Some(payload), size + RECORD_OVERHEAD, now);
    }

    /// Appends the stop record that [`super::Mode::Stop`] asks for.
    pub fn append_stop(&mut self, position: u64, now: Nanos) {
        if !self.writes_log() {
            return;
        }
        if self.copying {
            // Nobody was armed: there is no log that could carry it, and no guest that a backup would end.
            self.lose_peer("the pair is stopped", now);
        }
        let lsn = self.append(position, Body::Stop, now);
        self.stopping = true;
        self.gate.hold(lsn, None, None, RECORD_OVERHEAD, now);
    }

    /// The next output that may go out. Call again after anything that may have let one pass. There is none before the last
    /// [`Effect::Live`] was taken: whoever found no effect just now cannot know that there is one by now.
    pub fn poll_release(&mut self, now: Nanos) -> Option<Released<O>> {
        let moves = self.effects.iter().any(|effect| matches!(effect, Effect::Live { .. }));
        if moves && !mutated(Mutation::ReleaseBeforeLive) {
            return None;
        }
        let heard = mutated(Mutation::AckAfterAsk) && self.session.is_some();
        let asking = self.ask.is_some() && !mutated(Mutation::ReleaseWhileAsking) && !heard;
        if self.phase != Phase::Live || asking || self.doubts(now) {
            return None;
        }
        let hold = self.settings.hold_outputs && !mutated(Mutation::ReleaseAtMarker);
        let limit = match self.session {
            Some(_) if hold => self.log.acked(),
            None if mutated(Mutation::ReleaseWhileAsking) && self.ask.is_some() => self.log.acked(),
            _ => Lsn::MAX,
        };
        let held = self.gate.pass(limit)?;
        // The invariant, first step: released in this generation only if acknowledged in it, or if there is no backup.
        assert!(
            self.session.is_none() || held.lsn <= self.log.acked() || !hold,
            "an output is released only when its marker is acknowledged"
        );
        self.output_delay.add(now.saturating_sub(held.since));
        let lsn = held.lsn;
        match (held.class, held.payload) {
            (Some(class), Some(payload)) => {
                Some(Released { lsn, generation: self.generation, class, payload })
            }
            _ => {
                self.end_at(lsn, now);
                None
            }
        }
    }

    /// All outputs up to this one have gone out. `end` if the last one was the guest's end.
    pub fn released(&mut self, lsn: Lsn, end: bool, now: Nanos) {
        self.watermark = self.watermark.max(lsn);
        if self.session.is_some()
            && self.watermark_due.is_none()
            && !self.watermark_now
            && self.watermark_sent < self.watermark
        {
            self.watermark_due = Some(now + timers::WATERMARK_DELAY);
        }
        if end && self.phase == Phase::Live {
            self.end_at(lsn, now);
        }
    }

    fn end_at(&mut self, lsn: Lsn, now: Nanos) {
        self.watermark = self.watermark.max(lsn);
        if self.session.is_none() || mutated(Mutation::EndUntold) {
            return self.finish();
        }
        self.phase = Phase::Ending;
        self.ends_at = lsn;
        self.watermark_now = true;
        let patience = Some(now + timers::ENDING_PATIENCE);
        self.ending_deadline = patience.filter(|_| !mutated(Mutation::EndWithoutPatience));
    }

    pub(super) fn ack_received(&mut self, ack: &Ack, now: Nanos) {
        if !matches!(self.phase, Phase::Live | Phase::Ending) {
            self.counters.stale += 1;
            return;
        }
        let before = self.log.executed();
        if let Err(error) = self.log.acknowledge(ack.received, ack.executed, now) {
            return self.lose_liar(&error.to_string(), now);
        }
        match self.followed.finished(ack.reads, self.reads_ahead()) {
            Ok(reads) => {
                let tell = |(disk, request)| Effect::ReadFinished { disk, request };
                self.effects.extend(reads.into_iter().map(tell));
            }
            Err(error) => return self.lose_liar(&error.to_string(), now),
        }
        self.heard(ft_policies::Heard::Ack, now);
        self.reassured(ack);
        let promised = self.promises_executed(ack.executed, now);
        if ack.executed > before && ack.echo != 0 && ack.echo <= now {
            self.last_lag = now.saturating_sub(promised.map_or(ack.echo, |reached| reached.max(ack.echo)));
            self.lag.add(self.last_lag);
            self.pacing.on_lag(now, self.last_lag);
        }
        self.armed();
        self.acknowledge_frames();
        self.acknowledge_reads();
        if ack.stop && !self.stop_wanted {
            self.stop_wanted = true;
            self.stop_deadline = Some(now + timers::STOP_PATIENCE);
        }
        if self.phase == Phase::Ending && ack.executed >= self.ends_at && ack.released >= self.ends_at {
            self.finish();
        }
    }

    /// Tells the switch which inbound frames it may forget.
    pub(super) fn acknowledge_frames(&mut self) {
        if self.ask.is_some() && !mutated(Mutation::InboundForgottenByAsk) {
            return;
        }
        let waits = self.session.is_some() && !mutated(Mutation::InboundForgotten);
        let limit = if waits { self.log.acked() } else { Lsn::MAX };
        let mut last = None;
        while let Some((lsn, seq)) = self.rx_unacked.front().copied()
            && lsn <= limit
        {
            last = Some(seq);
            self.rx_unacked.pop_front();
        }
        if let Some(seq) = last {
            self.effects.push_back(Effect::RxAcknowledged { generation: self.generation, seq });
        }
    }

    /// The next log frame: records that wait, or the watermark alone when that is due.
    pub(super) fn log_frame(&mut self, now: Nanos) -> Option<Vec<u8>> {
        self.session?;
        if !matches!(self.phase, Phase::Live | Phase::Ending) {
            return None;
        }
        let due = self.watermark_now || self.watermark_due.is_some_and(|at| now >= at);
        if !self.log.has_unsent() && !due {
            return None;
        }
        let records: Vec<LogRecord> = self.log.take_unsent(FRAME_BUDGET, now);
        // Without the Output Rule outputs go out before their markers; a watermark beyond the log says nothing.
        let told = if mutated(Mutation::WatermarkAhead) { self.log.acked() } else { self.watermark };
        self.watermark_sent = told.min(self.log.sent());
        (self.watermark_now, self.watermark_due) = (false, None);
        let frame =
            LogFrame { stamp: self.stamp(), released: self.watermark_sent, sent: now.max(1), records };
        let bytes = self.encode(&Frame::Log(frame));
        self.counters.log_bytes += bytes.len() as u64;
        Some(bytes)
    }

    /// The protocol's version, for status.
    pub fn version(&self) -> u16 {
        VERSION
    }
}
