//! One replica against a peer made by hand: frames that no honest peer sends, sockets that take nothing, answers that
//! come when they should not. Nothing here may panic, spin, grow without bound or release what it must hold.

mod never;
mod peer;

use ft_core::replica::{Effect, Event, Mode, Phase, Replica, STUCK, Settings};
use ft_core::wire::{Ack, Frame, Heartbeat, Hello, LogFrame, PeerRole, Stamp};
use ft_core::{Body, LogRecord, OutputClass, ReplicaId};
use ft_policies::detector::{Fixed, fixed};
use ft_policies::{Answer, Detector, RegisterState, Time, Who};

use never::{MS, Never};

const PAIR: u128 = 77;
const PEER: u64 = 4242;

fn settings(me: ReplicaId) -> Settings {
    never::settings(Who { replica: me, incarnation: 11, config: 0 }, PAIR)
}

fn replica_with(settings: Settings) -> Replica<u64> {
    detecting(settings, Box::new(Never))
}

fn detecting(settings: Settings, detector: Box<dyn Detector + Send>) -> Replica<u64> {
    let mut replica = Replica::new(settings, detector, Box::new(Never), 0);
    replica.handle(Event::Start, 0);
    replica
}

fn effects(replica: &mut Replica<u64>) -> Vec<Effect> {
    std::iter::from_fn(|| replica.poll_effect()).collect()
}

/// All frames that it wants to send now.
fn frames(replica: &mut Replica<u64>, now: u64) -> Vec<Frame> {
    std::iter::from_fn(|| replica.poll_transmit(now)).map(|bytes| Frame::decode(&bytes).unwrap()).collect()
}

fn hello(generation: u64, session: u64, role: PeerRole, replica: ReplicaId, next: u64) -> Frame {
    let stamp = Stamp { pair: PAIR, generation, session, incarnation: PEER };
    Frame::Hello(Hello { next, ..peer::hello(stamp, replica, role) })
}

/// `a`, live in generation 1 with a backup that has acknowledged `Armed`; and the stamp that its peer has to use.
fn primary(settings: Settings) -> (Replica<u64>, Stamp) {
    primary_of(replica_with(settings))
}

fn primary_of(mut replica: Replica<u64>) -> (Replica<u64>, Stamp) {
    replica.handle(Event::Register(Ok(RegisterState { generation: 0, holder: None })), MS);
    replica.handle(Event::Answer { from: 0, answer: Answer::Won }, MS);
    replica.handle(Event::Connected, MS);
    replica.handle(Event::Received(&hello(0, 0, PeerRole::Waiting, ReplicaId::B, 1).encode()), MS);
    let session = frames(&mut replica, MS)
        .into_iter()
        .find_map(|frame| match frame {
            Frame::Log(log) => Some(log.stamp.session),
            _ => None,
        })
        .unwrap();
    let stamp = Stamp { pair: PAIR, generation: 1, session, incarnation: PEER };
    replica.handle(Event::Received(&ack(stamp, 1, 1)), MS);
    assert_eq!(replica.mode(), Mode::Live);
    effects(&mut replica);
    (replica, stamp)
}

fn ack(stamp: Stamp, received: u64, executed: u64) -> Vec<u8> {
    ack_of(stamp, received, executed, 0)
}

/// The same of a peer that has heard what was sent at `heard`.
fn ack_of(stamp: Stamp, received: u64, executed: u64, heard: u64) -> Vec<u8> {
    let (position, echo, released, reads, stop) = (0, 0, 0, 0, false);
    Frame::Ack(Ack { stamp, received, executed, position, echo, heard, released, reads, stop }).encode()
}

