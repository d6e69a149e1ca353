//! A guest on a network of the hosts: through a TAP interface and a bridge on each host, with a client on a host of its own.
//! After a failover the guest is on another port of that network, and the client's connections must not notice.

use std::time::{Duration, Instant};

use ft_e2e::{
    Bed, Cut, Guest, Launcher, Ledger, Load, Random, Reply, Resp, Settings, Shape, Status, Takeover, Way,
    rounds,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Exit code: the host lacks something.
const HOST_LACKS: i32 = 4;

fn settings() -> Settings {
    Settings { timeout: Duration::from_secs(1), ..Settings::new(Guest::Kv) }
}

fn start(bed: &Bed, order: [&str; 2]) -> [Launcher; 2] {
    let mut started = order.map(|replica| bed.start_one(replica, &[]));
    // By name, whoever came first.
    if order[0] == "b" {
        started.reverse();
    }
    started
}

fn said(launchers: &[Launcher; 2]) -> String {
    let [a, b] = launchers;
    format!("=== replica a\n{}\n=== replica b\n{}", a.said(), b.said())
}

/// Waits until the guest answers the client; `launcher` is one that must be there meanwhile.
fn wait_service(bed: &Bed, launcher: &mut Launcher) -> Resp {
    let address = bed.on_lan();
    bed.in_client(|| launcher.wait_service_at(address))
}

fn load(bed: &Bed, prefix: &str, random: &mut Random) -> Load {
    let address = bed.on_lan();
    bed.in_client(|| Load::start_to(address, prefix, Shape::default(), random)).expect("the clients connect")
}

fn is_primary(status: &Status, replica: &str) -> bool {
    status.live() == 1 && status.role("primary").is_some_and(|primary| primary.replica == replica)
}

fn tap_counter(status: &Status, name: &str) -> u64 {
    let counter =
        status.json.pointer(&format!("/launcher/tap/frames/{name}")).and_then(|value| value.as_u64());
    counter.unwrap_or_else(|| panic!("no {name} in {}", status.json))
}

/// The host of the primary dies: launcher and replica are gone at once, and in every other round nobody hears anything of it but
/// silence, as when power fails. The clients keep their connections on the other host, and lose nothing. Then an orderly stop of
/// what is left.
#[test]
fn the_primarys_host_dies() {
    let mut random = Random::new("a host dies");
    for round in 0..rounds(2, 50) {
        let Some(bed) = Bed::on_two_hosts_with_lan(&settings()) else { return };
        let mut pair = start(&bed, if round % 2 == 0 { ["b", "a"] } else { ["a", "b"] });
        pair[0].wait_primary(LIMIT);
        wait_service(&bed, &mut pair[0]);
        let load = load(&bed, "first", &mut random);
        let more = 300 + random.below(2_000);
        load.wait_replies(more, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        if round % 2 == 1 {
            bed.hosts().cut(Cut::Replication(Way::Both));
            bed.hosts().cut(Cut::Lan("a"));
        }
        bed.kill_host("a");
        let takeover = pair[1].wait_takeover(0, LIMIT);
        assert_eq!(takeover.replica, "b", "{}", takeover.line);
        load.wait_replies(1_000, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        eprintln!("round {round}: {}; a client waited {:.0} ms", takeover.line, millis(record.silence));

        let mut ledger = Ledger::default();
        ledger.add(&record);
        let mut client = wait_service(&bed, &mut pair[1]);
        ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));

        let status =
            bed.wait_status("all is announced", LIMIT, |status| tap_counter(status, "announced") >= 10);
        // A reverse ARP request and one address, five times at most.
        assert_eq!(tap_counter(&status, "announced"), 10, "{}", status.json);
        assert!(
            tap_counter(&status, "from_host") > 0 && tap_counter(&status, "to_host") > 0,
            "{}",
            status.json
        );
        // The client's first question who has that address went to both hosts.
        assert!(tap_counter(&status, "dropped_not_live") > 0, "{}", status.json);
        assert_eq!(tap_counter(&status, "dropped_refused"), 0, "{}", status.json);
        stop_one(&bed, &mut pair, "b");
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// SIGTERM to the launcher that is left.
fn stop_one(bed: &Bed, pair: &mut [Launcher; 2], replica: &str) {
    let launcher = &pair[usize::from(replica == "b")];
    launcher.signal(libc::SIGTERM);
    let code = pair[usize::from(replica == "b")].exit_code(LIMIT);
    assert_eq!(code, 0, "{}", said(pair));
    bed.assert_clean();
}

/// The replica process alone is killed, of the primary or of the backup; and an orderly stop, asked for on either host, ends both.
#[test]
fn a_replica_dies_and_a_pair_is_stopped() {
    let mut random = Random::new("tap: a replica dies");
    for victim in ["a", "b"] {
        let survivor = if victim == "a" { "b" } else { "a" };
        let Some(bed) = Bed::on_two_hosts_with_lan(&settings()) else { return };
        let mut pair = start(&bed, ["a", "b"]);
        wait_service(&bed, &mut pair[0]);
        // A stop of the whole pair.
        pair[usize::from(victim == "b")].signal(libc::SIGTERM);
        for index in 0..2 {
            assert_eq!(pair[index].exit_code(LIMIT), 0, "{}", said(&pair));
        }

        pair = start(&bed, ["a", "b"]);
        wait_service(&bed, &mut pair[0]);
        let status = bed.wait_status("both are there", LIMIT, |status| status.replicas.len() == 2);
        // Who goes on first after a start is whose generation the last one was: a's.
        assert!(is_primary(&status, "a"), "{}", status.json);
        let load = load(&bed, "load", &mut random);
        load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        bed.signal(status.replica(victim).expect("it is there").pid, libc::SIGKILL);
        let takeover = pair[usize::from(survivor == "b")].wait_takeover(0, LIMIT);
        assert_eq!(takeover.replica, survivor, "{}", takeover.line);
        load.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        eprintln!("{}; a client waited {:.0} ms", takeover.line, millis(record.silence));
        assert_eq!(pair[usize::from(victim == "b")].exit_code(LIMIT), 1, "{}", said(&pair));
        stop_one(&bed, &mut pair, survivor);
    }
}

/// Both hosts die, in any order, and are started again, in any order: nothing that was acknowledged is lost. While one of them
/// goes on, the other one cannot come back in this version, and says so.
#[test]
fn both_hosts_die_and_come_back() {
    let mut random = Random::new("both hosts die");
    let Some(bed) = Bed::on_two_hosts_with_lan(&settings()) else { return };
    let mut ledger = Ledger::default();
    let mut pair = start(&bed, ["a", "b"]);
    wait_service(&bed, &mut pair[0]);
    let mut primary = "a";
    for (round, first_to_die, first_to_come) in [(0, "a", "a"), (1, "b", "b"), (2, "a", "b"), (3, "b", "a")] {
        let second = if first_to_die == "a" { "b" } else { "a" };
        let survivor = usize::from(second == "b");
        let load = load(&bed, &format!("round{round}"), &mut random);
        load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        let lines = pair[survivor].stderr.count();
        bed.kill_host(first_to_die);
        let takeover: Takeover = pair[survivor].wait_takeover(lines, LIMIT);
        assert_eq!(
            (takeover.replica.as_str(), takeover.silent_ms.is_some()),
            (second, first_to_die == primary)
        );
        load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));

        let mut early = bed.start_one(first_to_die, &[]);
        assert_eq!(early.exit_code(LIMIT), 1, "{}\n{}", early.said(), said(&pair));
        let said_so = early.stderr.text().contains("the guest is running already");
        assert!(said_so, "{}\n{}", early.said(), said(&pair));
        load.wait_replies(300, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));

        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", said(&pair)));
        ledger.add(&record);
        bed.kill_host(second);
        let order = if first_to_come == "a" { ["a", "b"] } else { ["b", "a"] };
        drop(pair);
        pair = start(&bed, order);
        // Who was the last to go on knows all that there is to know.
        primary = second;
        let mut client = wait_service(&bed, &mut pair[survivor]);
        let status = bed.wait_status("both are there", LIMIT, |status| status.replicas.len() == 2);
        assert!(is_primary(&status, primary), "round {round}: {}\n{}", status.json, said(&pair));
        ledger.verify(&mut client).unwrap_or_else(|error| panic!("round {round}: {error}\n{}", said(&pair)));
    }
    pair[0].signal(libc::SIGTERM);
    for index in 0..2 {
        assert_eq!(pair[index].exit_code(LIMIT), 0, "{}", said(&pair));
    }
    bed.assert_clean();
}

