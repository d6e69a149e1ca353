//! Two replicas against each other: every way of losing one, and what the world outside must see all the same.

#[allow(unreachable_pub, reason = "the fixture's own parts")]
#[allow(dead_code, reason = "shared with other tests")]
mod sim;

use ft_core::replica::{Mode, Phase};
use ft_policies::{RegisterState, ReplicaId, Who};
use sim::{MS, Options, Random, World};

fn running(seed: u64, options: &Options) -> World {
    let mut world = World::new(seed, options);
    assert!(world.until(100, |world| world.live() == [0]), "a starts as soon as b is armed");
    assert_eq!(world.nodes[1].replica.mode(), Mode::Backup);
    assert_eq!(world.register.generation, 1);
    world
}

/// Exactly one live replica that goes on making progress.
fn goes_on(world: &mut World, index: usize) {
    assert!(world.until(3000, |world| world.live() == [index]), "{:?}", world.nodes[index].messages);
    let before = world.seen();
    assert!(world.until(1000, |world| world.seen() > before + 10), "the live replica releases outputs");
    assert_eq!(world.live(), [index]);
}

#[test]
fn a_pair_runs_and_its_backup_follows() {
    let mut world = running(1, &Options::default());
    world.ticks(2000);
    assert!(world.seen() > 100, "{}", world.seen());
    assert_eq!(world.nodes[0].live_effects, [(1, false)]);
    let status = world.nodes[0].replica.status(world.now);
    assert_eq!((status.role, status.state, status.stalls), ("primary", "live", 0));
    assert!(status.lag.count > 100 && status.output_delay_ms.p50 >= 1.0, "{status:?}");
    let backup = world.nodes[1].replica.status(world.now);
    assert_eq!((backup.role, backup.state, backup.generation), ("backup", "following", 1));
    assert!(backup.position > 0 && status.position - backup.position < 20_000);
}

#[test]
fn outputs_wait_for_acknowledgements() {
    let mut world = running(2, &Options::default());
    world.faults.delay = 50 * MS;
    world.ticks(200);
    let status = world.nodes[0].replica.status(world.now);
    assert!(status.outputs_held > 20, "{status:?}");
    assert!(status.output_delay_ms.max >= 100.0, "{status:?}");
    assert_eq!(status.state, "live", "a slow network is no loss");
}

#[test]
fn the_primary_is_killed_at_every_step() {
    for step in 0..250 {
        let mut world = World::new(3, &Options::default());
        world.faults.lose_tail = step % 2 == 0;
        world.ticks(step);
        let armed = world.nodes[1].replica.status(world.now).records > 0;
        let started = !world.live().is_empty();
        world.kill(0);
        if started || armed {
            goes_on(&mut world, 1);
            assert_eq!(world.register.generation, 2, "killed after {step} ms");
        } else {
            // b never had a guest: in generation 0 it must not start one.
            world.ticks(1000);
            let armed = world.nodes[1].replica.status(world.now).records > 0;
            assert!(world.live().is_empty() || armed, "only a replica that was armed may ask");
        }
    }
}

#[test]
fn the_backup_is_killed_at_every_step() {
    for step in 0..250 {
        let mut world = World::new(4, &Options { start_alone: 1000 * MS, ..Options::default() });
        world.ticks(step);
        let held = world.nodes[0].replica.status(world.now).outputs_held;
        world.kill(1);
        goes_on(&mut world, 0);
        let status = world.nodes[0].replica.status(world.now);
        assert_eq!(status.state, "alone");
        assert_eq!(status.outputs_held, 0, "{held} were held when it was killed");
    }
}

#[test]
fn a_partition_leaves_one_live() {
    for seed in 0..60 {
        let mut world = running(100 + seed, &Options::default());
        let lead = world.random.below(300);
        world.ticks(lead);
        world.faults.partition = true;
        assert!(world.until(1500, |world| (0..2).filter(|index| world.is_up(*index)).count() == 1));
        let winner = (0..2).find(|index| world.is_up(*index)).unwrap();
        assert_eq!(world.register.generation, 2);
        goes_on(&mut world, winner);
        // The one that is gone was fenced, or gave up with 3.
        assert!(matches!(world.nodes[1 - winner].ended, None | Some(3)));
        world.faults.partition = false;
        goes_on(&mut world, winner);
    }
}

