//! What is outside of the pair: the launcher's switches (the runtime's own), a client, the console.

use std::collections::{BTreeMap, VecDeque};

use ft_core::Nanos;
use ft_core::input::{Input, NetRx};
use ft_core::mutation::{Mutation, mutated};
use ft_core::output::OutputBody;
use ft_runtime::launcher::lan::switch::Switch;
use ft_runtime::launcher::messages::{LAN_PACKET_MAX, LanPacket};

use super::World;
use super::queue::{Happening, Socket};
use crate::guest::data::{self, Frame};
use crate::properties::Seen;
use crate::shape::{Ambient, MS, Setting};
use crate::trace::Of;

/// Bytes of a large frame.
const LARGE: usize = 1500;
/// Longest time that something waits for a launcher that takes its time; and for one that its host does not run just now, which happens
/// when one in so many things is said.
const LAUNCHER: Nanos = 3 * MS;
const NOT_RUN: Nanos = 60 * MS;
const SELDOM: u64 = 60;

/// What a replica says to its launcher.
#[derive(Debug)]
enum Word {
    /// It is live.
    Live { generation: u64, seen: u64 },
    /// It has inbound frames in acknowledged records.
    Acknowledged { generation: u64, seq: u64 },
    /// Console bytes, in this life of the guest.
    Console { life: u64, offset: u64, bytes: Vec<u8> },
}

/// What was seen of one life of the guest.
#[derive(Debug, Default)]
pub struct Said {
    /// Frames, in the order in which they came.
    pub frames: Vec<Frame>,
    /// Console bytes.
    pub console: Vec<u8>,
    /// The guest's end was let out.
    pub over: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Outside {
    switches: Vec<Switch>,
    /// What is in each seat's two sockets to the launcher. What is there outlives the process.
    words: [VecDeque<Word>; 2],
    packets: [VecDeque<LanPacket>; 2],
    /// The launcher is not run until then.
    asleep: Nanos,
    /// Where the client's frames go, and the generation that said so.
    host: (usize, u64),
    sent: u64,
    /// What was seen, by life.
    pub said: BTreeMap<u64, Said>,
    /// What the client was told to be durable: the highest version, by sector.
    pub durable: BTreeMap<u64, u64>,
    /// Outputs of every kind that were seen.
    pub seen: u64,
}

impl Outside {
    /// Nothing was said yet.
    pub fn new(setting: Setting) -> Self {
        let count = if setting == Setting::OneMachine { 1 } else { 2 };
        Self {
            switches: (0..count).map(|_| Switch::new()).collect(),
            words: Default::default(),
            packets: Default::default(),
            asleep: 0,
            host: (0, 0),
            sent: 0,
            said: BTreeMap::new(),
            durable: BTreeMap::new(),
            seen: 0,
        }
    }

    fn switch(&mut self, node: usize) -> &mut Switch {
        let index = node.min(self.switches.len() - 1);
        &mut self.switches[index]
    }
}

impl World {
    /// The launcher of this seat is started anew.
    pub fn new_launcher(&mut self, node: usize) {
        *self.outside.switch(node) = Switch::new();
        (self.outside.words, self.outside.packets) = Default::default();
    }

    /// A replica says something to its launcher.
    fn tell_launcher(&mut self, node: usize, word: Word) {
        self.outside.words[node].push_back(word);
        self.wake_launcher(node, Socket::Words);
    }

    /// Something is in a socket: the launcher reads it at once, or when it has the time.
    fn wake_launcher(&mut self, node: usize, socket: Socket) {
        if !self.shape.slow_launcher {
            return self.launcher_turn(node, socket);
        }
        if self.outside.asleep <= self.now && !self.calm && self.random.chance(SELDOM) {
            self.outside.asleep = self.now + self.random.below(NOT_RUN);
        }
        let after = self.random.below(LAUNCHER);
        self.schedule(after, Happening::Launcher(node, socket));
    }

    /// A socket is readable. The launcher reads it, if it is run.
    pub(super) fn launcher_turn(&mut self, node: usize, socket: Socket) {
        let asleep = self.outside.asleep.saturating_sub(self.now);
        match socket {
            _ if asleep > 0 => self.schedule(asleep, Happening::Launcher(node, socket)),
            Socket::Words => self.launcher_hears(node),
            Socket::Frames => self.launcher_takes_frames(node),
        }
    }

    /// The launcher reads all that this seat's replicas have said.
    fn launcher_hears(&mut self, node: usize) {
        while let Some(word) = self.outside.words[node].pop_front() {
            match word {
                Word::Live { generation, seen } => self.guest_moves(node, generation, seen),
                Word::Acknowledged { generation, seq } => self.forget_inbound(node, generation, seq),
                Word::Console { life, offset, bytes } => self.print(life, offset, bytes),
            }
        }
    }

    /// The launcher takes all frames that this seat's replicas have sent.
    fn launcher_takes_frames(&mut self, node: usize) {
        let mut out = Vec::new();
        while let Some(packet) = self.outside.packets[node].pop_front() {
            self.outside.switch(node).from_replica(node, packet, &mut out);
        }
        out.into_iter().for_each(|frame| self.frame(node, &frame));
    }

    /// The launcher reads all that is there from this seat.
    pub(crate) fn launcher_reads(&mut self, node: usize) {
        self.launcher_hears(node);
        self.launcher_takes_frames(node);
    }

