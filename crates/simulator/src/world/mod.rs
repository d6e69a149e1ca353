//! The world of a run: its time, what is going to happen, everybody in it.
//!
//! - [`queue`] what happens next; [`clock`] the hosts' clocks; [`links`] the log connections; [`disk`] the disk, and if each replica has
//!   its own, its [`copies`];
//! - [`outside`] switches, client and console; [`facts`] what an observer knows.

pub mod clock;
pub mod copies;
pub mod disk;
pub mod facts;
pub mod links;
pub mod outside;
pub mod queue;

use std::collections::BTreeMap;

use ft_core::Nanos;
use ft_policies::Who;

use crate::faults::{Fault, Kind, Plan};
use crate::node::Seat;
use crate::node::twin::Twin;
use crate::properties::{Property, Seen, Violation};
use crate::random::Random;
use crate::register::Register;
use crate::shape::{Ambient, Shape};
use crate::trace::{Of, Trace};
use clock::Clock;
use disk::Disk;
use facts::Facts;
use links::Links;
use outside::Outside;
use queue::{Happening, Queue};

/// What was counted in a run.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Things that happened.
    pub events: u64,
    /// Steps of threads among them.
    pub steps: u64,
    /// Outputs let out.
    pub releases: u64,
    /// Backups that went live.
    pub takeovers: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<Kind, u64>,
}

/// A fault that struck, and whether there was a backup then that could take over.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// There was one.
    pub paired: bool,
}

/// See the module.
pub struct World {
    /// Nanoseconds since the beginning.
    pub now: Nanos,
    /// Decides everything that the plan and the shape do not.
    pub random: Random,
    pub(crate) queue: Queue,
    pub(crate) tokens: u64,
    pub(crate) calls: u64,
    /// What the pair is like.
    pub shape: Shape,
    /// What goes wrong.
    pub plan: Plan,
    /// The faults that struck, in order.
    pub strikes: Vec<Strike>,
    /// Faults that have struck and not ended, by their index in the plan.
    pub(crate) lasting: Vec<usize>,
    /// The two replicas' places.
    pub seats: [Seat; 2],
    /// Another process of a replica's identity.
    pub(crate) twin: Option<Twin>,
    /// The log connections.
    pub links: Links,
    /// The tie-breaker.
    pub register: Register,
    /// The shared disk.
    pub disk: Disk,
    /// The world outside of the pair.
    pub outside: Outside,
    /// What an observer knows.
    pub facts: Facts,
    properties: Vec<Box<dyn Property>>,
    /// What happened, in words.
    pub trace: Trace,
    /// What was counted.
    pub counters: Counters,
    /// The first property that was violated.
    pub violation: Option<Violation>,
    /// Faults have stopped, and so has what goes wrong all the time.
    pub calm: bool,
    pub(crate) busy: bool,
    /// When the guest first ran.
    pub started: Option<Nanos>,
    /// The fault that strikes as soon as a copy is being copied into.
    pub(crate) cuts_copying: Option<usize>,
    /// How often a guest was started from the disk.
    pub begun: u64,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(seed: u64, shape: Shape, plan: Plan, trace: bool) -> Self {
        let mut random = Random::new(seed, 3);
        let seat = |random: &mut Random| {
            let rate =
                if shape.has(Ambient::Clocks) { random.between(999_000, 1_001_000) } else { 1_000_000 };
            let clock = Clock::new(1_000_000_000 + random.below(1 << 40), rate);
            Seat { clock, process: None, ends: Vec::new() }
        };
        let seats = [seat(&mut random), seat(&mut random)];
        let facts = Facts { gate: shape.gate, ..Facts::default() };
        Self {
            now: 0,
            random,
            queue: Queue::default(),
            tokens: 0,
            calls: 0,
            plan,
            strikes: Vec::new(),
            lasting: Vec::new(),
            seats,
            twin: None,
            links: Links::default(),
            register: Register::new(shape.by_hand),
            disk: Disk::new(shape.separate.then_some(shape.files)),
            outside: Outside::new(shape.setting),
            facts,
            properties: crate::properties::all(),
            trace: Trace::new(trace),
            counters: Counters::default(),
            violation: None,
            calm: false,
            busy: shape.has(Ambient::Busy),
            started: None,
            cuts_copying: None,
            begun: 0,
            shape,
        }
    }

    /// Adds to what is going to happen.
    pub fn schedule(&mut self, after: Nanos, what: Happening) {
        let order = self.random.next();
        self.queue.push(self.now + after, order, what);
    }