/// A host that had no time for this side had none for the other either.
#[test]
fn a_silent_peer_is_excused_for_a_time() {
    let mut world = running(13, &Options::default());
    world.ticks(100);
    world.faults.partition = true;
    let until = world.now + 600 * MS;
    for node in &mut world.nodes {
        node.replica.excuse(until);
    }
    while world.now + 2 * MS < until {
        world.ticks(1);
        let [primary, backup] = [0, 1].map(|index| world.nodes[index].replica.status(world.now).state);
        assert_eq!((primary, backup), ("live", "following"), "{} ms before", (until - world.now) / MS);
    }
    assert!(world.until(100, |world| world.nodes.iter().any(|node| node.replica.is_asking())));
}

/// A host that is always late sees the death of its peer all the same.
#[test]
fn a_peer_is_not_excused_for_ever() {
    let mut world = running(16, &Options::default());
    world.ticks(100);
    world.faults.partition = true;
    let since = world.now;
    while !world.nodes.iter().any(|node| node.replica.is_asking()) {
        assert!(world.now < since + 1_000 * MS, "nobody is suspected");
        let until = world.now + 100 * MS;
        world.nodes.iter_mut().for_each(|node| node.replica.excuse(until));
        world.ticks(1);
    }
    assert!(world.now > since + 500 * MS);
}

#[test]
fn the_longest_silence_is_told() {
    let mut world = running(14, &Options::default());
    world.ticks(500);
    let silence = |world: &World| world.nodes[0].replica.status(world.now).silence_max_ms;
    assert!(silence(&world) <= 25.0, "{}", silence(&world));
    world.nodes[1].stopped = true;
    world.ticks(100);
    assert!(world.nodes[0].replica.status(world.now).silence_ms >= 99.0);
    world.nodes[1].stopped = false;
    world.ticks(100);
    assert!((95.0..130.0).contains(&silence(&world)), "{}", silence(&world));
    assert!(world.nodes[0].replica.status(world.now).silence_ms <= 25.0);
}

/// A heartbeat does not wait for the effects before it.
#[test]
fn heartbeats_come_out_of_their_turn() {
    let mut world = running(15, &Options::default());
    world.ticks(7);
    let replica = &mut world.nodes[0].replica;
    assert_eq!(replica.poll_heartbeat(), None);
    replica.handle(ft_core::Event::Stop, world.now);
    replica.handle(ft_core::Event::Timeout, world.now + 20 * MS);
    let beat = replica.poll_heartbeat().expect("it is due");
    assert!(matches!(ft_core::wire::Frame::decode(&beat), Ok(ft_core::wire::Frame::Heartbeat(_))));
    assert_eq!(replica.poll_heartbeat(), None);
}

#[test]
fn a_register_that_does_not_answer_holds_everything() {
    let mut world = running(5, &Options::default());
    world.ticks(100);
    world.faults.register_down = true;
    world.kill(1);
    world.ticks(50);
    let before = world.released.len();
    world.ticks(2000);
    assert_eq!(world.released.len(), before, "nothing is released between ask and answer");
    assert!(world.nodes[0].replica.is_asking());
    assert!(world.nodes[0].messages.iter().any(|text| text.contains("asking again")));
    world.faults.register_down = false;
    goes_on(&mut world, 0);
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    for loser in 0..2 {
        let mut world = running(6, &Options::default());
        world.ticks(100);
        world.faults.lose_answers = 3;
        world.kill(loser);
        goes_on(&mut world, 1 - loser);
        assert_eq!(world.register.generation, 2, "one win, however often it was asked for");
    }
}

