//! Copies of separate disks: stamps never say more than is true, an incomplete or diverged copy never lives, and whoever goes on finds
//! what a client was told to be durable.

use ft_core::Phase;
use ft_devices::backend::stamp::{CopyState, Stamp};

use crate::guest::data::Sector;
use crate::world::World;

/// The stamps that were written on a seat since the last look.
pub fn stamps(world: &mut World, node: usize) {
    let Some(own) = &world.disk.own else { return };
    let mut content = own[node].content();
    let (written, unmarked) = (std::mem::take(&mut content.stamped), content.unmarked);
    drop(content);
    if unmarked {
        let name = ["a", "b"][node];
        return world
            .violate("a copy that is copied into says so", format!("that of replica {name} does not"));
    }
    for (before, stamp) in written {
        world.note(crate::trace::Of::Seat(node), || {
            format!("stamp: {} {}, clean {:?}", stamp.state.name(), stamp.generation, stamp.clean)
        });
        if let Err(what) = judge(world, node, before, &stamp) {
            let name = ["a", "b"][node];
            return world.violate("stamps never say more than is true", format!("replica {name}: {what}"));
        }
    }
}

fn judge(world: &World, node: usize, before: Option<Stamp>, stamp: &Stamp) -> Result<(), String> {
    let generation = stamp.generation;
    if let Some(before) = before.filter(|before| before.generation > generation) {
        return Err(format!("from generation {} back to {generation}", before.generation));
    }
    let Some(process) = world.process(node) else { return Ok(()) };
    let view = process.core.view();
    let known = world.facts.wrong || world.facts.restored;
    if stamp.state == CopyState::Live && !known {
        if !world.facts.has_won(generation, process.incarnation) {
            return Err(format!("live in generation {generation}, which is not its own"));
        }
        let follows = matches!(view.phase, Phase::Backup | Phase::TakingOver(_));
        if follows && view.backlog.1 < view.backlog.0 {
            return Err(format!(
                "live in generation {generation}, with {} of {} records executed",
                view.backlog.1, view.backlog.0
            ));
        }
    }
    let Some(own) = &world.disk.own else { return Ok(()) };
    let durable = own[node].content().flushed.clone();
    if stamp.state == CopyState::Backup && stamp.clean.is_none() {
        let peer = world.process(1 - node).map(|process| process.core.view());
        let offers = peer.is_some_and(|peer| {
            peer.phase == Phase::Live
                && !peer.started
                && peer.generation == generation
                && peer.session.is_some()
        });
        if offers && let Some(at) = difference(&durable, &own[1 - node].content().sectors) {
            return Err(format!("the backup's copy, and sector {at} is not what the primary's copy has"));
        }
    }
    let clean = own[node].content().clean();
    let state = |node: usize| own[node].content().stamp.map(|stamp| stamp.state);
    // Two of live replicas are not taken for the same (`ft-devices`, `backend/copy/rules.rs`).
    let pair = state(node) != state(1 - node);
    if pair && clean.is_some() && clean == own[1 - node].content().clean() {
        let theirs = own[1 - node].content().flushed.clone();
        if let Some(at) = difference(&durable, &theirs) {
            return Err(format!("both are of the stop {clean:?}, and sector {at} differs"));
        }
    }
    Ok(())
}

fn difference(one: &[Sector], other: &[Sector]) -> Option<usize> {
    one.iter().zip(other).position(|(one, other)| one != other)
}

/// A guest is about to be started from the disk, and the copy is not stamped for it yet.
pub fn starts(world: &mut World, node: usize) {
    if let Some(own) = &world.disk.own {
        let state = own[node].content().stamp.map(|stamp| stamp.state);
        if state == Some(CopyState::Incomplete) {
            let what = format!("replica {} starts the guest from one", ["a", "b"][node]);
            world.violate("an incomplete copy never lives", what);
        }
    }
    lives(world, node);
}

/// A replica is about to go on with the disk as it sees it.
pub fn lives(world: &mut World, node: usize) {
    // What was put back, or decided wrongly by a person, is more than the pair can make good.
    if world.facts.restored || world.facts.wrong {
        return;
    }
    let apart = world.process(node).map_or(0, |process| process.apart);
    let stale = world.outside.durable.iter().find_map(|(sector, version)| {
        let found = match &world.disk.own {
            Some(own) => own[node].content().sectors[*sector as usize],
            None => world.disk.sector(*sector, apart),
        };
        (found.version < *version).then_some((*sector, found.version, *version))
    });
    if let Some((sector, found, version)) = stale {
        world.violate(
            "acknowledged writes",
            format!(
                "replica {} goes on with a disk whose sector {sector} holds version {found:x}, and a client was told that \
                 {version:x} is durable",
                ["a", "b"][node]
            ),
        );
    }
}

/// A replica lets an output out in a generation: its copy must say that it is live in that.
pub fn speaks(world: &mut World, node: usize, generation: u64) {
    let Some(own) = &world.disk.own else { return };
    let stamp = own[node].content().stamp;
    if !stamp.is_some_and(|stamp| stamp.state == CopyState::Live && stamp.generation == generation) {
        world.violate(
            "only a copy stamped live speaks",
            format!("replica {} lets something out in generation {generation}: {stamp:?}", ["a", "b"][node]),
        );
    }
}

/// A backup's guest was told of the end of a request that this side carries out itself.
pub fn passed(world: &mut World, node: usize, request: u64) {
    if world.disk.own.is_none() {
        return;
    }
    let incarnation = world.process(node).map(|process| process.incarnation);
    let mut flights = world.disk.flights.values();
    if flights.any(|flight| Some(flight.incarnation) == incarnation && flight.request.request == request) {
        world.violate(
            "a completion passes only when the own operation is done",
            format!("replica {}: that of request {request} did before", ["a", "b"][node]),
        );
    }
}
