//! Log connections: two streams of bytes each, which arrive in pieces, late, or not at all while something is in their way.

use std::collections::{BTreeMap, VecDeque};

use ft_core::Nanos;

/// Bytes that the sockets of one direction hold.
const BUFFER: usize = 64 * 1024;

/// One direction.
#[derive(Debug, Default)]
pub struct Stream {
    /// Bytes and when they arrive.
    pub queue: VecDeque<(Nanos, Vec<u8>)>,
    /// How many.
    pub bytes: usize,
    /// When the last of them arrive.
    pub last: Nanos,
    /// When the end arrives, after all bytes.
    pub end: Option<Nanos>,
}

impl Stream {
    /// True if more can be sent.
    pub fn has_room(&self) -> bool {
        self.bytes < BUFFER
    }

    /// Ends at this time, and nothing that is on its way arrives.
    pub fn reset(&mut self, at: Nanos) {
        self.queue.clear();
        self.bytes = 0;
        self.end = Some(at);
    }
}

/// A connection. Its ends are of seat 0 and 1.
#[derive(Debug, Default)]
pub struct Link {
    /// Towards seat 0 and seat 1.
    pub to: [Stream; 2],
    /// Nobody holds this end any more.
    pub closed: [bool; 2],
    /// This end's host is down: nobody answers for it.
    pub down: [bool; 2],
}

/// One of the bits changes: of all, or of the last ones, which are a record's content more often than not, where nothing but a checksum
/// finds it.
pub fn flip(bytes: &mut [u8], number: u64) {
    let place = (number >> 8) as usize;
    let at =
        if number & 8 == 0 { place % bytes.len().max(1) } else { bytes.len().saturating_sub(1 + place % 8) };
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (number & 7);
    }
}

/// All connections that somebody holds, and what is in their way.
#[derive(Debug, Default)]
pub struct Links {
    /// By number.
    pub open: BTreeMap<u64, Link>,
    next: u64,
    /// Nothing passes towards a seat, for so many reasons.
    pub blocked: [u32; 2],
    /// Connections stand still towards a seat, for so many reasons.
    pub clogged: [u32; 2],
    /// A bit of what is sent next towards a seat changes on its way.
    pub damage: [Option<u64>; 2],
    /// No datagram passes towards a seat, for so many reasons.
    pub deaf: [u32; 2],
}

impl Links {
    /// A new connection.
    pub fn connect(&mut self) -> u64 {
        self.next += 1;
        self.open.insert(self.next, Link::default());
        self.next
    }

    /// True if bytes pass towards that seat.
    pub fn pass(&self, to: usize) -> bool {
        self.blocked[to] == 0 && self.clogged[to] == 0
    }

    /// Takes bytes that have arrived: at most `most` of them.
    pub fn take(&mut self, link: u64, to: usize, now: Nanos, most: usize) -> Option<Vec<u8>> {
        if !self.pass(to) {
            return None;
        }
        let stream = &mut self.open.get_mut(&link)?.to[to];
        if stream.queue.front()?.0 > now {
            return None;
        }
        let (at, mut bytes) = stream.queue.pop_front()?;
        if bytes.len() > most {
            stream.queue.push_front((at, bytes.split_off(most)));
        }
        stream.bytes -= bytes.len();
        Some(bytes)
    }

    /// True if the end of the stream has arrived.
    pub fn has_ended(&self, link: u64, to: usize, now: Nanos) -> bool {
        let Some(link) = self.open.get(&link) else { return true };
        let stream = &link.to[to];
        self.pass(to) && stream.queue.is_empty() && stream.end.is_some_and(|end| end <= now)
    }
}
