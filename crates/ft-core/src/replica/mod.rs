//! One side of a pair: the protocol's state machine.
//!
//! The phases and what moves between them:
//!
//! ```text
//!   Waiting --won 0->1, or a cold start--> Live --lost the backup: ask; won--> Live, alone
//!      |                                    |  \--lost, or deposed--> Halted (3)
//!      \--offered a session--> Backup --lost the primary--> TakingOver --won, replayed, fenced, disks--> Live, alone
//! ```
//!
//! `start.rs` has everything until the guest runs, `copies.rs` what separate disks add to it, `live.rs` the replica whose guest
//! is real, `follow.rs` the backup, `lose.rs` what happens when the other side is gone, `register.rs` the talk with the
//! tie-breaker, `by_hand.rs` the pair whose tie-breaker is a person, `strangers.rs` who is on the log connection at all,
//! `datagrams.rs` the signs of life, `timers.rs` all that time alone brings about.

mod by_hand;
mod copies;
mod datagrams;
mod doubt;
mod events;
mod follow;
mod live;
mod lose;
mod promise;
mod register;
mod start;
mod status;
mod strangers;
mod timers;
mod view;

use std::collections::VecDeque;
use std::mem::Discriminant;

use ft_policies::{Detector, Key, Pacing, RegisterState, Who};

pub use by_hand::NotPromoted;
pub use events::{Effect, Event, Exit, Released};
use promise::Promise;
pub use status::Status;
pub use view::View;

use crate::backlog::Backlog;
use crate::gate::Gate;
use crate::histogram::Histogram;
use crate::log::Log;
use crate::mutation::{Mutation, mutated};
use crate::reads::{Followed, Own, ReadId};
use crate::wire::{
    Ack, Copies, Copy, CpuLeaf, Frame, FrameReader, Heartbeat, Hello, LogFrame, PeerRole, Stamp, WireError,
};
use crate::{Lsn, Nanos};

/// What does not change while a replica lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This process.
    pub me: Who,
    /// Identity of the pair.
    pub pair: u128,
    /// Digest of the part of the config that both sides must share.
    pub config: u128,
    /// Digest of the guest's image.
    pub image: u128,
    /// What CPUID tells the guest, where that depends on the host: both sides must have the same.
    pub cpu: Vec<CpuLeaf>,
    /// What to tell the operator besides when the backup has diverged; may be empty.
    pub divergence_hint: &'static str,
    /// Most bytes of log that the backup has yet to execute.
    pub log_capacity: u64,
    /// Most bytes of outputs held.
    pub gate_bytes: u64,
    /// Most outputs held.
    pub gate_outputs: usize,
    /// How long a replica that could start the guest waits for the other one.
    pub start_alone: Nanos,
    /// The longest that a record may stay unacknowledged.
    pub ack_timeout: Nanos,
    /// The longest that a backup may have records and execute none.
    pub stuck: Nanos,
    /// The Output Rule; false is for experiments.
    pub hold_outputs: bool,
    /// What this side's copies of separate disks are worth, for a pair that has such disks.
    pub copies: Option<Copies>,
    /// The tie-breaker is a person ([`Replica::promote`]), and each side has a register of its own.
    pub by_hand: bool,
    /// The secret by which the two replicas know each other ([`crate::wire`]).
    pub key: Option<Key>,
}

/// Bounds of the output gate of an ordinary replica: bytes and outputs.
pub const GATE: (u64, usize) = (16 << 20, 4096);

/// [`Settings::stuck`] of an ordinary replica.
pub const STUCK: Nanos = 2_000_000_000;

/// Where a replica is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No guest state yet.
    Waiting,
    /// Its guest is the real one, or will be as soon as it starts.
    Live,
    /// It follows a primary.
    Backup,
    /// It has lost its primary.
    TakingOver(Stage),
    /// It has seen a higher generation than its own: it releases nothing and reads the register.
    Deposed,
    /// The guest's end, or a stop, was released; the backup is given a moment to know.
    Ending,
    /// Over: [`Effect::End`] or [`Effect::Halt`] was given.
    Over,
}

/// Steps of going live, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Asking for the next generation and executing what was received; both must end.
    Replaying,
    /// Won and replayed; the old primary is being cut off.
    Fencing,
    /// Cut off; pending disk requests are issued again.
    Reissuing,
}

