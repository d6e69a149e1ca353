//! Separate disks: which copies a cold start goes on with, the exchange before the guest runs, and reads that both sides run.

mod never;

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::replica::{Effect, Event, Mode, Replica, Settings};
use ft_core::wire::{Copies, Used};
use ft_core::{Body, ReplicaId};
use ft_policies::{Answer, RegisterState, Who};

use never::{MS, Never, settings};

/// Two replicas on a wire that loses nothing, and the register.
struct Two {
    now: u64,
    nodes: [Replica<u64>; 2],
    register: RegisterState,
    up: [bool; 2],
    /// Everything that each side wanted done, but for questions to the register.
    wanted: [Vec<Effect>; 2],
}

fn who(index: usize) -> Who {
    Who { replica: [ReplicaId::A, ReplicaId::B][index], incarnation: 100 + index as u64, config: 0 }
}

impl Two {
    fn new(register: RegisterState, copies: [Option<Copies>; 2]) -> Self {
        let node = |index: usize| {
            let settings =
                Settings { start_alone: 1000 * MS, copies: copies[index], ..settings(who(index), 7) };
            Replica::new(settings, Box::new(Never), Box::new(Never), 0)
        };
        Self { now: MS, nodes: [node(0), node(1)], register, up: [true; 2], wanted: [Vec::new(), Vec::new()] }
    }

    fn start(&mut self) {
        for index in 0..2 {
            if self.up[index] {
                self.nodes[index].handle(Event::Start, self.now);
            }
        }
        if self.up == [true; 2] {
            self.connect();
        }
        self.settle();
    }

    fn connect(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.handle(Event::Connected, self.now));
    }

    fn disconnect(&mut self) {
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.handle(Event::Disconnected("cut".into()), now));
    }

    /// Lets time pass, with every timer.
    fn wait(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += 10 * MS;
            for index in 0..2 {
                if self.up[index] && self.nodes[index].poll_timeout().is_some_and(|at| self.now >= at) {
                    self.nodes[index].handle(Event::Timeout, self.now);
                }
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for index in 0..2 {
                while let Some(effect) = self.nodes[index].poll_effect() {
                    moved = true;
                    self.effect(index, effect);
                }
                while let Some(bytes) = self.nodes[index].poll_transmit(self.now) {
                    moved = true;
                    self.nodes[1 - index].handle(Event::Received(&bytes), self.now);
                }
                while let Some(record) = self.nodes[index].take_record() {
                    moved = true;
                    assert!(self.nodes[index].execute(&record, self.now));
                }
            }
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::ReadRegister => self.nodes[index].handle(Event::Register(Ok(self.register)), self.now),
            Effect::Ask { from } => {
                let answer = if self.register.generation == from {
                    self.register = RegisterState { generation: from + 1, holder: Some(who(index)) };
                    Answer::Won
                } else if self.register == (RegisterState { generation: from + 1, holder: Some(who(index)) })
                {
                    Answer::Won
                } else {
                    Answer::Lost(self.register)
                };
                self.nodes[index].handle(Event::Answer { from, answer }, self.now);
            }
            Effect::Heartbeat(bytes) if self.up[1 - index] => {
                self.nodes[1 - index].handle(Event::Datagram(&bytes), self.now);
            }
            Effect::Heartbeat(_) => {}
            other => self.wanted[index].push(other),
        }
    }

    fn wants(&self, index: usize, effect: &Effect) -> bool {
        self.wanted[index].contains(effect)
    }

    /// The exchange that this side is the source of.
    fn exchange(&self, index: usize) -> Option<u64> {
        self.wanted[index].iter().rev().find_map(|effect| match effect {
            Effect::CopyFrom { session } => Some(*session),
            _ => None,
        })
    }

    fn noticed(&self, text: &str) -> bool {
        self.wanted.iter().flatten().any(|effect| match effect {
            Effect::Notice(said) | Effect::Halt { message: said, .. } => said.contains(text),
            _ => false,
        })
    }

    /// Who would run the guest: it offers its copies, or runs without a backup.
    fn chosen(&self) -> Option<usize> {
        (0..2).find(|index| self.exchange(*index).is_some() || self.nodes[*index].mode() == Mode::Live)
    }
}

