//! The event loop of a process: datagrams, timers, and the end (`ft-runtime`, `replica/events.rs`).

use ft_core::mutation::{Mutation, mutated};
use ft_core::wire::{Frame, PeerRole};
use ft_core::{Event, Nanos};

use super::{Exiting, Thread};
use crate::properties::Seen;
use crate::shape::{Ambient, MS};
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// A round that comes so much later than it should says that this process did not run.
const LATE: Nanos = 15 * MS;
/// The longest that a peer is excused for this.
const EXCUSE: Nanos = 500 * MS;
/// Most datagrams that wait in a socket.
const SOCKET: usize = 200;
/// The thread that does the work vouches for a heartbeat if it was seen within this time.
const VOUCH: Nanos = ft_core::replica::STUCK;

impl World {
    /// The event loop has its turn.
    pub(super) fn loop_turn(&mut self, node: usize) {
        if self.at(node).exiting.is_some() {
            return self.try_to_exit(node);
        }
        for _ in 0..64 {
            let Some(bytes) = self.at(node).datagrams.pop_front() else { break };
            self.handle(node, Event::Datagram(&bytes));
            self.look(node);
            if let Ok(Frame::Heartbeat(beat)) = Frame::decode_with(&bytes, self.shape.key.as_ref()) {
                let (now, gone) = (self.local(node), beat.role == PeerRole::Gone);
                self.at(node).beat = Some((now, gone));
                self.observe(&Seen::Datagram { node, generation: beat.stamp.generation });
                if mutated(Mutation::ProgressInHeader) {
                    self.at(node).vcpu.header = beat.position;
                }
            }
        }
        let now = self.local(node);
        let process = self.at(node);
        let last = std::mem::replace(&mut process.looked, now);
        if let Some(due) = process.core.poll_timeout().filter(|due| *due <= now) {
            let lost = now.saturating_sub(due.max(last));
            if lost > LATE {
                process.core.excuse(now + lost.min(EXCUSE));
            }
            self.handle(node, Event::Timeout);
            let process = self.at(node);
            let spins = process.core.poll_timeout().is_some_and(|at| at <= now);
            if let Some(beat) = process.core.poll_heartbeat() {
                self.heartbeat(node, beat);
            }
            if spins {
                self.violate(
                    "event loop",
                    format!("replica {node}'s timer is due again at once: it would spin"),
                );
            }
        }
    }

    /// Sends a heartbeat, if the thread that does the work is at work.
    pub(super) fn heartbeat(&mut self, node: usize, bytes: Vec<u8>) {
        let now = self.local(node);
        let vcpu = &self.at(node).vcpu;
        if vcpu.parked || now.saturating_sub(vcpu.alive) < VOUCH || mutated(Mutation::IdleHeartbeats) {
            self.send_datagram(node, bytes);
        }
    }

    pub(super) fn send_datagram(&mut self, node: usize, bytes: Vec<u8>) {
        let to = 1 - node;
        if self.links.blocked[to] > 0 {
            return;
        }
        let calm = self.calm;
        if !calm && self.shape.has(Ambient::Loss) && self.random.chance(4) {
            return;
        }
        let twice = !calm && self.shape.has(Ambient::Duplicates) && self.random.chance(4);
        for _ in 0..=u8::from(twice) {
            let after = self.latency();
            self.schedule(after, Happening::Datagram { to, bytes: bytes.clone() });
        }
    }

    /// A datagram is there.
    pub(crate) fn datagram_arrived(&mut self, to: usize, bytes: Vec<u8>) {
        if self.links.blocked[to] > 0 || self.links.deaf[to] > 0 {
            return;
        }
        let Some(process) = self.process_mut(to) else { return };
        if process.datagrams.len() < SOCKET {
            process.datagrams.push_back(bytes);
            self.wake_soon(to, Thread::Loop);
        }
    }

    /// The process is to end. The first reason counts.
    pub(super) fn end(&mut self, node: usize, exiting: Exiting) {
        let process = self.at(node);
        if process.exiting.is_none() {
            process.exiting = Some(exiting);
            self.wake_soon(node, Thread::Loop);
        }
    }

    /// A process that ends waits for its disk requests, says its last word, and is gone.
    fn try_to_exit(&mut self, node: usize) {
        let process = self.at(node);
        let Some(Exiting { code, orderly }) = process.exiting else { return };
        if orderly {
            process.disks.schedule.forget_elsewhere();
            self.run_disk(node);
            if !self.at(node).disks.schedule.is_idle() {
                return;
            }
            self.stamp_clean(node);
        } else {
            process.disks.schedule.clear_waiting();
            let incarnation = process.incarnation;
            if self.disk.flights.values().any(|flight| flight.incarnation == incarnation) {
                return;
            }
        }
        let words = self.at(node).core.last_words();
        self.send_datagram(node, words);
        self.note(Of::Seat(node), || format!("is gone, exit code {code}"));
        self.gone(node, Some(code));
    }
}