#[test]
fn an_ask_is_binding_when_the_link_heals() {
    let mut world = running(7, &Options::default());
    world.ticks(100);
    world.faults.register_down = true;
    world.faults.partition = true;
    assert!(
        world.until(1000, |world| world.nodes[0].replica.is_asking() && world.nodes[1].replica.is_asking())
    );
    let before = world.released.len();
    world.faults.partition = false;
    world.ticks(500);
    assert_eq!(world.released.len(), before, "acknowledgements that arrive now release nothing");
    world.faults.register_down = false;
    assert!(world.until(2000, |world| (0..2).filter(|index| world.is_up(*index)).count() == 1));
    let winner = (0..2).find(|index| world.is_up(*index)).unwrap();
    goes_on(&mut world, winner);
}

#[test]
fn a_primary_that_wakes_late_halts() {
    for unfenced in [false, true] {
        let mut world = running(8, &Options::default());
        world.ticks(100);
        world.nodes[0].stopped = true;
        assert!(world.until(2000, |world| world.live().contains(&1)));
        if unfenced {
            // As if the fence had been a reservation and the process lived on.
            world.nodes[0].alive = true;
        }
        world.nodes[0].stopped = false;
        world.ticks(1000);
        assert_eq!(world.live(), [1]);
        assert_eq!(world.nodes[0].ended, unfenced.then_some(3), "{:?}", world.nodes[0].messages);
        goes_on(&mut world, 1);
    }
}

#[test]
fn a_backup_that_wakes_late_halts() {
    let mut world = running(9, &Options::default());
    world.ticks(100);
    world.nodes[1].stopped = true;
    goes_on(&mut world, 0);
    world.nodes[1].stopped = false;
    assert!(world.until(1000, |world| world.nodes[1].ended == Some(3)), "{:?}", world.nodes[1].messages);
    goes_on(&mut world, 0);
}

#[test]
fn a_sick_backup_does_not_end_the_service() {
    let mut world = running(10, &Options::default());
    world.ticks(100);
    world.nodes[1].wedged = true;
    world.ticks(1000);
    assert_eq!(world.nodes[0].replica.status(world.now).state, "live", "two seconds are allowed");
    assert!(world.until(3000, |world| world.nodes[0].replica.status(world.now).state == "alone"));
    assert!(world.nodes[0].live_effects.contains(&(2, false)));
    goes_on(&mut world, 0);
}

#[test]
fn a_full_log_stalls_the_guest_and_loses_nothing() {
    let capacity = 2 * ft_policies::MAX_RECORD;
    let mut world = running(11, &Options { log_capacity: capacity, ..Options::default() });
    world.nodes[1].wedged = true;
    // Fill the log with what the guest's own records cost.
    let mut records = 0;
    while world.nodes[0].replica.reserve(60_032, world.now) {
        let position = world.nodes[0].guest.position;
        let body =
            ft_core::Body::Input(ft_core::input::Input::Entropy { request: 0, bytes: vec![0; 60_000] });
        world.nodes[0].replica.append(position, body, world.now);
        records += 1;
    }
    assert!(records > 20);
    let position = world.nodes[0].guest.position;
    world.ticks(500);
    let status = world.nodes[0].replica.status(world.now);
    assert!(status.stalls >= 1 && status.state == "live", "{status:?}");
    // What room was left below one record of 60 KB is used up by the guest's own, then it stands still.
    let stood = world.nodes[0].guest.position;
    assert!(stood > position);
    world.ticks(100);
    assert_eq!(world.nodes[0].guest.position, stood);
    assert!(status.log_waiting <= capacity + ft_core::log::HEADROOM);
    world.nodes[1].wedged = false;
    world.ticks(500);
    let status = world.nodes[0].replica.status(world.now);
    assert!(status.stalled_ms >= 100.0 && status.state == "live", "{status:?}");
    world.kill(0);
    goes_on(&mut world, 1);
}

#[test]
fn a_full_gate_stalls_the_guest() {
    let mut world = running(12, &Options { gate_outputs: 5, ..Options::default() });
    world.faults.delay = 60 * MS;
    world.ticks(1000);
    let status = world.nodes[0].replica.status(world.now);
    assert!(status.stalls > 3 && status.outputs_held <= 6, "{status:?}");
}