    /// Lets things happen until that time, or until a property is violated.
    pub fn run_until(&mut self, until: Nanos) {
        while self.violation.is_none() && self.queue.next_at().is_some_and(|at| at <= until) {
            if let Some((at, what)) = self.queue.pop() {
                self.now = at;
                self.counters.events += 1;
                self.happen(what);
            }
        }
        if self.violation.is_none() {
            self.now = self.now.max(until);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Thread(node, thread, token) => self.turn(node, thread, token),
            Happening::Bytes { link, to } => self.bytes_arrived(link, to),
            Happening::Datagram { to, bytes } => self.datagram_arrived(to, bytes),
            Happening::Dial { incarnation, soon } => self.dial(incarnation, soon),
            Happening::Patience { node, link } => self.patience(node, link),
            Happening::Call { node, incarnation, id, call } => self.call_arrives(node, incarnation, id, call),
            Happening::Content { node, incarnation, id, call } => {
                self.content_written(node, incarnation, id, call);
            }
            Happening::Answer { node, incarnation, id, done } => {
                self.answer_arrives(node, incarnation, id, done);
            }
            Happening::Expired { node, incarnation, id } => self.call_expired(node, incarnation, id),
            Happening::Twin(incarnation) => self.twin_turn(incarnation),
            Happening::Flight(number) => self.flight(number),
            Happening::Fenced { node, incarnation, generation } => self.fenced(node, incarnation, generation),
            Happening::Launcher(node, socket) => self.launcher_turn(node, socket),
            Happening::Client => {
                self.client();
                let after = 1 + self.random.below(2 * self.shape.client);
                self.schedule(after, Happening::Client);
            }
            Happening::Strike(index) => self.strike(index),
            Happening::Heal(index) => self.heal(index),
            Happening::Start(node) => self.start_process(node),
            Happening::Person(index) => self.person(index),
        }
    }

    /// A line of the trace.
    pub(crate) fn note(&mut self, of: Of, line: impl FnOnce() -> String) {
        self.trace.add(self.now, of, line);
    }

    /// A property is violated. The first one counts.
    pub(crate) fn violate(&mut self, property: &'static str, what: String) {
        if self.violation.is_none() {
            self.note(Of::World, || format!("VIOLATED: {property}: {what}"));
            self.violation = Some(Violation { property, what, at: self.now });
        }
    }

    /// The properties see something.
    pub(crate) fn observe(&mut self, seen: &Seen<'_>) {
        self.facts.now = self.now;
        let mut properties = std::mem::take(&mut self.properties);
        for property in &mut properties {
            if self.facts.wrong && !property.holds_for_two_guests() {
                continue;
            }
            if let Err(what) = property.see(seen, &self.facts) {
                self.violate(property.name(), what);
            }
        }
        self.properties = properties;
    }

    /// The properties see what a process looks like, if that has changed.
    pub(crate) fn look(&mut self, node: usize) {
        let Some(process) = self.seats[node].process.as_deref() else { return };
        let view = process.core.view();
        let (incarnation, position) = (process.incarnation, process.guest.position);
        let same = self.facts.incarnations[node] == incarnation
            && self.facts.views[node].as_ref().is_some_and(|known| *known == view);
        if same {
            return;
        }
        let time_went_back = process.guest.time_went_back;
        let before = self.facts.views[node].take().filter(|_| self.facts.incarnations[node] == incarnation);
        self.facts.note(node, incarnation, view.clone());
        self.observe(&Seen::Step { node, view: &view, before: before.as_ref(), position, time_went_back });
    }

    /// A generation was won.
    pub(crate) fn won(&mut self, generation: u64, who: Who) {
        let first = *self.facts.wins.entry(generation).or_insert(who);
        // A store that was put back gives away again what it gave; the one who had it first is the one.
        if first != who && self.shape.by_hand {
            // Each has won in a register of its own; only who goes on in it counts.
            self.facts.rivals.insert(generation, who);
        } else if first != who && !self.facts.restored && !self.facts.wrong {
            self.violate(
                "one winner",
                format!("generation {generation} was won by {first:?} and by {who:?}"),
            );
        }
    }

    /// A guest begins to be the real one.
    pub(crate) fn begins(&mut self, life: u64, incarnation: u64) {
        self.started.get_or_insert(self.now);
        // One that was stopped before its first instruction begins when it wakes, and lets nothing out: the other one's has become the
        // real one meanwhile.
        let last = self.facts.wins.values().next_back().map(|who| who.incarnation);
        let real = self.facts.lives.entry(life).or_insert(incarnation);
        if last != Some(*real) {
            *real = incarnation;
        }
    }

    /// A backup's guest is the real one, before its thread knows.
    pub(crate) fn takes_over(&mut self, node: usize) {
        let Some(process) = self.process(node) else { return };
        if process.guest.is_booted() {
            let (life, incarnation) = (process.guest.life(), process.incarnation);
            self.facts.lives.insert(life, incarnation);
        }
    }
}
