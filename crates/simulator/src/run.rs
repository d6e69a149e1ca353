//! One run: faults, then none, then the judgement.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use ft_core::replica::View;
use ft_core::{Nanos, Phase};

use crate::cold;
use crate::faults::{Kind, Plan, apart, corners, pointed, special, twins};
use crate::node::Process;
use crate::properties::{Judge, Violation, at_the_end, on_the_disk};
use crate::random::Random;
use crate::shape::{Ambient, MS, Setting, Shape};
use crate::trace::Of;
use crate::world::queue::Happening;
use crate::world::{Counters, World};

/// How long a start may take, with a register that answers late.
const START: Nanos = 20_000 * MS;
/// How long it may take until everything is in order again once faults have stopped.
const SETTLE: Nanos = 12_000 * MS;
/// After that time without a live replica the operator starts what does not run.
const OPERATOR: Nanos = 4000 * MS;
/// After that time a person decides, where it takes one.
const PERSON: Nanos = 2000 * MS;
/// How long things must be in order to be so.
const STABLE: Nanos = 300 * MS;
/// How often the operator tries.
const STARTS: u32 = 5;
/// How long a guest may take until it has run from one digest to the next.
const DIGESTS: Nanos = 10_000 * MS;
/// How long a live guest may say nothing.
const SILENCE: Nanos = 4000 * MS;
/// After that time a peer that is gone does not stand in the way of a promotion any more.
const UNHEARD: Nanos = 3000 * MS;

/// The stream of [`pointed`]: one in which no seed has such a plan that had found something before there were any.
const POINTED: u64 = 154;
/// The same of [`corners`].
const CORNERS: u64 = 560;
/// The same of those with another process of one identity.
const TWINS: u64 = 155;
/// The same of those whose guest discards.
const ZEROES: u64 = 313;
/// One seed in so many has such a guest.
const DISCARDING: u64 = 8;
/// The same of those on the virtual clock.
const VIRTUAL: u64 = 1641;
/// One seed in so many is.
const ON_VIRTUAL: u64 = 6;
/// The same of those with a launcher that takes its time.
const LAUNCHER: u64 = 4206;
/// One seed in so many on one machine has such a launcher.
const SLOW_LAUNCHERS: u64 = 5;

/// What of a seed's run is left out, for [`crate::shrink`].
#[derive(Debug, Clone, Default)]
pub struct Without {
    /// Faults, by index.
    pub faults: Vec<usize>,
    /// Conditions.
    pub ambient: Vec<Ambient>,
    /// Faults stop after this time, if that is earlier.
    pub safety: Option<Nanos>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first property that was violated.
    pub violation: Option<Violation>,
    /// Simulated time.
    pub simulated: Nanos,
    /// What was counted.
    pub counters: Counters,
    /// What the run was like, in words.
    pub what: String,
    /// Its last lines, if they were asked for.
    pub trace: String,
}

/// Draws a seed's shape and plan.
pub fn draw(seed: u64, without: &Without) -> (Shape, Plan) {
    let mut shape = Shape::draw(&mut Random::new(seed, 1));
    let mut plan = Plan::draw(&mut Random::new(seed, 2));
    apart::draw(seed, &mut Random::new(seed, 6), &mut shape, &mut plan);
    // What those plans are about is one disk and one register.
    if !shape.separate && !shape.by_hand {
        twins::draw(&mut Random::new(seed, TWINS), &mut plan);
        let special = special::draw(&mut Random::new(seed, 13), &mut shape, &mut plan);
        let pointed = pointed::draw(&mut Random::new(seed, POINTED), special, &mut shape, &mut plan);
        if !special && !pointed {
            corners::draw(&mut Random::new(seed, CORNERS), &mut shape, &mut plan);
        }
    }
    shape.profile.zeroes = Random::new(seed, ZEROES).chance(DISCARDING);
    // Where positions are exits they say nothing of time, and this clock is refused.
    shape.virtual_clock = !shape.exits && Random::new(seed, VIRTUAL).chance(ON_VIRTUAL);
    let one_machine = shape.setting == Setting::OneMachine;
    shape.slow_launcher = one_machine && Random::new(seed, LAUNCHER).chance(SLOW_LAUNCHERS);
    shape.ambient.retain(|ambient| !without.ambient.contains(ambient));
    let mut index = 0;
    plan.faults.retain(|_| {
        index += 1;
        !without.faults.contains(&(index - 1))
    });
    if let Some(safety) = without.safety {
        plan.safety = plan.safety.min(safety);
    }
    (shape, plan)
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of a run are its own affair: they are noted, not printed.
fn catch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|info| {
            PANIC.with_borrow_mut(|known| *known = Some(info.to_string().replace('\n', " ")));
        }));
    });
}