/// `b`, an armed backup in generation 1, and its primary's stamp.
fn backup() -> (Replica<u64>, Stamp) {
    let mut replica = replica_with(settings(ReplicaId::B));
    replica.handle(Event::Connected, MS);
    replica.handle(Event::Received(&hello(1, 9, PeerRole::Fresh, ReplicaId::A, 1).encode()), MS);
    let stamp = Stamp { pair: PAIR, generation: 1, session: 9, incarnation: PEER };
    tell(&mut replica, stamp, 0, vec![LogRecord { lsn: 1, position: 0, body: Body::Armed }]);
    execute_all(&mut replica);
    assert_eq!(replica.mode(), Mode::Backup);
    effects(&mut replica);
    (replica, stamp)
}

fn tell(replica: &mut Replica<u64>, stamp: Stamp, released: u64, records: Vec<LogRecord>) {
    let frame = Frame::Log(LogFrame { stamp, released, sent: 5, records });
    replica.handle(Event::Received(&frame.encode()), 2 * MS);
}

/// Executes what was received; each marker is preceded by its output.
fn execute_all(replica: &mut Replica<u64>) {
    while let Some(record) = replica.take_record() {
        if let Body::Output { class, digest } = record.body {
            replica.made(record.position, class, digest, Some(digest));
        }
        assert!(replica.execute(&record, 2 * MS));
    }
}

fn end_marker() -> LogRecord {
    LogRecord { lsn: 2, position: 10, body: Body::Output { class: OutputClass::End, digest: 3 } }
}

/// A heartbeat of the backup.
fn beat_of(stamp: Stamp) -> Vec<u8> {
    let (role, replica) = (PeerRole::Backup, ReplicaId::B);
    Frame::Heartbeat(Heartbeat { stamp, replica, role, executed: 0, position: 0 }).encode()
}

fn beat(generation: u64) -> Vec<u8> {
    let stamp = Stamp { pair: PAIR, generation, session: 0, incarnation: PEER };
    let (role, replica) = (PeerRole::Live, ReplicaId::B);
    Frame::Heartbeat(Heartbeat { stamp, replica, role, executed: 0, position: 0 }).encode()
}

#[test]
fn an_end_whose_release_is_known_ends_a_slow_backup_too() {
    let (mut replica, stamp) = backup();
    // The primary has released its power-off and is gone before this side has executed it.
    tell(&mut replica, stamp, 2, vec![end_marker()]);
    replica.handle(Event::Disconnected("closed".into()), 3 * MS);
    execute_all(&mut replica);
    replica.handle(Event::Answer { from: 1, answer: Answer::Won }, 4 * MS);
    assert!(effects(&mut replica).contains(&Effect::End), "a guest that is over must not go live");
    assert_eq!(replica.mode(), Mode::Over);
}

#[test]
fn a_stop_that_was_received_stops_the_survivor() {
    let (mut replica, stamp) = backup();
    let console =
        LogRecord { lsn: 2, position: 5, body: Body::Output { class: OutputClass::Console, digest: 8 } };
    tell(&mut replica, stamp, 0, vec![console, LogRecord { lsn: 3, position: 10, body: Body::Stop }]);
    replica.handle(Event::Disconnected("closed".into()), 3 * MS);
    execute_all(&mut replica);
    replica.handle(Event::Answer { from: 1, answer: Answer::Won }, 4 * MS);
    replica.handle(Event::Fenced { generation: 2 }, 4 * MS);
    replica.handle(Event::DisksReissued, 4 * MS);
    assert!(!replica.may_run(5 * MS), "nothing runs after a stop");
    assert_eq!(replica.mode(), Mode::Hold);
    assert!(effects(&mut replica).iter().any(|effect| matches!(effect, Effect::Live { .. })));
    let released = replica.poll_release(5 * MS).expect("what was kept goes out first");
    assert_eq!((released.payload, released.generation), (8, 2));
    replica.released(released.lsn, false, 5 * MS);
    assert!(replica.poll_release(5 * MS).is_none());
    assert_eq!(effects(&mut replica).last(), Some(&Effect::End));
}