#[test]
fn a_power_off_ends_both_sides_without_a_suspicion() {
    for seed in 0..20 {
        let mut world = running(200 + seed, &Options { end_after: 30, ..Options::default() });
        assert!(world.until(3000, |world| world.nodes.iter().all(|node| node.ended.is_some())));
        assert_eq!([world.nodes[0].ended, world.nodes[1].ended], [Some(0), Some(0)]);
        assert_eq!((world.register.generation, world.seen()), (1, 30), "nobody asked");
        let last = world.released.last().unwrap();
        assert_eq!((last.0, last.2), (0, ft_core::OutputClass::End));
    }
}

#[test]
fn a_power_off_survives_the_primary() {
    for step in 0..60 {
        let mut world = running(13, &Options { end_after: 8, ..Options::default() });
        let end = world.until(3000, |world| world.nodes[0].guest.over);
        assert!(end);
        world.ticks(step / 10);
        world.faults.lose_tail = step % 2 == 0;
        if world.is_up(0) {
            world.kill(0);
        }
        assert!(world.until(3000, |world| world.nodes[1].ended.is_some()), "after {step}");
        assert_eq!(world.nodes[1].ended, Some(0));
        assert_eq!(world.seen(), 8);
    }
}

#[test]
fn either_side_stops_the_pair() {
    for index in 0..2 {
        let mut world = running(14, &Options::default());
        world.ticks(100);
        world.nodes[index].replica.handle(ft_core::Event::Stop, world.now);
        assert!(world.until(1000, |world| world.nodes.iter().all(|node| node.ended == Some(0))));
        assert_eq!(world.register.generation, 1);
    }
}

#[test]
fn a_different_config_is_an_error_of_both() {
    let mut world = World::new(15, &Options { configs: [1, 2], ..Options::default() });
    assert!(world.until(100, |world| world.nodes.iter().all(|node| node.ended == Some(6))));
    assert!(world.nodes[0].messages[0].contains("another config"));
}

#[test]
fn a_diverged_backup_leaves_and_never_asks() {
    let mut world = running(16, &Options::default());
    world.ticks(100);
    world.nodes[1].guest.state ^= 1;
    assert!(world.until(500, |world| world.nodes[1].ended == Some(5)));
    assert!(world.nodes[1].messages.iter().any(|text| text.contains("divergence at position")));
    goes_on(&mut world, 0);
    assert_eq!(world.register.holder.unwrap().replica, ReplicaId::A);
}

#[test]
fn without_a_backup_the_guest_starts_after_start_alone() {
    let mut world = World::new(17, &Options { start_alone: 500 * MS, ..Options::default() });
    world.kill(1);
    world.ticks(400);
    assert!(world.live().is_empty());
    goes_on(&mut world, 0);
}

fn won_by(replica: ReplicaId) -> Options {
    let holder = Some(Who { replica, incarnation: 1, config: 0 });
    Options { register: RegisterState { generation: 7, holder }, start_alone: 500 * MS, ..Options::default() }
}

#[test]
fn a_cold_start_falls_to_the_last_winner() {
    for (replica, index) in [(ReplicaId::A, 0), (ReplicaId::B, 1)] {
        let mut world = World::new(18, &won_by(replica));
        assert!(world.until(200, |world| world.live() == [index]));
        assert_eq!(world.register.generation, 8);
        assert_eq!(world.nodes[1 - index].replica.mode(), Mode::Backup);
        goes_on(&mut world, index);
        world.kill(index);
        goes_on(&mut world, 1 - index);
        assert_eq!(world.register.generation, 9);
    }
}

#[test]
fn a_cold_start_without_a_word_from_the_peer_has_one_winner() {
    for options in [won_by(ReplicaId::A), Options { start_alone: 500 * MS, ..Options::default() }] {
        for seed in 0..20 {
            // Both reach the register, neither the other.
            let mut world = World::new(400 + seed, &options);
            world.faults.partition = true;
            for _ in 0..5000 {
                world.tick();
                assert!(world.live().len() <= 1, "two guests run at once");
            }
            assert_eq!(world.register.generation, options.register.generation + 1, "won once");
            assert_eq!(*world.nodes[1].replica.phase(), Phase::Waiting, "b does not know that nobody runs");
            let [winner] = world.live()[..] else { panic!("nobody started") };
            goes_on(&mut world, winner);
        }
    }
}

