//! A pair whose tie-breaker is a person: each side has a register of its own, and nobody goes on alone before he is promoted.

mod never;

use ft_core::ReplicaId;
use ft_core::replica::{Effect, Event, Exit, Mode, NotPromoted, Replica, Settings};
use ft_policies::{Answer, RegisterState, Who};

use never::{MS, Never, settings};

/// A heartbeat that is a second old says nothing any more.
const SILENCE: u64 = 2_000 * MS;

/// Two replicas, each with a memory of its own; the wire and the heartbeats between them can be cut apart.
struct Two {
    now: u64,
    nodes: [Replica<u64>; 2],
    memories: [RegisterState; 2],
    up: [bool; 2],
    wire: bool,
    beats: bool,
    wanted: [Vec<Effect>; 2],
    processes: u64,
    /// Answers wait here while the disks that they come from are slow.
    slow: bool,
    asks: Vec<(usize, u64)>,
}

const NOTHING: RegisterState = RegisterState { generation: 0, holder: None };

fn node(index: usize, incarnation: u64, now: u64) -> Replica<u64> {
    let me = Who { replica: [ReplicaId::A, ReplicaId::B][index], incarnation, config: 5 };
    let settings =
        Settings { start_alone: 500 * MS, ack_timeout: 200 * MS, by_hand: true, ..settings(me, 7) };
    Replica::new(settings, Box::new(Never), Box::new(Never), now)
}

impl Two {
    fn new(memories: [RegisterState; 2]) -> Self {
        Self {
            now: MS,
            nodes: [node(0, 100, 0), node(1, 101, 0)],
            memories,
            up: [true; 2],
            wire: false,
            beats: true,
            wanted: [Vec::new(), Vec::new()],
            processes: 102,
            slow: false,
            asks: Vec::new(),
        }
    }

    /// A pair whose guest runs on a, with b as its backup.
    fn running() -> Self {
        let mut two = Self::new([NOTHING; 2]);
        two.start([true; 2]);
        assert!(two.lives(0) && two.nodes[1].mode() == Mode::Backup);
        two
    }

    fn start(&mut self, up: [bool; 2]) {
        self.up = up;
        for (node, _) in self.nodes.iter_mut().zip(up).filter(|(_, up)| *up) {
            node.handle(Event::Start, self.now);
        }
        if up == [true; 2] {
            self.connect();
        }
        self.settle();
    }

    /// A new process in the place of one that has ended.
    fn restart(&mut self, index: usize) {
        self.processes += 1;
        self.nodes[index] = node(index, self.processes, self.now);
        self.wanted[index].clear();
        self.up[index] = true;
        self.nodes[index].handle(Event::Start, self.now);
        self.settle();
    }

    fn kill(&mut self, index: usize) {
        self.up[index] = false;
        if std::mem::take(&mut self.wire) {
            self.nodes[1 - index].handle(Event::Disconnected("gone".into()), self.now);
        }
        self.settle();
    }

    fn connect(&mut self) {
        self.wire = true;
        self.nodes.iter_mut().for_each(|node| node.handle(Event::Connected, self.now));
        self.settle();
    }