/// One host alone: a starts the guest without the other one after `start-alone`; b, which does not know what it missed, waits for ever.
#[test]
fn one_host_alone() {
    let Some(bed) = Bed::on_two_hosts_with_lan(&settings()) else { return };
    bed.edit("start-alone = \"30 s\"", "start-alone = \"1 s\"");
    let b = bed.start_one("b", &[]);
    bed.wait_status("b waits", LIMIT, |status| status.replica("b").is_some_and(|b| b.state == "waiting"));
    // That nothing happens has no event.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let status = bed.status();
        assert!(status.live() == 0 && status.generation == 0, "{}\n{}", status.json, b.said());
    }
    bed.kill_host("b");
    drop(b);

    let mut a = bed.start_one("a", &[]);
    let mut client = wait_service(&bed, &mut a);
    assert_eq!(client.call(&["SET", "k", "1"]), Ok(Reply::Simple("OK".into())));
    assert!(a.stderr.text().contains("no backup came within start-alone"), "{}", a.said());
    a.stop();
    bed.assert_clean();
}

/// A pair on one machine has both replicas behind the one interface; and without fault tolerance it is the same network.
#[test]
fn one_machine() {
    let mut random = Random::new("tap on one machine");
    let Some(bed) = Bed::on_one_host_with_lan(&settings()) else { return };
    let mut pair = bed.start();
    wait_service(&bed, &mut pair);
    let load_on_pair = load(&bed, "pair", &mut random);
    load_on_pair.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    bed.signal(before.primary().pid, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    load_on_pair.wait_replies(500, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load_on_pair.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    eprintln!("{}; a client waited {:.0} ms", takeover.line, millis(record.silence));
    let mut ledger = Ledger::default();
    ledger.add(&record);
    let mut client = wait_service(&bed, &mut pair);
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    pair.stop();

    let mut solo = bed.start_with(&["--solo"]);
    let mut client = wait_service(&bed, &mut solo);
    ledger.verify(&mut client).unwrap_or_else(|error| panic!("{error}\n{}", solo.said()));
    let load_on_solo = load(&bed, "solo", &mut random);
    load_on_solo.wait_replies(1_000, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", solo.said()));
    load_on_solo.stop().unwrap_or_else(|error| panic!("{error}\n{}", solo.said()));
    solo.stop();
    bed.assert_clean();
}

/// An interface that cannot be used is refused before anything is started, with what to do.
#[test]
fn interfaces_that_cannot_be_used() {
    let Some(bed) = Bed::on_two_hosts_with_lan(&settings()) else { return };
    let refused = |sets: &[&str], expected: &str| {
        let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let mut one = bed.start_one("a", &arguments);
        assert_eq!(one.exit_code(LIMIT), HOST_LACKS, "{}", one.said());
        let text = one.stderr.text();
        assert!(text.contains(expected) && text.trim_end().lines().count() == 1, "{text}");
    };
    let missing = "this host has no interface `ft9`; make it a port of the bridge that the guest's network is (here br0), as root: `ip \
                   tuntap add dev ft9 mode tap user $USER`, then `ip link set ft9 master br0 up`";
    refused(&["net.0.tap.interface='ft9'"], missing);
    refused(&["net.0.tap.interface='br0'"], "`br0` is not a TAP interface");

    let host: Vec<&str> = bed.hosts().on("a").into();
    let ip = |arguments: &[&str]| {
        let run = std::process::Command::new(host[0]).args(&host[1..]).arg("ip").args(arguments).status();
        assert!(run.is_ok_and(|status| status.success()), "ip {arguments:?}");
    };
    ip(&["link", "set", "ft0", "down"]);
    let mut a = bed.start_one("a", &[]);
    let down = "the interface ft0 is down, and the guest cut off until it is up: `ip link set ft0 up`";
    assert!(a.stderr.wait_for(0, LIMIT, |line| line.contains(down)).is_some(), "{}", a.said());
    // The same interface for another machine on this host.
    refused(
        &["vm.name='other'", "replicas.a='10.99.0.1:29999'"],
        "another process uses the interface `ft0`; a virtual machine needs one of its own",
    );
    ip(&["link", "set", "ft0", "up"]);
    let mut b = bed.start_one("b", &[]);
    wait_service(&bed, &mut a);
    // Pulled out while the guest runs: said once, and the guest goes on without a network.
    ip(&["link", "delete", "ft0"]);
    let gone = "the interface ft0 is gone, and the guest cut off";
    assert!(a.stderr.wait_for(0, LIMIT, |line| line.contains(gone)).is_some(), "{}", a.said());
    a.signal(libc::SIGTERM);
    assert_eq!((a.exit_code(LIMIT), b.exit_code(LIMIT)), (0, 0), "{}\n{}", a.said(), b.said());
    bed.assert_clean();
}
