//! The log connection of a process: replica b dials, a listens; one thread reads, whoever has something writes without waiting.

use ft_core::{Event, Nanos, Phase};

use super::{LinkEnd, Thread};
use crate::shape::{Ambient, MS};
use crate::trace::Of;
use crate::world::World;
use crate::world::links::flip;
use crate::world::queue::Happening;

/// Between two attempts to reach the peer, while the guest has not started and afterwards (`ft-runtime`, `replica/link.rs`).
const REDIAL: [Nanos; 2] = [20 * MS, 1000 * MS];
/// How long a connection may stay without a hello.
const PATIENCE: Nanos = 2000 * MS;
/// When a host without a word is taken for dead by the kernel.
const KEEPALIVE: Nanos = 10_000 * MS;

impl World {
    /// Replica b dials, if it has no connection.
    pub(crate) fn dial(&mut self, incarnation: u64, soon: bool) {
        let Some(process) = self.process(1).filter(|process| process.incarnation == incarnation) else {
            return;
        };
        if process.exiting.is_some() {
            return;
        }
        let waiting = *process.core.phase() == Phase::Waiting;
        let free = process.link.is_none() && !process.paused;
        if waiting && free || !soon {
            let again = REDIAL[usize::from(!waiting)];
            self.schedule(again, Happening::Dial { incarnation, soon });
        }
        let there = self.process(0).is_some_and(|process| process.exiting.is_none());
        if !free || !there || !self.links.pass(0) || !self.links.pass(1) {
            return;
        }
        let id = self.links.connect();
        self.connected(1, id);
        self.stepped(1);
        self.at(0).accepting.push_back(id);
        self.wake_soon(0, Thread::Reader);
    }

    fn connected(&mut self, node: usize, id: u64) {
        self.note(Of::Seat(node), || format!("connected ({id})"));
        self.at(node).link = Some(LinkEnd { id, shut: false });
        self.at(node).blocked = false;
        self.handle(node, Event::Connected);
        self.schedule(PATIENCE, Happening::Patience { node, link: id });
    }

    /// Nobody said in time who he is?
    pub(crate) fn patience(&mut self, node: usize, link: u64) {
        let Some(process) = self.process_mut(node) else { return };
        let silent = process.link.is_some_and(|end| end.id == link && !end.shut) && !process.core.has_hello();
        if silent {
            self.shut(node);
        }
    }

    /// The reader: accepts, reads a piece, or finds the end.
    pub(super) fn reader_turn(&mut self, node: usize) {
        if self.at(node).exiting.is_some() {
            return;
        }
        let Some(end) = self.at(node).link else {
            if let Some(id) = self.at(node).accepting.pop_front() {
                self.connected(node, id);
                self.wake_soon(node, Thread::Reader);
            }
            return;
        };
        while let Some(id) = self.at(node).accepting.pop_front() {
            // There is one already.
            self.close_end(node, id);
        }
        if end.shut {
            return self.disconnected(node, end.id, "the connection was closed");
        }
        let most = if self.random.chance(3) { self.random.between(1, 200) } else { 256 * 1024 };
        match self.links.take(end.id, node, self.now, most as usize) {
            Some(bytes) => {
                self.handle(node, Event::Received(&bytes));
                // The other side may have waited for room.
                if self.process(1 - node).is_some_and(|peer| peer.blocked) {
                    self.wake_soon(1 - node, Thread::Writer);
                }
                self.wake_soon(node, Thread::Reader);
            }
            None if self.links.has_ended(end.id, node, self.now) => {
                self.disconnected(node, end.id, "the connection was closed");
            }
            None => {}
        }
    }

    fn disconnected(&mut self, node: usize, id: u64, why: &str) {
        self.note(Of::Seat(node), || format!("disconnected ({id})"));
        self.close_end(node, id);
        self.at(node).link = None;
        self.handle(node, Event::Disconnected(why.to_owned()));
        let process = self.at(node);
        if node == 1 && *process.core.phase() == Phase::Waiting {
            let incarnation = process.incarnation;
            self.schedule(REDIAL[0], Happening::Dial { incarnation, soon: true });
        }
        self.wake_soon(node, Thread::Reader);
    }

