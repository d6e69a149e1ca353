//! Asking the tie-breaker, and what its answers mean.

use ft_policies::{Answer, RegisterState, Unavailable};

use super::{Ask, Effect, Nanos, Phase, Replica, timers};
use crate::mutation::{Mutation, mutated};

/// What a replica takes an answer for that makes a mistake.
fn mistaken(from: u64, answer: Answer) -> Answer {
    let lost = || Answer::Lost(RegisterState { generation: from + 1, holder: None });
    match answer {
        Answer::Lost(_) if mutated(Mutation::IgnoreLost) => Answer::Won,
        Answer::Behind(_) if mutated(Mutation::BehindIsWon) => Answer::Won,
        Answer::Behind(_) if mutated(Mutation::BehindIsLost) => lost(),
        Answer::Unavailable(_) if mutated(Mutation::NoAnswerIsWon) => Answer::Won,
        Answer::Unavailable(_) if mutated(Mutation::NoAnswerIsLost) => lost(),
        answer => answer,
    }
}

impl<O> Replica<O> {
    pub(super) fn answered(&mut self, from: u64, answer: Answer, now: Nanos) {
        let Some(ask) = &mut self.ask else { return };
        if ask.from != from && !mutated(Mutation::LateAnswer) {
            return;
        }
        let from = ask.from;
        match mistaken(from, answer) {
            Answer::Won => {
                self.ask = None;
                self.won(from + 1, now);
                if mutated(Mutation::AskAgainAfterWin) {
                    self.effects.push_back(Effect::Ask { from: from + 1 });
                }
            }
            Answer::Lost(register) => {
                self.ask = None;
                self.lost(register, now);
            }
            Answer::Behind(register) => {
                let text = format!(
                    "the tie-breaker is in generation {}, behind {from}, which this side knows: its store was restored \
                     from an old copy; everything is held back until its latest state is put back",
                    register.generation
                );
                self.ask_again(text, now + timers::BEHIND_RETRY);
            }
            Answer::Unavailable(error) => {
                let text = format!("{error}; asking again until it answers");
                self.ask_again(text, now + timers::ASK_RETRY);
            }
        }
    }

    fn ask_again(&mut self, text: String, at: Nanos) {
        let Some(ask) = &mut self.ask else { return };
        ask.retry_at = Some(at).filter(|_| !mutated(Mutation::AskOnce));
        if !std::mem::replace(&mut ask.told, true) {
            self.notice(text);
        }
    }

    /// Asks for generation `from + 1`, to go on alone in it.
    pub(super) fn ask(&mut self, from: u64) {
        if self.settings.by_hand {
            debug_assert!(self.ask.is_none());
            self.ask = Some(Ask { from, retry_at: None, told: false, permitted: false });
            self.tell_person(from);
        } else {
            self.ask_at_once(from);
        }
    }

    /// The same, where no person need be asked: the other side agrees, or one was.
    pub(super) fn ask_at_once(&mut self, from: u64) {
        debug_assert!(self.ask.is_none());
        self.ask = Some(Ask { from, retry_at: None, told: false, permitted: true });
        self.effects.push_back(Effect::Ask { from });
    }

    /// Asks as a primary. A win is of no use to one whose guest's thread gets nowhere, and would be the guest's end where the backup
    /// has taken this side for lost for just that. So it asks when the thread is at work again, or when somebody else is known to have
    /// won.
    pub(super) fn ask_at_work(&mut self, from: u64, now: Nanos) {
        if self.settings.by_hand || !self.is_wedged(now) {
            return self.ask(from);
        }
        debug_assert!(self.ask.is_none());
        self.ask = Some(Ask { from, retry_at: Some(now + timers::ASK_RETRY), told: false, permitted: true });
    }

    /// True if the thread that runs the guest has not been seen for as long as a backup is borne that executes nothing.
    pub(super) fn is_wedged(&self, now: Nanos) -> bool {
        let silent = self.ran_at.map_or(0, |ran| now.saturating_sub(ran));
        let running = self.phase == Phase::Live && self.started && self.highest <= self.generation;
        running && silent >= self.settings.stuck && !mutated(Mutation::WedgedPrimaryAsks)
    }

    pub(super) fn register_read(&mut self, result: Result<RegisterState, Unavailable>, now: Nanos) {
        match result {
            Err(error) => {
                self.register_poll_at = Some(now + timers::ASK_RETRY);
                if self.phase == Phase::Waiting && self.register.is_none() && self.reason.is_empty() {
                    self.reason = error.to_string();
                    self.notice(format!("{error}; trying again until it answers"));
                }
            }
            Ok(register) => {
                let first = self.register.is_none();
                // By hand, what was learnt meanwhile may not have been written down yet.
                if !self.settings.by_hand
                    || self.register.is_none_or(|known| known.generation <= register.generation)
                {
                    self.register = Some(register);
                }
                let register = self.register.unwrap_or(register);
                if self.settings.by_hand && first && self.phase == Phase::Waiting {
                    self.send_hello();
                    self.merge_registers();
                }
                self.found.get_or_insert(register.generation);
                let own = self.is_own_win(register);
                if !own {
                    self.highest = self.highest.max(register.generation);
                }
                self.register_poll_at = Some(now + timers::REGISTER_POLL);
                match self.phase {
                    Phase::Waiting => {
                        self.register_poll_at = Some(now + timers::BEHIND_RETRY);
                        self.consider_claim(now);
                    }
                    Phase::Deposed if register.generation > self.generation => {
                        self.lost_for_good(register);
                    }
                    Phase::Deposed => {
                        self.register_poll_at = Some(now + timers::BEHIND_RETRY);
                        if !std::mem::replace(&mut self.deposed_told, true) {
                            self.notice(format!(
                                "the tie-breaker is in generation {}, though generation {} was heard of: its store was \
                                 restored from an old copy, or the peer has another one; everything is held back",
                                register.generation, self.highest
                            ));
                        }
                    }
                    Phase::Live | Phase::Backup | Phase::TakingOver(_)
                        if register.generation > self.generation && !own =>
                    {
                        self.note_generation(register.generation);
                    }
                    Phase::Live if register.generation < self.generation && self.ask.is_none() => {
                        self.notice(format!(
                            "the tie-breaker is in generation {}, behind this side's {}: its store was restored from an \
                             old copy; put its latest state back, for nobody can take over until then",
                            register.generation, self.generation
                        ));
                    }
                    _ => {}
                }
            }
        }
    }
}
