//! Starts, deaths, pauses and ends of processes.

use std::collections::VecDeque;

use ft_core::replica::{STUCK, Settings};
use ft_core::{Event, Replica, wire};
use ft_policies::Who;

use super::disks::Disks;
use super::fence::IDS;
use super::vcpu::Vcpu;
use super::{Doom, Process, Slot, THREADS, Thread};
use crate::guest::Guest;
use crate::register::Calls;
use crate::shape::{MS, Setting};
use crate::trace::Of;
use crate::world::World;
use crate::world::copies::PAIR;
use crate::world::facts::Ghost;
use crate::world::queue::Happening;

/// Bound of the log: the least that `ft-vm check` lets through.
pub const LOG: u64 = 2 * ft_policies::MAX_RECORD;
/// Bound of the gate, in bytes.
const GATE_BYTES: u64 = 1 << 20;

impl World {
    /// Starts a process on a seat that has none.
    pub fn start_process(&mut self, node: usize) {
        if self.seats[node].process.is_some() {
            return;
        }
        // The launcher has reaped the old process, and read what it had said before.
        self.launcher_reads(node);
        // A new process has the address, so the old one is gone: nothing of it is under way any more.
        self.reap(node);
        // Its host, if that was down, answers again for connections that it does not know.
        self.links.open.values_mut().for_each(|link| link.down[node] = false);
        if self.shape.setting == Setting::TwoHosts || self.seats[1 - node].process.is_none() {
            self.new_launcher(node);
        }
        let copies = match self.open_copies(node) {
            Ok(copies) => copies,
            Err(why) => return self.note(Of::Seat(node), || format!("does not start: {why}")),
        };
        let incarnation = self.random.next() >> 1;
        let now = self.local(node);
        let worth = copies.as_ref().and_then(|copies| copies.worth());
        let settings = self.settings(Who { replica: IDS[node], incarnation, config: 0 }, worth);
        let shape = &self.shape;
        let core = Replica::new(settings, shape.detector.build(), shape.pacing.build(), now);
        let process = Process {
            incarnation,
            core,
            guest: Guest::new(shape.profile),
            journal: Vec::new(),
            vcpu: Vcpu::default(),
            disks: Disks::new(shape.policy()),
            copies,
            exchange: None,
            end: None,
            beat: None,
            promoted: 0,
            inputs: VecDeque::new(),
            seen: 0,
            link: None,
            accepting: VecDeque::new(),
            blocked: false,
            datagrams: VecDeque::new(),
            calls: Calls::default(),
            chores: VecDeque::new(),
            peers: (None, Vec::new()),
            released: None,
            apart: 0,
            flights_missed: Vec::new(),
            slots: [Slot::default(); THREADS],
            paused: false,
            wedged: None,
            slow: 1,
            disk_trouble: (false, false),
            crowded: false,
            no_effects: false,
            exiting: None,
            looked: now,
            asker: None,
            doom: None,
        };
        self.seats[node].process = Some(Box::new(process));
        self.note(Of::Seat(node), || format!("starts (process {incarnation:x})"));
        self.handle(node, Event::Start);
        self.wake_soon(node, Thread::Vcpu);
        self.stepped(node);
        if node == 1 {
            self.schedule(MS, Happening::Dial { incarnation, soon: false });
        }
    }

    /// What a process of the pair's is told.
    pub(super) fn settings(&self, me: Who, copies: Option<wire::Copies>) -> Settings {
        let shape = &self.shape;
        Settings {
            me,
            pair: PAIR,
            config: 5,
            image: 6,
            cpu: Vec::new(),
            divergence_hint: "",
            log_capacity: LOG,
            gate_bytes: GATE_BYTES,
            gate_outputs: shape.gate,
            start_alone: shape.start_alone,
            ack_timeout: shape.detector.ack_timeout().nanos(),
            stuck: STUCK,
            hold_outputs: true,
            copies,
            by_hand: shape.by_hand,
            key: shape.key.clone(),
        }
    }