    /// Shuts this side's end down; the reader will notice.
    pub(super) fn shut(&mut self, node: usize) {
        let process = self.at(node);
        let Some(end) = process.link.as_mut().filter(|end| !end.shut) else { return };
        end.shut = true;
        let id = end.id;
        self.close_end(node, id);
        self.wake_soon(node, Thread::Reader);
    }

    /// Nobody holds this end any more: the other side learns it after the bytes that are on the way.
    pub(super) fn close_end(&mut self, node: usize, id: u64) {
        let latency = self.latency();
        let Some(link) = self.links.open.get_mut(&id) else { return };
        if std::mem::replace(&mut link.closed[node], true) {
            return;
        }
        if link.closed[1 - node] {
            self.links.open.remove(&id);
            return;
        }
        let stream = &mut link.to[1 - node];
        let at = stream.last.max(self.now + latency);
        stream.end = Some(stream.end.map_or(at, |known| known.min(at)));
        self.schedule(at - self.now, Happening::Bytes { link: id, to: 1 - node });
    }

    /// The host is gone without a word: the other side's kernel finds out much later.
    pub(super) fn vanish(&mut self, node: usize, id: u64) {
        let Some(link) = self.links.open.get_mut(&id) else { return };
        (link.closed[node], link.down[node]) = (true, true);
        if link.closed[1 - node] {
            self.links.open.remove(&id);
            return;
        }
        link.to[1 - node].end = Some(self.now + KEEPALIVE);
        self.schedule(KEEPALIVE, Happening::Bytes { link: id, to: 1 - node });
    }

    /// The writer: one frame, if the socket takes it.
    pub(super) fn writer_turn(&mut self, node: usize) {
        let now = self.local(node);
        let Some(end) = self.at(node).link.filter(|end| !end.shut) else { return };
        let Some(link) = self.links.open.get(&end.id) else { return };
        if !link.to[1 - node].has_room() {
            self.at(node).blocked = true;
            return;
        }
        self.at(node).blocked = false;
        let Some(bytes) = self.at(node).core.poll_transmit(now) else { return };
        self.send(node, end.id, bytes);
        self.wake_soon(node, Thread::Writer);
    }

    /// Everything that there is to send, at once, as far as the socket takes it.
    pub(super) fn transmit_all(&mut self, node: usize) {
        let now = self.local(node);
        while let Some(end) = self.at(node).link.filter(|end| !end.shut) {
            let room = self.links.open.get(&end.id).is_some_and(|link| link.to[1 - node].has_room());
            let Some(bytes) = room.then(|| self.at(node).core.poll_transmit(now)).flatten() else { return };
            self.send(node, end.id, bytes);
        }
    }

    fn send(&mut self, node: usize, id: u64, mut bytes: Vec<u8>) {
        let latency = self.latency();
        let narrow = self.shape.has(Ambient::Narrow) && !self.calm;
        let wire = if narrow { bytes.len() as u64 * 1_000_000_000 / self.shape.bandwidth } else { 0 };
        let to = 1 - node;
        let Some(link) = self.links.open.get_mut(&id) else { return };
        if link.closed[to] && !link.down[to] {
            // Answered with a reset.
            link.to[node].reset(self.now + latency);
            return self.schedule(latency, Happening::Bytes { link: id, to: node });
        }
        let stream = &mut link.to[to];
        if stream.end.is_some() {
            // It was cut: nothing that is sent on it arrives any more.
            return;
        }
        let at = stream.last.max(self.now + latency) + wire;
        if let Some(number) = self.links.damage[to].take() {
            flip(&mut bytes, number);
        }
        stream.last = at;
        stream.bytes += bytes.len();
        stream.queue.push_back((at, bytes));
        self.schedule(at - self.now, Happening::Bytes { link: id, to });
    }

    /// Bytes, or the end, of a connection are there.
    pub(crate) fn bytes_arrived(&mut self, link: u64, to: usize) {
        let reads = self.process(to).is_some_and(|process| process.link.is_some_and(|end| end.id == link));
        if reads && self.links.pass(to) {
            self.wake_soon(to, Thread::Reader);
        }
    }
}
