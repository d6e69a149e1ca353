//! Two replicas, a toy guest in each, a network, a register and an observer of everything that is released.

mod guest;
mod random;

use std::collections::{BTreeSet, VecDeque};

use ft_core::input::{Input, NetRx};
use ft_core::replica::{Effect, Event, Mode, Phase, Replica, Settings};
use ft_core::{Body, OutputClass, ReplicaId};
use ft_policies::{Answer, Detector, Heard, Key, Pacing, RegisterState, Unavailable, Who};

pub use guest::{Content, Guest};
pub use random::Random;

pub const MS: u64 = 1_000_000;
pub const TIMEOUT: u64 = 200 * MS;

struct Silence {
    last: Option<u64>,
}

impl Detector for Silence {
    fn heard(&mut self, now: u64, _what: Heard) {
        self.last = self.last.max(Some(now));
    }
    fn suspect(&self, now: u64) -> bool {
        self.deadline().is_some_and(|at| now >= at)
    }
    fn deadline(&self) -> Option<u64> {
        self.last.map(|at| at + TIMEOUT)
    }
    fn heartbeat_interval(&self) -> u64 {
        20 * MS
    }
}

struct Full;
impl Pacing for Full {
    fn on_lag(&mut self, _now: u64, _lag: u64) {}
    fn share(&self) -> u32 {
        1000
    }
}

pub struct Node {
    pub replica: Replica<Content>,
    pub guest: Guest,
    pub alive: bool,
    pub stopped: bool,
    /// Records of a backup are not executed (a sick one).
    pub wedged: bool,
    pub ended: Option<u8>,
    pub messages: Vec<String>,
    inbox: VecDeque<(u64, Vec<u8>)>,
    closed_at: Option<u64>,
    datagrams: VecDeque<(u64, Vec<u8>)>,
    /// Nothing can be sent: the socket is full.
    pub clogged: bool,
    /// Killed at this many actions from now (effects, releases), before, in or after the action.
    pub doomed: Option<(u32, Moment)>,
    answers: VecDeque<(u64, Option<(u64, Answer)>)>,
    fences: VecDeque<(u64, u64)>,
    linked: bool,
    pub live_effects: Vec<(u64, bool)>,
    /// Disk writes that this guest has made: what a takeover issues again.
    writes: Vec<Content>,
}

/// When a process is killed, relative to what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    In,
    After,
}

/// A write on its way to the shared disk, as a thread of the pool has it.
struct Write {
    lands_at: u64,
    index: usize,
    generation: u64,
    number: u64,
}

/// The shared disk: what landed last on each block, and what is still on its way.
#[derive(Default)]
struct Disk {
    flying: Vec<Write>,
    /// Generation of the last write that landed, for each block.
    blocks: [u64; 4],
    landed: BTreeSet<u64>,
}

pub struct Faults {
    /// One in so many answers of the register comes twice, or late. 0 is never.
    pub odd_answers: u64,
    /// Log bytes and datagrams stay where they are.
    pub partition: bool,
    /// Acknowledgements (bytes towards the live side) take this long.
    pub delay: u64,
    /// The register does not answer.
    pub register_down: bool,
    /// The next asks are carried out, but their answers are lost.
    pub lose_answers: u32,
    /// What a machine sends just before it dies may be lost.
    pub lose_tail: bool,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub nodes: [Node; 2],
    pub register: RegisterState,
    pub faults: Faults,
    /// Everything released: (replica, generation, class, content).
    pub released: Vec<(usize, u64, OutputClass, Content)>,
    known: Vec<Option<u64>>,
    pub ends_seen: u32,
    pub inputs: bool,
    disk: Disk,
    /// Numbers of the frames that the switch has given out, and the highest that it was told to forget.
    switch: u64,
    forgotten: u64,
}

pub struct Options {
    pub end_after: u64,
    pub log_capacity: u64,
    pub gate_outputs: usize,
    pub register: RegisterState,
    pub start_alone: u64,
    pub configs: [u128; 2],
    pub keys: [Option<Key>; 2],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            end_after: u64::MAX,
            log_capacity: 4 << 20,
            gate_outputs: 1000,
            register: RegisterState { generation: 0, holder: None },
            start_alone: 30_000 * MS,
            configs: [5, 5],
            keys: [None, None],
        }
    }
}

