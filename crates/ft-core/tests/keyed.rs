//! A pair with a key, and strangers: whoever forges, repeats or reflects what the two say changes nothing, and ends nobody.

#[allow(unreachable_pub, reason = "the fixture's own parts")]
#[allow(dead_code, reason = "shared with other tests")]
mod sim;

mod never;
mod peer;

use ft_core::replica::{Effect, Event, Exit, GATE, Mode, Phase, Replica, Settings};
use ft_core::wire::{Copies, Frame, Heartbeat, Hello, Nonces, PeerRole, Refusal, Stamp, WireError};
use ft_core::{OutputClass, ReplicaId};
use ft_policies::{Answer, Key, RegisterState, Who};

use never::{MS, Never, settings};
use sim::{Options, World};

const PAIR: u128 = 77;
const NONE: RegisterState = RegisterState { generation: 0, holder: None };

fn key() -> Option<Key> {
    Some(Key::of([1; 32]))
}

fn other_key() -> Option<Key> {
    Some(Key::of([2; 32]))
}

fn replica(me: ReplicaId, incarnation: u64, key: Option<Key>) -> Replica<u64> {
    let settings = Settings {
        gate_bytes: GATE.0,
        gate_outputs: GATE.1,
        // With disks of its own a side does not start before it knows the other one's: a hello decides something.
        copies: Some(Copies { usable: true, ..Copies::default() }),
        key,
        ..settings(Who { replica: me, incarnation, config: 0 }, PAIR)
    };
    let mut replica = Replica::new(settings, Box::new(Never), Box::new(Never), 0);
    replica.handle(Event::Start, 0);
    replica.handle(Event::Register(Ok(NONE)), 0);
    replica
}

fn effects(replica: &mut Replica<u64>) -> Vec<Effect> {
    std::iter::from_fn(|| replica.poll_effect()).collect()
}

fn notices(effects: &[Effect]) -> Vec<&str> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notice(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn transmitted(replica: &mut Replica<u64>) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| replica.poll_transmit(MS)).collect()
}

/// Two replicas with a connection between them, which is written down.
struct Two {
    nodes: [Replica<u64>; 2],
    /// All that each of them has sent.
    said: [Vec<Vec<u8>>; 2],
}

