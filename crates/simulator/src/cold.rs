//! The last thing in a run: everybody dies, hosts perhaps with what they had not flushed, and the pair is started anew from what is
//! left, both sides or one alone first. Which copy of the disk that goes on with is the real rules' choice; what it must find there is
//! judged where a guest begins ([`crate::properties::copies::lives`]).

use ft_core::Nanos;
use ft_policies::RegisterState;

use crate::shape::{MS, Setting};
use crate::trace::Of;
use crate::world::World;
use crate::world::queue::Happening;

/// How long one side is left alone.
const ALONE: Nanos = 3000 * MS;
/// How long the start may take then.
const START: Nanos = 15_000 * MS;

/// See the module.
pub fn start(world: &mut World) {
    world.note(Of::World, || "EVERYBODY DIES, AND THE PAIR IS STARTED ANEW".to_owned());
    let lost = match world.shape.setting {
        Setting::OneMachine => [world.random.chance(2); 2],
        Setting::TwoHosts => [world.random.chance(2), world.random.chance(2)],
    };
    for (node, lost) in lost.into_iter().enumerate() {
        world.die(node, lost);
        world.reap(node);
        if lost && let Some(own) = &world.disk.own {
            own[node].lose_cache(&mut world.random);
        }
    }
    if world.facts.restored || world.facts.wrong || world.facts.copy_lost || quarrel(world) {
        // A person has to decide first.
        return;
    }
    world.facts.restarted = true;
    let begun = world.begun;
    let first = world.random.below(2) as usize;
    world.schedule(0, Happening::Start(first));
    let after = if world.random.chance(2) { ALONE } else { world.random.below(50 * MS) };
    wait(world, begun, after);
    world.schedule(0, Happening::Start(1 - first));
    let alone_for = 3 * ALONE;
    wait(world, begun, alone_for);
    if world.begun == begun && world.violation.is_none() {
        // Whoever was turned away is started once more.
        (0..2).for_each(|node| world.schedule(0, Happening::Start(node)));
        wait(world, begun, START);
    }
    if world.begun == begun && world.violation.is_none() {
        let views: Vec<_> = world.facts.views.iter().map(|view| format!("{view:?}")).collect();
        world.violate("liveness", format!("a cold start comes to nothing: {}", views.join("; ")));
    }
}

fn wait(world: &mut World, begun: u64, time: Nanos) {
    let until = world.now + time;
    while world.now < until && world.begun == begun && world.violation.is_none() {
        world.run_until(world.now + 10 * MS);
    }
}

/// By hand: each side has won the last generation in a register of its own, as when a replica is promoted in the very moment in
/// which the other one is started and claims the guest. One of them was turned away; at the next start both say so and wait.
fn quarrel(world: &World) -> bool {
    world.register.own.as_ref().is_some_and(|[a, b]| {
        let process = |state: &RegisterState| state.holder.map(|who| who.incarnation);
        a.generation == b.generation && process(a) != process(b)
    })
}