/// Runs a seed; with `lines` it gives so many of the trace's last ones.
pub fn run(seed: u64, without: &Without, lines: usize) -> Outcome {
    catch_panics();
    let (shape, plan) = draw(seed, without);
    let what = format!("{shape:?}\n{plan:?}");
    let mut world = World::new(seed, shape, plan, lines > 0);
    let lived = panic::catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    if lived.is_err() {
        let text = PANIC.with_borrow_mut(Option::take).unwrap_or_default();
        world.violate("an assertion of the code", text);
    }
    Outcome {
        violation: world.violation.take(),
        simulated: world.now,
        counters: world.counters.clone(),
        what,
        trace: world.trace.text(lines),
    }
}

fn live(world: &mut World) {
    let apart = world.random.below(30 * MS);
    let first = world.random.below(2) as usize;
    world.schedule(0, Happening::Start(first));
    world.schedule(apart, Happening::Start(1 - first));
    world.schedule(0, Happening::Client);
    let plan = world.plan.clone();
    for (index, fault) in plan.faults.iter().enumerate().filter(|(_, fault)| fault.early) {
        world.schedule(fault.at, Happening::Strike(index));
    }
    let mut at = 0;
    while world.started.is_none() && world.violation.is_none() {
        at += 5 * MS;
        if at > START {
            return world.violate("liveness", "nobody starts the guest".to_owned());
        }
        if world.shape.by_hand && at > START / 2 {
            // Who lost the other one before the guest's first instruction waits for a person as well.
            world.decide();
        }
        world.run_until(at);
        if plan.faults.iter().any(|fault| fault.early) {
            // A start that was disturbed may end in an error: a damaged hello is another one's, and a disk that a process has open that
            // could not be reached is in use. The operator starts it again.
            world.facts.restarted = true;
            (0..2).filter(|_| at % (50 * MS) == 0).for_each(|node| world.start_process(node));
        }
    }
    for (index, fault) in plan.faults.iter().enumerate().filter(|(_, fault)| !fault.early) {
        if fault.at < plan.safety {
            world.schedule(fault.at, Happening::Strike(index));
        }
    }
    world.run_until(world.now + plan.safety);
    world.calm_down();
    let life = world.facts.lives.keys().next_back().copied();
    settle(world);
    if world.violation.is_none() {
        single_fault(world, life);
        undisturbed(world);
        damaged_is_gone(world);
    }
    if world.violation.is_none() {
        judge(world);
    }
}

/// Who is up, and not about to end.
fn up(world: &World) -> Vec<usize> {
    (0..2).filter(|node| world.process(*node).is_some_and(|process| process.exiting.is_none())).collect()
}

/// The process whose guest is the real one.
fn live_process(world: &World) -> Option<&Process> {
    world.facts.live().and_then(|node| world.process(node))
}

/// The guest came to an end of its own, or the operator's: nobody need go on.
fn is_over(world: &World) -> bool {
    let last = world.facts.lives.keys().next_back();
    let said = last.and_then(|life| world.outside.said.get(life));
    said.is_some_and(|said| said.over) || world.counters.faults.contains_key(&Kind::Stop)
}

/// It was started, and that is all; or it may start the guest, if a person who stopped the other side meant that.
fn is_waiting(world: &World, node: usize) -> bool {
    let unused = |view: &View| world.shape.by_hand && view.phase == Phase::Live && !view.started;
    world.facts.views[node].as_ref().is_some_and(|view| view.phase == Phase::Waiting || unused(view))
}

/// Why things are not in order yet.
fn unsettled(world: &World) -> Option<String> {
    let up = up(world);
    if world.facts.wrong {
        // It was noticed if no two go on; what the person has done beyond that is the person's to put right.
        let two = (0..2).all(|node| world.facts.goes_on(node));
        return two.then(|| "a person has promoted both, and both go on".to_owned());
    }
    let describe = |node: &usize| {
        let view = world.facts.views[*node].as_ref();
        format!("{}: {view:?}", ["a", "b"][*node])
    };
    let all = || up.iter().map(describe).collect::<Vec<_>>().join("; ");
    if (0..2).all(|node| world.process(node).is_none()) {
        return (!is_over(world)).then(|| "nobody is there".to_owned());
    }
    let wedged = |node: usize| world.process(node).is_some_and(|process| process.wedged.is_some());
    if is_over(world) && up.iter().all(|node| is_waiting(world, *node) || wedged(*node)) {
        // Started after the end: there is nobody for it to wait for, and it cannot know. Or it never gets anywhere any more.
        return None;
    }
    let Some(live) = world.facts.live() else { return Some(format!("nobody is live: {}", all())) };
    if world.facts.is_deposed(live) && !world.shape.by_hand {
        // Who is alone learns it from the register.
        return Some(format!("somebody has won above the one that is live: {}", all()));
    }
    if up.len() == 2 && !world.facts.is_paired() {
        return Some(format!("one is live, and the other one is neither its backup nor gone: {}", all()));
    }
    if world.process(1 - live).is_some_and(|process| process.exiting.is_some()) {
        return Some("a process does not come to its end".to_owned());
    }
    let said = world.facts.lives.keys().next_back().and_then(|life| world.outside.said.get(life));
    if said.is_some_and(|said| said.over) {
        return Some(format!("the guest is over, and somebody goes on: {}", all()));
    }
    None
}

