//! A position that is told before the primary has reached it, and processors that are not the same.

mod never;
mod peer;

use ft_core::replica::{Effect, Event, Exit, Mode, Replica, STUCK, Settings};
use ft_core::wire::{Ack, CpuLeaf, Frame, Hello, LogFrame, PeerRole, Stamp};
use ft_core::{Body, LogRecord, OutputClass, ReplicaId};
use ft_policies::{Answer, RegisterState, Who};

use never::{MS, Never, settings};

const PAIR: u128 = 77;
const PEER: u64 = 4242;
const SECOND: u64 = 1_000 * MS;

fn replica(me: ReplicaId, cpu: Vec<CpuLeaf>) -> Replica<u64> {
    let me = Who { replica: me, incarnation: 11, config: 0 };
    let settings =
        Settings { cpu, divergence_hint: "a hint", ack_timeout: 3600 * SECOND, ..settings(me, PAIR) };
    let mut replica = Replica::new(settings, Box::new(Never), Box::new(Never), 0);
    replica.handle(Event::Start, 0);
    replica
}

fn hello(role: PeerRole, me: ReplicaId, generation: u64, session: u64, cpu: Vec<CpuLeaf>) -> Vec<u8> {
    let stamp = Stamp { pair: PAIR, generation, session, incarnation: PEER };
    Frame::Hello(Hello { cpu, ..peer::hello(stamp, me, role) }).encode()
}

fn frames(replica: &mut Replica<u64>, now: u64) -> Vec<Frame> {
    std::iter::from_fn(|| replica.poll_transmit(now)).map(|bytes| Frame::decode(&bytes).unwrap()).collect()
}

/// `a`, live with a backup that has executed `Armed`; and the stamp that its peer uses.
fn primary() -> (Replica<u64>, Stamp) {
    let mut replica = replica(ReplicaId::A, Vec::new());
    replica.handle(Event::Register(Ok(RegisterState { generation: 0, holder: None })), MS);
    replica.handle(Event::Answer { from: 0, answer: Answer::Won }, MS);
    replica.handle(Event::Connected, MS);
    replica.handle(Event::Received(&hello(PeerRole::Waiting, ReplicaId::B, 0, 0, Vec::new())), MS);
    let session = frames(&mut replica, MS).into_iter().find_map(|frame| match frame {
        Frame::Log(log) => Some(log.stamp.session),
        _ => None,
    });
    let stamp = Stamp { pair: PAIR, generation: 1, session: session.unwrap(), incarnation: PEER };
    acknowledge(&mut replica, stamp, 1, 1, 0, MS);
    assert_eq!(replica.mode(), Mode::Live);
    while replica.poll_effect().is_some() {}
    (replica, stamp)
}

fn acknowledge(replica: &mut Replica<u64>, stamp: Stamp, received: u64, executed: u64, echo: u64, now: u64) {
    let (position, heard, released, reads, stop) = (0, 0, 0, 0, false);
    let ack = Ack { stamp, received, executed, position, echo, heard, released, reads, stop };
    replica.handle(Event::Received(&Frame::Ack(ack).encode()), now);
}

fn lost(replica: &mut Replica<u64>, now: u64) -> bool {
    replica.handle(Event::Timeout, now);
    std::iter::from_fn(|| replica.poll_effect()).any(|effect| matches!(effect, Effect::Ask { .. }))
}

/// As long as the primary is on its way itself, and for a while after it, a backup that does not get there is not stuck, and not
/// behind either.
#[test]
fn a_backup_is_not_stuck_where_the_primary_takes_as_long() {
    let (mut primary, stamp) = primary();
    primary.promise(7, SECOND, SECOND + 2 * MS);
    assert!(!frames(&mut primary, SECOND + 2 * MS).is_empty(), "the backup is told at once");
    acknowledge(&mut primary, stamp, 2, 1, 0, SECOND + 3 * MS);
    assert!(!lost(&mut primary, 60 * SECOND), "it is a minute on its way, and so is the primary");
    assert!(primary.status(60 * SECOND).lag_ms < 1.0);
    let reached = 61 * SECOND;
    primary.keep_promise(reached);
    assert!((primary.status(reached + 500 * MS).lag_ms - 500.0).abs() < 1.0);
    assert!(!lost(&mut primary, reached + 100 * SECOND), "it may be slower");
    // A minute, twice as long again, and what any record may take.
    assert!(lost(&mut primary, reached + 2 * 60 * SECOND + STUCK));
}