    /// Both hosts are there and cannot see each other.
    fn part(&mut self) {
        (self.beats, self.wire) = (false, false);
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.handle(Event::Disconnected("cut".into()), now));
        self.settle();
    }

    fn wait(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += 10 * MS;
            for index in 0..2 {
                if self.up[index] && self.nodes[index].poll_timeout().is_some_and(|at| self.now >= at) {
                    self.nodes[index].handle(Event::Timeout, self.now);
                }
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for index in (0..2).filter(|index| self.up[*index]).collect::<Vec<_>>() {
                while let Some(effect) = self.nodes[index].poll_effect() {
                    moved = true;
                    self.effect(index, effect);
                }
                while let Some(bytes) = self.nodes[index].poll_transmit(self.now) {
                    moved = true;
                    if self.wire && self.up[1 - index] {
                        self.nodes[1 - index].handle(Event::Received(&bytes), self.now);
                    }
                }
                while let Some(record) = self.nodes[index].take_record() {
                    moved = true;
                    assert!(self.nodes[index].execute(&record, self.now));
                }
            }
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::ReadRegister => {
                self.nodes[index].handle(Event::Register(Ok(self.memories[index])), now);
            }
            Effect::Ask { from } => {
                assert!(self.memories[index].generation <= from, "what is known is never taken back");
                self.memories[index] =
                    RegisterState { generation: from + 1, holder: Some(self.nodes[index].me()) };
                if self.slow {
                    return self.asks.push((index, from));
                }
                self.nodes[index].handle(Event::Answer { from, answer: Answer::Won }, now);
            }
            Effect::Learn(state) if state.generation > self.memories[index].generation => {
                self.memories[index] = state;
            }
            Effect::Learn(_) => {}
            Effect::Fence { generation } => self.nodes[index].handle(Event::Fenced { generation }, now),
            Effect::CloseLink => {
                if std::mem::take(&mut self.wire) && self.up[1 - index] {
                    self.nodes[1 - index].handle(Event::Disconnected("closed".into()), now);
                }
            }
            Effect::Heartbeat(bytes) if self.beats && self.up[1 - index] => {
                self.nodes[1 - index].handle(Event::Datagram(&bytes), now);
            }
            Effect::Heartbeat(_) => {}
            other => self.wanted[index].push(other),
        }
        if self.nodes[index].mode() == Mode::Reissue {
            self.nodes[index].handle(Event::DisksReissued, now);
        }
    }

    fn lives(&self, index: usize) -> bool {
        self.up[index] && self.nodes[index].mode() == Mode::Live && !self.nodes[index].is_asking()
    }

    fn halted(&self, index: usize) -> Option<(Exit, String)> {
        self.wanted[index].iter().find_map(|effect| match effect {
            Effect::Halt { exit, message } => Some((*exit, message.clone())),
            _ => None,
        })
    }

    fn promote(&mut self, index: usize) -> Result<u64, NotPromoted> {
        let generation = self.nodes[index].wants_promotion().unwrap_or(0);
        let result = self.nodes[index].promote(generation, self.now).map(|()| generation);
        self.settle();
        result
    }
}

#[test]
fn a_start_of_both_needs_nobody_and_both_remember_it() {
    let two = Two::running();
    assert_eq!(two.memories[0].generation, 1);
    assert_eq!(two.memories[0], two.memories[1]);
    assert_eq!(two.nodes.each_ref().map(Replica::wants_promotion), [None, None]);
}

#[test]
fn whoever_is_left_waits_for_a_person() {
    for (dead, left) in [(0, 1), (1, 0)] {
        let mut two = Two::running();
        two.kill(dead);
        assert!(matches!(two.promote(left), Ok(2) | Err(NotPromoted::PeerHeard { .. })));
        let mut two = Two::running();
        two.wait(100 * MS);
        two.kill(dead);
        assert!(matches!(two.promote(left), Err(NotPromoted::PeerHeard { .. })), "it was heard a moment ago");
        two.wait(60_000 * MS);
        assert!(!two.lives(left), "nobody goes on by itself, however long it takes");
        assert_eq!(two.promote(left), Ok(2));
        assert!(two.lives(left));
        assert!(matches!(two.promote(left), Err(NotPromoted::NotWaiting(_))));
        assert_eq!(two.memories[left].generation, 2);
        // The other one comes back, and knows nothing of that: it is told, and does not start a second guest.
        two.restart(dead);
        two.connect();
        two.wait(5_000 * MS);
        assert!(!two.lives(dead) && two.lives(left));
    }
}

#[test]
fn of_two_that_part_the_one_that_is_not_promoted_halts_when_it_hears_of_it() {
    for (chosen, other) in [(0, 1), (1, 0)] {
        for by_wire in [false, true] {
            let mut two = Two::running();
            two.part();
            two.wait(SILENCE);
            assert!(!two.lives(0) && !two.lives(1));
            assert_eq!(two.promote(chosen), Ok(2));
            two.wait(SILENCE);
            assert!(two.lives(chosen) && !two.lives(other));
            if by_wire {
                two.connect();
            } else {
                two.beats = true;
            }
            two.wait(SILENCE);
            assert!(two.lives(chosen));
            let (exit, message) = two.halted(other).expect("it halts");
            assert_eq!(exit, Exit::LostTieBreaker, "{message}");
        }
    }
}

#[test]
fn a_link_that_heals_decides_nothing() {
    let mut two = Two::running();
    two.part();
    two.wait(SILENCE);
    two.beats = true;
    two.connect();
    two.wait(SILENCE);
    assert!(!two.lives(0) && !two.lives(1) && two.halted(0).is_none() && two.halted(1).is_none());
    for index in 0..2 {
        assert!(matches!(two.promote(index), Err(NotPromoted::PeerHeard { .. })));
    }
    // The person ends one of them.
    two.kill(0);
    two.wait(SILENCE);
    assert_eq!(two.promote(1), Ok(2));
    assert!(two.lives(1));
}

