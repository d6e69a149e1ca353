//! The switch between the host's side of the LAN and the two replicas, without I/O.
//!
//! There is one guest, so there is one port that counts: the one of the live replica. It moves when the replica says that
//! it is live, with a generation that was won, and never because a frame was seen (a deposed primary also sends frames).
//!
//! Towards the guest, frames are numbered and kept until the live replica reports that its backup has acknowledged
//! them. When the port moves, the kept ones are handed over again: what was on its way to a primary that died is not lost,
//! and a client's connection does not wait for a retransmission (a second at least).
//!
//! Numbers begin at 1, unless the guest comes from a host with a switch of its own: then the log has that one's numbers, and
//! this switch goes on above them. A replica takes no number for new that it has seen.

use std::collections::VecDeque;

use ft_core::mutation::{Mutation, mutated};

use crate::launcher::messages::{LAN_PACKET_MAX, LanPacket};

/// Frames kept at most; beyond that the oldest is dropped, as any network may.
pub const KEPT_FRAMES: usize = 16_384;
/// Bytes of frames kept at most.
pub const KEPT_BYTES: usize = 16 << 20;
/// Frames held for a generation that has not been announced yet.
const EARLY_FRAMES: usize = 4096;
/// Lengths of an Ethernet frame without FCS, with room for one VLAN tag.
const FRAME_LENGTHS: std::ops::RangeInclusive<usize> = 14..=1518;
/// Bytes before the first frame of a packet, and before each frame.
const PACKET_HEAD: usize = 11;
const FRAME_HEAD: usize = 2;

/// The highest number that is believed: what comes above it does not overflow in the life of any machine.
const HIGHEST_SEEN: u64 = u64::MAX / 2;

/// The port of replica a (0) or b (1).
pub type Port = usize;

/// What happened on the LAN, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Frames for the guest.
    pub to_guest: u64,
    /// Frames of the live replica.
    pub from_guest: u64,
    /// Frames for the guest that were dropped because too many were kept.
    pub dropped_full: u64,
    /// Frames of a generation that is over, or of a replica that is not live.
    pub dropped_stale: u64,
    /// Frames of a generation that was not announced, beyond the bound.
    pub dropped_early: u64,
    /// Frames that are too short, too long, or for no network there is.
    pub dropped_malformed: u64,
    /// Frames that were handed over a second time when the port moved.
    pub handed_again: u64,
}

/// What a replica says makes no sense; it is not to be trusted any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Live in a generation that is over.
    #[error("it says it is live in generation {said}, but generation {current} has begun")]
    OldGeneration {
        /// What it said.
        said: u64,
        /// What is so.
        current: u64,
    },
    /// Live in a generation that the other one won.
    #[error("it says it is live in generation {generation}, which is the other replica's")]
    NotItsGeneration {
        /// The generation.
        generation: u64,
    },
    /// Has seen frames with numbers that no switch gives.
    #[error("it says that its guest has seen frame {seen}, and no network has so many")]
    NeverSeen {
        /// What it said.
        seen: u64,
    },
    /// Acknowledges frames that nobody was given.
    #[error("it acknowledges frame {seq}, but the last one handed out is {handed}")]
    NotHanded {
        /// What it acknowledged.
        seq: u64,
        /// The last number that was given out.
        handed: u64,
    },
}

/// The switch of one network. See the module's description.
#[derive(Debug, Default)]
pub struct Switch {
    generation: u64,
    live: Option<Port>,
    /// Consecutive numbers, `first_kept` being that of the front.
    kept: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    first_kept: u64,
    /// Next one to hand to the live replica.
    cursor: u64,
    /// Last one that any replica was handed.
    handed: u64,
    early: VecDeque<(Port, u64, Vec<u8>)>,
    /// What happened so far.
    pub counters: Counters,
}

impl Switch {
    /// No guest yet.
    pub fn new() -> Self {
        Self { first_kept: 1, cursor: 1, ..Self::default() }
    }

    /// The generation of the live replica; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the guest is.
    pub fn live(&self) -> Option<Port> {
        self.live
    }