fn held(generation: u64, index: usize) -> RegisterState {
    let incarnation = 1;
    RegisterState { generation, holder: Some(Who { incarnation, ..who(index) }) }
}

/// Copies that the pair has used, all alike: last live in this generation, or never.
fn copies(live: u64) -> Option<Copies> {
    Some(Copies { live, highest: live, whole: live > 0, usable: true, used: Used::All })
}

/// Copies that were made for this start.
const NEW: Option<Copies> =
    Some(Copies { live: 0, highest: 0, whole: false, usable: true, used: Used::None });

#[test]
fn nothing_runs_before_the_copies_are_the_same() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    let session = two.exchange(0).expect("a is the source");
    assert!(two.wants(1, &Effect::CopyTo { session }));
    assert!(two.nodes.iter().all(|node| node.mode() != Mode::Live));
    let says = |text: &[u8]| Effect::CopyMessage { session, message: text.to_vec() };
    two.nodes[1].send_copy(session, b"mine".to_vec());
    two.settle();
    assert!(two.wants(0, &says(b"mine")));
    two.nodes[0].send_copy(session, b"yours".to_vec());
    two.settle();
    assert!(two.wants(1, &says(b"yours")));
    two.wait(2000 * MS);
    assert_ne!(two.nodes[0].mode(), Mode::Live, "start-alone is for a replica that is alone");
    two.nodes[0].handle(Event::Copied { session: session + 1 }, two.now);
    two.settle();
    assert_ne!(two.nodes[0].mode(), Mode::Live, "that was another exchange");
    two.nodes[0].handle(Event::Copied { session }, two.now);
    two.settle();
    assert_eq!((two.nodes[0].mode(), two.nodes[1].mode()), (Mode::Live, Mode::Backup));
    two.nodes[1].send_copy(session, b"late".to_vec());
    two.settle();
    assert!(!two.wants(0, &says(b"late")), "the exchange is over");
}

#[test]
fn a_target_that_is_lost_on_the_way_costs_no_generation() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    let old = two.exchange(0).expect("a is the source");
    two.disconnect();
    two.settle();
    assert!(two.wants(0, &Effect::CopyOff) && two.wants(1, &Effect::CopyOff));
    assert_eq!(two.register.generation, 1, "the gate was never closed: nobody asks");
    // Its copies are half of one thing and half of another now.
    let half = Copies { live: 0, highest: 1, whole: false, usable: false, used: Used::All };
    two.nodes[1].handle(Event::Copies(half), two.now);
    two.wanted = [Vec::new(), Vec::new()];
    two.connect();
    two.settle();
    let session = two.exchange(0).expect("once more");
    assert!(session != old && two.wants(1, &Effect::CopyTo { session }));
    // What a slow thread still says in the old one goes nowhere.
    two.nodes[0].send_copy(old, b"old".to_vec());
    two.nodes[0].handle(Event::CopyRefused { session: old, reason: "old".into() }, two.now);
    two.nodes[0].handle(Event::Copied { session: old }, two.now);
    two.settle();
    assert!(!two.wanted[1].iter().any(|effect| matches!(effect, Effect::CopyMessage { .. })));
    assert_ne!(two.nodes[0].mode(), Mode::Live);
    two.nodes[0].handle(Event::Copied { session }, two.now);
    two.settle();
    assert_eq!(two.nodes[0].mode(), Mode::Live);
}

#[test]
fn a_target_that_talks_nonsense_is_lost_and_no_more() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    let session = two.exchange(0).expect("a is the source");
    two.nodes[0].handle(Event::CopyBroken { session, reason: "nonsense".into() }, two.now);
    two.settle();
    assert!(two.wants(0, &Effect::CloseLink) && two.wants(0, &Effect::CopyOff));
    assert!(!two.wanted[0].iter().any(|effect| matches!(effect, Effect::Halt { .. })));
}

#[test]
fn copies_that_cannot_be_made_the_same_end_the_start() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    let session = two.exchange(0).expect("a is the source");
    two.nodes[0].handle(Event::CopyRefused { session, reason: "they differ".into() }, two.now);
    two.settle();
    // Nobody's machine has gone astray: the other side may be started again with other disks.
    assert!(!two.wanted[1].iter().any(|effect| matches!(effect, Effect::Halt { .. })), "{:?}", two.wanted[1]);
    assert!(
        two.wanted[0]
            .iter()
            .any(|effect| matches!(effect, Effect::Halt { message, .. } if message == "they differ"))
    );
    assert!(two.nodes.iter().all(|node| node.mode() != Mode::Live));
}