#[test]
fn without_the_output_rule_nothing_is_said_to_be_released_before_it_is_sent() {
    let (mut replica, stamp) = primary(Settings { hold_outputs: false, ..settings(ReplicaId::A) });
    for n in 0..40 {
        let body = Body::Input(ft_core::input::Input::Entropy { request: n, bytes: vec![0; 60_000] });
        replica.append(n, body, 2 * MS);
        replica.emit(n, OutputClass::Net, n, 100, n, 2 * MS);
        let released = replica.poll_release(2 * MS).expect("not held");
        replica.released(released.lsn, false, 2 * MS);
    }
    let mut last = 0;
    for frame in frames(&mut replica, 30 * MS) {
        let Frame::Log(log) = frame else { continue };
        last = log.records.last().map_or(last, |record| record.lsn);
        assert!(log.released <= last, "released {} in a frame up to {last}", log.released);
    }
    replica.handle(Event::Received(&ack(stamp, last, last)), 30 * MS);
    assert!(replica.is_paired());
}

#[test]
fn time_never_stands_still_while_the_socket_is_full() {
    let (mut replica, stamp) = primary(settings(ReplicaId::A));
    replica.emit(7, OutputClass::Net, 1, 100, 1, 2 * MS);
    frames(&mut replica, 2 * MS);
    replica.handle(Event::Received(&ack(stamp, 2, 1)), 3 * MS);
    let released = replica.poll_release(3 * MS).unwrap();
    replica.released(released.lsn, false, 3 * MS);
    // Nothing can be sent: after a time-out was handled the next one must lie ahead.
    for now in (4..60).map(|ms| ms * MS) {
        if replica.poll_timeout().is_some_and(|at| at <= now) {
            replica.handle(Event::Timeout, now);
        }
        assert!(replica.poll_timeout().unwrap() > now, "a time-out that is always due: the event loop spins");
        effects(&mut replica);
    }
    let told = frames(&mut replica, 60 * MS);
    assert!(told.iter().any(|frame| matches!(frame, Frame::Log(log) if log.released == 2)), "{told:?}");
}

#[test]
fn a_guest_that_runs_while_its_replica_is_deposed_is_cut_off_without_a_panic() {
    let (mut replica, stamp) = primary(settings(ReplicaId::A));
    assert!(replica.may_run(2 * MS));
    // The event loop hears of generation 2 while the guest's thread is inside the guest.
    replica.handle(Event::Datagram(&beat(2)), 2 * MS);
    assert_eq!(*replica.phase(), Phase::Deposed);
    replica.emit(9, OutputClass::Net, 1, 100, 1, 2 * MS);
    replica.append(9, Body::Progress, 2 * MS);
    replica.append_stop(9, 2 * MS);
    replica.handle(Event::Received(&ack(stamp, 2, 2)), 3 * MS);
    assert!(replica.poll_release(3 * MS).is_none());
    replica.handle(Event::Register(Ok(RegisterState { generation: 2, holder: None })), 4 * MS);
    replica.emit(10, OutputClass::Net, 1, 100, 1, 4 * MS);
    assert!(replica.poll_release(4 * MS).is_none());
    let rx = effects(&mut replica).into_iter().any(|effect| matches!(effect, Effect::RxAcknowledged { .. }));
    assert!(!rx, "a deposed side tells the switch nothing");
}