    /// Frames that are kept.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// The guest is at `port` from now on, and has been given all frames up to number `seen`, by this switch or by another host's.
    /// Adds to `out` the frames of that generation that came before this message.
    ///
    /// # Errors
    /// A generation that is over, or that the other replica won; numbers that cannot be.
    pub fn go_live(
        &mut self,
        port: Port,
        generation: u64,
        seen: u64,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), Violation> {
        if generation < self.generation {
            return Err(Violation::OldGeneration { said: generation, current: self.generation });
        }
        if generation == self.generation && self.live.is_some_and(|live| live != port) {
            return Err(Violation::NotItsGeneration { generation });
        }
        if seen > HIGHEST_SEEN {
            return Err(Violation::NeverSeen { seen });
        }
        if seen > self.handed {
            self.go_on_above(seen);
        }
        if self.live != Some(port) {
            self.counters.handed_again += self.cursor - self.first_kept;
            self.cursor = self.first_kept;
        }
        self.generation = generation;
        self.live = Some(port);
        let early = std::mem::take(&mut self.early);
        for (from, number, frame) in early {
            self.frame_from(from, number, frame, out);
        }
        Ok(())
    }

    /// Another switch has given numbers up to `seen` since this one had the guest. What was handed over here is of that time, and
    /// forgotten; what nobody was given yet comes next.
    fn go_on_above(&mut self, seen: u64) {
        while self.first_kept < self.cursor && self.forget_oldest() {}
        self.handed = seen;
        self.first_kept = seen + 1;
        self.cursor = self.first_kept;
    }

    /// The live replica's backup has the record of all frames up to `seq`.
    ///
    /// # Errors
    /// Frames that were never handed out.
    pub fn acknowledged(&mut self, port: Port, generation: u64, seq: u64) -> Result<(), Violation> {
        if seq > self.handed {
            return Err(Violation::NotHanded { seq, handed: self.handed });
        }
        if self.live == Some(port) && generation == self.generation {
            while self.first_kept <= seq && self.forget_oldest() {}
        }
        Ok(())
    }