impl Two {
    /// Connected, with all said that there is to say; replica a has won the first generation if it asked for it.
    fn meet(a: Replica<u64>, b: Replica<u64>) -> Self {
        let mut two = Self { nodes: [a, b], said: Default::default() };
        two.nodes.iter_mut().for_each(|node| node.handle(Event::Connected, MS));
        two.settle();
        two
    }

    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for from in 0..2 {
                for effect in effects(&mut self.nodes[from]) {
                    match effect {
                        Effect::Ask { from: 0 } => {
                            self.nodes[from].handle(Event::Answer { from: 0, answer: Answer::Won }, MS);
                        }
                        Effect::CopyFrom { session } => {
                            self.nodes[from].handle(Event::Copied { session }, MS);
                        }
                        _ => {}
                    }
                }
                for bytes in transmitted(&mut self.nodes[from]) {
                    quiet = false;
                    self.nodes[1 - from].handle(Event::Received(&bytes), MS);
                    self.said[from].push(bytes);
                }
                while let Some(record) = self.nodes[1 - from].take_record() {
                    if let ft_core::Body::Output { class, digest } = record.body {
                        self.nodes[1 - from].made(record.position, class, digest, Some(digest));
                    }
                    assert!(self.nodes[1 - from].execute(&record, MS));
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn pair() -> Self {
        let two = Self::meet(replica(ReplicaId::A, 11, key()), replica(ReplicaId::B, 22, key()));
        two.assert_paired();
        two
    }

    fn assert_paired(&self) {
        let [a, b] = &self.nodes;
        assert!(a.mode() == Mode::Live && a.is_paired() && b.mode() == Mode::Backup && b.is_paired());
    }
}

fn stamp(generation: u64) -> Stamp {
    Stamp { pair: PAIR, generation, session: 0, incarnation: 22 }
}

/// A hello of replica b, which waits; `config` other than 5 is a mistake.
fn hello(config: u128, nonces: Option<Nonces>) -> Frame {
    Frame::Hello(Hello { config, nonces, ..peer::hello(stamp(0), ReplicaId::B, PeerRole::Waiting) })
}

fn beat(stamp: Stamp, role: PeerRole) -> Frame {
    Frame::Heartbeat(Heartbeat { stamp, replica: ReplicaId::B, role, executed: 0, position: 0 })
}

#[test]
fn a_pair_with_a_key_does_what_a_pair_does() {
    let mut two = Two::pair();
    for bytes in two.said.iter().flatten() {
        assert!(Frame::decode_with(bytes, key().as_ref()).is_ok());
        assert_eq!(Frame::decode(bytes), Err(WireError::Tagged), "nothing is said without a tag");
    }
    let [a, _] = &mut two.nodes;
    a.emit(7, OutputClass::Net, 1, 100, 1, MS);
    assert!(a.poll_release(MS).is_none());
    two.settle();
    assert_eq!(two.nodes[0].poll_release(MS).map(|output| output.payload), Some(1));
    // And the datagrams.
    let [a, b] = &mut two.nodes;
    let last = b.last_words();
    a.handle(Event::Datagram(&last), MS);
    assert!(effects(a).contains(&Effect::Peer { incarnation: 22, gone: true }));
}

#[test]
fn a_forged_heartbeat_is_dropped() {
    let mut two = Two::pair();
    let [a, b] = &mut two.nodes;
    let Ok(Frame::Heartbeat(true_one)) = Frame::decode_with(&b.last_words(), key().as_ref()) else {
        panic!("last words are a heartbeat")
    };
    let mut sent = 0;
    for role in [PeerRole::Live, PeerRole::Gone, PeerRole::Backup, PeerRole::Waiting] {
        for stamp in [stamp(2), stamp(u64::MAX), true_one.stamp] {
            let beat = beat(stamp, role);
            let mut own = beat.encode_with(key().as_ref());
            let last = own.len() - 1;
            own[last] ^= 0x80;
            for bytes in [beat.encode(), beat.encode_with(other_key().as_ref()), own] {
                a.handle(Event::Datagram(&bytes), 2 * MS);
                sent += 1;
            }
        }
    }
    assert_eq!(a.status(2 * MS).bad_datagrams, sent);
    assert!(a.is_paired() && a.mode() == Mode::Live && a.last_heard() == MS && effects(a).is_empty());
    // With the key it is another matter.
    a.handle(Event::Datagram(&beat(stamp(2), PeerRole::Live).encode_with(key().as_ref())), 2 * MS);
    assert_eq!(*a.phase(), Phase::Deposed);
}

/// Whoever connects and has no key ends nobody, and is told of once; then the peer comes.
#[test]
fn a_stranger_is_turned_away_from_a_start_and_the_peer_is_not() {
    let newer = {
        let mut bytes = hello(5, None).encode();
        bytes[4] = 9;
        bytes
    };
    let refusal = Refusal { stamp: stamp(0), mismatch: true, reason: "go away".into() };
    let nonces = Some(Nonces { mine: 1, yours: 12 });
    let forged = [
        hello(5, None).encode(),
        hello(6, nonces).encode(),
        hello(5, nonces).encode_with(other_key().as_ref()),
        Frame::Refusal(refusal).encode(),
        newer,
    ];
    let mut a = replica(ReplicaId::A, 11, key());
    let mut told = Vec::new();
    for bytes in forged.iter().cycle().take(100) {
        a.handle(Event::Connected, MS);
        a.handle(Event::Received(bytes), MS);
        assert!(!a.has_hello() && *a.phase() == Phase::Waiting && !a.is_asking());
        let done = effects(&mut a);
        assert!(done.contains(&Effect::CloseLink));
        told.extend(notices(&done).into_iter().map(str::to_owned));
        transmitted(&mut a);
    }
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("turned away") && told[0].contains("not signed"), "{}", told[0]);
    assert!(told[1].contains("another one") && told[2].contains("version 9"), "{told:?}");
    assert_eq!(a.status(MS).turned_away, 100);
    Two::meet(a, replica(ReplicaId::B, 22, key())).assert_paired();
}

/// What the peer said once is no word of its now: not a hello (its disks may be others since), and not a refusal.
#[test]
fn what_is_repeated_on_another_connection_counts_for_nothing() {
    let mut said = Two::pair().said.concat();
    // Also what one would have said who has another config.
    let refusal = Refusal { stamp: stamp(0), mismatch: true, reason: "go away".into() };
    said.push(Frame::Refusal(refusal).encode_with(key().as_ref()));
    for nonces in [None, Some(Nonces { mine: 0, yours: 0 }), Some(Nonces { mine: 23, yours: 12 })] {
        said.push(hello(6, nonces).encode_with(key().as_ref()));
    }
    // To another process, and to the same one on a later connection.
    for process in [12, 11] {
        let mut a = replica(ReplicaId::A, process, key());
        a.handle(Event::Connected, MS);
        for round in 0..3 {
            a.handle(Event::Connected, MS);
            for bytes in &said {
                a.handle(Event::Received(bytes), MS);
            }
            assert!(!a.has_hello() && !a.is_asking() && *a.phase() == Phase::Waiting, "{process} {round}");
            let done = effects(&mut a);
            assert!(!done.iter().any(|effect| matches!(effect, Effect::Halt { .. } | Effect::Peer { .. })));
            assert!(transmitted(&mut a).len() <= 2, "one answer, however much is repeated");
        }
        Two::meet(a, replica(ReplicaId::B, 22, key())).assert_paired();
    }
}

#[test]
fn what_is_sent_back_counts_for_nothing() {
    let mut a = replica(ReplicaId::A, 11, key());
    for _ in 0..3 {
        a.handle(Event::Connected, MS);
        let mut rounds = 0;
        loop {
            let own = transmitted(&mut a);
            if own.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 5, "it talks to itself");
            own.iter().for_each(|bytes| a.handle(Event::Received(bytes), MS));
        }
        assert!(!a.has_hello() && *a.phase() == Phase::Waiting);
    }
    Two::meet(a, replica(ReplicaId::B, 22, key())).assert_paired();
}

