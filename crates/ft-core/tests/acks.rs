//! When a backup acknowledges: at once what somebody waits for, the rest a little later.

mod never;
mod peer;

use ft_core::input::{Anchor, Input, NetRx};
use ft_core::replica::{Event, Replica, Settings};
use ft_core::wire::{Ack, Frame, LogFrame, PeerRole, Stamp};
use ft_core::{Body, LogRecord, OutputClass, ReplicaId};
use ft_policies::Who;

use never::{MS, Never, settings};

const STAMP: Stamp = Stamp { pair: 7, generation: 1, session: 9, incarnation: 4242 };

/// A backup that was armed; so long is its primary patient.
fn backup(ack_timeout: u64) -> Replica<u64> {
    let me = Who { replica: ReplicaId::B, incarnation: 11, config: 0 };
    let settings = Settings { ack_timeout, ..settings(me, STAMP.pair) };
    let mut backup = Replica::new(settings, Box::new(Never), Box::new(Never), 0);
    backup.handle(Event::Start, 0);
    backup.handle(Event::Connected, 0);
    let hello = peer::hello(STAMP, ReplicaId::A, PeerRole::Fresh);
    backup.handle(Event::Received(&Frame::Hello(hello).encode()), 0);
    told(&mut backup, 1, Body::Armed, 0);
    assert_eq!(acks(&mut backup, 0).len(), 1, "the guest waits for it");
    // Its first heartbeat.
    backup.handle(Event::Timeout, 0);
    backup
}

fn told(backup: &mut Replica<u64>, lsn: u64, body: Body, now: u64) {
    let records = vec![LogRecord { lsn, position: lsn, body }];
    let frame = Frame::Log(LogFrame { stamp: STAMP, released: 0, sent: now + 1000 * MS, records });
    backup.handle(Event::Received(&frame.encode()), now);
}

fn acks(backup: &mut Replica<u64>, now: u64) -> Vec<Ack> {
    let bytes = std::iter::from_fn(|| backup.poll_transmit(now));
    bytes
        .filter_map(|bytes| match Frame::decode(&bytes) {
            Ok(Frame::Ack(ack)) => Some(ack),
            _ => None,
        })
        .collect()
}

fn anchor() -> Body {
    Body::Input(Input::Anchor(Anchor { time: 1, rate: 1 }))
}

#[test]
fn what_an_output_or_an_input_waits_for_is_acknowledged_at_once() {
    for body in [
        Body::Output { class: OutputClass::Net, digest: 1 },
        Body::Input(Input::NetRx(NetRx { nic: 0, switch_seq: 1, frames: vec![vec![1]] })),
        Body::OwnRead { disk: 0, request: 0, digest: 0 },
        Body::Stop,
    ] {
        let mut backup = backup(200 * MS);
        told(&mut backup, 2, anchor(), MS);
        assert!(acks(&mut backup, MS).is_empty());
        told(&mut backup, 3, body.clone(), MS);
        assert_eq!(acks(&mut backup, MS).first().map(|ack| ack.received), Some(3), "{body:?}");
    }
}

/// A guest that only computes costs an acknowledgement now and then, but none so late that its backup is taken for lost.
#[test]
fn what_nobody_waits_for_is_acknowledged_together_and_in_time() {
    for (patience, most) in [(200 * MS, 5 * MS), (2 * MS, MS / 2)] {
        let mut backup = backup(patience);
        let started = backup.poll_timeout();
        told(&mut backup, 2, Body::Progress, MS);
        told(&mut backup, 3, anchor(), MS + MS / 4);
        assert!(acks(&mut backup, MS + MS / 4).is_empty());
        let due = backup.poll_timeout().expect("it is told some time");
        assert!(started.is_none_or(|at| due < at) && due <= MS + most, "{due}");
        backup.handle(Event::Timeout, due);
        assert_eq!(acks(&mut backup, due).iter().map(|ack| ack.received).collect::<Vec<_>>(), [3]);
    }
}

/// The primary takes the lag from its own clock: what an acknowledgement was put off is none.
#[test]
fn the_time_that_an_acknowledgement_was_put_off_is_no_lag() {
    let mut backup = backup(200 * MS);
    told(&mut backup, 2, Body::Progress, 10 * MS);
    while let Some(record) = backup.take_record() {
        assert!(backup.execute(&record, 11 * MS));
    }
    backup.handle(Event::Timeout, 15 * MS);
    let ack = acks(&mut backup, 15 * MS)[0];
    assert_eq!((ack.executed, ack.echo), (2, 1010 * MS + 4 * MS));
}
