//! Which IPv4 addresses the guest uses, learned from the frames that it makes.
//!
//! A backup makes the same frames and keeps them back, so it knows the same addresses, and can have the network told where they
//! are when it goes live. What the guest says of itself by ARP counts; a guest that was never heard to say anything (its
//! neighbours were told, or a backup has joined since) is known by what it sends.

use std::net::Ipv4Addr;

/// Addresses that are remembered: the last ones.
const REMEMBERED: usize = 4;
/// Where an Ethernet frame's sender, its protocol and its content are.
const SENDER: std::ops::Range<usize> = 6..12;
const PROTOCOL: std::ops::Range<usize> = 12..14;
const CONTENT: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// How an ARP packet begins whose addresses are Ethernet's and IPv4's; the operation follows.
const ARP_HEAD: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

/// What is known of a guest.
#[derive(Debug)]
pub(super) struct Addresses {
    mac: [u8; 6],
    /// By ARP, the latest first.
    claimed: Vec<Ipv4Addr>,
    /// As the sender of packets, the latest first.
    used: Vec<Ipv4Addr>,
}

impl Addresses {
    /// Of a guest with this link-layer address.
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Self { mac, claimed: Vec::new(), used: Vec::new() }
    }

    /// The guest makes this frame.
    pub(super) fn note(&mut self, frame: &[u8]) {
        if frame.get(SENDER) != Some(&self.mac) {
            return;
        }
        let (Some(protocol), Some(content)) = (frame.get(PROTOCOL), frame.get(CONTENT..)) else { return };
        if protocol == ARP {
            remember(&mut self.claimed, arp_sender(content, self.mac));
        } else if protocol == IPV4 {
            remember(&mut self.used, ipv4_sender(content));
        }
    }

    /// Its addresses, as far as they are known.
    pub(super) fn known(&self) -> Vec<Ipv4Addr> {
        if self.claimed.is_empty() { self.used.clone() } else { self.claimed.clone() }
    }
}

fn remember(list: &mut Vec<Ipv4Addr>, address: Option<Ipv4Addr>) {
    let Some(address) = address.filter(|&address| is_somebodys(address)) else { return };
    match list.iter().position(|&known| known == address) {
        Some(0) => {}
        Some(place) => list[..=place].rotate_right(1),
        None => {
            list.truncate(REMEMBERED - 1);
            list.insert(0, address);
        }
    }
}

/// An address that one host can have.
fn is_somebodys(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

/// Who a packet says is at `mac`.
fn arp_sender(packet: &[u8], mac: [u8; 6]) -> Option<Ipv4Addr> {
    let rest = packet.strip_prefix(&ARP_HEAD)?.get(2..)?;
    let address: [u8; 4] = rest.strip_prefix(&mac)?.get(..4)?.try_into().ok()?;
    Some(address.into())
}

fn ipv4_sender(packet: &[u8]) -> Option<Ipv4Addr> {
    let address: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    // All of the shortest header must be there.
    (packet.len() >= 20 && packet[0] >> 4 == 4).then_some(address.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(protocol: [u8; 2], content: &[&[u8]]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC, &protocol, &content.concat()].concat()
    }

    fn arp(address: [u8; 4]) -> Vec<u8> {
        frame(ARP, &[&ARP_HEAD, &[0, 2], &MAC, &address, &[0; 10]])
    }

    fn ipv4(address: [u8; 4]) -> Vec<u8> {
        frame(IPV4, &[&[0x45; 12], &address, &[10, 0, 2, 2]])
    }

    fn known(frames: &[Vec<u8>]) -> Vec<[u8; 4]> {
        let mut addresses = Addresses::new(MAC);
        frames.iter().for_each(|frame| addresses.note(frame));
        addresses.known().iter().map(Ipv4Addr::octets).collect()
    }

    #[test]
    fn what_the_guest_says_of_itself_counts() {
        assert_eq!(known(&[]), [[0; 4]; 0]);
        assert_eq!(known(&[ipv4([10, 0, 2, 15])]), [[10, 0, 2, 15]]);
        // It forwards packets of others, which does not make their addresses its own.
        assert_eq!(known(&[arp([10, 0, 2, 15]), ipv4([192, 0, 2, 1])]), [[10, 0, 2, 15]]);
    }

    #[test]
    fn the_latest_are_remembered() {
        let frames: Vec<_> = [1, 2, 3, 4, 5, 3].map(|last| arp([10, 0, 0, last])).into();
        assert_eq!(known(&frames), [3, 5, 4, 2].map(|last| [10, 0, 0, last]));
    }

    #[test]
    fn addresses_that_nobody_can_have_are_none() {
        // An ARP probe, and a host that asks for an address, say nothing.
        for address in [[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]] {
            assert_eq!(known(&[arp(address), ipv4(address)]), [[0; 4]; 0]);
        }
    }

    #[test]
    fn frames_of_other_senders_say_nothing() {
        let mut foreign = arp([10, 0, 2, 15]);
        foreign[11] = 9;
        // The frame is the guest's, but it speaks of somebody else.
        let mut about_another = arp([10, 0, 2, 15]);
        about_another[27] = 9;
        let tagged = frame([0x81, 0], &[&[0, 5], &IPV4, &[0x45; 20]]);
        assert_eq!(known(&[foreign, about_another, tagged]), [[0; 4]; 0]);
    }

    proptest! {
        #[test]
        fn any_frames_are_no_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            known(&frames);
        }

        #[test]
        fn any_end_of_a_frame_is_no_panic(length in 0usize..42, address in any::<[u8; 4]>()) {
            for mut frame in [arp(address), ipv4(address)] {
                frame.truncate(length);
                prop_assert!(known(&[frame]).len() <= 1);
            }
        }

        /// Both sides make the same frames, whatever became of them: they know the same, and never too much.
        #[test]
        fn what_is_known_is_bounded_and_follows_from_the_frames(
            last in prop::collection::vec((any::<bool>(), any::<u8>()), 0..40)
        ) {
            let frame = |(by_arp, last)| if by_arp { arp([10, 0, 0, last]) } else { ipv4([10, 0, 1, last]) };
            let frames: Vec<_> = last.into_iter().map(frame).collect();
            let found = known(&frames);
            prop_assert!(found.len() <= REMEMBERED);
            prop_assert_eq!(found, known(&frames));
        }
    }
}