#[test]
fn a_starter_that_dies_before_its_backup_is_armed_leaves_a_guest_to_the_other() {
    // a has won and offered a session, and is gone before b has `Armed`: a would need another win to start, so b may.
    for step in 0..60 {
        let mut world = World::new(20, &Options { start_alone: 500 * MS, ..Options::default() });
        world.ticks(step);
        if *world.nodes[1].replica.phase() != Phase::Backup {
            continue;
        }
        world.kill(0);
        goes_on(&mut world, 1);
    }
}

#[test]
fn a_stop_or_an_end_survives_everybody() {
    for step in 0..40 {
        for index in 0..2 {
            let mut world = running(21, &Options::default());
            world.ticks(100);
            world.nodes[0].replica.handle(ft_core::Event::Stop, world.now);
            world.nodes[1].wedged = index == 0;
            world.ticks(step / 4);
            world.faults.lose_tail = step % 2 == 0;
            let had_stop = world.is_up(index);
            if had_stop {
                world.kill(index);
            }
            world.nodes[1].wedged = false;
            world.ticks(7000);
            let other = 1 - index;
            let status = world.nodes[other].replica.status(world.now);
            assert!(world.live().len() <= 1);
            if index == 1 {
                assert_eq!(world.nodes[0].ended, Some(0), "{status:?}");
            }
        }
    }
}

#[test]
fn a_restarted_winner_does_not_start_over_while_its_backup_lives() {
    // b is a backup of a in generation 7 and still thinks; a comes back as a new process.
    let mut world = World::new(19, &won_by(ReplicaId::A));
    world.faults.partition = true;
    world.ticks(100);
    assert!(world.live().is_empty(), "nobody answers, and start-alone has not passed");
    assert_eq!(*world.nodes[0].replica.phase(), Phase::Waiting);
}

/// Random lives: random faults at random moments, and at the end one history without gaps.
#[test]
fn random_lives() {
    let mut takeovers = 0;
    let mut losses = 0;
    for seed in 0..250 {
        let mut random = Random(seed);
        let options = Options { gate_outputs: 20 + random.below(200) as usize, ..Options::default() };
        let mut world = World::new(seed, &options);
        world.faults.lose_tail = random.chance(2);
        let moment = random.below(600);
        world.faults.delay = random.below(20) * MS;
        world.ticks(moment);
        world.faults.lose_answers = random.below(3) as u32;
        world.faults.register_down = random.chance(4);
        match random.below(6) {
            0 => world.kill(0),
            1 => world.kill(1),
            2 => world.faults.partition = true,
            3 => world.nodes[0].stopped = true,
            4 => world.nodes[1].stopped = true,
            _ => world.nodes[1].wedged = true,
        }
        let outage = random.below(800);
        world.ticks(outage);
        world.faults.register_down = false;
        world.faults.partition = false;
        let wake = random.below(1000);
        world.ticks(wake);
        world.nodes[0].stopped = false;
        world.nodes[1].stopped = false;
        world.ticks(3000);
        // Both may go on as the pair they were; never two live ones, never two generations in one.
        assert!(world.live().len() <= 1, "seed {seed}: {:?}", world.live());
        let generations: Vec<u64> = world.released.iter().map(|entry| entry.1).collect();
        takeovers += u32::from(world.nodes[1].live_effects.iter().any(|(_, takeover)| *takeover));
        losses += u32::from(world.nodes[0].live_effects.iter().any(|(generation, _)| *generation == 2));
        if let Some(first) = world.released.first() {
            assert!(
                generations.is_sorted(),
                "seed {seed}: outputs of an old generation after those of a new one"
            );
            assert_eq!(
                world.live().len(),
                1,
                "seed {seed}: {:?} {:?}",
                world.nodes[0].messages,
                world.nodes[1].messages
            );
            assert!(first.1 <= 2);
        }
    }
    assert!(takeovers > 60 && losses > 35, "{takeovers} takeovers, {losses} lost backups");
}