/// What the thread that runs the guest is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: wait for a change.
    Hold,
    /// Run live, as far as [`Replica::may_run`] says.
    Live,
    /// Append the stop record ([`Replica::append_stop`]).
    Stop,
    /// Take records and execute them.
    Backup,
    /// Issue the pending disk requests again, then tell with [`Event::DisksReissued`].
    Reissue,
    /// Nothing, ever again.
    Over,
}

/// The backup's machine is not the primary's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("divergence at position {position}: {what}")]
pub struct Divergence {
    /// Where it was found.
    pub position: u64,
    /// What differs.
    pub what: String,
}

#[derive(Debug)]
struct Ask {
    from: u64,
    retry_at: Option<Nanos>,
    told: bool,
    /// False while it waits for a person.
    permitted: bool,
}

#[derive(Debug, Default)]
struct Link {
    reader: FrameReader,
    /// What the peer said last; in a pair with a key only what was said on this connection for certain.
    hello: Option<Hello>,
    /// This side's number for this connection.
    nonce: u64,
    /// The peer's; 0 before it is known.
    theirs: u64,
    /// It was told that it is not wanted; what else it says is not listened to.
    refused: bool,
}

/// A log connection in which this side is primary or backup.
#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    peer: u64,
    /// LSN of `Armed` on the primary.
    armed: Lsn,
}

#[derive(Debug, Default)]
struct Counters {
    stale: u64,
    bad_datagrams: u64,
    turned_away: u64,
    log_bytes: u64,
    stalls: u64,
    stalled: Nanos,
    doubts: u64,
    lies: u64,
}

/// One side of a pair. `O` is the content of an output; the protocol only keeps it.
pub struct Replica<O> {
    settings: Settings,
    detector: Box<dyn Detector + Send>,
    pacing: Box<dyn Pacing + Send>,
    phase: Phase,
    generation: u64,
    highest: u64,
    register: Option<RegisterState>,
    /// The generation in which this process found the register.
    found: Option<u64>,
    ask: Option<Ask>,
    link: Option<Link>,
    links: u64,
    /// The operator was told of connections that were turned away for this.
    strangers: Vec<Discriminant<WireError>>,
    session: Option<Session>,
    sessions: u64,
    /// The process of the peer in the last session.
    lost: Option<u64>,
    last_heard: Nanos,
    /// Until when time alone makes nobody suspicious.
    excused: Nanos,
    /// Since when the peer would be taken for lost, were it not excused.
    suspected_since: Option<Nanos>,
    /// The longest silence of the peer that ended, in this session.
    silence_max: Nanos,
    peer_beat: Option<(PeerRole, Nanos)>,
    /// The peer's process, as it was heard last.
    peer_process: Option<(u64, bool)>,
    reason: String,
    // Live.
    last: Lsn,
    position: u64,
    started: bool,
    /// The backup's copies of separate disks are being made the same as this side's.
    copying: bool,
    /// The generation whose live copies are those to go on with: the register's when this side asked for the right to start the guest.
    claimed_from: u64,
    /// The operator was told why the copies of separate disks let nobody start.
    copies_told: bool,
    /// A person has said that this side is to go on.
    promoted: bool,
    log: Log,
    gate: Gate<O>,
    watermark: Lsn,
    watermark_sent: Lsn,
    rx_unacked: VecDeque<(Lsn, u64)>,
    followed: Followed,
    /// Completions of reads of shared disks that the log carries, not yet acknowledged.
    reads_unacked: VecDeque<(Lsn, ReadId)>,
    /// Since when this primary does not know whether its backup has gone on without it.
    doubt: Option<Nanos>,
    stalled_since: Option<Nanos>,
    /// When the thread that runs the guest last looked whether it may.
    ran_at: Option<Nanos>,
    /// Cost of the largest record that found no room.
    refused: u64,
    stalls: VecDeque<(Nanos, Nanos)>,
    stopping: bool,
    // Backup.
    backlog: Backlog<O>,
    /// `sent` of the last frame.
    heard_stamp: Nanos,
    ack_due: bool,
    acked: Lsn,
    own_reads: Own,
    /// When this backup last executed a record, or had none to execute.
    progress_at: Nanos,
    /// The connection of a backup that was told why it is lost stays until this side has won.
    told_why: bool,
    /// It has lost its primary and cannot replay: it asks when it can again.
    ask_deferred: bool,
    // Ends.
    stop_wanted: bool,
    deposed_told: bool,
    ends_at: Lsn,
    // Timers.
    heartbeat_at: Option<Nanos>,
    start_alone_at: Option<Nanos>,
    alone_allowed: bool,
    watermark_due: Option<Nanos>,
    watermark_now: bool,
    exec_ack_due: Option<Nanos>,
    ending_deadline: Option<Nanos>,
    stop_deadline: Option<Nanos>,
    cut_short: bool,
    register_poll_at: Option<Nanos>,
    // Out.
    frames: VecDeque<Frame>,
    effects: VecDeque<Effect>,
    counters: Counters,
    lag: Histogram,
    last_lag: Nanos,
    output_delay: Histogram,
    promises: VecDeque<Promise>,
    /// The position that the backup was told last before the machine was there.
    promised_to: Option<u64>,
}