/// (register's generation and holder, copies of a and b; who is chosen when both are there, a alone, b alone).
#[test]
fn a_cold_start_goes_on_with_the_copies_of_the_last_live_replica() {
    const INCOMPLETE: Option<Copies> =
        Some(Copies { live: 0, highest: 1, whole: false, usable: false, used: Used::All });
    // One of several disks is new, on the replica that was last live.
    const PART: Option<Copies> =
        Some(Copies { live: 2, highest: 2, whole: false, usable: true, used: Used::Some });
    let none = RegisterState { generation: 0, holder: None };
    let cases = [
        // First use; and a pair whose register was lost.
        (none, NEW, NEW, Some(0), Some(0), None),
        (none, copies(3), NEW, None, None, None),
        (none, NEW, copies(3), None, Some(0), None),
        // The ordinary ones: the holder has the stamp.
        (held(1, 0), copies(1), copies(0), Some(0), Some(0), None),
        (held(2, 1), copies(1), copies(2), Some(1), None, Some(1)),
        // b won 2 and died before its stamp: it released nothing in 2, and a was live in 1.
        (held(2, 1), copies(1), copies(0), Some(0), None, None),
        // The other way round.
        (held(3, 0), copies(1), copies(2), Some(1), None, None),
        // a won 1 and died before its first stamp.
        (held(1, 0), NEW, NEW, Some(0), None, None),
        // A copy that was being written when its replica ended is never gone on with.
        (held(1, 0), copies(1), INCOMPLETE, Some(0), Some(0), None),
        (held(2, 1), INCOMPLETE, copies(1), Some(1), None, None),
        (held(1, 0), INCOMPLETE, INCOMPLETE, None, None, None),
        // A missing copy, with a new one in its place, is waited for: a's is no answer to b's, nor the other way round.
        (held(2, 1), copies(1), NEW, None, None, None),
        (held(1, 0), NEW, copies(0), None, None, None),
        // One disk of several is new: with the other side there, each disk is judged by itself; alone it would be empty.
        (held(2, 0), PART, copies(0), Some(0), None, None),
    ];
    for (register, a, b, both, a_alone, b_alone) in cases {
        for (up, expected) in [([true, true], both), ([true, false], a_alone), ([false, true], b_alone)] {
            let mut two = Two::new(register, [a, b]);
            two.up = up;
            two.start();
            two.wait(3000 * MS);
            assert_eq!(two.chosen(), expected, "{register:?}, {a:?}, {b:?}, {up:?}");
            if expected.is_none() && up != [true; 2] {
                assert!(two.noticed("does not start the guest"), "{register:?}, {a:?}, {b:?}, {up:?}");
            }
        }
    }
}

#[test]
fn a_start_that_waits_for_a_missing_disk_says_so() {
    let mut two = Two::new(held(2, 1), [copies(1), NEW]);
    two.start();
    assert!(two.noticed("bring the missing one back"), "{:?}", two.wanted);
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [copies(3), NEW]);
    two.start();
    assert!(two.noticed("restored from an old copy"), "{:?}", two.wanted);
}

/// Chosen with both there, and then alone: what it has not compared with the other side's it must not go on with, unless all of it
/// is the last live replica's.
#[test]
fn start_alone_is_for_copies_that_are_known_to_be_the_right_ones() {
    for (register, a, b, alone) in [
        (held(1, 0), copies(1), copies(0), true),
        (held(2, 1), copies(1), copies(0), false),
        (RegisterState { generation: 0, holder: None }, NEW, NEW, true),
    ] {
        let mut two = Two::new(register, [a, b]);
        two.start();
        two.exchange(0).expect("a is the source");
        two.disconnect();
        two.up = [true, false];
        two.wait(3000 * MS);
        assert_eq!(two.nodes[0].mode() == Mode::Live, alone, "{register:?}, {a:?}, {b:?}");
        assert_eq!(two.noticed("the start goes on waiting"), !alone);
    }
}

