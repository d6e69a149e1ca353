//! What is done to a pair, and what must come of it. Replica a is the primary, in generation 1.

use std::time::Duration;

use ft_e2e::{Cut, DiskPolicy, TieBreaker, Way};

use crate::stage::{End, Other, Stage};

/// A time that a tie-breaker may take and still be believed: a call may take a second.
const SLOW: Duration = Duration::from_millis(500);
/// What a replica says when the tie-breaker did not answer in time.
const GAVE_UP: &str = "asking again until it answers";

const WIRE: Cut = Cut::Replication(Way::Both);

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The guest's disk.
    pub(crate) disk: DiskPolicy,
    /// A setting that both are started with.
    pub(crate) extra: &'static str,
    /// For which tie-breakers it means something.
    pub(crate) kinds: Kinds,
    pub(crate) run: fn(&mut Stage) -> End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    All,
    /// Not a person: he is not on a network.
    Servers,
    /// Those that are not on the shared disk.
    ForSeparateDisks,
}

impl Scenario {
    pub(crate) fn is_for(&self, kind: TieBreaker) -> bool {
        match self.kinds {
            Kinds::All => true,
            Kinds::Servers => kind != TieBreaker::Manual,
            Kinds::ForSeparateDisks => kind != TieBreaker::SharedDisk,
        }
    }
}

const fn scenario(name: &'static str, kinds: Kinds, run: fn(&mut Stage) -> End) -> Scenario {
    Scenario { name, disk: DiskPolicy::SHARED, extra: "", kinds, run }
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("log cut", Kinds::All, log_cut),
    scenario("heartbeats cut", Kinds::All, heartbeats_cut),
    scenario("both cut", Kinds::All, both_cut),
    scenario("both cut, healed before anybody goes on", Kinds::Servers, healed_before),
    scenario("b does not hear a", Kinds::All, deaf_backup),
    scenario("a does not hear b", Kinds::All, deaf_primary),
    scenario("both cut, arbiter out of a's reach", Kinds::Servers, out_of_as_reach),
    scenario("both cut, arbiter out of b's reach", Kinds::Servers, out_of_bs_reach),
    scenario("all cut, arbiter back for a, for b", Kinds::Servers, back_for_a),
    scenario("all cut, arbiter back for b, for a", Kinds::Servers, back_for_b),
    scenario("all cut, wire healed, arbiter back", Kinds::Servers, wire_first),
    scenario("only the arbiter out of reach, then b dies", Kinds::Servers, only_the_arbiter),
    scenario("both cut, arbiter slow", Kinds::Servers, slow),
    scenario("both cut, arbiter answers too late", Kinds::Servers, too_late),
    scenario("primary stopped, and woken", Kinds::All, primary_stopped),
    scenario("backup stopped, and woken", Kinds::All, backup_stopped),
    Scenario {
        name: "backup's disk hangs",
        disk: DiskPolicy::SEPARATE,
        extra: "disk.0.faults={replica=\"b\", after=100, delayed=1.0, delay=\"1 min\"}",
        kinds: Kinds::ForSeparateDisks,
        run: backup_hangs,
    },
];

fn other(live: &str) -> &'static str {
    if live == "a" { "b" } else { "a" }
}

