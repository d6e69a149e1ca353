//! What a network is told when the guest has come to another of its ports: who has learned where it was must learn it again.
//!
//! Two kinds of frames, both from the guest's own link-layer address, to all: a reverse ARP request, which says nothing but "here",
//! and moves the entry of every switch and bridge on its way; and for each address that the guest is known to use an ARP
//! announcement (RFC 5227), which also reaches hosts and routers that had forgotten it. A frame may be lost: they are repeated.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// When they are made, from the moment at which the guest is here (PROTOCOL section 6).
const AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
];
/// One that is later than this is not made: a launcher that stood still for so long must not speak of what was before.
const LATE: Duration = Duration::from_millis(250);
/// The shortest Ethernet frame, without its checksum.
const SHORTEST: usize = 60;

const ARP: u16 = 0x0806;
const REVERSE_ARP: u16 = 0x8035;
const REQUEST: u16 = 1;
const REVERSE_REQUEST: u16 = 3;

/// The announcements of one arrival.
#[derive(Debug)]
pub(super) struct Announcement {
    frames: Vec<Vec<u8>>,
    since: Instant,
    made: usize,
}

impl Announcement {
    /// The first one is due at once.
    pub(super) fn new(mac: [u8; 6], addresses: &[Ipv4Addr], now: Instant) -> Self {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let mut frames = vec![frame(mac, REVERSE_ARP, REVERSE_REQUEST, (mac, nobody), (mac, nobody))];
        for &address in addresses {
            frames.push(frame(mac, ARP, REQUEST, (mac, address), ([0; 6], address)));
        }
        Self { frames, since: now, made: 0 }
    }

    /// Whether its frames are to be sent now; this counts as done.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let due = AT[self.made..].iter().take_while(|&&at| at <= passed).count();
        self.made += due;
        // Several that have become due together are one.
        due > 0 && passed - AT[self.made - 1] <= LATE
    }

    /// What everybody is to hear.
    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.clone()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        AT.get(self.made).map(|&at| self.since + at)
    }
}

/// An ARP packet of either kind, to all.
fn frame(
    from: [u8; 6],
    protocol: u16,
    operation: u16,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&protocol.to_be_bytes());
    // Ethernet addresses of 6 bytes, IPv4 addresses of 4.
    frame.extend_from_slice(&[0, 1, 0x08, 0, 6, 4]);
    frame.extend_from_slice(&operation.to_be_bytes());
    for (link, address) in [sender, target] {
        frame.extend_from_slice(&link);
        frame.extend_from_slice(&address.octets());
    }
    frame.resize(SHORTEST, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn they_are_repeated_and_end() {
        let since = Instant::now();
        let mut announcement = Announcement::new(MAC, &[], since);
        for at in [0, 50, 150, 300, 600] {
            assert_eq!(announcement.next(), Some(since + millis(at)));
            if at > 0 {
                assert!(!announcement.is_due(since + millis(at - 1)));
            }
            assert!(announcement.is_due(since + millis(at)));
            assert!(!announcement.is_due(since + millis(at)));
        }
        assert_eq!(announcement.next(), None);
        assert!(!announcement.is_due(since + millis(10_000)));
    }

    #[test]
    fn a_launcher_that_stood_still_does_not_speak_of_what_was() {
        let since = Instant::now();
        let mut announcement = Announcement::new(MAC, &[], since);
        assert!(announcement.is_due(since));
        assert!(announcement.is_due(since + millis(310)));
        assert_eq!(announcement.next(), Some(since + millis(600)));
        assert!(!announcement.is_due(since + millis(60_000)));
        assert_eq!(announcement.next(), None);
    }

    #[test]
    fn what_is_said() {
        let announcement = Announcement::new(MAC, &[Ipv4Addr::new(10, 0, 2, 15)], Instant::now());
        let [reverse, arp] = announcement.frames().try_into().expect("one of each");
        let head = |protocol: [u8; 2], operation| {
            let mut head = vec![0xff; 6];
            head.extend_from_slice(&MAC);
            head.extend_from_slice(&protocol);
            head.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
            head.extend_from_slice(&MAC);
            head
        };
        assert_eq!(reverse[..28], head([0x80, 0x35], 3));
        assert_eq!(reverse[28..42], [0, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
        assert_eq!(arp[..28], head([0x08, 0x06], 1));
        assert_eq!(arp[28..42], [10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 15]);
        assert_eq!((reverse.len(), arp.len()), (60, 60));
    }
}
