//! A pair whose tie-breaker is a person: nobody goes on alone before `ft-vm promote` says so.
//!
//! There is no store that both replicas reach. Each has a register of its own, which remembers the last generation that it
//! won or was the backup in, and what the other side says of its register counts as if it were one's own:
//!
//! - Before the guest runs, both tell their registers. The higher one is the pair's, and whoever holds it starts the guest,
//!   with the other one as its backup. That needs no person: both are there, and neither runs anything.
//! - Whoever loses its peer holds everything until it is promoted, or hears of a higher generation: then the other side was.
//! - A start without the other side needs a person too; `start-alone` only says when to complain.
//!
//! A person who promotes both sides of a pair that cannot see each other has two guests. That cannot be prevented here: it is
//! what this tie-breaker is. It is noticed when the two hear of each other, and one of them ends.

use ft_policies::{RegisterState, ReplicaId, Who};

use super::{Effect, Exit, Nanos, Phase, Replica};
use crate::mutation::{Mutation, mutated};
use crate::wire::{Heartbeat, Hello, PeerRole};

/// A peer that was heard within this time, or within [`BEATS`] of the longest silences that are borne, is there.
const HEARD: Nanos = 1_000_000_000;
/// See [`HEARD`].
const BEATS: Nanos = 5;

/// Why a replica is not promoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPromoted {
    /// The tie-breaker is another one.
    #[error("this pair's tie-breaker decides by itself who goes on: it needs no promotion")]
    NotByHand,
    /// Nothing waits for it.
    #[error("replica {0} does not wait for a decision")]
    NotWaiting(ReplicaId),
    /// What the person saw is not so any more.
    #[error(
        "replica {replica} would go on in generation {wanted}, not in {said}: look at `ft-vm status` again"
    )]
    OtherGeneration {
        /// Which replica.
        replica: ReplicaId,
        /// The generation in which it would go on.
        wanted: u64,
        /// The generation that was named.
        said: u64,
    },
    /// The other side is there.
    #[error(
        "replica {peer} was heard {ms} ms ago: it is there, and may be live. Stop it first (or cut its host off), then promote \
         again"
    )]
    PeerHeard {
        /// The other replica.
        peer: ReplicaId,
        /// When.
        ms: u64,
    },
    /// It cannot start the guest.
    #[error("replica {replica} cannot go on by itself: {why}")]
    Cannot {
        /// Which replica.
        replica: ReplicaId,
        /// Why not.
        why: String,
    },
}

fn winner(who: Option<Who>) -> Option<(ReplicaId, u64)> {
    who.map(|who| (who.replica, who.incarnation))
}

impl<O> Replica<O> {
    /// The generation in which this side would go on if a person said so; `None` if nothing waits for one.
    pub fn wants_promotion(&self) -> Option<u64> {
        if !self.settings.by_hand || self.stop_wanted {
            return None;
        }
        match (&self.ask, &self.phase) {
            (Some(ask), _) if !ask.permitted => ask.from.checked_add(1),
            (None, Phase::Waiting) if !self.peer_waits() => {
                let register = self.register?;
                let first = register.holder.is_none() && self.settings.me.replica != ReplicaId::A;
                if first { None } else { self.claim_from(register).checked_add(1) }
            }
            (None, Phase::Live) if !self.started && self.session.is_none() => Some(self.generation),
            _ => None,
        }
    }

    /// A person says that this side is to go on, in `generation`: the one of [`Self::wants_promotion`].
    ///
    /// # Errors
    /// It is not, and nothing has changed.
    pub fn promote(&mut self, generation: u64, now: Nanos) -> Result<(), NotPromoted> {
        let replica = self.settings.me.replica;
        if !self.settings.by_hand {
            return Err(NotPromoted::NotByHand);
        }
        let wanted = self.wants_promotion().ok_or(NotPromoted::NotWaiting(replica))?;
        if wanted != generation && !mutated(Mutation::PromoteAnyGeneration) {
            return Err(NotPromoted::OtherGeneration { replica, wanted, said: generation });
        }
        if let Some((role, at)) = self.peer_beat
            && role != PeerRole::Gone
            && !mutated(Mutation::PromoteUnseen)
            && now < at.saturating_add(HEARD.max(BEATS * self.settings.ack_timeout))
        {
            let ms = now.saturating_sub(at) / 1_000_000;
            return Err(NotPromoted::PeerHeard { peer: replica.peer(), ms });
        }
        self.promoted = true;
        if let Some(ask) = self.ask.as_mut().filter(|ask| !ask.permitted) {
            ask.permitted = true;
            let from = ask.from;
            self.effects.push_back(Effect::Ask { from });
            return Ok(());
        }
        match self.phase {
            Phase::Waiting => self.consider_claim(now),
            _ => self.start_alone(),
        }
        if self.ask.is_some() || self.started {
            return Ok(());
        }
        self.promoted = false;
        let why = self
            .why_waiting()
            .unwrap_or_else(|| "its disks are not known to be the ones to go on with".to_owned());
        Err(NotPromoted::Cannot { replica, why })
    }