/// Faults have stopped: whoever is left must get on with it.
fn settle(world: &mut World) {
    if world.facts.restored {
        // Everything may be held back until a person puts the store's latest state back.
        return world.run_until(world.now + SILENCE);
    }
    if world.facts.wrong {
        // Two that were heard of each other need some time; afterwards no two go on.
        world.run_until(world.now + SILENCE);
        if let Some(why) = unsettled(world) {
            world.violate("a wrong promotion is noticed", why);
        }
        return;
    }
    let mut since = world.now;
    let mut starts = 0;
    // A deposed replica may not know it yet: what is in order must stay so.
    let mut calm_since = world.now;
    while world.now < calm_since + STABLE || unsettled(world).is_some() {
        if world.violation.is_some() {
            return;
        }
        let Some(why) = unsettled(world) else {
            world.run_until(world.now + 20 * MS);
            continue;
        };
        calm_since = world.now;
        let waited = world.now - since;
        let gone = (0..2).all(|node| world.process(node).is_none());
        if world.shape.by_hand && world.facts.live().is_none() && waited > PERSON {
            world.decide();
        }
        // Who was started may have ended with an error (it could not hear a process that has the disk open, say), and the other one waits.
        let ended = !world.shape.by_hand && matches!(up(world)[..], [left] if is_waiting(world, left));
        let stuck = world.facts.live().is_none() && waited > OPERATOR && (starts == 0 || ended);
        // What was started again after the guest's end may wait for the other side as well.
        if !stuck && (is_over(world) || !gone) {
            if waited > SETTLE && world.facts.copy_lost && world.facts.live().is_none() {
                // Only a person can know whether the other copy will do.
                return;
            }
            if waited > SETTLE {
                return world.violate("liveness", why);
            }
            world.run_until(world.now + 20 * MS);
            continue;
        }
        if starts == STARTS && world.facts.copy_lost {
            return;
        }
        if starts == STARTS {
            return world.violate("liveness", format!("in spite of new starts: {why}"));
        }
        starts += 1;
        since = world.now;
        world.facts.restarted = true;
        world.facts.operator = true;
        world.note(Of::World, || "the operator starts what does not run".to_owned());
        for node in 0..2 {
            let after = world.random.below(30 * MS);
            world.schedule(after, Happening::Start(node));
        }
        world.run_until(world.now + 40 * MS);
    }
    if up(world).is_empty() || is_over(world) {
        return;
    }
    nothing_waits(world);
    // Outputs flow again.
    let (seen, since, patience) = (world.outside.seen, world.now, patience(world));
    let mut silent = since;
    while world.outside.seen == seen && world.violation.is_none() && !is_over(world) {
        if world.now > since + patience {
            let why =
                (0..2).map(|node| format!("{:?}", world.facts.views[node])).collect::<Vec<_>>().join("; ");
            return world.violate("liveness", format!("the guest says nothing any more: {why}"));
        }
        attend(world, &mut silent);
    }
    world.run_until(world.now + 100 * MS);
}

/// Some time passes; where it takes a person to go on, there is one.
fn attend(world: &mut World, silent_since: &mut Nanos) {
    if world.facts.live().is_some() {
        *silent_since = world.now;
    } else if world.shape.by_hand && world.now > *silent_since + PERSON {
        world.decide();
    }
    world.run_until(world.now + 20 * MS);
}

/// How long what the guest says, or has asked for, may take. A person takes time, and what waits until the backup has executed it (a write,
/// for the backup's reading) takes as long as that: without a pacing the backup may be seconds behind.
fn patience(world: &World) -> Nanos {
    let person = if world.shape.by_hand { PERSON + UNHEARD } else { 0 };
    let stands_at = |node: usize| world.process(node).map(|process| process.guest.position);
    let owed = match (stands_at(0), stands_at(1)) {
        (Some(a), Some(b)) if world.facts.is_paired() => a.abs_diff(b),
        _ => 0,
    };
    SILENCE + person + owed * world.shape.instruction * world.shape.backup_pace / 10
}