/// The tie-breaker decides while the wire is cut; whoever has lost ends before it is healed. With a person it ends when it hears of
/// the other one.
fn decided(stage: &mut Stage, may: &[&'static str], cut: Cut) -> End {
    let live = stage.goes_on(may);
    if stage.kind == TieBreaker::Manual {
        stage.serves(50);
        stage.mend(cut);
    }
    stage.halts(other(live));
    End { live, other: Other::Halted }
}

/// The backup hears heartbeats, so it suspects nobody; the primary's records are not acknowledged.
fn log_cut(stage: &mut Stage) -> End {
    stage.cut(Cut::Log(Way::Both));
    if stage.kind != TieBreaker::Manual {
        return decided(stage, &["a"], Cut::Log(Way::Both));
    }
    // It is heard: a person must end it before the other one may go on.
    stage.nobody_lives(&["a"]);
    let refused = stage.bed.promote("a");
    assert!(
        refused.code == Some(1) && refused.stderr.contains("was heard"),
        "{}\n{}",
        refused.stderr,
        stage.said()
    );
    stage.kill_host("b");
    stage.nobody_has_spoken();
    let live = stage.goes_on(&["a"]);
    End { live, other: Other::Killed }
}

/// The log and its acknowledgements are signs of life too.
fn heartbeats_cut(stage: &mut Stage) -> End {
    stage.cut(Cut::Heartbeat(Way::Both));
    stage.serves_as_before();
    stage.mend(Cut::Heartbeat(Way::Both));
    End { live: "a", other: Other::Follows }
}

fn both_cut(stage: &mut Stage) -> End {
    stage.cut(WIRE);
    decided(stage, &["a", "b"], WIRE)
}

/// An ask is binding, also when the link is there again before it is answered.
fn healed_before(stage: &mut Stage) -> End {
    stage.freeze_arbiter();
    stage.cut(WIRE);
    stage.nobody_lives(&["a", "b"]);
    stage.mend(WIRE);
    stage.nobody_has_spoken();
    stage.thaw_arbiter();
    decided(stage, &["a", "b"], WIRE)
}

/// What the backup says arrives, but it acknowledges nothing that it did not get.
fn deaf_backup(stage: &mut Stage) -> End {
    let cut = Cut::Replication(Way::FromAToB);
    stage.cut(cut);
    // A person cannot promote a, which hears b.
    let may: &[_] = if stage.kind == TieBreaker::Manual { &["b"] } else { &["a", "b"] };
    let live = stage.goes_on(may);
    if live == "a" {
        // b does not hear that either; it has asked, and lost.
        assert_ne!(stage.kind, TieBreaker::Manual);
    }
    stage.halts(other(live));
    End { live, other: Other::Halted }
}

/// The backup hears heartbeats and suspects nobody, until one says that it was given up.
fn deaf_primary(stage: &mut Stage) -> End {
    stage.cut(Cut::Replication(Way::FromBToA));
    let live = stage.goes_on(&["a"]);
    stage.halts("b");
    End { live, other: Other::Halted }
}

fn out_of_reach(stage: &mut Stage, of: &'static str) -> End {
    stage.arbiter_out(of);
    stage.serves(50);
    stage.cut(WIRE);
    let live = stage.goes_on(&[other(of)]);
    stage.serves(50);
    stage.wait_asking(of);
    stage.arbiter_back(of);
    stage.halts(of);
    End { live, other: Other::Halted }
}

fn out_of_as_reach(stage: &mut Stage) -> End {
    out_of_reach(stage, "a")
}

fn out_of_bs_reach(stage: &mut Stage) -> End {
    out_of_reach(stage, "b")
}

/// Nobody can ask: nobody lives, and nothing is let out.
fn all_cut(stage: &mut Stage) {
    for host in ["a", "b"] {
        stage.arbiter_out(host);
    }
    stage.cut(WIRE);
    stage.nobody_lives(&["a", "b"]);
    for replica in ["a", "b"] {
        stage.wait_said(replica, GAVE_UP);
    }
    stage.nobody_has_spoken();
}

fn back_for(stage: &mut Stage, first: &'static str) -> End {
    all_cut(stage);
    stage.arbiter_back(first);
    let live = stage.goes_on(&[first]);
    stage.serves(50);
    stage.arbiter_back(other(first));
    stage.halts(other(first));
    End { live, other: Other::Halted }
}

fn back_for_a(stage: &mut Stage) -> End {
    back_for(stage, "a")
}

fn back_for_b(stage: &mut Stage) -> End {
    back_for(stage, "b")
}

fn wire_first(stage: &mut Stage) -> End {
    all_cut(stage);
    stage.mend(WIRE);
    stage.nobody_has_spoken();
    let first = stage.either(&["a", "b"]);
    stage.arbiter_back(first);
    stage.arbiter_back(other(first));
    decided(stage, &["a", "b"], WIRE)
}

/// A pair that is whole does not need it.
fn only_the_arbiter(stage: &mut Stage) -> End {
    for host in ["a", "b"] {
        stage.arbiter_out(host);
    }
    stage.serves_as_before();
    stage.kill_host("b");
    stage.nobody_lives(&["a"]);
    stage.wait_said("a", GAVE_UP);
    stage.nobody_has_spoken();
    stage.arbiter_back("a");
    let live = stage.goes_on(&["a"]);
    End { live, other: Other::Killed }
}

fn slow(stage: &mut Stage) -> End {
    stage.freeze_arbiter();
    stage.cut(WIRE);
    let first = stage.either(&["a", "b"]);
    stage.wait_asking(first);
    // This is what is tested: how long it takes.
    std::thread::sleep(SLOW);
    stage.thaw_arbiter();
    decided(stage, &["a", "b"], WIRE)
}

/// It carries out what it was asked when nobody waits for the answer any more.
fn too_late(stage: &mut Stage) -> End {
    stage.freeze_arbiter();
    stage.cut(WIRE);
    stage.nobody_lives(&["a", "b"]);
    for replica in ["a", "b"] {
        stage.wait_said(replica, GAVE_UP);
    }
    stage.nobody_has_spoken();
    stage.thaw_arbiter();
    decided(stage, &["a", "b"], WIRE)
}

/// It wakes with acknowledgements in its socket, and releases nothing.
fn primary_stopped(stage: &mut Stage) -> End {
    stage.signal("a", libc::SIGSTOP);
    let live = stage.goes_on(&["b"]);
    stage.serves(50);
    stage.signal("a", libc::SIGCONT);
    stage.halts("a");
    End { live, other: Other::Halted }
}

fn backup_stopped(stage: &mut Stage) -> End {
    stage.signal("b", libc::SIGSTOP);
    let live = stage.goes_on(&["a"]);
    stage.serves(50);
    stage.signal("b", libc::SIGCONT);
    stage.halts("b");
    End { live, other: Other::Halted }
}

/// It is there, acknowledges, and gets nowhere: the service goes on without it.
fn backup_hangs(stage: &mut Stage) -> End {
    if stage.kind == TieBreaker::Manual {
        stage.nobody_lives(&["a"]);
        stage.kill_host("b");
        let live = stage.goes_on(&["a"]);
        return End { live, other: Other::Killed };
    }
    let live = stage.goes_on(&["a"]);
    stage.halts("b");
    End { live, other: Other::Halted }
}