const IDS: [ReplicaId; 2] = [ReplicaId::A, ReplicaId::B];

impl World {
    pub fn new(seed: u64, options: &Options) -> Self {
        let mut random = Random(seed);
        let nodes = [0, 1].map(|index: usize| {
            let settings = Settings {
                me: Who { replica: IDS[index], incarnation: random.next(), config: 0 },
                pair: 77,
                config: options.configs[index],
                image: 6,
                cpu: Vec::new(),
                divergence_hint: "",
                log_capacity: options.log_capacity,
                gate_bytes: 1 << 20,
                gate_outputs: options.gate_outputs,
                start_alone: options.start_alone,
                ack_timeout: TIMEOUT,
                stuck: 2000 * MS,
                hold_outputs: true,
                copies: None,
                by_hand: false,
                key: options.keys[index].clone(),
            };
            let mut replica = Replica::new(settings, Box::new(Silence { last: None }), Box::new(Full), 0);
            replica.handle(Event::Start, 0);
            Node {
                replica,
                guest: Guest::new(options.end_after),
                alive: true,
                stopped: false,
                wedged: false,
                ended: None,
                messages: Vec::new(),
                inbox: VecDeque::new(),
                closed_at: None,
                datagrams: VecDeque::new(),
                clogged: false,
                doomed: None,
                answers: VecDeque::new(),
                fences: VecDeque::new(),
                linked: false,
                live_effects: Vec::new(),
                writes: Vec::new(),
            }
        });
        Self {
            now: MS,
            random,
            nodes,
            register: options.register,
            faults: Faults {
                odd_answers: 0,
                partition: false,
                delay: 0,
                register_down: false,
                lose_answers: 0,
                lose_tail: false,
            },
            released: Vec::new(),
            known: Vec::new(),
            ends_seen: 0,
            inputs: true,
            disk: Disk::default(),
            switch: 0,
            forgotten: 0,
        }
    }