#[test]
fn both_promoted_is_noticed_and_one_ends() {
    let mut two = Two::running();
    two.part();
    two.wait(SILENCE);
    assert_eq!((two.promote(0), two.promote(1)), (Ok(2), Ok(2)));
    assert!(two.lives(0) && two.lives(1), "what a person orders is done");
    two.beats = true;
    two.wait(SILENCE);
    assert!(two.lives(0) && two.halted(1).is_some_and(|(exit, _)| exit == Exit::LostTieBreaker));
    // And at the next start nobody guesses whose guest it was.
    two.kill(0);
    two.restart(0);
    two.restart(1);
    two.connect();
    for index in 0..2 {
        let (_, message) = two.halted(index).expect("both say so");
        assert!(message.contains("both replicas were promoted to generation 2"), "{message}");
    }
}

#[test]
fn a_start_without_the_other_side_needs_a_person() {
    // Replica b has never run a guest: that is a's to begin.
    let mut two = Two::new([NOTHING; 2]);
    two.start([false, true]);
    two.wait(5_000 * MS);
    assert!(matches!(two.promote(1), Err(NotPromoted::NotWaiting(_))));
    let mut two = Two::new([NOTHING; 2]);
    two.start([true, false]);
    two.wait(5_000 * MS);
    assert!(!two.lives(0));
    assert_eq!(
        two.nodes[0].promote(7, two.now),
        Err(NotPromoted::OtherGeneration { replica: ReplicaId::A, wanted: 1, said: 7 })
    );
    assert_eq!(two.promote(0), Ok(1));
    assert!(two.lives(0));
}

#[test]
fn the_higher_memory_counts_when_both_start_again() {
    for (chosen, other) in [(0, 1), (1, 0)] {
        let mut two = Two::running();
        two.part();
        two.wait(SILENCE);
        assert_eq!(two.promote(chosen), Ok(2));
        // Power failure of both; the other one never heard of generation 2.
        two.up = [false; 2];
        two.restart(other);
        two.wait(2_000 * MS);
        assert!(!two.lives(other));
        two.restart(chosen);
        two.beats = true;
        two.connect();
        two.wait(SILENCE);
        assert!(two.lives(chosen) && two.nodes[other].mode() == Mode::Backup);
        assert_eq!(two.memories.map(|memory| memory.generation), [3, 3]);
    }
}

#[test]
fn a_backup_that_was_not_armed_yet_is_lost_like_any_other() {
    let mut two = Two::new([NOTHING; 2]);
    (two.wire, two.beats) = (true, false);
    for index in 0..2 {
        two.nodes[index].handle(Event::Start, two.now);
        two.nodes[index].handle(Event::Connected, two.now);
    }
    // Until the moment of a's win, which is by agreement: to run with a backup.
    while two.memories[0].generation == 0 {
        for index in 0..2 {
            while let Some(effect) = two.nodes[index].poll_effect() {
                two.effect(index, effect);
            }
            if two.memories[0].generation == 0
                && let Some(bytes) = two.nodes[index].poll_transmit(two.now)
            {
                two.nodes[1 - index].handle(Event::Received(&bytes), two.now);
            }
        }
    }
    two.kill(1);
    two.wait(10_000 * MS);
    assert!(!two.lives(0));
    assert_eq!(two.promote(0), Ok(2), "the record that arms a backup may have reached it");
    assert!(two.lives(0));
}

fn won_by(index: usize, generation: u64) -> RegisterState {
    let replica = [ReplicaId::A, ReplicaId::B][index];
    RegisterState { generation, holder: Some(Who { replica, incarnation: 50 + index as u64, config: 5 }) }
}

/// What a restarted side has heard of its peer is below the generation in which it is promoted: should the peer only have slept, it
/// is the one that gives way, and there is no generation that both are live in.
#[test]
fn whoever_has_heard_of_a_generation_is_promoted_to_a_later_one() {
    for higher in [2, 5] {
        let mut two = Two::new([won_by(0, 1), won_by(1, higher - 1)]);
        two.start([false, true]);
        assert_eq!(two.promote(1), Ok(higher));
        two.restart(0);
        two.wait(SILENCE);
        assert!(!two.lives(0) && two.lives(1));
        two.beats = false;
        two.wait(SILENCE);
        assert_eq!(two.promote(0), Ok(higher + 1));
        assert!(two.lives(0), "{:?}", two.halted(0));
        assert_eq!(two.memories[0].generation, higher + 1);
        two.beats = true;
        two.wait(SILENCE);
        assert!(two.lives(0), "{:?}", two.halted(0));
        assert!(two.halted(1).is_some_and(|(exit, _)| exit == Exit::LostTieBreaker));
    }
}