/// What a record that was promised says of lag counts from where the primary got there; later records are as always.
#[test]
fn after_a_promise_everything_is_as_always() {
    let (mut primary, stamp) = primary();
    primary.promise(7, SECOND, SECOND);
    frames(&mut primary, SECOND);
    acknowledge(&mut primary, stamp, 2, 1, 0, SECOND);
    primary.keep_promise(11 * SECOND);
    acknowledge(&mut primary, stamp, 2, 2, SECOND, 11 * SECOND + 20 * MS);
    let lag = primary.status(12 * SECOND).lag;
    assert!(lag.max < 50.0, "{lag:?}");
    primary.append(8, Body::Progress, 12 * SECOND);
    frames(&mut primary, 12 * SECOND);
    assert!(!lost(&mut primary, 12 * SECOND + STUCK - MS));
    assert!(lost(&mut primary, 12 * SECOND + STUCK));
}

/// The marker of an output may follow the position that it has; one that never comes is found at the next position.
#[test]
fn an_output_at_a_promised_position_has_its_marker_later() {
    let record = |lsn, position, body| LogRecord { lsn, position, body };
    for told in [true, false] {
        let mut backup = replica(ReplicaId::B, Vec::new());
        backup.handle(Event::Connected, MS);
        backup.handle(Event::Received(&hello(PeerRole::Fresh, ReplicaId::A, 1, 9, Vec::new())), MS);
        let stamp = Stamp { pair: PAIR, generation: 1, session: 9, incarnation: PEER };
        let mut records = vec![record(1, 0, Body::Armed), record(2, 7, Body::Progress)];
        if told {
            records.push(record(3, 7, Body::Output { class: OutputClass::Console, digest: 5 }));
        }
        records.push(record(3 + u64::from(told), 8, Body::Progress));
        let frame = Frame::Log(LogFrame { stamp, released: 0, sent: 5, records });
        backup.handle(Event::Received(&frame.encode()), MS);
        let mut right = true;
        while let Some(next) = backup.take_record() {
            if next.lsn == 2 {
                backup.made(7, OutputClass::Console, 5, Some(5));
            }
            right &= backup.execute(&next, MS);
        }
        assert_eq!(right, told);
        let halts: Vec<_> = std::iter::from_fn(|| backup.poll_effect())
            .filter_map(|effect| match effect {
                Effect::Halt { exit, message } => Some((exit, message)),
                _ => None,
            })
            .collect();
        match &halts[..] {
            [] => assert!(told),
            [(exit, message)] => {
                assert_eq!((told, *exit), (false, Exit::Divergence));
                assert!(message.contains("console bytes") && message.ends_with("; a hint"), "{message}");
            }
            more => panic!("{more:?}"),
        }
    }
}

