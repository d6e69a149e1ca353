//! Until the guest runs: handshake, who starts, arming the backup.

use super::{Effect, Event, Exit, Link, Nanos, Phase, Replica, Session};
use crate::Lsn;
use crate::backlog::Backlog;
use crate::log::Log;
use crate::record::{Body, MAX_COUNT};
use crate::wire::{Copies, Copy, Frame, Hello, PeerRole, Refusal, Used, WireError};

impl<O> Replica<O> {
    pub(super) fn start(&mut self, now: Nanos) {
        assert_eq!(self.phase, Phase::Waiting, "a replica starts once");
        self.start_alone_at = Some(now + self.settings.start_alone);
        self.heartbeat_at = Some(now);
        self.last_heard = now;
        self.effects.push_back(Effect::ReadRegister);
    }

    pub(super) fn connected(&mut self) {
        self.frames.clear();
        self.link = Some(Link::default());
        self.send_hello();
    }

    pub(super) fn send_hello(&mut self) {
        if self.link.is_none() {
            return;
        }
        self.frames.push_back(Frame::Hello(Hello {
            stamp: self.stamp(),
            replica: self.settings.me.replica,
            role: self.peer_role(),
            config: self.settings.config,
            image: self.settings.image,
            next: self.last + 1,
            copies: self.settings.copies.unwrap_or_default(),
        }));
    }

    /// True while a mismatch is the operator's mistake and not a stranger's: nothing runs yet.
    fn is_starting(&self) -> bool {
        self.session.is_none() && (self.phase == Phase::Waiting || self.phase == Phase::Live && !self.started)
    }

    pub(super) fn hello(&mut self, hello: Hello, now: Nanos) {
        if let Some(reason) = self.mismatch(&hello) {
            self.refuse(true, reason);
            if self.is_starting() {
                self.halt(Exit::Mismatch, reason);
            } else {
                self.notice(format!("a connection was turned away: {reason}"));
            }
            return;
        }
        self.peer_beat = Some((hello.role, now));
        self.peer_heard(hello.stamp.incarnation, false);
        let generation = hello.stamp.generation;
        if let Some(link) = &mut self.link {
            link.hello = Some(hello);
        }
        self.note_generation(generation);
        self.match_roles(now);
    }