impl<O> Replica<O> {
    /// A replica that has done nothing yet; begins with [`Event::Start`].
    pub fn new(
        settings: Settings,
        detector: Box<dyn Detector + Send>,
        pacing: Box<dyn Pacing + Send>,
        now: Nanos,
    ) -> Self {
        Self {
            log: Log::new(settings.log_capacity, 0, now),
            gate: Gate::new(settings.gate_bytes, settings.gate_outputs),
            backlog: Backlog::new(settings.log_capacity, 0, 0),
            settings,
            detector,
            pacing,
            phase: Phase::Waiting,
            generation: 0,
            highest: 0,
            register: None,
            found: None,
            ask: None,
            link: None,
            links: 0,
            strangers: Vec::new(),
            session: None,
            sessions: 0,
            lost: None,
            last_heard: now,
            excused: 0,
            suspected_since: None,
            silence_max: 0,
            peer_beat: None,
            peer_process: None,
            reason: String::new(),
            last: 0,
            position: 0,
            started: false,
            copying: false,
            claimed_from: 0,
            copies_told: false,
            promoted: false,
            watermark: 0,
            watermark_sent: 0,
            rx_unacked: VecDeque::new(),
            followed: Followed::default(),
            reads_unacked: VecDeque::new(),
            doubt: None,
            stalled_since: None,
            ran_at: None,
            refused: 0,
            stalls: VecDeque::new(),
            stopping: false,
            heard_stamp: 0,
            ack_due: false,
            acked: 0,
            own_reads: Own::default(),
            progress_at: now,
            told_why: false,
            ask_deferred: false,
            stop_wanted: false,
            deposed_told: false,
            ends_at: 0,
            heartbeat_at: None,
            start_alone_at: None,
            alone_allowed: false,
            watermark_due: None,
            watermark_now: false,
            exec_ack_due: None,
            ending_deadline: None,
            stop_deadline: None,
            cut_short: false,
            register_poll_at: None,
            frames: VecDeque::new(),
            effects: VecDeque::new(),
            counters: Counters::default(),
            lag: Histogram::default(),
            last_lag: 0,
            output_delay: Histogram::default(),
            promises: VecDeque::new(),
            promised_to: None,
        }
    }

    /// A replica without a peer, a register or the Output Rule: the same virtual machine with no fault tolerance. It is
    /// live at once.
    pub fn solo(
        settings: Settings,
        detector: Box<dyn Detector + Send>,
        pacing: Box<dyn Pacing + Send>,
    ) -> Self {
        let mut replica = Self::new(settings, detector, pacing, 0);
        replica.phase = Phase::Live;
        replica.started = true;
        let (generation, takeover, reason) = (0, false, "started without fault tolerance".to_owned());
        replica.effects.push_back(Effect::Live { generation, takeover, alone: true, silent: 0, reason });
        replica
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event<'_>, now: Nanos) {
        if self.phase == Phase::Over {
            return;
        }
        match event {
            Event::Start => self.start(now),
            Event::Connected => self.connected(),
            Event::Received(bytes) => self.received(bytes, now),
            Event::Disconnected(reason) => {
                self.link = None;
                self.lose_peer(&reason, now);
            }
            Event::Datagram(bytes) => self.datagram(bytes, now),
            Event::Timeout => self.timers(now),
            Event::Register(result) => self.register_read(result, now),
            Event::Answer { from, answer } => self.answered(from, answer, now),
            Event::Fenced { generation } => self.fenced(generation),
            Event::Copied { session } => self.copied(session, now),
            Event::CopyRefused { session, reason } => self.copy_refused(session, &reason),
            Event::CopyBroken { session, reason } if self.is_copying(session) => {
                self.effects.push_back(Effect::CloseLink);
                self.lose_peer(&reason, now);
            }
            Event::CopyBroken { .. } => {}
            Event::Copies(copies) => self.copies_changed(copies),
            Event::DisksReissued => self.disks_reissued(now),
            Event::Diverged(_) if mutated(Mutation::DivergedBackupAsks) => self.lose_peer("diverged", now),
            Event::Diverged(divergence) => {
                let hint = self.settings.divergence_hint;
                let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
                self.give_up(Exit::Divergence, format!("{divergence}{hint}"));
            }
            Event::DiskFailed(message) => self.give_up(Exit::Failure, message),
            Event::Stop => self.stop(now),
        }
    }

