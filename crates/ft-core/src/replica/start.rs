//! Until the guest runs: handshake, who starts, arming the backup.

use super::{Effect, Exit, Link, Nanos, Phase, Replica, Session};
use crate::Lsn;
use crate::backlog::Backlog;
use crate::log::Log;
use crate::mutation::{Mutation, mutated};
use crate::record::{Body, MAX_COUNT};
use crate::wire::{Copies, CpuLeaf, Frame, FrameReader, Hello, Nonces, PeerRole, Refusal};

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
        self.links += 1;
        self.link = Some(Link {
            reader: FrameReader::new(self.settings.key.clone()),
            // Not to be met again: the incarnation is random.
            nonce: self.settings.me.incarnation.wrapping_add(self.links).max(1),
            ..Link::default()
        });
        self.send_hello();
    }

    pub(super) fn send_hello(&mut self) {
        let Some(link) = &self.link else { return };
        let nonces = self.settings.key.as_ref().map(|_| Nonces { mine: link.nonce, yours: link.theirs });
        self.frames.push_back(Frame::Hello(Hello {
            stamp: self.stamp(),
            replica: self.settings.me.replica,
            role: self.peer_role(),
            config: self.settings.config,
            image: self.settings.image,
            cpu: self.settings.cpu.clone(),
            next: self.last + 1,
            copies: self.settings.copies.unwrap_or_default(),
            register: self.register.filter(|_| self.settings.by_hand),
            nonces,
        }));
    }

    /// True while a mismatch is the operator's mistake and not a stranger's: nothing runs yet.
    pub(super) fn is_starting(&self) -> bool {
        self.session.is_none() && (self.phase == Phase::Waiting || self.phase == Phase::Live && !self.started)
    }

    pub(super) fn hello(&mut self, hello: Hello, now: Nanos) {
        if !self.is_said_here(&hello) {
            return;
        }
        if let Some(reason) = self.mismatch(&hello) {
            self.refuse(true, &reason);
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
        self.merge_registers();
        self.note_generation(generation);
        self.match_roles(now);
    }

    fn mismatch(&self, hello: &Hello) -> Option<String> {
        let known = if hello.stamp.pair != self.settings.pair {
            Some("the peer belongs to another pair (vm.name differs)")
        } else if hello.replica == self.settings.me.replica {
            Some("the peer says that it is the same replica as this one")
        } else if hello.config != self.settings.config {
            Some("the peer has another config: both sides must be started with the same")
        } else if hello.image != self.settings.image {
            Some("the peer has another guest: kernel, initrd or command line differ")
        } else {
            None
        };
        known.map(str::to_owned).or_else(|| other_cpu(&self.settings.cpu, &hello.cpu))
    }

    pub(super) fn refuse(&mut self, mismatch: bool, reason: &str) {
        let stamp = self.stamp();
        if let Some(link) = self.link.as_mut().filter(|_| self.session.is_none()) {
            link.refused = true;
        }
        self.frames.push_back(Frame::Refusal(Refusal { stamp, mismatch, reason: reason.to_owned() }));
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        if self.phase == Phase::Backup && self.backlog.is_armed() && self.is_current(&refusal.stamp) {
            let message = format!(
                "the primary found that this side's machine is not its own any more: {}",
                refusal.reason
            );
            self.give_up(Exit::Divergence, message);
        } else if !self.is_starting() {
            self.notice(format!("the peer turned the connection away: {}", refusal.reason));
        } else if refusal.mismatch {
            self.halt(Exit::Mismatch, format!("the peer refused: {}", refusal.reason));
        } else {
            self.halt(Exit::Failure, format!("the peer refused: {}", refusal.reason));
        }
    }

    /// Both sides have said what they are: does something follow?
    pub(super) fn match_roles(&mut self, now: Nanos) {
        let Some(hello) = self.link.as_ref().and_then(|link| link.hello.clone()) else { return };
        match (&self.phase, hello.role) {
            (Phase::Waiting, PeerRole::Waiting) => self.consider_claim(now),
            (Phase::Waiting, PeerRole::Fresh) if hello.stamp.session != 0 => self.follow(&hello, now),
            // A pair that is being stopped takes nobody in.
            (Phase::Live, PeerRole::Waiting)
                if self.session.is_none() && self.ask.is_none() && !self.stop_wanted =>
            {
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
        let peer_waits = self.peer_waits();
        let peer_has_state = self.peer_beat.is_some_and(|(role, at)| {
            !matches!(role, PeerRole::Waiting | PeerRole::Gone) && now < at + 10 * self.settings.ack_timeout
        });
        // The holder may well be running, out of earshot: nothing but its own replica takes the guest from it, and that only
        // where the generation is not younger than this process. Or it offered this side a session and `Armed` never came:
        // then it needs another win itself before its guest starts.
        let unused = register.holder.is_some_and(|holder| holder.replica == me)
            && self.found == Some(register.generation)
            || register.generation == self.generation
            || mutated(Mutation::StartBesideOther);
        let by_hand = self.settings.by_hand;
        let alone = if by_hand { self.promoted } else { self.alone_allowed && !peer_has_state && unused };
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
                let alone = if by_hand { self.promoted } else { copies.is_none() || self.alone_allowed };
                me == ft_policies::ReplicaId::A && (peer_waits || alone)
            }
            (Some(holder), None | Some(Copies { live: Copies::ANY, .. })) => {
                alone || peer_waits && holder.replica == me
            }
            (Some(_), Some(mine)) => self.may_claim_with(mine, register.generation, alone, peer_waits),
        };
        if claim {
            self.claimed_from = register.generation;
            if mutated(Mutation::ColdStartWithoutAdvance)
                && register.holder.is_some_and(|holder| holder.replica == me)
            {
                return self.claimed(register.generation, now);
            }
            self.ask_at_once(self.claim_from(register));
        }
    }

    /// This side won the right to start the guest.
    pub(super) fn claimed(&mut self, generation: u64, now: Nanos) {
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
        let idle = self.session.is_none() && self.ask.is_none() && !self.stop_wanted;
        let allowed = if self.settings.by_hand { self.promoted } else { self.alone_allowed };
        if allowed && idle && self.phase == Phase::Live && !self.started {
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
        self.promises.clear();
        self.send_hello();
        self.heard(ft_policies::Heard::Start, now);
        if self.settings.copies.is_some() {
            self.copying = true;
            self.effects.push_back(Effect::CopyFrom { session: id });
        } else {
            self.arm(now);
        }
    }

    /// Makes the peer of the session a backup. From here on the gate is closed: whether or not the peer gets `Armed`, losing it
    /// needs the next generation.
    pub(super) fn arm(&mut self, now: Nanos) {
        assert!(!self.started && self.gate.is_empty(), "a backup joins before the guest runs");
        if let Some(session) = &mut self.session {
            session.armed = self.last + 1;
        }
        self.append(self.position, Body::Armed, now);
        if mutated(Mutation::StartUnarmed) {
            self.start_guest(false);
        }
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
        self.learn_from(hello);
        self.generation = hello.stamp.generation;
        self.highest = self.generation;
        self.start_alone_at = None;
        self.session = Some(Session { id: hello.stamp.session, peer: hello.stamp.incarnation, armed: 0 });
        self.backlog = Backlog::new(self.settings.log_capacity, hello.next - 1, 0);
        self.acked = hello.next - 1;
        self.heard_stamp = 0;
        self.phase = Phase::Backup;
        self.heard(ft_policies::Heard::Start, now);
        if self.settings.copies.is_some() {
            self.effects.push_back(Effect::CopyTo { session: hello.stamp.session });
        }
    }
}

/// What the guest would find to be another processor on the other side: the first leaf of CPUID that differs.
fn other_cpu(mine: &[CpuLeaf], theirs: &[CpuLeaf]) -> Option<String> {
    let find = |table: &[CpuLeaf], known: &CpuLeaf| {
        let found = table.iter().find(|leaf| (leaf.leaf, leaf.subleaf) == (known.leaf, known.subleaf));
        found.map_or([0; 4], |leaf| leaf.values)
    };
    let differs = |known: &&CpuLeaf| find(mine, known) != find(theirs, known);
    let known = mine.iter().chain(theirs).find(differs)?;
    let (here, there) = (find(mine, known), find(theirs, known));
    let register = here.iter().zip(there).position(|(here, there)| *here != there)?;
    Some(format!(
        "the peer's host has another processor: CPUID leaf {:#x}, subleaf {}, {}: {:#010x} here, {:#010x} there; both hosts \
         must offer the same features, or the pair uses engine = \"software\", which needs none of the host's",
        known.leaf,
        known.subleaf,
        ["eax", "ebx", "ecx", "edx"][register],
        here[register],
        there[register]
    ))
}
