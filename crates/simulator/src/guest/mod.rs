//! The simulated guest: a small deterministic machine. Its state is a number that every instruction and every input stirs, so
//! that a lost, doubled, reordered or mispositioned input changes all that it says afterwards.
//!
//! - [`data`]: what its frames and sectors carry;
//! - [`mod@reference`]: an uninterrupted run of it, from the journal of its inputs.

pub mod data;
pub mod reference;

use std::collections::BTreeMap;

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input};
use ft_core::mutation::{Mutation, mutated};
use ft_core::output::{DiskOp, DiskRequest, Output, OutputBody};

use crate::random::mix;
use data::Sector;

/// Sectors of the guest's disk.
pub const SECTORS: u64 = 24;
/// Requests that it has under way at most: a constant of the device, as the real one's.
const DEPTH: usize = 6;

/// What kind of guest this is: a part of its image, the same on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// One in so many instructions does something.
    pub idle: u64,
    /// It powers itself off after so many frames.
    pub end_after: u64,
    /// It goes to sleep now and then.
    pub sleeps: bool,
    /// It asks for random bytes again and again.
    pub asks: bool,
    /// It uses a few sectors of its disk only.
    pub hot: bool,
    /// It discards sectors, or has them filled with zeroes, where it would write.
    pub zeroes: bool,
}

/// Why it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It stands at the position that was asked for.
    Reached,
    /// It has made an output.
    Platform,
    /// It waits for an input.
    Halted,
    /// It is over.
    Dead,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Guest {
    profile: Profile,
    /// Instructions so far.
    pub position: u64,
    state: u64,
    life: u64,
    booted: bool,
    frames: u64,
    console: u64,
    requests: u64,
    entropies: u64,
    /// A part of its memory that it has no use for: nothing but a digest tells what is there.
    unused: u64,
    /// Requests that it has made and that are not told to be done.
    pub pending: BTreeMap<u64, DiskRequest>,
    /// The same of entropy.
    pub pending_entropy: BTreeMap<u64, u32>,
    anchor: Anchor,
    anchored: u64,
    last_time: u64,
    /// Guest time was seen to go back.
    pub time_went_back: bool,
    /// It waits for an input or for its timer.
    pub halted: bool,
    /// Guest time at which it wakes by itself.
    pub deadline: Option<u64>,
    /// It is over, with this exit code.
    pub over: Option<u8>,
    outputs: Vec<Output>,
    flushes: BTreeMap<u64, BTreeMap<u64, u64>>,
    written: BTreeMap<u64, u64>,
    durable: BTreeMap<u64, u64>,
}