#[test]
fn numbers_at_the_end_of_their_range_are_survived() {
    for (generation, next, position) in [
        (1, u64::MAX, 0),
        (1, u64::MAX - 1, 0),
        (u64::MAX, 1, 0),
        (1, 1, u64::MAX),
        (u64::MAX - 1, 1, u64::MAX),
    ] {
        let mut replica = replica_with(settings(ReplicaId::B));
        replica.handle(Event::Connected, MS);
        replica
            .handle(Event::Received(&hello(generation, 9, PeerRole::Fresh, ReplicaId::A, next).encode()), MS);
        let stamp = Stamp { pair: PAIR, generation, session: 9, incarnation: PEER };
        tell(&mut replica, stamp, 0, vec![LogRecord { lsn: next, position: 0, body: Body::Armed }]);
        let lsn = next.saturating_add(1);
        tell(&mut replica, stamp, 0, vec![LogRecord { lsn, position, body: Body::Progress }]);
        replica.handle(Event::Disconnected("closed".into()), 3 * MS);
        execute_all(&mut replica);
        let at_all = replica.generation() < u64::MAX && replica.is_asking();
        if at_all {
            let from = replica.generation();
            replica.handle(Event::Answer { from, answer: Answer::Won }, 4 * MS);
            replica.handle(Event::Fenced { generation: from + 1 }, 4 * MS);
            replica.handle(Event::DisksReissued, 4 * MS);
        }
        let stands = replica.status(5 * MS).position;
        assert!(stands < 1 << 63, "told to run to {stands}");
        if replica.mode() == Mode::Live {
            replica.emit(stands, OutputClass::Net, 0, 0, 0, 5 * MS);
        }
    }
}

#[test]
fn a_peer_that_talks_and_never_listens_takes_no_memory() {
    let (mut replica, _) = primary(settings(ReplicaId::A));
    replica.handle(Event::Disconnected("closed".into()), 2 * MS);
    replica.handle(Event::Answer { from: 1, answer: Answer::Won }, 2 * MS);
    replica.handle(Event::Connected, 3 * MS);
    let waiting = hello(1, 0, PeerRole::Waiting, ReplicaId::B, 1).encode();
    let stranger = hello(1, 0, PeerRole::Waiting, ReplicaId::A, 1).encode();
    for _ in 0..1000 {
        replica.handle(Event::Received(&waiting), 3 * MS);
        replica.handle(Event::Received(&stranger), 3 * MS);
    }
    assert!(effects(&mut replica).len() < 10);
    assert!(frames(&mut replica, 3 * MS).len() < 10);
}

#[test]
fn a_gate_that_stays_full_is_a_stall_whatever_else_is_asked() {
    let (mut replica, stamp) = primary(settings(ReplicaId::A));
    for n in 0..4 {
        replica.emit(n, OutputClass::Net, 1, 100, n, 2 * MS);
    }
    frames(&mut replica, 2 * MS);
    // A backup that executes all the time, but far too slowly: one record in half a second.
    let mut lost = None;
    let mut acknowledged = 1;
    for now in (2..4000).map(|ms| ms * MS) {
        assert!(!replica.may_run(now));
        let _room = replica.reserve(100, now);
        if now % (500 * MS) == 0 {
            acknowledged += 1;
            replica.handle(Event::Received(&ack(stamp, acknowledged, acknowledged)), now);
            let released = replica.poll_release(now).unwrap();
            replica.released(released.lsn, false, now);
            assert!(replica.may_run(now));
            replica.emit(now, OutputClass::Net, 1, 100, now, now);
            frames(&mut replica, now);
        }
        if replica.poll_timeout().is_some_and(|at| at <= now) {
            replica.handle(Event::Timeout, now);
        }
        if replica.is_asking() {
            lost = Some(now);
            break;
        }
    }
    let lost = lost.expect("given up") / MS;
    assert!((2002..2010).contains(&lost), "the guest stood still for two seconds in all, at {lost} ms");
    assert_eq!(
        replica.status(lost * MS).stalls,
        5,
        "one stall for each time that the gate filled, not one for every question"
    );
}

#[test]
fn two_threads_clocks_may_differ_a_little() {
    let (mut replica, stamp) = primary(settings(ReplicaId::A));
    for n in 0..4 {
        replica.emit(n, OutputClass::Net, 1, 100, n, 2 * MS);
    }
    frames(&mut replica, 2 * MS);
    assert!(!replica.may_run(10 * MS));
    replica.handle(Event::Received(&ack(stamp, 5, 5)), 9 * MS);
    while replica.poll_release(9 * MS).is_some() {}
    assert!(replica.may_run(9 * MS), "told with an earlier time than the stall");
    for n in 4..8 {
        replica.emit(n, OutputClass::Net, 1, 100, n, 9 * MS);
    }
    assert!(!replica.may_run(8 * MS));
    assert!(replica.poll_timeout().is_some());
    replica.handle(Event::Timeout, 10 * MS);
    assert!(replica.is_paired());
}