/// Two hosts whose processors are not the same to the guest are no pair, and both are told in what they differ.
#[test]
fn another_processor_is_refused_with_the_leaf_that_differs() {
    let leaf = |leaf, ecx| CpuLeaf { leaf, subleaf: 0, values: [1, 2, ecx, 4] };
    let mut replica = replica(ReplicaId::A, vec![leaf(0, 0), leaf(1, 0x80)]);
    replica.handle(Event::Connected, MS);
    frames(&mut replica, MS);
    let theirs = vec![leaf(0, 0), leaf(1, 0x8080)];
    replica.handle(Event::Received(&hello(PeerRole::Waiting, ReplicaId::B, 0, 0, theirs)), MS);
    let reason = frames(&mut replica, MS).into_iter().find_map(|frame| match frame {
        Frame::Refusal(refusal) => Some(refusal.reason),
        _ => None,
    });
    let halt = std::iter::from_fn(|| replica.poll_effect()).find_map(|effect| match effect {
        Effect::Halt { exit: Exit::Mismatch, message } => Some(message),
        _ => None,
    });
    assert_eq!(reason, halt);
    let said = halt.expect("it cannot go on");
    for part in
        ["CPUID leaf 0x1, subleaf 0, ecx", "0x00000080 here", "0x00008080 there", "engine = \"software\""]
    {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

/// Another thread may bring this side to life between a look for effects and one for outputs.
#[test]
fn nothing_is_let_out_before_the_address_was_told_to_move() {
    let mut replica = replica(ReplicaId::A, vec![]);
    replica.handle(Event::Register(Ok(RegisterState { generation: 0, holder: None })), MS);
    let now = 31 * SECOND;
    replica.handle(Event::Timeout, now);
    while replica.poll_effect().is_some() {}
    replica.handle(Event::Answer { from: 0, answer: Answer::Won }, now);
    assert_eq!(replica.mode(), Mode::Live);
    replica.emit(1, OutputClass::Net, 0, 10, 7, now);
    assert!(replica.poll_release(now).is_none(), "the switch does not know this side yet");
    let effects: Vec<Effect> = std::iter::from_fn(|| replica.poll_effect()).collect();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Live { generation: 1, .. })), "{effects:?}");
    assert_eq!(replica.poll_release(now).map(|released| released.payload), Some(7));
}

/// A backup that was told of a position may have read there before the primary has: that is no reason to give it up, and a later write
/// need not wait for it. Anywhere else it is.
#[test]
fn a_backup_may_read_at_a_promised_position_before_the_primary() {
    let tell = |replica: &mut Replica<u64>, stamp, received, reads| {
        let (executed, position, echo, heard, released, stop) = (1, 0, 0, 0, 0, false);
        let ack = Ack { stamp, received, executed, position, echo, heard, released, reads, stop };
        replica.handle(Event::Received(&Frame::Ack(ack).encode()), 3 * MS);
    };
    let (mut primary, stamp) = primary();
    primary.promise(7, MS, 2 * MS);
    frames(&mut primary, 2 * MS);
    tell(&mut primary, stamp, 2, 1);
    assert!(primary.is_paired());
    primary.keep_promise(3 * MS);
    assert!(!primary.read_followed((0, 1)), "the backup has it");
    assert!(primary.read_followed((0, 2)));
    primary.append(8, Body::Progress, 3 * MS);
    frames(&mut primary, 3 * MS);
    tell(&mut primary, stamp, 3, 2);
    let finished = std::iter::from_fn(|| primary.poll_effect())
        .filter(|effect| matches!(effect, Effect::ReadFinished { .. }))
        .collect::<Vec<_>>();
    assert_eq!(finished, [Effect::ReadFinished { disk: 0, request: 2 }]);
    tell(&mut primary, stamp, 3, 3);
    assert!(!primary.is_paired(), "the primary has logged what lies after all that was promised");
}

/// A backup that has gone astray is told why before its connection is closed: with that it could lose what it has not read yet, take it
/// for a crash, and win.
#[test]
fn a_backup_that_went_astray_is_told_before_it_is_cut_off() {
    let (mut primary, stamp) = primary();
    let (position, heard, released, reads, stop) = (0, 0, 0, 7, false);
    let ack = Ack { stamp, received: 1, executed: 1, position, echo: 0, heard, released, reads, stop };
    primary.handle(Event::Received(&Frame::Ack(ack).encode()), SECOND);
    let effects: Vec<Effect> = std::iter::from_fn(|| primary.poll_effect()).collect();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Ask { from: 1 })), "{effects:?}");
    assert!(!effects.contains(&Effect::CloseLink), "{effects:?}");
    assert!(frames(&mut primary, SECOND).iter().any(|frame| matches!(frame, Frame::Refusal(_))));
    acknowledge(&mut primary, stamp, 1, 1, 0, SECOND);
    assert!(primary.poll_effect().is_none(), "nothing that it says counts any more");
    primary.handle(Event::Answer { from: 1, answer: Answer::Won }, SECOND);
    let effects: Vec<Effect> = std::iter::from_fn(|| primary.poll_effect()).collect();
    assert_eq!(effects.first(), Some(&Effect::CloseLink), "{effects:?}");
}