/// The backup is lost when the copies are the same and stamped, or just before the stamp, and before the guest has run: whose they are
/// is known from there on.
#[test]
fn copies_that_were_made_the_same_start_alone_too() {
    let none = RegisterState { generation: 0, holder: None };
    for (register, before, stamp) in [(none, [NEW; 2], 1), (held(2, 1), [copies(1), copies(0)], 3)] {
        for (stamped, late) in [(true, false), (true, true), (false, false)] {
            let mut two = Two::new(register, before);
            two.start();
            let session = two.exchange(0).expect("a is the source");
            if stamped {
                two.nodes[1].handle(Event::Copies(copies(0).unwrap()), two.now);
                if !late {
                    two.nodes[0].handle(Event::Copies(copies(stamp).unwrap()), two.now);
                    two.nodes[0].handle(Event::Copied { session }, two.now);
                }
            }
            two.disconnect();
            if stamped && late {
                two.nodes[0].handle(Event::Copies(copies(stamp).unwrap()), two.now);
            }
            two.up = [true, false];
            two.wait(3000 * MS);
            let alone = two.nodes[0].mode() == Mode::Live;
            assert_eq!(alone, stamped || register == none, "{register:?}, stamped: {stamped}");
        }
    }
}

#[test]
fn the_backups_reads_are_told_in_order_and_to_a_primary_only() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [None; 2]);
    two.start();
    assert_eq!(two.nodes[0].mode(), Mode::Live);
    for read in [(0, 0), (0, 1), (1, 0)] {
        assert!(two.nodes[0].read_followed(read));
        two.nodes[1].own_read_made(read);
    }
    assert!(!two.nodes[1].own_read_finished((1, 0), true, MS), "an earlier one is not finished");
    assert!(!two.nodes[1].own_read_finished((0, 0), false, MS), "nobody waits for it");
    two.settle();
    assert!(!two.wants(0, &Effect::ReadFinished { disk: 0, request: 0 }));
    assert!(two.nodes[1].tell_reads(), "a write may wait");
    two.settle();
    assert!(two.wants(0, &Effect::ReadFinished { disk: 0, request: 0 }));
    assert!(!two.wants(0, &Effect::ReadFinished { disk: 1, request: 0 }));
    assert!(two.nodes[1].own_read_finished((0, 1), true, MS));
    two.settle();
    for (disk, request) in [(0, 1), (1, 0)] {
        assert!(two.wants(0, &Effect::ReadFinished { disk, request }));
    }
    // The backup is lost: nothing more is waited for.
    two.disconnect();
    two.settle();
    assert!(!two.nodes[0].read_followed((0, 2)));
}

/// Its machine is not the primary's any more, which shows there first.
#[test]
fn a_backup_that_has_read_what_the_primary_did_not_never_asks() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [None; 2]);
    two.start();
    two.nodes[1].own_read_made((0, 0));
    assert!(two.nodes[1].own_read_finished((0, 0), true, MS) || two.nodes[1].tell_reads());
    two.settle();
    assert_eq!(two.nodes[0].view().lies, 1);
    let halted =
        |effect: &Effect| matches!(effect, Effect::Halt { exit: ft_core::replica::Exit::Divergence, .. });
    assert!(two.wanted[1].iter().any(halted), "{:?}", two.wanted[1]);
    two.disconnect();
    two.settle();
    assert_eq!(two.register, RegisterState { generation: 2, holder: Some(who(0)) });
    assert_eq!(two.nodes[0].mode(), Mode::Live);
}

/// The other side was lost before the guest ran, and is back before `start-alone` has passed once more.
fn comes_back(two: &mut Two) {
    assert_ne!(two.nodes[0].mode(), Mode::Live, "start-alone begins again");
    two.wait(900 * MS);
    two.connect();
    two.settle();
    let session = two.exchange(0).expect("once more");
    two.nodes[0].handle(Event::Copied { session }, two.now);
    two.settle();
    assert_eq!((two.nodes[0].mode(), two.nodes[1].mode()), (Mode::Live, Mode::Backup));
}

/// Whoever was lost in the middle of that is waited for as at the start: it was there just now.
#[test]
fn a_target_that_is_lost_is_waited_for_anew() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    two.wait(1500 * MS);
    two.disconnect();
    two.settle();
    comes_back(&mut two);
}

