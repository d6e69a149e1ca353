//! Random faults at random moments, also in the midst of what a replica does, and what must hold whatever they are.
//!
//! The simulation asserts at every step: one history of outputs, without gaps and with one content; nothing released that
//! the backup has not received; no write of an old generation on top of a new one's; no event loop that spins. Here: at
//! most one guest whose outputs count, somebody goes on after any single fault, and nothing acknowledged is lost.
//!
//! `FT_SIM_SEEDS=FIRST..END` runs other lives than the usual ones; a failure names its seed.

#[allow(unreachable_pub, reason = "the fixture's own parts")]
#[allow(dead_code, reason = "shared with other tests")]
mod sim;

use ft_core::Event;
use ft_core::replica::Mode;
use ft_policies::Key;
use sim::{MS, Moment, Options, Random, World};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    KillIn(Moment, u32),
    Pause,
    Wedge,
    Clog,
    Partition,
}

fn fault(random: &mut Random) -> Fault {
    match random.below(9) {
        0 => Fault::Kill,
        1..=3 => {
            let moment = [Moment::Before, Moment::In, Moment::After][random.below(3) as usize];
            Fault::KillIn(moment, random.below(30) as u32)
        }
        4 => Fault::Pause,
        5 => Fault::Wedge,
        6 => Fault::Clog,
        _ => Fault::Partition,
    }
}

fn strike(world: &mut World, index: usize, fault: Fault) {
    if !world.is_up(index) {
        return;
    }
    match fault {
        Fault::Kill => world.kill(index),
        Fault::KillIn(moment, count) => world.nodes[index].doomed = Some((count, moment)),
        Fault::Pause => world.nodes[index].stopped = true,
        Fault::Wedge => world.nodes[index].wedged = true,
        Fault::Clog => world.nodes[index].clogged = true,
        Fault::Partition => world.faults.partition = true,
    }
}

fn heal(world: &mut World) {
    world.faults.partition = false;
    world.faults.register_down = false;
    for node in &mut world.nodes {
        (node.stopped, node.wedged, node.clogged) = (false, false, false);
        node.doomed = None;
    }
}

fn check(world: &World, seed: u64) {
    let live: Vec<_> =
        world.live().into_iter().filter(|index| !world.nodes[*index].replica.is_asking()).collect();
    let generations: Vec<_> = live.iter().map(|index| world.nodes[*index].replica.generation()).collect();
    assert!(
        live.len() < 2 || generations[0] != generations[1],
        "seed {seed}: two guests are live in generation {generations:?}"
    );
    assert!(
        !world.now.is_multiple_of(16 * MS) || world.frames_are_kept(),
        "seed {seed}: a frame was acknowledged, and the live guest never had it"
    );
}

/// Says which life it was that failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the life of seed {}", self.0);
        }
    }
}

/// One life. True if a backup took over in it.
fn life(seed: u64) -> bool {
    let _named = Named(seed);
    let mut random = Random(seed.wrapping_mul(0x5DEE_CE66_D1CE_4E5B));
    let ends = random.chance(4);
    let options = Options {
        gate_outputs: 5 + random.below(200) as usize,
        end_after: if ends { 20 + random.below(60) } else { u64::MAX },
        start_alone: 1000 * MS,
        keys: if seed.is_multiple_of(3) { [0; 2].map(|_| Some(Key::of([7; 32]))) } else { [None, None] },
        ..Options::default()
    };
    let mut world = World::new(seed, &options);
    world.faults.lose_tail = random.chance(2);
    world.faults.delay = if random.chance(2) { random.below(20) * MS } else { 0 };
    world.faults.odd_answers = random.below(4);
    let go = |world: &mut World, count: u64| {
        for _ in 0..count {
            world.tick();
            check(world, seed);
        }
    };
    assert!(world.until(1500, |world| !world.live().is_empty()), "seed {seed}: nobody starts");
    let lead = random.below(400);
    go(&mut world, lead);
    let stops = random.chance(8);
    if stops {
        let index = random.below(2) as usize;
        world.nodes[index].replica.handle(Event::Stop, world.now);
    }
    let faults = 1 + random.below(3) * random.below(2);
    let mut struck = Vec::new();
    for _ in 0..faults {
        let (index, fault) = (random.below(2) as usize, fault(&mut random));
        struck.push((index, fault));
        strike(&mut world, index, fault);
        world.faults.register_down |= random.chance(5);
        let longest = if random.chance(3) { 600 } else { 30 };
        let pause = random.below(longest);
        go(&mut world, pause);
    }
    let outage = random.below(1500);
    go(&mut world, outage);
    heal(&mut world);
    go(&mut world, 3500);
    let what =
        format!("seed {seed}, {struck:?}: {:?} {:?}", world.nodes[0].messages, world.nodes[1].messages);
    let ended = world.nodes.iter().any(|node| node.ended == Some(0));
    if faults == 1 && !ended {
        assert_eq!(world.live().len(), 1, "somebody goes on after a single fault: {what}");
        let before = world.seen();
        go(&mut world, 300);
        assert!(world.seen() > before, "and gets somewhere: {what}");
        assert!(!ends, "an end comes to its end: {what}");
    }
    if let [index] = world.live()[..] {
        assert_eq!(world.nodes[index].replica.mode(), Mode::Live);
        world.inputs = false;
    }
    // A guest that has come to its end, or to a stop, leaves nobody behind that follows it for ever.
    if ended && ends && world.seen() as u64 == options.end_after && faults == 1 {
        assert!((0..2).all(|index| !world.is_up(index)), "both are over: {what}");
    }
    go(&mut world, 100);
    let survivor = (0..2).any(|index| world.is_up(index) && world.nodes[index].replica.mode() == Mode::Live);
    assert!(!survivor || world.disk_is_whole(), "a write that was released is lost: {what}");
    world.nodes.iter().any(|node| node.live_effects.iter().any(|(_, takeover)| *takeover))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the protocol reads no environment; this test may")]
fn whatever_happens_there_is_one_guest_and_nothing_is_lost() {
    let (first, end) = std::env::var("FT_SIM_SEEDS")
        .ok()
        .and_then(|range| {
            let (first, end) = range.split_once("..")?;
            Some((first.parse().ok()?, end.parse().ok()?))
        })
        .unwrap_or((0, 400));
    let takeovers = (first..end).filter(|seed| life(*seed)).count() as u64;
    assert!(takeovers * 6 > end - first, "{takeovers} takeovers in {} lives", end - first);
}