/// What the guest has asked for comes to an end.
fn nothing_waits(world: &mut World) {
    let Some(process) = live_process(world) else { return };
    let incarnation = process.incarnation;
    let disk: Vec<u64> = process.guest.pending.keys().copied().collect();
    let random: Vec<u64> = process.guest.pending_entropy.keys().copied().collect();
    let (since, patience) = (world.now, patience(world));
    let mut silent = since;
    while world.violation.is_none() && !is_over(world) {
        let Some(process) = live_process(world).filter(|process| process.incarnation == incarnation) else {
            return;
        };
        let guest = &process.guest;
        let waits = disk.iter().find(|request| guest.pending.contains_key(request));
        let waits_too = random.iter().find(|request| guest.pending_entropy.contains_key(request));
        let request = match (waits, waits_too) {
            (Some(request), _) => format!("disk request {request}"),
            (None, Some(request)) => format!("request {request} of random bytes"),
            (None, None) => return,
        };
        if world.now > since + patience {
            return world.violate("liveness", format!("{request} has no end"));
        }
        attend(world, &mut silent);
    }
}

/// An undisturbed pair stays one, and its end in order is nothing that a backup takes for a crash.
fn undisturbed(world: &mut World) {
    let harmless = world.shape.ambient.iter().all(|ambient| Ambient::HARMLESS.contains(ambient));
    let mut kinds = world.plan.faults.iter().map(|fault| fault.kind);
    // A primary does not wait for ever for a backup that is slower than itself.
    let ends = harmless
        && is_over(world)
        && world.shape.backup_pace < 10
        && kinds.clone().all(|kind| kind == Kind::Stop);
    if ends && world.facts.wins.len() > 1 {
        let wins = &world.facts.wins;
        return world.violate(
            "an end in order is no crash",
            format!("the guest has ended, and these were won: {wins:?}"),
        );
    }
    let undisturbed = harmless && kinds.next().is_none();
    if undisturbed && !is_over(world) && !(world.facts.is_paired() && world.facts.wins.len() == 1) {
        let views = &world.facts.views;
        world.violate("an undisturbed pair stays one", format!("a: {:?}; b: {:?}", views[0], views[1]));
    }
}

/// A backup whose guest was damaged finds that with the next digest at the latest, and ends.
fn damaged_is_gone(world: &mut World) {
    let Some(damaged) = world.facts.damaged else { return };
    let since = world.now;
    while (0..2).any(|node| world.process(node).is_some_and(|process| process.incarnation == damaged)) {
        if world.violation.is_some() || is_over(world) {
            return;
        }
        if world.now > since + DIGESTS {
            return world.violate("a diverged copy ends", "a damaged backup does not find it".to_owned());
        }
        world.run_until(world.now + 20 * MS);
    }
}

/// After a single fault the guest lives, and nobody had to start anything.
fn single_fault(world: &mut World, life: Option<u64>) {
    let [strike] = world.strikes[..] else { return };
    let borne = strike.paired && strike.fault.kind.is_borne(world.shape.setting);
    // Where a person decides, it takes a person.
    if !borne || world.shape.by_hand || is_over(world) {
        return;
    }
    // Whoever has just given up the other side, for reasons of its own, is told that it may go on.
    let since = world.now;
    while world.facts.live().is_none() && world.violation.is_none() && world.now < since + OPERATOR {
        world.run_until(world.now + 20 * MS);
    }
    let now = world.facts.lives.keys().next_back().copied();
    if now != life || world.facts.live().is_none() || world.facts.operator {
        world.violate(
            "the guest lives after any single fault",
            format!(
                "after {:?} at {} it had to be started anew",
                strike.fault.kind,
                ["a", "b"][strike.fault.victim]
            ),
        );
    }
}

/// What was said is judged; then all processes are killed, what is under way lands or does not, and the disk is judged.
fn judge(world: &mut World) {
    if world.facts.wrong {
        // Two guests have run: nothing is one history any more.
        return;
    }
    (0..2).for_each(|node| world.launcher_reads(node));
    judge_by(world, &at_the_end());
    if world.violation.is_none() && (world.shape.separate || world.shape.by_hand) {
        return cold::start(world);
    }
    for node in 0..2 {
        world.die(node, false);
    }
    let mut random = Random::new(world.random.next(), 4);
    world.disk.settle(|_| true, || if random.chance(2) { u64::MAX } else { random.next() });
    if world.shape.setting == Setting::OneMachine && random.chance(2) {
        world.disk.lose_cache();
    }
    judge_by(world, &on_the_disk());
}

fn judge_by(world: &mut World, judges: &[(&'static str, Judge)]) {
    for (name, judge) in judges {
        if let Err(what) = judge(world) {
            return world.violate(name, what);
        }
    }
}