    /// The next thing that the runtime is to do. [`Effect::End`] comes only when every released output has been taken.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A heartbeat, out of its turn: it depends on no other effect, and must not wait behind them.
    pub fn poll_heartbeat(&mut self) -> Option<Vec<u8>> {
        let at = self.effects.iter().position(|effect| matches!(effect, Effect::Heartbeat(_)))?;
        match self.effects.remove(at) {
            Some(Effect::Heartbeat(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The next bytes for the log connection. Records are packed, and stamped, as late as here.
    pub fn poll_transmit(&mut self, now: Nanos) -> Option<Vec<u8>> {
        if let Some(frame) = self.frames.pop_front() {
            return Some(self.encode(&frame));
        }
        self.log_frame(now).or_else(|| self.ack_frame(now))
    }

    fn encode(&self, frame: &Frame) -> Vec<u8> {
        frame.encode_with(self.settings.key.as_ref())
    }

    /// True if [`Self::poll_effect`] has something.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// True once the peer on the log connection has said who it is.
    pub fn has_hello(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.hello.is_some())
    }

    /// When the peer was last heard.
    pub fn last_heard(&self) -> Nanos {
        self.last_heard
    }

    /// What the thread that runs the guest is to do now.
    pub fn mode(&self) -> Mode {
        match &self.phase {
            Phase::Live if self.stopping => Mode::Hold,
            Phase::Live if self.stop_wanted => Mode::Stop,
            Phase::Live if self.started => Mode::Live,
            Phase::Backup | Phase::TakingOver(Stage::Replaying) => Mode::Backup,
            Phase::TakingOver(Stage::Reissuing) => Mode::Reissue,
            Phase::Over => Mode::Over,
            _ => Mode::Hold,
        }
    }

    /// This process, as the register knows it.
    pub fn me(&self) -> Who {
        self.settings.me
    }

    /// Where this replica is in its life.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// True if this side's guest runs, or ran.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The generation of which this replica is, or was last, a part.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// False if it ended because a stop took too long: outputs may be left that were never let out, writes of disks among them.
    pub fn ended_in_order(&self) -> bool {
        !self.cut_short
    }

    /// True if it has a peer in a session.
    pub fn is_paired(&self) -> bool {
        self.session.is_some()
    }

    /// True if an ask is outstanding: nothing is released until it is answered.
    pub fn is_asking(&self) -> bool {
        self.ask.is_some()
    }

    /// The pacing strategy's share for the primary's vCPU, 1 to 1000 per mille. Full without a backup.
    pub fn share(&self) -> u32 {
        if self.session.is_some() { self.pacing.share() } else { ft_policies::FULL_SHARE }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            pair: self.settings.pair,
            generation: self.generation,
            session: self.session.map_or(0, |session| session.id),
            incarnation: self.settings.me.incarnation,
        }
    }

    fn peer_role(&self) -> PeerRole {
        match self.phase {
            Phase::Live if !self.started => PeerRole::Fresh,
            Phase::Waiting if self.may_have_won() => PeerRole::Fresh,
            Phase::Live | Phase::Ending => PeerRole::Live,
            Phase::Backup | Phase::TakingOver(_) => PeerRole::Backup,
            Phase::Waiting | Phase::Deposed | Phase::Over => PeerRole::Waiting,
        }
    }

    fn notice(&mut self, text: impl Into<String>) {
        self.effects.push_back(Effect::Notice(text.into()));
    }

    fn halt(&mut self, exit: Exit, message: impl Into<String>) {
        self.session = None;
        self.phase = Phase::Over;
        self.effects.push_back(Effect::Halt { exit, message: message.into() });
    }

    fn finish(&mut self) {
        self.phase = Phase::Over;
        self.effects.push_back(Effect::End);
    }

    fn received(&mut self, bytes: &[u8], now: Nanos) {
        let Some(link) = self.link.as_mut().filter(|link| !link.refused) else { return };
        link.reader.push(bytes);
        if self.phase == Phase::Backup {
            self.counters.log_bytes += bytes.len() as u64;
        }
        loop {
            let Some(link) = self.link.as_mut().filter(|link| !link.refused) else { return };
            match link.reader.next_frame() {
                Ok(None) => {
                    self.ack_due |= self.phase == Phase::Backup && mutated(Mutation::AckBeforeReceipt);
                    return;
                }
                Ok(Some(frame)) => self.frame(frame, now),
                Err(error) => return self.broken_stream(error, now),
            }
            if self.phase == Phase::Over {
                return;
            }
        }
    }

    fn frame(&mut self, frame: Frame, now: Nanos) {
        match frame {
            Frame::Hello(hello) => self.hello(hello, now),
            // Whoever has not said who he is may be repeating another one's words.
            _ if self.settings.key.is_some() && !self.has_hello() => self.counters.stale += 1,
            Frame::Refusal(refusal) => self.refused(&refusal),
            Frame::Heartbeat(_) => self.counters.stale += 1,
            Frame::Copy(copy) if self.is_current(&copy.stamp) => {
                let (session, message) = (copy.stamp.session, copy.message);
                self.effects.push_back(Effect::CopyMessage { session, message });
            }
            Frame::Log(log) if self.is_current(&log.stamp) && self.phase == Phase::Backup => {
                self.log_received(log, now);
            }
            Frame::Log(log) if mutated(Mutation::AckAfterClose) && self.is_current(&log.stamp) => {
                self.acknowledge_late(&log, now);
            }
            Frame::Ack(ack) if self.is_current(&ack.stamp) => self.ack_received(&ack, now),
            Frame::Log(LogFrame { stamp, .. })
            | Frame::Ack(Ack { stamp, .. })
            | Frame::Copy(Copy { stamp, .. }) => {
                self.counters.stale += 1;
                if stamp.pair == self.settings.pair {
                    self.note_generation(stamp.generation);
                }
            }
        }
    }

    /// True if a frame of the log connection belongs to the current session.
    fn is_current(&self, stamp: &Stamp) -> bool {
        self.session.is_some_and(|session| {
            stamp.pair == self.settings.pair
                && stamp.generation == self.generation
                && stamp.session == session.id
                && stamp.incarnation == session.peer
        })
    }

    /// The process of the peer that was lost.
    pub fn lost_peer(&self) -> Option<u64> {
        self.lost
    }

    /// The process of the peer in this session.
    pub fn peer_incarnation(&self) -> Option<u64> {
        self.session.map(|session| session.peer)
    }

    fn heard(&mut self, what: ft_policies::Heard, now: Nanos) {
        match what {
            ft_policies::Heard::Start => self.doubt = None,
            _ => drop(self.doubts(now)),
        }
        if mutated(Mutation::WithdrawAsk) && self.phase == Phase::Live {
            self.ask = None;
        }
        self.silence_max = match what {
            ft_policies::Heard::Start => 0,
            _ => self.silence_max.max(now.saturating_sub(self.last_heard)),
        };
        self.last_heard = self.last_heard.max(now);
        self.detector.heard(now, what);
    }

    /// Somebody of this pair is in `generation`.
    fn note_generation(&mut self, generation: u64) {
        self.highest = self.highest.max(generation);
        let part = matches!(self.phase, Phase::Live | Phase::Backup | Phase::TakingOver(_));
        if !part || self.highest <= self.generation || mutated(Mutation::IgnoreHigherGeneration) {
            return;
        }
        if self.settings.by_hand {
            // Nobody else has the answer.
            self.lost_by_hearsay();
        } else if self.ask.is_none() {
            // With an ask outstanding its answer decides.
            self.depose();
        }
    }

    fn depose(&mut self) {
        if self.settings.by_hand {
            return self.lost_by_hearsay();
        }
        self.session = None;
        self.phase = Phase::Deposed;
        self.notice(format!("the pair is in generation {}, this side in {}", self.highest, self.generation));
        self.effects.push_back(Effect::CloseLink);
        self.effects.push_back(Effect::ReadRegister);
    }

    /// Ends so that the peer sees it at once.
    fn give_up(&mut self, exit: Exit, message: String) {
        self.effects.push_back(Effect::CloseLink);
        self.halt(exit, message);
    }

    fn stop(&mut self, now: Nanos) {
        self.stop_wanted = true;
        self.stop_deadline = Some(now + timers::STOP_PATIENCE);
        match self.phase {
            Phase::Waiting | Phase::Deposed => self.finish(),
            Phase::Backup => self.ack_due = true,
            _ => {}
        }
    }
}