#[test]
fn a_winner_that_is_overtaken_before_it_is_live_releases_nothing() {
    let (mut replica, stamp) = backup();
    let console =
        LogRecord { lsn: 2, position: 5, body: Body::Output { class: OutputClass::Console, digest: 8 } };
    tell(&mut replica, stamp, 0, vec![console]);
    replica.handle(Event::Disconnected("closed".into()), 3 * MS);
    execute_all(&mut replica);
    replica.handle(Event::Answer { from: 1, answer: Answer::Won }, 4 * MS);
    // Fencing takes long; meanwhile somebody has won generation 3.
    let register = RegisterState {
        generation: 3,
        holder: Some(Who { replica: ReplicaId::A, incarnation: 1, config: 0 }),
    };
    replica.handle(Event::Register(Ok(register)), 5 * MS);
    replica.handle(Event::Register(Ok(register)), 5 * MS);
    replica.handle(Event::Fenced { generation: 2 }, 6 * MS);
    replica.handle(Event::DisksReissued, 6 * MS);
    assert!(replica.poll_release(6 * MS).is_none());
    assert_eq!(replica.mode(), Mode::Over);
    assert!(!effects(&mut replica).iter().any(|effect| matches!(effect, Effect::Live { .. })));
}

#[test]
fn a_backup_that_was_never_armed_does_not_ask() {
    let mut replica = replica_with(settings(ReplicaId::B));
    replica.handle(Event::Connected, MS);
    replica.handle(Event::Received(&hello(1, 9, PeerRole::Fresh, ReplicaId::A, 1).encode()), MS);
    assert_eq!(*replica.phase(), Phase::Backup);
    replica.handle(Event::Disconnected("closed".into()), 2 * MS);
    assert_eq!(*replica.phase(), Phase::Waiting);
    assert!(!replica.is_asking());
    assert!(!effects(&mut replica).iter().any(|effect| matches!(effect, Effect::Ask { .. })));
}

#[test]
fn acknowledgements_of_what_was_never_sent_end_the_session() {
    for (received, executed) in [(1000, 0), (u64::MAX, u64::MAX), (1, 2), (2, 2)] {
        let (mut replica, stamp) = primary(settings(ReplicaId::A));
        replica.emit(7, OutputClass::Net, 1, 100, 1, 2 * MS);
        // Appended, never sent.
        replica.handle(Event::Received(&ack(stamp, received, executed)), 2 * MS);
        assert!(replica.is_asking());
        assert!(replica.poll_release(2 * MS).is_none());
    }
}

#[test]
fn acknowledgements_of_others_are_dropped() {
    let (mut replica, stamp) = primary(settings(ReplicaId::A));
    replica.emit(7, OutputClass::Net, 1, 100, 1, 2 * MS);
    frames(&mut replica, 2 * MS);
    for wrong in [
        Stamp { session: stamp.session + 1, ..stamp },
        Stamp { incarnation: stamp.incarnation + 1, ..stamp },
        Stamp { generation: 0, ..stamp },
        Stamp { pair: 1, ..stamp },
    ] {
        replica.handle(Event::Received(&ack(wrong, 2, 2)), 2 * MS);
        assert!(replica.poll_release(2 * MS).is_none(), "{wrong:?}");
        assert!(replica.is_paired());
    }
    replica.handle(Event::Received(&ack(stamp, 2, 2)), 2 * MS);
    assert!(replica.poll_release(2 * MS).is_some());
}