    /// The client sends a frame.
    pub(super) fn client(&mut self) {
        let flood = self.shape.has(Ambient::Flood) && !self.calm && self.started.is_some();
        let host = self.outside.host.0;
        for _ in 0..if flood { 2 * self.shape.client / MS } else { 1 } {
            self.outside.sent += 1;
            let mut frame = data::from_client(self.outside.sent);
            if flood {
                frame.resize(LARGE, 0);
            }
            self.outside.switch(host).to_guest(frame);
        }
        self.hand_over(host);
        if self.random.chance(40)
            && let Some(port) = self.outside.switch(host).live()
        {
            // Typed at the console: the launcher sends it to the live replica, and keeps nothing.
            let byte = self.random.next() as u8;
            self.input(port, Input::Console(vec![byte]));
        }
    }

    /// Gives the live replica the frames that it was not given yet.
    fn hand_over(&mut self, host: usize) {
        let mut buffer = Vec::with_capacity(LAN_PACKET_MAX.min(4096));
        while let Some((port, count)) = self.outside.switch(host).next_packet(&mut buffer) {
            self.outside.switch(host).sent(count);
            let Some(packet) = LanPacket::decode(&buffer) else { continue };
            if let Some(process) = self.process_mut(port)
                && let Some(batch) =
                    unseen(packet, if mutated(Mutation::InboundTwice) { 0 } else { process.seen })
            {
                process.seen = process.seen.max(batch.switch_seq);
                self.input(port, Input::NetRx(batch));
            }
        }
    }

    /// A replica says that it is live.
    pub(crate) fn moved(&mut self, node: usize, generation: u64, seen: u64) {
        self.tell_launcher(node, Word::Live { generation, seen });
    }

    fn guest_moves(&mut self, node: usize, generation: u64, seen: u64) {
        if self.process(1 - node).is_none() {
            // What a dead one had said before comes first.
            self.launcher_hears(1 - node);
        }
        let mut out = Vec::new();
        let switch = self.outside.switch(node);
        if let Some(before) = switch.live().filter(|_| generation > switch.generation()) {
            // What was let out in the generation that ends now (`ft-runtime`, `launcher/lan`).
            self.launcher_takes_frames(before);
        }
        if let Err(violation) = self.outside.switch(node).go_live(node, generation, seen, &mut out) {
            // The launcher believes it no more: what it says is not let through.
            self.note(Of::Seat(node), || format!("the launcher: {violation}"));
        }
        if generation >= self.outside.host.1 {
            self.outside.host = (node, generation);
        }
        out.into_iter().for_each(|frame| self.frame(node, &frame));
        self.hand_over(node);
    }

    /// A replica says that it has inbound frames in acknowledged records.
    pub(crate) fn rx_acknowledged(&mut self, node: usize, generation: u64, seq: u64) {
        self.tell_launcher(node, Word::Acknowledged { generation, seq });
    }

    fn forget_inbound(&mut self, node: usize, generation: u64, seq: u64) {
        if let Err(violation) = self.outside.switch(node).acknowledged(node, generation, seq) {
            if self.facts.wrong {
                return;
            }
            self.violate("switch", format!("replica {node} breaks the launcher's rules: {violation}"));
        }
    }

    /// A replica lets an output out.
    pub(crate) fn let_out(&mut self, node: usize, life: u64, generation: u64, body: OutputBody) {
        match body {
            OutputBody::NetTx { nic, frames } => {
                self.outside.packets[node].push_back(LanPacket { nic, number: generation, frames });
                self.wake_launcher(node, Socket::Frames);
            }
            OutputBody::Console { offset, bytes } => {
                self.tell_launcher(node, Word::Console { life, offset, bytes });
            }
            OutputBody::PowerOff { .. } => {
                self.outside.said.entry(life).or_default().over = true;
                self.outside.seen += 1;
            }
            _ => {}
        }
    }

    /// Console bytes are written where they belong.
    fn print(&mut self, life: u64, offset: u64, bytes: Vec<u8>) {
        self.observe(&Seen::Console { life, offset, bytes: &bytes });
        let console = &mut self.outside.said.entry(life).or_default().console;
        let appended = mutated(Mutation::ConsoleAppended);
        let known = if appended { 0 } else { console.len().saturating_sub(offset as usize) };
        console.extend(bytes.get(known..).unwrap_or_default());
        self.outside.seen += 1;
    }

    fn frame(&mut self, node: usize, bytes: &[u8]) {
        let frame = Frame::decode(bytes);
        self.note(Of::World, || {
            format!("frame {} of life {} from {}", frame.number, frame.life, ["a", "b"][node])
        });
        self.observe(&Seen::Frame { frame });
        self.outside.said.entry(frame.life).or_default().frames.push(frame);
        if let Some((sector, version)) = frame.durable {
            let known = self.outside.durable.entry(sector).or_default();
            *known = version.max(*known);
        }
        self.outside.seen += 1;
    }
}

/// What of a packet the guest has not had yet (`ft-runtime`, `replica/net.rs`).
fn unseen(packet: LanPacket, seen: u64) -> Option<NetRx> {
    let LanPacket { nic, number, mut frames } = packet;
    let last = (number + frames.len() as u64).checked_sub(1)?;
    if frames.is_empty() || last <= seen {
        return None;
    }
    let skip = (seen + 1).saturating_sub(number) as usize;
    frames.drain(..skip.min(frames.len()));
    Some(NetRx { nic, switch_seq: last, frames })
}