impl Guest {
    /// One that was not switched on yet.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            position: 0,
            state: 0,
            life: 0,
            booted: false,
            frames: 0,
            console: 0,
            requests: 0,
            entropies: 0,
            unused: 0,
            pending: BTreeMap::new(),
            pending_entropy: BTreeMap::new(),
            anchor: Anchor { time: 0, rate: 1 << 32 },
            anchored: 0,
            last_time: 0,
            time_went_back: false,
            halted: false,
            deadline: None,
            over: None,
            outputs: Vec::new(),
            flushes: BTreeMap::new(),
            written: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }

    /// Switched on, in this life: what tells one start of the guest from the next.
    pub fn boot(&mut self, life: u64) {
        if !std::mem::replace(&mut self.booted, true) {
            self.life = life;
            self.state = mix(life.wrapping_add(0x51));
        }
    }

    /// True if it was switched on.
    pub fn is_booted(&self) -> bool {
        self.booted
    }

    /// Its life.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Guest time, in nanoseconds.
    pub fn time(&self) -> u64 {
        let ahead = (u128::from(self.position - self.anchored) * u128::from(self.anchor.rate)) >> 32;
        self.anchor.time.saturating_add(ahead as u64)
    }

    /// A digest of all of its state.
    pub fn digest(&self) -> u64 {
        let parts = [
            self.position,
            self.frames,
            self.console,
            self.requests,
            self.unused,
            self.pending.len() as u64,
            self.time(),
            u64::from(self.halted),
        ];
        parts.into_iter().fold(self.state, |all, part| mix(all ^ part))
    }

    /// A bit of its memory changes by itself.
    pub fn damage(&mut self, number: u64) {
        let part = if number & 1 == 0 { &mut self.state } else { &mut self.unused };
        *part ^= 1 << (number >> 1 & 63);
    }

    /// Runs until it stands at `until`, or stops before.
    pub fn run(&mut self, until: u64) -> Stop {
        while self.position < until {
            if self.over.is_some() {
                return Stop::Dead;
            }
            if self.halted {
                return Stop::Halted;
            }
            self.position += 1;
            self.state = mix(self.state.wrapping_add(self.position));
            if self.state.is_multiple_of(self.profile.idle) {
                self.act();
                if !self.outputs.is_empty() {
                    return Stop::Platform;
                }
            }
        }
        Stop::Reached
    }

    fn act(&mut self) {
        let draw = mix(self.state);
        match draw % 32 {
            0..=8 => self.send(),
            19..=27 if self.profile.asks => self.ask_random(),
            9..=12 => self.print(draw),
            13..=18 => self.write(draw),
            19..=22 => self.ask_disk(DiskOp::Read {
                sector: self.place(draw),
                len: 512 * (1 + (draw >> 40 & 1) as u32),
            }),
            23..=25 => self.ask_disk(DiskOp::Flush),
            26..=28 => {
                let time = self.time();
                self.time_went_back |= time < self.last_time;
                self.last_time = time;
                self.state = mix(self.state ^ time);
            }
            29 => self.ask_random(),
            _ if self.profile.sleeps => {
                self.halted = true;
                self.deadline = (draw & 0x100 != 0).then(|| self.time() + (draw >> 16) % 20_000_000);
            }
            _ => {}
        }
    }

    fn say(&mut self, body: OutputBody) {
        self.outputs.push(Output { position: self.position, body });
    }

    fn send(&mut self) {
        let number = self.frames;
        self.frames += 1;
        // One of the writes that are known to be durable, in turn.
        let index = (number as usize).checked_rem(self.durable.len()).unwrap_or(0);
        let durable = self.durable.iter().nth(index).map(|(sector, version)| (*sector, *version));
        let frame = data::Frame { life: self.life, number, state: self.state, durable };
        self.say(OutputBody::NetTx { nic: 0, frames: vec![frame.encode()] });
        if self.frames == self.profile.end_after {
            self.power_off();
        }
    }

    fn place(&self, draw: u64) -> u64 {
        (draw >> 8 & 0xFF_FFFF) % if self.profile.hot { 2 } else { SECTORS - 3 }
    }

    fn ask_random(&mut self) {
        let request = self.entropies;
        self.entropies += 1;
        self.pending_entropy.insert(request, 8);
        self.say(OutputBody::Entropy { request, len: 8 });
    }

    fn power_off(&mut self) {
        self.over = Some(0);
        self.say(OutputBody::PowerOff { code: 0 });
    }

    fn print(&mut self, draw: u64) {
        let bytes = (draw >> 8).to_le_bytes()[..1 + (draw >> 7 & 3) as usize].to_vec();
        let offset = self.console;
        self.console += bytes.len() as u64;
        self.say(OutputBody::Console { offset, bytes });
    }

    fn write(&mut self, draw: u64) {
        let count = 1 + (draw >> 40) % 3;
        if self.profile.zeroes && draw >> 48 & 1 == 0 {
            let (sector, count) = (self.place(draw), count as u32);
            return self.ask_disk(match draw >> 49 & 3 {
                0 => DiskOp::WriteZeroes { sector, count, unmap: draw >> 51 & 1 == 0 },
                _ => DiskOp::Discard { sector, count },
            });
        }
        let version = data::version(self.life, self.requests);
        let sectors = (0..count).map(|_| Sector { version, value: self.state });
        let sector = self.place(draw);
        self.ask_disk(DiskOp::Write { sector, data: data::encode(sectors) });
    }

    fn ask_disk(&mut self, op: DiskOp) {
        if self.pending.len() >= DEPTH {
            return;
        }
        let request = DiskRequest { disk: 0, request: self.requests, op };
        self.requests += 1;
        if request.op == DiskOp::Flush {
            self.flushes.insert(request.request, self.written.clone());
        }
        self.pending.insert(request.request, request.clone());
        self.say(OutputBody::Disk(request));
    }

    /// Applies an input where it stands.
    ///
    /// # Errors
    /// It does not fit; nothing has changed.
    pub fn apply(&mut self, input: &Input) -> Result<(), String> {
        if self.over.is_some() {
            return Ok(());
        }
        match input {
            Input::Anchor(anchor) => {
                let now = self.time();
                let back = mutated(Mutation::AnchorBack);
                self.anchor = Anchor { time: anchor.time.max(if back { 0 } else { now }), ..*anchor };
                self.anchored = self.position;
                if self.halted && self.deadline.is_some_and(|deadline| deadline <= self.anchor.time) {
                    self.wake(self.anchor.time);
                }
                return Ok(());
            }
            Input::DiskDone(done) => self.disk_done(done)?,
            Input::NetRx(batch) => {
                for frame in &batch.frames {
                    frame.chunks(8).for_each(|part| {
                        let mut word = [0; 8];
                        word[..part.len()].copy_from_slice(part);
                        self.state = mix(self.state ^ u64::from_le_bytes(word));
                    });
                }
            }
            Input::Console(bytes) => {
                bytes.iter().for_each(|byte| self.state = mix(self.state ^ u64::from(*byte)));
            }
            Input::Entropy { request, bytes } => {
                self.pending_entropy.remove(request).ok_or("entropy that was not asked for")?;
                bytes.iter().for_each(|byte| self.state = mix(self.state ^ u64::from(*byte)));
            }
            Input::Date(seconds) => {
                self.state = mix(self.state ^ seconds);
                return Ok(());
            }
            Input::PowerButton => {
                self.power_off();
                return Ok(());
            }
        }
        self.wake(1);
        if self.state.is_multiple_of(4) && matches!(input, Input::NetRx(_)) {
            self.send();
        }
        Ok(())
    }

    fn wake(&mut self, why: u64) {
        self.halted = false;
        self.deadline = None;
        self.state = mix(self.state ^ why);
    }

    fn disk_done(&mut self, done: &DiskDone) -> Result<(), String> {
        let request = self.pending.remove(&done.request).ok_or("the end of a request that is not pending")?;
        self.state = mix(self.state ^ done.request ^ (done.status as u64) << 32);
        if done.status != DiskStatus::Ok {
            return Ok(());
        }
        match &request.op {
            DiskOp::Read { .. } => {
                for sector in data::decode(&done.data) {
                    self.state = mix(self.state ^ sector.version ^ mix(sector.value));
                }
            }
            DiskOp::Flush => {
                for (sector, version) in self.flushes.remove(&done.request).unwrap_or_default() {
                    let known = self.durable.entry(sector).or_default();
                    *known = version.max(*known);
                }
            }
            op => {
                let version = data::version(self.life, done.request);
                for sector in op.sectors() {
                    let known = self.written.entry(sector).or_default();
                    *known = version.max(*known);
                }
            }
        }
        Ok(())
    }

    /// The outputs since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}