#[test]
fn records_out_of_order_end_the_session_and_are_not_acknowledged() {
    let progress = |lsn, position| LogRecord { lsn, position, body: Body::Progress };
    for bad in [
        vec![progress(3, 5)],
        vec![progress(1, 5)],
        vec![progress(2, 5), progress(3, 6), LogRecord { lsn: 4, position: 6, body: Body::Armed }],
    ] {
        let (mut replica, stamp) = backup();
        frames(&mut replica, 2 * MS);
        tell(&mut replica, stamp, 0, bad);
        assert!(replica.is_asking() && frames(&mut replica, 2 * MS).is_empty());
        assert!(replica.take_record().is_none(), "all of a frame or nothing");
    }
    // Positions that go back, in two frames.
    let (mut replica, stamp) = backup();
    tell(&mut replica, stamp, 0, vec![progress(2, 50)]);
    tell(&mut replica, stamp, 0, vec![progress(3, 49)]);
    assert!(replica.is_asking() && frames(&mut replica, 2 * MS).is_empty());
}

#[test]
fn more_log_than_agreed_ends_the_session() {
    let (mut replica, stamp) = backup();
    let mut lsn = 1;
    while replica.is_paired() && lsn < 1000 {
        lsn += 1;
        let body = Body::Input(ft_core::input::Input::Console(vec![0; 1 << 20]));
        tell(&mut replica, stamp, 0, vec![LogRecord { lsn, position: 0, body }]);
    }
    assert!((16..20).contains(&lsn), "{lsn} MiB");
}

/// The primary gives a backup up whose disk hangs. That one must not win the next generation: it could do nothing with it.
#[test]
fn a_backup_that_cannot_replay_does_not_ask_until_it_can() {
    let (mut replica, stamp) = backup();
    let progress = |lsn| LogRecord { lsn, position: 5, body: Body::Progress };
    tell(&mut replica, stamp, 0, vec![progress(2)]);
    let record = replica.take_record().expect("it was told");
    // Told more meanwhile, it is no less stuck.
    let frame = Frame::Log(LogFrame { stamp, released: 0, sent: 6, records: vec![progress(3)] });
    replica.handle(Event::Received(&frame.encode()), 2 * MS + STUCK / 2);
    replica.handle(Event::Disconnected("closed".into()), 3 * MS + STUCK);
    let asks = |effects: Vec<Effect>| effects.into_iter().any(|effect| effect == Effect::Ask { from: 1 });
    assert!(!asks(effects(&mut replica)));
    assert!(replica.execute(&record, 4 * MS + STUCK));
    assert!(asks(effects(&mut replica)), "it can again");
    let record = replica.take_record().expect("it was told");
    replica.handle(Event::Answer { from: 1, answer: Answer::Won }, 5 * MS + STUCK);
    assert!(
        !effects(&mut replica).contains(&Effect::Fence { generation: 2 }),
        "it has not replayed everything"
    );
    assert!(replica.execute(&record, 5 * MS + STUCK));
    assert!(effects(&mut replica).contains(&Effect::Fence { generation: 2 }));

    // One that has had nothing to do is not stuck.
    let (mut replica, stamp) = backup();
    tell(&mut replica, stamp, 0, vec![progress(2)]);
    execute_all(&mut replica);
    replica.handle(Event::Disconnected("closed".into()), 3 * MS + 10 * STUCK);
    assert!(asks(effects(&mut replica)));
}