    /// A process dies; with its host, if that is lost.
    pub fn die(&mut self, node: usize, host_lost: bool) {
        let Some(process) = self.process(node) else { return };
        let incarnation = process.incarnation;
        self.note(Of::Seat(node), || "dies".to_owned());
        // Of what threads were at some never was begun; the rest lands, or was cut short.
        let flights = std::mem::take(&mut self.disk.flights);
        for (number, mut flight) in flights {
            if flight.incarnation == incarnation {
                if !flight.issued || self.random.chance(2) {
                    continue;
                }
                flight.orphan = true;
            }
            self.disk.flights.insert(number, flight);
        }
        if let Some(own) = self.disk.own.clone() {
            own[node].cut_short(&mut self.random);
            if host_lost {
                // What was on its way to the medium got there in part, and then the cache was lost.
                self.reap(node);
                own[node].lose_cache(&mut self.random);
            }
        }
        self.buried(node, None, host_lost);
    }

    /// A process has ended by itself.
    pub(super) fn gone(&mut self, node: usize, code: Option<u8>) {
        self.buried(node, code, false);
    }

    fn buried(&mut self, node: usize, code: Option<u8>, host_lost: bool) {
        let Some(process) = self.seats[node].process.take() else { return };
        self.seats[node].ends.push((process.incarnation, code));
        let ends = process.accepting.iter().copied().chain(process.link.map(|end| end.id));
        for id in ends.collect::<Vec<_>>() {
            if host_lost {
                self.vanish(node, id);
            } else {
                if code.is_none() && self.random.chance(2) {
                    self.lose_tail(node, id);
                }
                self.close_end(node, id);
            }
        }
        let Process { incarnation, guest, journal, .. } = *process;
        self.facts.buried(node, incarnation, Ghost { guest, journal });
    }

    /// What a process sent just before its death may not have left it.
    fn lose_tail(&mut self, node: usize, id: u64) {
        let random = self.random.next();
        let Some(link) = self.links.open.get_mut(&id) else { return };
        let stream = &mut link.to[1 - node];
        let keep = random as usize % (stream.queue.len() + 1);
        let lost: usize = stream.queue.drain(keep..).map(|(_, bytes)| bytes.len()).sum();
        stream.bytes -= lost;
    }

    /// What dead processes of a seat had under way has landed by now, or never will.
    pub fn reap(&mut self, node: usize) {
        let mut random = self.random.clone();
        self.disk.settle(
            |flight| flight.node == node && flight.orphan,
            || match random.below(3) {
                0 => u64::MAX,
                1 => 0,
                _ => random.next(),
            },
        );
        self.random = random;
    }

    /// A process is stopped.
    pub fn pause(&mut self, node: usize) {
        if let Some(process) = self.process_mut(node) {
            process.paused = true;
            self.note(Of::Seat(node), || "is stopped".to_owned());
        }
    }

    /// It goes on, its threads in any order.
    pub fn resume(&mut self, node: usize) {
        let Some(process) = self.process_mut(node).filter(|process| process.paused) else { return };
        process.paused = false;
        let missed: Vec<usize> = (0..THREADS).filter(|thread| process.slots[*thread].missed).collect();
        missed.iter().for_each(|thread| process.slots[*thread].missed = false);
        let flights = std::mem::take(&mut process.flights_missed);
        self.note(Of::Seat(node), || "goes on".to_owned());
        for thread in
            [Thread::Vcpu, Thread::Outside, Thread::Writer, Thread::Reader, Thread::Loop, Thread::Chores]
        {
            if missed.contains(&(thread as usize)) {
                let after = self.random.below(400_000);
                self.wake(node, thread, after);
            }
        }
        for flight in flights {
            let after = self.random.below(2 * MS);
            self.schedule(after, Happening::Flight(flight));
        }
    }

    /// Counts the steps of a doomed process.
    pub(super) fn doomed(&mut self, node: usize) {
        let Some(process) = self.process_mut(node) else { return };
        match &mut process.doom {
            Some((0, doom)) => {
                let doom = *doom;
                process.doom = None;
                // One that has given up its backup meanwhile, or is about to, is hit by two things.
                let paired = !process.core.is_asking() && self.facts.is_paired();
                self.strikes.iter_mut().for_each(|strike| strike.paired &= paired);
                match doom {
                    Doom::Death => self.die(node, false),
                    Doom::Pause => self.pause(node),
                }
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
    }
}