    fn mismatch(&self, hello: &Hello) -> Option<&'static str> {
        if hello.stamp.pair != self.settings.pair {
            Some("the peer belongs to another pair (vm.name differs)")
        } else if hello.replica == self.settings.me.replica {
            Some("the peer says that it is the same replica as this one")
        } else if hello.config != self.settings.config {
            Some("the peer has another config: both sides must be started with the same")
        } else if hello.image != self.settings.image {
            Some("the peer has another guest: kernel, initrd or command line differ")
        } else {
            None
        }
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        if !self.is_starting() {
            self.notice(format!("the peer turned the connection away: {}", refusal.reason));
        } else if refusal.mismatch {
            self.halt(Exit::Mismatch, format!("the peer refused: {}", refusal.reason));
        } else {
            self.halt(Exit::Failure, format!("the peer refused: {}", refusal.reason));
        }
    }

    pub(super) fn broken_stream(&mut self, error: WireError, now: Nanos) {
        if let (WireError::Version(_), true) = (error, self.is_starting()) {
            return self.halt(Exit::Mismatch, error.to_string());
        }
        self.link = None;
        self.effects.push_back(Effect::CloseLink);
        self.handle(Event::Disconnected(format!("the log connection is broken: {error}")), now);
    }

    /// Both sides have said what they are: does something follow?
    pub(super) fn match_roles(&mut self, now: Nanos) {
        let Some(hello) = self.link.as_ref().and_then(|link| link.hello.clone()) else { return };
        match (&self.phase, hello.role) {
            (Phase::Waiting, PeerRole::Waiting) => self.consider_claim(now),
            (Phase::Waiting, PeerRole::Fresh) if hello.stamp.session != 0 => self.follow(&hello, now),
            (Phase::Live, PeerRole::Waiting) if self.session.is_none() && self.ask.is_none() => {
                if self.started {
                    self.refuse(
                        false,
                        "the guest is running already; joining a running guest is not in this version",
                    );
                } else {
                    self.offer(&hello, now);
                }
            }
            _ => {}
        }
    }

    /// Starts the guest if it falls to this side: in generation 0 to `a`; later to the last winner, as soon as the other
    /// side is known to have no state, or after `start-alone`. The other side waits for the last winner: it cannot tell one
    /// that is gone from one that runs and cannot be reached.
    pub(super) fn consider_claim(&mut self, now: Nanos) {
        let Some(register) = self.register else { return };
        if self.phase != Phase::Waiting || self.ask.is_some() || self.stop_wanted {
            return;
        }
        let me = self.settings.me.replica;
        let peer_waits = self
            .link
            .as_ref()
            .and_then(|link| link.hello.as_ref())
            .is_some_and(|hello| hello.role == PeerRole::Waiting);
        let peer_has_state = self.peer_beat.is_some_and(|(role, at)| {
            !matches!(role, PeerRole::Waiting | PeerRole::Gone) && now < at + 10 * self.settings.ack_timeout
        });
        // The holder may well be running, out of earshot: nothing but its own replica takes the guest from it, and that only
        // where the generation is not younger than this process. Or it offered this side a session and `Armed` never came:
        // then it needs another win itself before its guest starts.
        let unused = register.holder.is_some_and(|holder| holder.replica == me)
            && self.found == Some(register.generation)
            || register.generation == self.generation;
        let alone = self.alone_allowed && !peer_has_state && unused;
        let ahead = |copies: Copies| copies.live != Copies::ANY && copies.highest > register.generation;
        if let Some(copies) = self.settings.copies
            && (ahead(copies) || self.peers_copies().is_some_and(ahead))
        {
            self.copies_notice(format!(
                "the tie-breaker is in generation {}, and the stamp of a separate disk knows of a later one: the tie-breaker's store \
                 was restored from an old copy, or is another one; nothing is started",
                register.generation
            ));
            return;
        }
        let claim = match (register.holder, self.settings.copies) {
            (None, copies) => {
                // With copies of its own on each side, the other's are looked at first.
                me == ft_policies::ReplicaId::A && (copies.is_none() || peer_waits || self.alone_allowed)
            }
            (Some(holder), None | Some(Copies { live: Copies::ANY, .. })) => {
                alone || peer_waits && holder.replica == me
            }
            (Some(_), Some(mine)) => self.may_claim_with(mine, register.generation, alone, peer_waits),
        };
        if claim {
            self.ask(register.generation);
        }
    }

    /// What the peer's copies of separate disks are worth, if it is there and waits.
    fn peers_copies(&self) -> Option<Copies> {
        let hello = self.link.as_ref().and_then(|link| link.hello.as_ref())?;
        (hello.role == PeerRole::Waiting).then_some(hello.copies)
    }

    /// Which copies of separate disks a cold start goes on with: those that were the live replica's in the register's
    /// generation, alone only if that is so of all of them. If neither side's were, a win was never followed by an output, and the
    /// copies of the last replica that was live before are the ones: that can only be told with both sides there, and with
    /// none of them missing. What may then be done with the other side's is judged disk by disk in the exchange.
    fn may_claim_with(&mut self, mine: Copies, generation: u64, alone: bool, peer_waits: bool) -> bool {
        let theirs = self.peers_copies();
        if !mine.usable {
            if theirs.is_some_and(|theirs| !theirs.usable) {
                let text = "both replicas' separate disks were being copied into when they were last used: neither can be gone \
                            on with";
                self.halt(Exit::Failure, text);
            }
            return false;
        }
        if mine.live == generation {
            return alone && mine.whole || peer_waits;
        }
        let Some(theirs) = theirs else { return false };
        if theirs.live == generation {
            return false;
        }
        if mine.used != theirs.used && theirs.usable {
            let text = format!(
                "neither replica has the separate disks of generation {generation} (they were live in {} and {}), and one of \
                 them has a new disk where the other has one in use: bring the missing one back; if it is lost, put the other's \
                 file in its place and remove the .ft files of both",
                mine.live, theirs.live
            );
            self.halt(Exit::Failure, text);
            return false;
        }
        let first = self.settings.me.replica == ft_policies::ReplicaId::A;
        !theirs.usable || mine.live > theirs.live || mine.live == theirs.live && first
    }

    /// After `start-alone`: the operator is told why the guest does not start here all the same.
    pub(super) fn tell_why_waiting(&mut self) {
        let Some(register) = self.register.filter(|_| self.phase == Phase::Waiting && self.ask.is_none())
        else {
            return;
        };
        let generation = register.generation;
        let why = match (register.holder, self.settings.copies) {
            (_, Some(mine)) if !mine.usable => "its copies of the disks are incomplete".to_owned(),
            (None, _) => "a guest that never ran is started by replica a".to_owned(),
            (Some(_), Some(mine)) if mine.live != generation && mine.live != Copies::ANY => {
                format!("its copies of the disks are not those of generation {generation}, the last one")
            }
            (Some(_), Some(mine)) if !mine.whole && mine.live != Copies::ANY => {
                "one of its disks is new, and the other replica may have its content".to_owned()
            }
            (Some(holder), _) => format!(
                "generation {generation} is replica {}'s, which may be running where this side cannot see it",
                holder.replica.name()
            ),
        };
        let peer = self.settings.me.replica.peer().name();
        self.notice(format!(
            "start-alone has passed, but this side does not start the guest by itself: {why}. It waits for replica {peer}"
        ));
    }

    fn copies_notice(&mut self, text: impl Into<String>) {
        if !std::mem::replace(&mut self.copies_told, true) {
            self.notice(text);
        }
    }

    /// True if this side may start the guest without having seen the other one's copies of separate disks.
    fn copies_allow_alone(&self) -> bool {
        self.settings.copies.is_none_or(|mine| {
            let first = self.claimed_from == 0 && mine.used == Used::None;
            mine.live == Copies::ANY || first || mine.whole && mine.live == self.claimed_from
        })
    }

    /// This side won the right to start the guest.
    pub(super) fn claimed(&mut self, generation: u64, now: Nanos) {
        self.claimed_from = generation.saturating_sub(1);
        self.generation = generation;
        self.highest = self.highest.max(generation);
        self.phase = Phase::Live;
        self.register_poll_at = Some(now + super::timers::REGISTER_POLL);
        self.send_hello();
        self.match_roles(now);
        self.start_alone();
    }

    /// Starts without a backup if `start-alone` has passed and none is being armed.
    pub(super) fn start_alone(&mut self) {
        let idle = self.session.is_none() && self.ask.is_none();
        if self.alone_allowed && idle && self.phase == Phase::Live && !self.started {
            if !self.copies_allow_alone() {
                return self.copies_notice(
                    "start-alone has passed, but without the other replica it is not known that this side's separate disks are the \
                     ones to go on with: the start goes on waiting",
                );
            }
            self.notice("no backup came within start-alone: the guest starts without one");
            self.start_guest(true);
        }
    }

    fn start_guest(&mut self, alone: bool) {
        self.started = true;
        self.start_alone_at = None;
        let (generation, takeover) = (self.generation, false);
        let reason = if alone { "started without a backup" } else { "started" }.to_owned();
        self.effects.push_back(Effect::Live { generation, takeover, alone, silent: 0, reason });
    }

    /// Offers the waiting peer to become the backup. Where each side has copies of its own, they are made the same first.
    fn offer(&mut self, hello: &Hello, now: Nanos) {
        assert!(!self.started && self.gate.is_empty(), "a backup joins before the guest runs");
        self.sessions += 1;
        // Never 0, and not to be met again: the incarnation is random.
        let id = self.settings.me.incarnation.wrapping_add(self.sessions).max(1);
        self.session = Some(Session { id, peer: hello.stamp.incarnation, armed: Lsn::MAX });
        self.log = Log::new(self.settings.log_capacity, self.last, now);
        self.send_hello();
        self.heard(ft_policies::Heard::Start, now);
        if self.settings.copies.is_some() {
            self.copying = true;
            self.effects.push_back(Effect::CopyFrom { session: id });
        } else {
            self.arm(now);
        }
    }

    pub(super) fn copied(&mut self, session: u64, now: Nanos) {
        if self.is_copying(session) && self.phase == Phase::Live {
            self.copying = false;
            self.arm(now);
        }
    }

    pub(super) fn copy_refused(&mut self, session: u64, reason: &str) {
        if self.is_copying(session) {
            self.refuse(false, reason);
            self.halt(Exit::Failure, reason);
        }
    }

    /// True while this session stands and the guest does not run yet, for its disks.
    pub(super) fn is_copying(&self, session: u64) -> bool {
        let target = self.phase == Phase::Backup && !self.backlog.is_armed();
        let current = self.session.is_some_and(|current| current.id == session);
        self.settings.copies.is_some() && current && (self.copying || target)
    }

    /// Sends a message of the exchange that makes copies of separate disks the same. Ignored when that one is off.
    pub fn send_copy(&mut self, session: u64, message: Vec<u8>) {
        if self.is_copying(session) {
            self.frames.push_back(Frame::Copy(Copy { stamp: self.stamp(), message }));
        }
    }

    /// Makes the peer of the session a backup. From here on the gate is closed: whether or not the peer gets `Armed`, losing it
    /// needs the next generation.
    fn arm(&mut self, now: Nanos) {
        assert!(!self.started && self.gate.is_empty(), "a backup joins before the guest runs");
        if let Some(session) = &mut self.session {
            session.armed = self.last + 1;
        }
        self.append(self.position, Body::Armed, now);
    }

    /// The backup is armed: the first instruction may run.
    pub(super) fn armed(&mut self) {
        if !self.started && self.session.is_some_and(|session| self.log.acked() >= session.armed) {
            self.start_guest(false);
        }
    }

    /// Becomes the backup of the session that the peer offers.
    fn follow(&mut self, hello: &Hello, now: Nanos) {
        let possible = 1..MAX_COUNT;
        if self.ask.is_some()
            || hello.stamp.generation < self.highest
            || !possible.contains(&hello.next)
            || !possible.contains(&hello.stamp.generation)
        {
            return;
        }
        self.generation = hello.stamp.generation;
        self.highest = self.generation;
        self.start_alone_at = None;
        self.session = Some(Session { id: hello.stamp.session, peer: hello.stamp.incarnation, armed: 0 });
        self.backlog = Backlog::new(self.settings.log_capacity, hello.next - 1, 0);
        self.acked = hello.next - 1;
        self.phase = Phase::Backup;
        self.heard(ft_policies::Heard::Start, now);
        if self.settings.copies.is_some() {
            self.effects.push_back(Effect::CopyTo { session: hello.stamp.session });
        }
    }
}
