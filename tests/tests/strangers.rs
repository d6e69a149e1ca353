//! Strangers on the network of a pair with a key: they forge what a replica says, connect where the peer should, or have a key of
//! their own.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use ft_core::wire::{Copies, Frame, Heartbeat, Hello, PeerRole, Stamp};
use ft_e2e::{Bed, Guest, KEY, Launcher, Settings, Status};
use ft_policies::{Config, Key, ReplicaId};

const LIMIT: Duration = Duration::from_secs(60);
/// Some seconds of a guest that computes.
const ROUNDS: u64 = 1000;
const TURNED_AWAY: &str = "a connection was turned away: the peer does not have this pair's key";

fn keyed(guest: Guest) -> Bed {
    Bed::new(&Settings { keyed: true, ..Settings::new(guest) })
}

fn stamp(bed: &Bed, generation: u64) -> Stamp {
    let config = Config::load(&bed.config(), &[]).expect("a pair runs with it");
    Stamp { pair: config.pair_id(), generation, session: 0, incarnation: 4711 }
}

fn hello(bed: &Bed) -> Frame {
    Frame::Hello(Hello {
        stamp: stamp(bed, 0),
        replica: ReplicaId::B,
        role: PeerRole::Waiting,
        config: 0,
        image: 0,
        cpu: Vec::new(),
        next: 1,
        copies: Copies::default(),
        register: None,
        nonces: None,
    })
}

fn port(bed: &Bed, replica: &str) -> (&'static str, u16) {
    ("127.0.0.1", bed.ports.get(if replica == "a" { 1 } else { 2 }))
}

/// Connects as replica b does, says something, and waits until it is turned away.
fn knock(bed: &Bed, said: &[u8]) {
    let mut stream = TcpStream::connect(port(bed, "a")).expect("replica a listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a new socket");
    // An error says the same as the end that is waited for.
    let _ = stream.write_all(said);
    let mut answer = [0; 4096];
    while stream.read(&mut answer).is_ok_and(|count| count > 0) {}
}

fn start(bed: &Bed, replica: &str, more: &[&str]) -> Launcher {
    bed.start_with(&[&["--replica", replica], more].concat())
}

fn bad_datagrams(status: &Status, replica: &str) -> f64 {
    status.replica(replica).map_or(0.0, |replica| replica.number("bad_datagrams"))
}

/// Replica b is dead, and a stranger speaks from its address: of higher generations, and of its end. Only the key makes a
/// difference, so with it the same is believed.
#[test]
fn a_forged_heartbeat_deposes_nobody() {
    let bed = keyed(Guest::Kv);
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let victim =
        bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2).backup().clone();
    let survivor = if victim.replica == "a" { "b" } else { "a" };
    bed.signal(victim.pid, libc::SIGKILL);
    pair.wait_takeover(0, LIMIT);

    let stranger = UdpSocket::bind(port(&bed, &victim.replica)).expect("the victim has left it");
    let replica = if survivor == "a" { ReplicaId::B } else { ReplicaId::A };
    let beat = |generation, role| {
        let stamp = stamp(&bed, generation);
        Frame::Heartbeat(Heartbeat { stamp, replica, role, executed: 0, position: 0 })
    };
    let send = |bytes: &[u8]| stranger.send_to(bytes, port(&bed, survivor)).expect("it is sent");
    let other = Key::of([9; 32]);
    for round in 1..=10 {
        for role in [PeerRole::Live, PeerRole::Gone] {
            send(&beat(100 + round, role).encode());
            send(&beat(100 + round, role).encode_with(Some(&other)));
        }
    }
    let status = bed.wait_status("40 are dropped", LIMIT, |status| bad_datagrams(status, survivor) >= 40.0);
    assert_eq!(
        status.replica(survivor).map(|replica| replica.state.as_str()),
        Some("alone"),
        "{}",
        status.json
    );
    assert_eq!(
        client.call(&["SET", "still", "here"]),
        Ok(ft_e2e::Reply::Simple("OK".into())),
        "{}",
        pair.said()
    );

    let own = Key::load(&bed.path().join(KEY)).expect("the pair has it");
    send(&beat(100, PeerRole::Live).encode_with(Some(&own)));
    bed.wait_status("it is deposed", LIMIT, |status| {
        status.replica(survivor).is_some_and(|replica| replica.state == "deposed")
    });
}

/// Strangers come before the peer and while the pair runs: one says what replica b would say but for the key, one is silent. Each
/// is turned away, which is told of once, and the pair starts and ends as it should.
#[test]
fn strangers_on_the_log_port_are_turned_away() {
    let bed = keyed(Guest::Cpu { rounds: ROUNDS, exit: 0 });
    let mut a = start(&bed, "a", &[]);
    bed.wait_status("replica a waits", LIMIT, |status| {
        // It has won the first generation already, or has yet to.
        status.replica("a").is_some_and(|replica| ["waiting", "starting"].contains(&replica.state.as_str()))
    });
    let forged = hello(&bed).encode();
    for _ in 0..5 {
        knock(&bed, &forged);
    }
    let told = a.stderr.wait_for(0, LIMIT, |line| line.contains(TURNED_AWAY));
    assert!(told.is_some(), "{}", a.said());
    knock(&bed, b"");

    let mut b = start(&bed, "b", &[]);
    a.wait_primary(LIMIT);
    for _ in 0..5 {
        knock(&bed, &forged);
    }
    let status = bed.status();
    assert!(status.replica("a").is_some_and(|replica| replica.state == "live"), "{}", status.json);
    for launcher in [&mut a, &mut b] {
        assert_eq!(launcher.exit_code(LIMIT), 0, "{}", launcher.said());
    }
    assert_eq!(a.said().matches(TURNED_AWAY).count(), 1, "{}", a.said());
    assert!(!a.said().contains("goes on alone") && !b.said().contains("turned away"), "{}", a.said());
    bed.assert_clean();
}

/// Two that have different keys are no pair: both say so, and the one that may start alone does.
#[test]
fn two_keys_are_no_pair() {
    let bed = keyed(Guest::Cpu { rounds: 100, exit: 0 });
    let made = bed.run(&["key", "other.key"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let alone = ["--set", "replicas.start-alone=\"3 s\""];
    let mut a = start(&bed, "a", &alone);
    let b = start(&bed, "b", &[&alone[..], &["--set", "replicas.key=\"other.key\""]].concat());
    for launcher in [&a, &b] {
        let told = launcher.stderr.wait_for(0, LIMIT, |line| line.contains(TURNED_AWAY));
        assert!(told.is_some_and(|line| line.text.contains("another one")), "{}", launcher.said());
    }
    assert_eq!(a.exit_code(LIMIT), 0, "{}", a.said());
    assert!(a.said().contains("no backup came within start-alone"), "{}", a.said());
    b.stop();

    // One that has none ends at once, as with any config that is not the other's.
    let a = start(&bed, "a", &[]);
    let text = std::fs::read_to_string(bed.config()).expect("it is readable");
    std::fs::write(bed.path().join("keyless.toml"), text.replace(&format!("key = \"{KEY}\"\n"), ""))
        .expect("the folder is writable");
    let keyless = bed.run(&["--config", "keyless.toml", "--replica", "b"]);
    assert_eq!(keyless.code, Some(6), "{}", keyless.stderr);
    assert!(keyless.stderr.contains("this side does not have the pair's key"), "{}", keyless.stderr);
    a.stop();
    bed.assert_clean();
}