/// A peer that has the key, and another config, is the operator's mistake.
#[test]
fn a_peer_with_the_key_may_still_be_the_wrong_one() {
    let mut a = replica(ReplicaId::A, 11, key());
    a.handle(Event::Connected, MS);
    let own = transmitted(&mut a);
    let Ok(Frame::Hello(Hello { nonces: Some(Nonces { mine, yours: 0 }), .. })) =
        Frame::decode_with(&own[0], key().as_ref())
    else {
        panic!("{own:?}")
    };
    let theirs = hello(6, Some(Nonces { mine: 1, yours: mine })).encode_with(key().as_ref());
    a.handle(Event::Received(&theirs), MS);
    let ended = effects(&mut a);
    assert!(
        ended.iter().any(|effect| matches!(effect, Effect::Halt { exit: Exit::Mismatch, .. })),
        "{ended:?}"
    );
}

#[test]
fn a_side_without_the_key_says_that_it_has_none() {
    let signed = hello(5, Some(Nonces { mine: 1, yours: 0 })).encode_with(key().as_ref());
    // Nothing runs yet: as with any other config that is not the peer's, it ends.
    let mut a = replica(ReplicaId::A, 11, None);
    a.handle(Event::Connected, MS);
    a.handle(Event::Received(&signed), MS);
    let ended = effects(&mut a);
    assert!(
        ended.iter().any(|effect| matches!(effect, Effect::Halt { exit: Exit::Mismatch, message }
            if message.contains("this side does not have the pair's key"))),
        "{ended:?}"
    );
    // Alone with its guest it goes on.
    let two = Two::meet(replica(ReplicaId::A, 11, None), replica(ReplicaId::B, 22, None));
    two.assert_paired();
    let [mut a, _] = two.nodes;
    a.handle(Event::Disconnected("closed".into()), MS);
    a.handle(Event::Answer { from: 1, answer: Answer::Won }, MS);
    effects(&mut a);
    let mut told = 0;
    for _ in 0..10 {
        a.handle(Event::Connected, MS);
        a.handle(Event::Received(&signed), MS);
        told += notices(&effects(&mut a)).iter().filter(|text| text.contains("pair's key")).count();
    }
    assert_eq!((told, a.mode()), (1, Mode::Live));
}

/// Both say why, and none of them ends: whichever may start alone does.
#[test]
fn two_with_different_keys_are_no_pair() {
    let options = Options { start_alone: 500 * MS, keys: [key(), other_key()], ..Options::default() };
    let mut world = World::new(1, &options);
    assert!(world.until(2000, |world| world.live() == [0]), "replica a starts alone");
    for node in &world.nodes {
        let said = node.messages.iter().filter(|message| message.contains("does not have this pair's key"));
        assert_eq!(said.count(), 1, "{:?}", node.messages);
        assert_eq!(node.ended, None);
    }
    assert!(world.nodes.iter().all(|node| !node.replica.is_paired()));
}