    pub fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        // Of the writes in flight some were with the disk already and land, late; the others never do.
        let flying = std::mem::take(&mut self.disk.flying);
        for write in flying {
            if write.index != index || self.random.chance(2) {
                self.disk.flying.push(write);
            }
        }
        if self.faults.lose_tail {
            let keep = self.random.below(self.nodes[1 - index].inbox.len() as u64 + 1) as usize;
            self.nodes[1 - index].inbox.truncate(keep);
        }
        self.close(1 - index);
        self.nodes[index].linked = false;
    }

    /// The other end of `index`'s connection is gone; it learns so after the bytes on the way.
    fn close(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.linked && node.closed_at.is_none() {
            node.closed_at = Some(self.now + MS);
        }
    }

    pub fn live(&self) -> Vec<usize> {
        (0..2).filter(|index| self.is_up(*index) && self.nodes[*index].replica.mode() == Mode::Live).collect()
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.nodes[index].alive && self.nodes[index].ended.is_none()
    }

    /// One millisecond.
    pub fn tick(&mut self) {
        self.now += MS;
        let now = self.now;
        self.land(|write| write.lands_at <= now);
        self.connect();
        for index in 0..2 {
            if self.is_up(index) && !self.nodes[index].stopped {
                self.arrivals(index);
                self.run_guest(index);
                self.pump(index);
            }
        }
        let gap = self.known.iter().position(Option::is_none);
        let nobody = (0..2).all(|index| !self.is_up(index));
        assert!(gap.is_none() || nobody, "output {gap:?} was never released, though a later one was");
    }

    pub fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.tick();
        }
    }

    /// Ticks until `done`, at most `count`; true if it came.
    pub fn until(&mut self, count: u64, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..count {
            if done(self) {
                return true;
            }
            self.tick();
        }
        done(self)
    }

    fn connect(&mut self) {
        let free =
            self.nodes.iter().all(|node| !node.linked && !node.stopped) && self.is_up(0) && self.is_up(1);
        if free && !self.faults.partition {
            for index in 0..2 {
                let node = &mut self.nodes[index];
                node.linked = true;
                node.closed_at = None;
                node.inbox.clear();
                node.replica.handle(Event::Connected, self.now);
            }
        }
    }

    fn arrivals(&mut self, index: usize) {
        let (now, partition) = (self.now, self.faults.partition);
        let node = &mut self.nodes[index];
        while !partition && node.inbox.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = node.inbox.pop_front().unwrap();
            // In pieces, as TCP would.
            let middle = bytes.len() / 2;
            node.replica.handle(Event::Received(&bytes[..middle]), now);
            node.replica.handle(Event::Received(&bytes[middle..]), now);
        }
        if !partition && node.inbox.is_empty() && node.closed_at.is_some_and(|at| at <= now) && node.linked {
            node.linked = false;
            node.closed_at = None;
            node.replica.handle(Event::Disconnected("connection closed".into()), now);
        }
        while node.datagrams.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = node.datagrams.pop_front().unwrap();
            node.replica.handle(Event::Datagram(&bytes), now);
        }
        while node.answers.front().is_some_and(|(at, _)| *at <= now) {
            match node.answers.pop_front().unwrap().1 {
                Some((from, answer)) => node.replica.handle(Event::Answer { from, answer }, now),
                None => {
                    let result = read(&self.register, self.faults.register_down);
                    node.replica.handle(Event::Register(result), now);
                }
            }
        }
        while node.fences.front().is_some_and(|(at, _)| *at <= now) {
            let (_, generation) = node.fences.pop_front().unwrap();
            node.replica.handle(Event::Fenced { generation }, now);
        }
        if node.replica.poll_timeout().is_some_and(|at| at <= now) {
            node.replica.handle(Event::Timeout, now);
            assert!(node.replica.poll_timeout().is_none_or(|at| at > now), "the event loop would spin");
        }
    }

    fn run_guest(&mut self, index: usize) {
        let now = self.now;
        let (budget, input, typed) =
            (50 + self.random.below(200), self.random.chance(3), self.random.next() as u8);
        let node = &mut self.nodes[index];
        match node.replica.mode() {
            Mode::Live => {
                let until = node.guest.position + budget;
                while node.replica.may_run(now) && node.guest.position < until && !node.guest.over {
                    if let Some((position, class, content)) = node.guest.run(until) {
                        node.replica.emit(position, class, content.1, 16, content, now);
                    }
                }
                let switch_seq = self.switch + 1;
                let body = Body::Input(Input::NetRx(NetRx { nic: 0, switch_seq, frames: vec![vec![typed]] }));
                if self.inputs && input && !node.guest.over && node.replica.reserve(body.cost(), now) {
                    node.replica.append(node.guest.position, body.clone(), now);
                    if let Body::Input(input) = &body {
                        node.guest.apply(input);
                    }
                    self.switch = switch_seq;
                }
                if node.replica.may_run(now) {
                    node.replica.append(node.guest.position, Body::Progress, now);
                }
            }
            Mode::Stop => node.replica.append_stop(node.guest.position, now),
            Mode::Backup if !node.wedged => {
                for _ in 0..self.random.below(20) {
                    let Some(record) = node.replica.take_record() else { break };
                    while let Some((position, class, content)) = node.guest.run(record.position) {
                        let keep = (class != OutputClass::DiskWrite).then_some(content);
                        if keep.is_none() {
                            node.writes.push(content);
                        }
                        node.replica.made(position, class, content.1, keep);
                    }
                    if let Body::Input(input) = &record.body {
                        node.guest.apply(input);
                    }
                    node.replica.execute(&record, now);
                }
            }
            Mode::Reissue => {
                let generation = node.replica.generation();
                for write in std::mem::take(&mut node.writes) {
                    if !self.disk.landed.contains(&write.0) {
                        self.observe(index, generation, OutputClass::DiskWrite, write);
                    }
                }
                self.nodes[index].replica.handle(Event::DisksReissued, now);
            }
            _ => {}
        }
    }

    fn pump(&mut self, index: usize) {
        let now = self.now;
        loop {
            let mut idle = true;
            while let Some(effect) = self.nodes[index].replica.poll_effect() {
                idle = false;
                if self.dies(index, Moment::Before) {
                    return;
                }
                self.effect(index, effect);
                if self.dies(index, Moment::After) {
                    return;
                }
            }
            while !self.nodes[index].clogged
                && let Some(bytes) = self.nodes[index].replica.poll_transmit(now)
            {
                idle = false;
                if self.nodes[index].linked {
                    let at = now + MS + self.faults.delay;
                    let last = self.nodes[1 - index].inbox.back().map_or(0, |(at, _)| *at);
                    self.nodes[1 - index].inbox.push_back((at.max(last), bytes));
                }
            }
            while let Some(released) = self.nodes[index].replica.poll_release(now) {
                idle = false;
                if self.dies(index, Moment::Before) {
                    return;
                }
                self.covered(index, released.generation, released.lsn);
                self.observe(index, released.generation, released.class, released.payload);
                if self.dies(index, Moment::In) {
                    return;
                }
                let end = released.class == OutputClass::End;
                self.nodes[index].replica.released(released.lsn, end, now);
                if self.dies(index, Moment::After) {
                    return;
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Counts an action of a doomed process; true if it is dead now.
    fn dies(&mut self, index: usize, moment: Moment) -> bool {
        let Some((left, when)) = &mut self.nodes[index].doomed else { return false };
        if *when != moment {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.nodes[index].doomed = None;
        self.kill(index);
        true
    }

    /// While there is a backup in the generation, what is released must be in what that backup has received.
    fn covered(&self, index: usize, generation: u64, lsn: u64) {
        let other = &self.nodes[1 - index].replica;
        let follows = matches!(other.phase(), Phase::Backup | Phase::TakingOver(_));
        if follows && other.generation() == generation {
            let received = other.status(self.now).records;
            assert!(lsn <= received, "output {lsn} released, and the backup has only {received}");
        }
    }

    /// Writes reach the disk, whoever made them and whether or not it is still alive.
    fn land(&mut self, until: impl Fn(&Write) -> bool) {
        let (landing, flying) = std::mem::take(&mut self.disk.flying).into_iter().partition(until);
        self.disk.flying = flying;
        for write in landing {
            let block = &mut self.disk.blocks[(write.number % 4) as usize];
            assert!(
                write.generation >= *block,
                "a write of generation {} landed on one of generation {block}",
                write.generation
            );
            *block = write.generation;
            self.disk.landed.insert(write.number);
        }
    }

    /// Everything that was released to the disk is on it, or on its way there.
    pub fn disk_is_whole(&self) -> bool {
        let writes = self.released.iter().filter(|entry| entry.2 == OutputClass::DiskWrite);
        let flying: BTreeSet<u64> = self.disk.flying.iter().map(|write| write.number).collect();
        writes
            .map(|entry| entry.3.0)
            .all(|number| self.disk.landed.contains(&number) || flying.contains(&number))
    }

    /// Who is live has received every frame that the switch was told to forget.
    pub fn frames_are_kept(&self) -> bool {
        self.live()
            .iter()
            .all(|index| (1..=self.forgotten).all(|number| self.nodes[*index].guest.frames.contains(&number)))
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        let now = self.now;
        let delay = (1 + self.random.below(5)) * MS;
        match effect {
            Effect::ReadRegister => self.answer(index, now + delay, None),
            // This guest reads no disk.
            Effect::ReadFinished { .. } => {}
            // Nor has it disks of its own.
            Effect::CopyFrom { .. }
            | Effect::CopyTo { .. }
            | Effect::CopyMessage { .. }
            | Effect::CopyOff => {
                unreachable!("no separate disks")
            }
            Effect::Peer { .. } => {}
            Effect::Learn(_) => unreachable!("one register for both"),
            Effect::Ask { from } => {
                let me = Who { replica: IDS[index], incarnation: incarnation(&self.nodes[index]), config: 0 };
                let answer = self.advance(from, me);
                if self.dies(index, Moment::In) {
                    return;
                }
                let odd = self.faults.odd_answers;
                if odd != 0 && self.random.chance(odd) {
                    // Given up for now; the true answer comes later all the same, in the midst of the repetition.
                    let late = now + delay + self.random.below(300) * MS;
                    let gave_up = Answer::Unavailable(Unavailable::Exhausted);
                    self.answer(index, now + delay, Some((from, gave_up)));
                    self.answer(index, late, Some((from, answer)));
                } else {
                    if odd != 0 && self.random.chance(odd) {
                        let again = now + delay + self.random.below(500) * MS;
                        self.answer(index, again, Some((from, answer.clone())));
                    }
                    self.answer(index, now + delay, Some((from, answer)));
                }
            }
            Effect::Fence { generation } => {
                if self.is_up(1 - index) {
                    self.kill(1 - index);
                }
                // Killed and reaped: the writes that its threads were in have landed by then.
                for write in self.disk.flying.iter_mut().filter(|write| write.index != index) {
                    write.lands_at = write.lands_at.min(now + delay);
                }
                self.nodes[index].fences.push_back((now + delay, generation));
            }
            Effect::Live { generation, takeover, .. } => {
                if takeover {
                    // The switch hands to the new port what it was not told to forget.
                    self.switch = self.forgotten;
                }
                self.nodes[index].live_effects.push((generation, takeover));
            }
            Effect::CloseLink => {
                self.nodes[index].linked = false;
                self.nodes[index].inbox.clear();
                self.nodes[index].closed_at = None;
                self.close(1 - index);
            }
            Effect::Heartbeat(bytes) => {
                if !self.faults.partition && !self.random.chance(10) {
                    self.nodes[1 - index].datagrams.push_back((now + MS, bytes));
                }
            }
            Effect::Notice(text) => self.nodes[index].messages.push(text),
            Effect::Halt { exit, message } => {
                self.nodes[index].messages.push(message);
                self.exit(index, exit as u8);
            }
            Effect::End => {
                self.ends_seen += 1;
                self.exit(index, 0);
            }
            Effect::RxAcknowledged { seq, .. } => self.forgotten = self.forgotten.max(seq),
        }
    }

    fn answer(&mut self, index: usize, at: u64, what: Option<(u64, Answer)>) {
        let answers = &mut self.nodes[index].answers;
        answers.push_back((at, what));
        answers.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    fn exit(&mut self, index: usize, code: u8) {
        while let Some(bytes) = self.nodes[index].replica.poll_transmit(self.now) {
            if self.nodes[index].linked {
                self.nodes[1 - index].inbox.push_back((self.now + MS, bytes));
            }
        }
        self.nodes[index].ended = Some(code);
        self.nodes[index].linked = false;
        self.close(1 - index);
    }

    fn advance(&mut self, from: u64, who: Who) -> Answer {
        if self.faults.register_down {
            return Answer::Unavailable(Unavailable::Exhausted);
        }
        let register = self.register;
        let answer = if register.generation == from
            || register.holder == Some(who) && register.generation == from + 1
        {
            self.register = RegisterState { generation: from + 1, holder: Some(who) };
            Answer::Won
        } else if register.generation < from {
            Answer::Behind(register)
        } else {
            Answer::Lost(register)
        };
        if self.faults.lose_answers > 0 {
            self.faults.lose_answers -= 1;
            return Answer::Unavailable(Unavailable::Exhausted);
        }
        answer
    }

    /// The observer: what is released is one history, without gaps, whoever released it.
    fn observe(&mut self, index: usize, generation: u64, class: OutputClass, content: Content) {
        let (number, value) = content;
        assert_eq!(
            self.register.generation.max(generation),
            self.register.generation,
            "released in a generation that was never won"
        );
        let number = number as usize;
        if self.known.len() <= number {
            self.known.resize(number + 1, None);
        }
        let seen = self.known[number].get_or_insert(value);
        assert_eq!(*seen, value, "output {number} was released twice, with different content");
        self.released.push((index, generation, class, content));
        if class == OutputClass::DiskWrite {
            // On one block in order, as overlapping requests are queued.
            let block = content.0 % 4;
            let before =
                self.disk.flying.iter().filter(|write| write.number % 4 == block && write.index == index);
            let after = before.map(|write| write.lands_at).max().unwrap_or(0);
            let lands_at = after.max(self.now + self.random.below(40) * MS);
            self.disk.flying.push(Write { lands_at, index, generation, number: content.0 });
        }
    }

    /// What the observer has seen so far.
    pub fn seen(&self) -> usize {
        self.known.len()
    }
}

fn incarnation(node: &Node) -> u64 {
    node.replica.me().incarnation
}

fn read(register: &RegisterState, down: bool) -> Result<RegisterState, Unavailable> {
    if down { Err(Unavailable::Exhausted) } else { Ok(*register) }
}
