//! The tie-breaker's store, and what lies between it and a caller.
//!
//! The store itself is atomic and durable, as PROTOCOL section 2 demands of every kind. A call travels to it and its answer back; either
//! may be late or lost, an answer may come twice, and a call that its caller no longer waits for is carried out all the same.

use std::collections::{BTreeMap, VecDeque};

use ft_core::Nanos;
use ft_core::mutation::{Mutation, mutated};
use ft_policies::{Answer, RegisterState, Unavailable, Who};

use crate::random::Random;
use crate::shape::MS;

/// How long the runtime gives a call (`ft-runtime`, `replica/register.rs`).
pub const DEADLINE: Nanos = 1000 * MS;

/// What is wanted of the register.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// Read it.
    Read,
    /// Advance it from this generation.
    Ask(u64),
    /// Remember this: the tie-breaker is a person, and each side has a register of its own.
    Learn(RegisterState),
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Done {
    /// Of a read.
    Read(Result<RegisterState, Unavailable>),
    /// Of an ask from this generation.
    Answer(u64, Answer),
    /// Of what was to be remembered.
    Learnt,
}

impl Call {
    /// The answer of nobody.
    pub fn unavailable(self) -> Done {
        match self {
            Self::Read => Done::Read(Err(Unavailable::Exhausted)),
            Self::Ask(from) => Done::Answer(from, Answer::Unavailable(Unavailable::Exhausted)),
            Self::Learn(_) => Done::Learnt,
        }
    }
}

/// A process's calls: one at a time is under way, as the runtime has it.
#[derive(Debug, Default)]
pub struct Calls {
    /// Those that wait.
    pub queue: VecDeque<Call>,
    /// The one that is under way, with its number.
    pub current: Option<(u64, Call)>,
}

/// The store.
#[derive(Debug)]
pub struct Register {
    /// What it holds.
    pub state: RegisterState,
    /// By hand: what each side remembers; then nobody looks at the state.
    pub own: Option<[RegisterState; 2]>,
    /// Out of reach of a seat, so many times over.
    pub cut: [u32; 2],
    /// A process that has made a name and not written it yet: never, but for a deliberate mistake.
    pub name_only: Option<u64>,
    /// Every generation that was ever won, and by whom.
    pub wins: BTreeMap<u64, Who>,
}

const NEVER: RegisterState = RegisterState { generation: 0, holder: None };

impl Register {
    /// One in which nobody has won anything.
    pub fn new(by_hand: bool) -> Self {
        Self {
            state: NEVER,
            own: by_hand.then_some([NEVER; 2]),
            cut: [0; 2],
            name_only: None,
            wins: BTreeMap::new(),
        }
    }

    /// Carries a call of a seat out. Beside it the generation that was won with it just now.
    pub fn carry_out(&mut self, node: usize, call: Call, who: Who) -> (Done, Option<u64>) {
        match &mut self.own {
            Some(own) => by_hand(&mut own[node], call, who),
            None => self.shared(call, who),
        }
    }

    fn shared(&mut self, call: Call, who: Who) -> (Done, Option<u64>) {
        match call {
            Call::Learn(_) => (Done::Learnt, None),
            Call::Read => (Done::Read(Ok(self.state)), None),
            // Its name is not there any more, so that it can be made.
            Call::Ask(from) if from + 1 < self.state.generation && mutated(Mutation::OldNamesDeleted) => {
                (Done::Answer(from, Answer::Won), Some(from + 1))
            }
            Call::Ask(from) => {
                let is_mine = |holder: Who| {
                    let same = holder == who && !mutated(Mutation::OwnWinIsLost);
                    same || mutated(Mutation::PredecessorsWin) && holder.replica == who.replica
                };
                let mine = self.state.holder.is_some_and(is_mine) && self.state.generation == from + 1;
                let won = self.state.generation == from;
                let answer = if mine || won {
                    let holder = self.state.holder.filter(|_| mine).or(Some(who));
                    self.state = RegisterState { generation: from + 1, holder };
                    Answer::Won
                } else if self.state.generation < from {
                    Answer::Behind(self.state)
                } else {
                    Answer::Lost(self.state)
                };
                (Done::Answer(from, answer), won.then_some(from + 1))
            }
        }
    }
}

/// The memory of one side (`ft-policies`, `tie_breaker/manual.rs`).
fn by_hand(state: &mut RegisterState, call: Call, who: Who) -> (Done, Option<u64>) {
    match call {
        Call::Read => (Done::Read(Ok(*state)), None),
        Call::Learn(known) => {
            if known.holder.is_some() && state.generation < known.generation {
                *state = known;
            }
            (Done::Learnt, None)
        }
        Call::Ask(from) => {
            let wanted = from + 1;
            if state.generation >= wanted {
                let mine = state.generation == wanted && state.holder == Some(who);
                let answer = if mine { Answer::Won } else { Answer::Lost(*state) };
                return (Done::Answer(from, answer), None);
            }
            *state = RegisterState { generation: wanted, holder: Some(who) };
            (Done::Answer(from, Answer::Won), Some(wanted))
        }
    }
}

/// What becomes of an answer on its way: when it comes, and when once more.
pub fn way_back(random: &mut Random, odd: bool, echoes: bool) -> (Option<Nanos>, Option<Nanos>) {
    let usual = random.between(MS / 5, 3 * MS);
    if echoes {
        return (Some(usual), Some(random.between(MS, 1500 * MS)));
    }
    if !odd {
        return (Some(usual), None);
    }
    match random.below(6) {
        0 => (None, None),
        1 => (Some(random.between(MS, 2500 * MS)), None),
        2 => (Some(usual), Some(random.between(MS, 1500 * MS))),
        _ => (Some(usual), None),
    }
}