    /// A frame of the host's side for the guest.
    pub fn to_guest(&mut self, frame: Vec<u8>) {
        if !FRAME_LENGTHS.contains(&frame.len()) {
            self.counters.dropped_malformed += 1;
            return;
        }
        self.counters.to_guest += 1;
        self.kept_bytes += frame.len();
        self.kept.push_back(frame);
        while (self.kept.len() > KEPT_FRAMES || self.kept_bytes > KEPT_BYTES) && self.forget_oldest() {
            self.counters.dropped_full += 1;
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(frame) = self.kept.pop_front() else { return false };
        self.kept_bytes -= frame.len();
        self.first_kept += 1;
        // Frames that the new live replica has in its log already need not be handed to it.
        self.cursor = self.cursor.max(self.first_kept);
        true
    }

    /// A packet of a replica. Adds to `out` the frames that the guest really sent.
    pub fn from_replica(&mut self, port: Port, packet: LanPacket, out: &mut Vec<Vec<u8>>) {
        let LanPacket { nic, number, frames } = packet;
        for frame in frames {
            if nic != 0 || !FRAME_LENGTHS.contains(&frame.len()) {
                self.counters.dropped_malformed += 1;
            } else {
                self.frame_from(port, number, frame, out);
            }
        }
    }

    fn frame_from(&mut self, port: Port, generation: u64, frame: Vec<u8>, out: &mut Vec<Vec<u8>>) {
        if mutated(Mutation::SwitchLearns) {
            self.live = Some(port);
            return out.push(frame);
        }
        if generation > self.generation {
            // Its announcement comes on another socket and was not read yet.
            if self.early.len() < EARLY_FRAMES {
                self.early.push_back((port, generation, frame));
            } else {
                self.counters.dropped_early += 1;
            }
        } else if generation < self.generation || self.live != Some(port) {
            self.counters.dropped_stale += 1;
        } else {
            self.counters.from_guest += 1;
            out.push(frame);
        }
    }

    /// The next batch for the live replica in `buffer`, as [`LanPacket`] says, with its port; `None` if there is nothing to
    /// hand over. It counts as handed over with [`Switch::sent`] only.
    pub fn next_packet(&self, buffer: &mut Vec<u8>) -> Option<(Port, u64)> {
        let port = self.live?;
        let skip = usize::try_from(self.cursor - self.first_kept).ok()?;
        let mut frames = self.kept.iter().skip(skip).peekable();
        frames.peek()?;
        buffer.clear();
        buffer.push(crate::launcher::messages::LAN_FRAMES);
        buffer.extend_from_slice(&0u16.to_le_bytes());
        buffer.extend_from_slice(&self.cursor.to_le_bytes());
        debug_assert_eq!(buffer.len(), PACKET_HEAD);
        let mut count = 0;
        for frame in frames {
            if buffer.len() + FRAME_HEAD + frame.len() > LAN_PACKET_MAX {
                break;
            }
            // `to_guest` let nothing in that is longer.
            buffer.extend_from_slice(&(frame.len() as u16).to_le_bytes());
            buffer.extend_from_slice(frame);
            count += 1;
        }
        Some((port, count))
    }

    /// The batch of [`Switch::next_packet`] was taken.
    pub fn sent(&mut self, count: u64) {
        self.cursor += count;
        self.handed = self.handed.max(self.cursor - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8) -> Vec<u8> {
        vec![tag; 60]
    }

    fn take(switch: &mut Switch) -> Option<(Port, LanPacket)> {
        let mut buffer = Vec::new();
        let (port, count) = switch.next_packet(&mut buffer)?;
        switch.sent(count);
        let packet = LanPacket::decode(&buffer).unwrap();
        assert_eq!(packet.frames.len() as u64, count);
        Some((port, packet))
    }

    fn packet(generation: u64, tag: u8) -> LanPacket {
        LanPacket { nic: 0, number: generation, frames: vec![frame(tag)] }
    }

    #[test]
    fn frames_wait_for_a_live_replica_and_are_numbered_from_one() {
        let mut switch = Switch::new();
        switch.to_guest(frame(1));
        assert_eq!(take(&mut switch), None);
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        switch.to_guest(frame(2));
        let expected = LanPacket { nic: 0, number: 1, frames: vec![frame(1), frame(2)] };
        assert_eq!(take(&mut switch), Some((0, expected)));
        assert_eq!(take(&mut switch), None);
        switch.to_guest(frame(3));
        assert_eq!(take(&mut switch).unwrap().1.number, 3);
        assert_eq!(switch.kept(), 3);
    }

    #[test]
    fn a_move_hands_over_exactly_what_was_not_acknowledged() {
        let mut switch = Switch::new();
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        for tag in 1..=5 {
            switch.to_guest(frame(tag));
        }
        take(&mut switch).unwrap();
        switch.acknowledged(0, 1, 2).unwrap();
        switch.go_live(1, 2, 0, &mut Vec::new()).unwrap();
        assert_eq!(switch.counters.handed_again, 3);
        // Late words of the old primary change nothing.
        switch.acknowledged(0, 1, 4).unwrap();
        let expected = LanPacket { nic: 0, number: 3, frames: vec![frame(3), frame(4), frame(5)] };
        assert_eq!(take(&mut switch), Some((1, expected)));
    }

    #[test]
    fn what_the_new_primary_has_in_its_log_is_not_handed_to_it() {
        let mut switch = Switch::new();
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        (1..=5).for_each(|tag| switch.to_guest(frame(tag)));
        take(&mut switch).unwrap();
        switch.go_live(1, 2, 0, &mut Vec::new()).unwrap();
        switch.acknowledged(1, 2, 4).unwrap();
        assert_eq!(take(&mut switch).unwrap().1, LanPacket { nic: 0, number: 5, frames: vec![frame(5)] });
    }

    #[test]
    fn going_on_alone_repeats_nothing() {
        let mut switch = Switch::new();
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        switch.to_guest(frame(1));
        take(&mut switch).unwrap();
        switch.go_live(0, 2, 0, &mut Vec::new()).unwrap();
        assert_eq!(take(&mut switch), None);
        assert_eq!(switch.generation(), 2);
    }

    #[test]
    fn only_the_live_replica_of_this_generation_is_heard() {
        let mut switch = Switch::new();
        let mut out = Vec::new();
        switch.go_live(0, 3, 0, &mut out).unwrap();
        switch.from_replica(0, packet(3, 1), &mut out);
        assert_eq!(out.len(), 1);
        switch.from_replica(0, packet(2, 2), &mut out);
        switch.from_replica(1, packet(3, 3), &mut out);
        switch.from_replica(1, packet(0, 4), &mut out);
        assert_eq!((out.len(), switch.counters.dropped_stale), (1, 3));
        // The new primary's frames overtake its announcement; the old one goes on sending.
        switch.from_replica(1, packet(4, 5), &mut out);
        assert_eq!(out.len(), 1);
        switch.go_live(1, 4, 0, &mut out).unwrap();
        switch.from_replica(0, packet(3, 6), &mut out);
        assert_eq!(out, [frame(1), frame(5)]);
    }

    #[test]
    fn a_generation_is_never_taken_back_or_shared() {
        let mut switch = Switch::new();
        switch.go_live(1, 5, 0, &mut Vec::new()).unwrap();
        assert!(matches!(switch.go_live(0, 4, 0, &mut Vec::new()), Err(Violation::OldGeneration { .. })));
        assert!(matches!(switch.go_live(0, 5, 0, &mut Vec::new()), Err(Violation::NotItsGeneration { .. })));
        assert_eq!((switch.live(), switch.generation()), (Some(1), 5));
    }

    #[test]
    fn acknowledging_what_was_never_handed_out_is_seen() {
        let mut switch = Switch::new();
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        switch.to_guest(frame(1));
        assert_eq!(switch.acknowledged(0, 1, 1), Err(Violation::NotHanded { seq: 1, handed: 0 }));
        assert_eq!(
            switch.acknowledged(0, 1, u64::MAX),
            Err(Violation::NotHanded { seq: u64::MAX, handed: 0 })
        );
        assert_eq!(switch.kept(), 1);
    }

    #[test]
    fn a_guest_from_another_host_brings_its_numbers() {
        // Replica b's own launcher: its one replica is at port 0.
        let mut switch = Switch::new();
        switch.go_live(0, 2, 1000, &mut Vec::new()).unwrap();
        assert_eq!(switch.acknowledged(0, 2, 1000), Ok(()));
        switch.to_guest(frame(1));
        switch.to_guest(frame(2));
        assert_eq!(switch.acknowledged(0, 2, 1001), Err(Violation::NotHanded { seq: 1001, handed: 1000 }));
        let expected = LanPacket { nic: 0, number: 1001, frames: vec![frame(1), frame(2)] };
        assert_eq!(take(&mut switch), Some((0, expected)));
        switch.acknowledged(0, 2, 1001).unwrap();
        assert_eq!(switch.kept(), 1);
        // It loses a backup later and says the same again: nothing moves.
        switch.go_live(0, 3, 1002, &mut Vec::new()).unwrap();
        assert_eq!((take(&mut switch), switch.kept()), (None, 1));
    }

    #[test]
    fn what_was_handed_over_before_the_guest_was_elsewhere_is_forgotten() {
        let mut switch = Switch::new();
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        switch.to_guest(frame(1));
        take(&mut switch).unwrap();
        switch.to_guest(frame(2));
        switch.go_live(0, 5, 70, &mut Vec::new()).unwrap();
        assert_eq!(take(&mut switch), Some((0, LanPacket { nic: 0, number: 71, frames: vec![frame(2)] })));
        assert_eq!(switch.kept_bytes, 60);
    }

    #[test]
    fn numbers_that_cannot_be_are_not_believed() {
        let mut switch = Switch::new();
        for seen in [HIGHEST_SEEN + 1, u64::MAX] {
            assert_eq!(switch.go_live(0, 1, seen, &mut Vec::new()), Err(Violation::NeverSeen { seen }));
        }
        assert_eq!(switch.live(), None);
    }

    #[test]
    fn all_queues_are_bounded() {
        let mut switch = Switch::new();
        for _ in 0..KEPT_FRAMES + 10 {
            switch.to_guest(frame(0));
        }
        assert_eq!((switch.kept(), switch.counters.dropped_full), (KEPT_FRAMES, 10));
        for _ in 0..KEPT_FRAMES {
            switch.to_guest(vec![0; 1514]);
        }
        assert!(switch.kept_bytes <= KEPT_BYTES && switch.kept() > 11_000);
        // What is handed over next is the oldest that there still is, with its own number.
        switch.go_live(0, 1, 0, &mut Vec::new()).unwrap();
        let first = switch.first_kept;
        let (_, batch) = take(&mut switch).unwrap();
        assert_eq!(batch.number, first);
        assert!(batch.encode().len() <= LAN_PACKET_MAX);
        for _ in 0..EARLY_FRAMES + 7 {
            switch.from_replica(1, packet(9, 0), &mut Vec::new());
        }
        assert_eq!((switch.early.len(), switch.counters.dropped_early), (EARLY_FRAMES, 7));
    }

    #[test]
    fn frames_that_are_none_are_dropped() {
        let mut switch = Switch::new();
        let mut out = Vec::new();
        switch.go_live(0, 1, 0, &mut out).unwrap();
        let frames = vec![vec![], vec![1; 13], vec![1; 1519], vec![1; 65_535]];
        switch.from_replica(0, LanPacket { nic: 0, number: 1, frames }, &mut out);
        switch.from_replica(0, LanPacket { nic: 1, number: 1, frames: vec![frame(1)] }, &mut out);
        switch.to_guest(vec![0; 9000]);
        assert_eq!((out.len(), switch.counters.dropped_malformed), (0, 6));
    }
}