/// So is a backup that was lost before the first instruction: that needs the next generation, and no haste.
#[test]
fn a_backup_that_is_lost_before_the_guest_ran_is_waited_for_anew() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [NEW; 2]);
    two.start();
    two.wait(1500 * MS);
    let session = two.exchange(0).expect("a is the source");
    two.nodes[1].handle(Event::Copies(copies(0).unwrap()), two.now);
    two.nodes[0].handle(Event::Copies(copies(1).unwrap()), two.now);
    two.nodes[0].handle(Event::Copied { session }, two.now);
    two.disconnect();
    two.settle();
    assert_eq!(two.register, RegisterState { generation: 2, holder: Some(who(0)) });
    comes_back(&mut two);
}

#[test]
fn a_read_whose_data_the_log_carries_is_finished_when_they_are_acknowledged() {
    let mut two = Two::new(RegisterState { generation: 0, holder: None }, [None; 2]);
    two.start();
    let finished = Effect::ReadFinished { disk: 0, request: 3 };
    let (status, data) = (DiskStatus::Ok, vec![1; 512]);
    let done = Input::DiskDone(DiskDone { disk: 0, request: 3, status, data });
    let lsn = two.nodes[0].append(10, Body::Input(done), two.now);
    two.nodes[0].read_logged(lsn, (0, 3));
    assert!(two.nodes[0].poll_effect().is_none(), "nothing was sent yet");
    two.settle();
    assert!(two.wants(0, &finished));
}

#[test]
fn an_own_read_is_a_record_of_a_few_bytes() {
    let body = Body::OwnRead { disk: 0, request: 1000, digest: 0xffff_ffff };
    assert!(body.is_input());
    assert_eq!(body.cost(), Body::Progress.cost());
}

/// One side reads the register after the other one's win, and before it is told of it: what the winner said as it still waited is no
/// judgement on its disks.
#[test]
fn a_win_that_is_read_before_it_is_told() {
    for (register, a, b) in [
        (held(1, 0), copies(1), NEW),
        (held(1, 0), copies(1), copies(0)),
        (RegisterState { generation: 0, holder: None }, copies(0), NEW),
    ] {
        let mut two = Two::new(register, [a, b]);
        two.nodes.iter_mut().for_each(|node| node.handle(Event::Start, two.now));
        two.connect();
        // The winner first, to the end; what it says last is still on its way.
        let hellos: [Vec<u8>; 2] =
            std::array::from_fn(|index| two.nodes[index].poll_transmit(two.now).expect("a hello"));
        for index in 0..2 {
            two.nodes[index].handle(Event::Received(&hellos[1 - index]), two.now);
        }
        while let Some(effect) = two.nodes[0].poll_effect() {
            two.effect(0, effect);
        }
        assert_eq!(two.register.holder, Some(who(0)), "{register:?}");
        while let Some(effect) = two.nodes[1].poll_effect() {
            two.effect(1, effect);
        }
        two.settle();
        let session = two.exchange(0).unwrap_or_else(|| panic!("{register:?}: {:?}", two.wanted));
        assert!(two.wants(1, &Effect::CopyTo { session }), "{register:?}: {:?}", two.wanted);
        assert_eq!(two.register.holder, Some(who(0)), "{register:?}");
    }
}

/// A backup that was never armed takes a stop in the log for nonsense: there is no log yet.
#[test]
fn a_stop_while_the_copies_are_made_the_same_is_not_logged() {
    let mut two = Two::new(held(3, 0), [copies(3), copies(2)]);
    two.start();
    assert_eq!(two.nodes[1].mode(), Mode::Backup);
    let now = two.now;
    two.nodes[0].handle(Event::Stop, now);
    assert_eq!(two.nodes[0].mode(), Mode::Stop);
    two.nodes[0].append_stop(0, now);
    assert!(!two.nodes[0].is_paired());
    two.settle();
    assert!(two.nodes[0].poll_release(now).is_none());
    two.settle();
    assert!(two.wanted[0].contains(&Effect::End) && two.nodes[0].ended_in_order());
    assert!(!two.wanted[0].iter().any(|effect| matches!(effect, Effect::Live { .. })));
    assert_eq!(two.nodes[1].view().lies, 0);
}
