//! Replay fidelity: the backup's registers and memory equal the primary's at every digest, under load, for long.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Busy, Guest, Load, Random, Settings, Shape, Status, full};

const LIMIT: Duration = Duration::from_secs(30);
/// One load: longer than the time between two digests.
const ROUND: Duration = Duration::from_secs(5);

/// Runs the pair under load for this much *guest* time, on a host that is busy with other things or not.
fn faithful(guest_time: Duration, busy: bool) {
    let mut random = Random::new("fidelity");
    // A busy host delays heartbeats; that is no fault of the replica.
    let bed = Bed::new(&Settings { timeout: Duration::from_secs(10), ..Settings::new(Guest::Kv) });
    let _busy = busy.then(Busy::everywhere);
    let mut pair = bed.start_for(&[], guest_time * 4 + Duration::from_secs(120));
    let mut client = pair.wait_service(bed.port());
    let first = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    let mut round = 0;
    let mut last = first.clone();
    let limit = Instant::now() + guest_time * 3 + Duration::from_secs(60);
    // Guest time is the host's, without what the primary cut out of long pauses.
    let begun = Instant::now();
    let paused = |status: &Status| status.primary().number("paused_ms") / 1e3;
    let seconds = |status: &Status| begun.elapsed().as_secs_f64() - paused(status) + paused(&first);
    while seconds(&last) < guest_time.as_secs_f64() {
        assert!(Instant::now() < limit, "guest time does not pass: {}\n{}", last.json, pair.said());
        // The same keys again and again: an hour of load must not fill the guest's memory or its disk's log.
        client.call(&["FLUSHALL"]).expect("FLUSHALL");
        let load = Load::start(bed.port(), "k", Shape::default(), &mut random).expect("the clients connect");
        let round_end = Instant::now() + ROUND;
        while Instant::now() < round_end {
            load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        }
        load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        round += 1;
        let now = bed.status();
        assert_eq!(now.replicas.len(), 2, "a replica is gone: {}\n{}", now.json, pair.said());
        assert_eq!(now.generation, first.generation, "{}\n{}", now.json, pair.said());
        assert!(
            now.backup().number("digests") > last.backup().number("digests"),
            "no digest compared: {}",
            now.json
        );
        last = now;
    }
    let compared = last.backup().number("digests");
    let instructions = last.primary().position - first.primary().position;
    eprintln!(
        "{round} loads, {:.0} s of guest time, {instructions} instructions, {compared} digests equal",
        seconds(&last)
    );
    pair.stop();
    bed.assert_clean();
}

#[test]
fn under_load() {
    let time = if full() { Duration::from_secs(3600) } else { Duration::from_secs(15) };
    faithful(time, false);
}

#[test]
fn on_a_busy_host() {
    let time = if full() { Duration::from_secs(600) } else { Duration::from_secs(8) };
    faithful(time, true);
}