/// A person's word is for the generation that he named, and for what was known then.
#[test]
fn a_promotion_that_came_to_nothing_is_used_up() {
    let mut two = Two::new([won_by(0, 1), won_by(1, 5)]);
    two.start([true, false]);
    two.slow = true;
    assert_eq!(two.promote(0), Ok(2));
    assert_eq!(two.asks, [(0, 1)]);
    // It had heard of b's generation before the write began.
    let lost = Answer::Lost(won_by(1, 5));
    two.memories[0] = won_by(1, 5);
    two.nodes[0].handle(Event::Answer { from: 1, answer: lost }, two.now);
    two.slow = false;
    two.wait(5_000 * MS);
    assert!(!two.lives(0), "nobody has promoted it to generation 6");
    assert_eq!(two.nodes[0].wants_promotion(), Some(6));
}

/// The other side comes while a promotion is written down, and knows of the same generation, or of a later one: it is its guest.
#[test]
fn a_promotion_gives_way_to_a_side_that_is_further() {
    for theirs in [2, 3, 9] {
        let mut two = Two::new([won_by(0, 1), won_by(1, theirs)]);
        two.start([true, false]);
        two.slow = true;
        assert_eq!(two.promote(0), Ok(2));
        two.restart(1);
        two.connect();
        two.slow = false;
        let asks = std::mem::take(&mut two.asks);
        for (index, from) in asks {
            two.nodes[index].handle(Event::Answer { from, answer: Answer::Won }, two.now);
        }
        two.wait(SILENCE);
        assert!(two.halted(0).is_none(), "{theirs}: {:?}", two.halted(0));
        assert!(two.lives(1) && two.nodes[0].mode() == Mode::Backup, "{theirs}");
        assert_eq!(two.memories.map(|memory| memory.generation), [theirs + 1; 2]);
    }
}

/// Whoever is stopped while it waits for a person has outputs that it never let out: that is no orderly end.
#[test]
fn a_stop_without_a_decision_is_no_orderly_end() {
    let mut two = Two::running();
    two.nodes[0].handle(Event::Stop, two.now);
    let now = two.now;
    two.nodes[0].append_stop(7, now);
    two.settle();
    assert!(two.nodes[0].poll_release(now).is_none());
    two.wait(100 * MS);
    assert_eq!(two.nodes[0].mode(), Mode::Over);
    assert!(two.nodes.iter().all(Replica::ended_in_order));
    let mut two = Two::running();
    two.part();
    for node in &mut two.nodes {
        node.handle(Event::Stop, two.now);
    }
    two.nodes[0].append_stop(7, two.now);
    two.wait(6_000 * MS);
    assert!(two.nodes.iter().all(|node| node.mode() == Mode::Over && !node.ended_in_order()));
}

/// What was won is written down, and the answer is late: reading it meanwhile is no news of the other side.
#[test]
fn ones_own_win_is_not_taken_for_the_others() {
    for left in [0, 1] {
        let mut two = Two::running();
        two.part();
        two.wait(SILENCE);
        two.slow = true;
        assert_eq!(two.promote(left), Ok(2));
        let (now, own) = (two.now, two.memories[left]);
        two.nodes[left].handle(Event::Register(Ok(own)), now);
        two.connect();
        assert!(two.halted(left).is_none(), "{:?}", two.halted(left));
        assert!(!two.lives(left));
        two.nodes[left].handle(Event::Answer { from: 1, answer: Answer::Won }, now);
        two.settle();
        assert!(two.lives(left));
    }
}

/// The last winner comes back while the other side's promotion is being written down: it does not start the guest beside that.
#[test]
fn a_promotion_that_is_under_way_is_not_overtaken_by_a_start() {
    let mut two = Two::new([won_by(0, 1); 2]);
    two.start([false, true]);
    two.slow = true;
    assert_eq!(two.promote(1), Ok(2));
    two.restart(0);
    two.connect();
    two.wait(100 * MS);
    assert_eq!(two.asks, [(1, 1)], "a waits for what becomes of it");
    two.slow = false;
    two.nodes[1].handle(Event::Answer { from: 1, answer: Answer::Won }, two.now);
    two.settle();
    assert!(two.lives(1) && two.nodes[0].mode() == Mode::Backup, "{:?} {:?}", two.halted(0), two.halted(1));
    assert_eq!(two.memories.map(|memory| memory.generation), [2; 2]);
}