    /// The generation that is followed by the one in which this side starts the guest. By hand it is also above every one that was
    /// heard of: no register that both reach would refuse what the other side has had already.
    pub(super) fn claim_from(&self, register: RegisterState) -> u64 {
        if self.settings.by_hand { self.highest.max(register.generation) } else { register.generation }
    }

    /// True if the other side's register was told meanwhile, and is as far as what this side has just won in its own.
    pub(super) fn is_overtaken(&self, generation: u64) -> bool {
        let me = winner(Some(self.settings.me));
        let further = |known: &RegisterState| known.generation >= generation && winner(known.holder) != me;
        self.settings.by_hand && self.phase == Phase::Waiting && self.register.as_ref().is_some_and(further)
    }

    /// True if this is what this side has just written into its own register: the answer that says so is on its way, or asked for
    /// again.
    pub(super) fn is_own_win(&self, register: RegisterState) -> bool {
        self.settings.by_hand
            && self.ask.is_some()
            && register.generation > self.generation
            && winner(register.holder) == winner(Some(self.settings.me))
    }

    /// What an ask says that waits for a person.
    pub(super) fn tell_person(&mut self, from: u64) {
        let peer = self.settings.me.replica.peer();
        self.notice(format!(
            "generation {} waits for a person, and everything is held until then: if replica {peer} is certainly not running and \
             never will be again as it is, `ft-vm promote` lets this side go on",
            from.saturating_add(1)
        ));
    }

    /// True if the peer is connected, has nothing either, and has said all that a start depends on.
    pub(super) fn peer_waits(&self) -> bool {
        let hello = self.link.as_ref().and_then(|link| link.hello.as_ref());
        hello.is_some_and(|hello| {
            hello.role == PeerRole::Waiting && (!self.settings.by_hand || hello.register.is_some())
        })
    }

    /// A win that may be written down already is not known to be one yet: the other side must not start the guest meanwhile.
    pub(super) fn may_have_won(&self) -> bool {
        self.settings.by_hand && self.ask.is_some()
    }

    /// The peer's register, as far as it was told, is as good as one's own.
    pub(super) fn merge_registers(&mut self) {
        if !self.settings.by_hand || self.phase != Phase::Waiting {
            return;
        }
        let hello = self.link.as_ref().and_then(|link| link.hello.as_ref());
        let theirs = hello.filter(|hello| hello.role == PeerRole::Waiting).and_then(|hello| hello.register);
        let (Some(mine), Some(theirs)) = (self.register, theirs) else { return };
        if mine.generation == theirs.generation && winner(mine.holder) != winner(theirs.holder) {
            self.halt(
                Exit::Failure,
                format!(
                    "both replicas were promoted to generation {}, and both may have run the guest since: decide which one is to be \
                     gone on with, and remove the other one's generation file ([tie-breaker.manual] path)",
                    mine.generation
                ),
            );
        } else if theirs.generation > mine.generation {
            self.learn(theirs);
        }
    }

    /// A generation is known to be somebody else's.
    pub(super) fn learn(&mut self, register: RegisterState) {
        if self.settings.by_hand && self.register.is_none_or(|known| known.generation < register.generation) {
            self.register = Some(register);
            self.highest = self.highest.max(register.generation);
            self.effects.push_back(Effect::Learn(register));
        }
    }

    /// The peer's own win, as its hello tells it.
    pub(super) fn learn_from(&mut self, hello: &Hello) {
        let (generation, incarnation) = (hello.stamp.generation, hello.stamp.incarnation);
        let holder = Some(Who { replica: hello.replica, incarnation, config: hello.config });
        self.learn(RegisterState { generation, holder });
    }

    /// The other side is in a higher generation than this one's: it was promoted, and this side was not.
    pub(super) fn lost_by_hearsay(&mut self) {
        self.ask = None;
        let holder = Some(Who { replica: self.settings.me.replica.peer(), incarnation: 0, config: 0 });
        self.lost_for_good(RegisterState { generation: self.highest, holder });
    }

    /// Two that are live in one generation: a person promoted both. Replica b gives way, whatever it has done.
    pub(super) fn look_for_a_twin(&mut self, beat: &Heartbeat) {
        let alone = self.phase == Phase::Live && self.started && self.session.is_none() && self.ask.is_none();
        if !self.settings.by_hand
            || !alone
            || beat.role != PeerRole::Live
            || beat.stamp.generation != self.generation
            || self.settings.me.replica == ReplicaId::A
            || mutated(Mutation::TwinIgnored)
        {
            return;
        }
        self.halt(
            Exit::LostTieBreaker,
            format!(
                "replica a is live in generation {} as well: both were promoted, and two guests have run. This one ends, and what it \
                 has done since is not in the other one",
                self.generation
            ),
        );
    }
}