/// A primary that was stopped wakes with acknowledgements in its socket: its backup may have gone live since. It lets nothing out
/// until an answer to what it has sent after it woke.
#[test]
fn a_primary_that_slept_releases_nothing_on_acknowledgements_from_before() {
    let patient = fixed::Settings { heartbeat: Time(20 * MS), timeout: Time(200 * MS) };
    let sleeper = || {
        let (mut replica, stamp) =
            primary_of(detecting(settings(ReplicaId::A), Box::new(Fixed::new(patient))));
        replica.emit(7, OutputClass::Net, 1, 100, 1, 2 * MS);
        replica.emit(8, OutputClass::Net, 2, 100, 2, 2 * MS);
        frames(&mut replica, 2 * MS);
        (replica, stamp)
    };
    let woken = 500 * MS;
    // Whatever is read first: an acknowledgement, a heartbeat; or an acknowledgement was read just before it slept.
    for case in 0..3 {
        let (mut replica, stamp) = sleeper();
        let mut at = woken;
        match case {
            0 => {}
            1 => replica.handle(Event::Datagram(&beat_of(stamp)), woken),
            _ => at = 3 * MS,
        }
        replica.handle(Event::Received(&ack_of(stamp, 3, 1, 2 * MS)), at);
        assert!(replica.poll_release(woken).is_none(), "{case}");
        assert!(replica.poll_release(woken + MS).is_none(), "{case}: nor a little later");
        // It suspects nobody, and asks for a sign.
        assert!(replica.is_paired() && !replica.is_asking(), "{case}");
        let sent = frames(&mut replica, woken + 2 * MS);
        let [Frame::Log(sign)] = &sent[..] else { panic!("{case}: {sent:?}") };
        assert!(sign.sent > woken);
        replica.handle(Event::Received(&ack_of(stamp, 3, 1, 2 * MS)), woken + 3 * MS);
        assert!(replica.poll_release(woken + 3 * MS).is_none(), "{case}: another old one");
        replica.handle(Event::Received(&ack_of(stamp, 3, 1, sign.sent)), woken + 4 * MS);
        let released: Vec<u64> = std::iter::from_fn(|| replica.poll_release(woken + 4 * MS))
            .map(|output| output.payload)
            .collect();
        assert_eq!(released, [1, 2], "{case}");
        assert_eq!(replica.status(woken + 4 * MS).doubts, 1);
    }
    // Or the backup has gone on: the connection is closed, and the tie-breaker decides.
    let (mut replica, stamp) = sleeper();
    replica.handle(Event::Received(&ack_of(stamp, 3, 1, 2 * MS)), woken);
    assert!(replica.poll_release(woken).is_none());
    replica.handle(Event::Disconnected("closed".into()), woken);
    assert!(replica.poll_release(woken).is_none());
    let lost = RegisterState {
        generation: 2,
        holder: Some(Who { replica: ReplicaId::B, incarnation: PEER, config: 0 }),
    };
    replica.handle(Event::Answer { from: 1, answer: Answer::Lost(lost) }, woken);
    assert!(replica.poll_release(woken).is_none());
    assert_eq!(*replica.phase(), Phase::Over);
}

/// What it asks for a sign may get lost where heartbeats do not: then nothing is left to be acknowledged, and it would hold what it
/// has for ever.
#[test]
fn a_doubt_that_is_not_answered_ends_with_the_loss_of_the_peer() {
    let patient = fixed::Settings { heartbeat: Time(20 * MS), timeout: Time(200 * MS) };
    let (mut replica, stamp) = primary_of(detecting(settings(ReplicaId::A), Box::new(Fixed::new(patient))));
    replica.emit(7, OutputClass::Net, 1, 100, 1, 2 * MS);
    frames(&mut replica, 2 * MS);
    let woken = 500 * MS;
    replica.handle(Event::Received(&ack_of(stamp, 2, 2, 2 * MS)), woken);
    replica.handle(Event::Timeout, woken);
    let mut now = woken;
    while !replica.is_asking() {
        assert!(now <= woken + settings(ReplicaId::A).ack_timeout, "it waits for ever");
        assert!(replica.poll_release(now).is_none());
        assert!(replica.poll_timeout().is_some_and(|at| at > now));
        now += 10 * MS;
        replica.handle(Event::Datagram(&beat_of(stamp)), now);
        replica.handle(Event::Timeout, now);
        frames(&mut replica, now);
    }
    assert!(replica.poll_release(now).is_none());
}
