//! Everything a person may get wrong: each ends at once, with one clear message and the right exit code, and leaves
//! nothing behind that would stop the next start.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::time::Duration;

use ft_e2e::{BareReplica, Bed, Finished, Guest, Load, Random, Settings, Shape};

const LIMIT: Duration = Duration::from_secs(20);
const SECONDS: Duration = Duration::from_secs(5);

/// The exit code, words that the message must have, an end within seconds, nothing left; and no more than one message.
fn refused(bed: &Bed, name: &str, run: &Finished, code: i32, words: &[&str]) {
    assert_eq!(run.code, Some(code), "{name}: {}", run.stderr);
    assert!(run.took < SECONDS, "{name} took {:?}: {}", run.took, run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "{name}: {word:?} is not in: {}", run.stderr);
    }
    let errors = messages(run);
    // A config may hold several mistakes, and then says so; everything else is one message.
    let several = run.stderr.contains(&format!("pair.toml: {errors} mistakes"));
    assert!(errors == 1 || several, "{name}: one message, not {errors}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{name}: {}", run.stderr);
    assert!(run.stdout.is_empty(), "{name}: {}", run.stdout);
    bed.assert_clean();
}

/// How many messages there are; where a forwarded port leads is no complaint.
fn messages(run: &Finished) -> usize {
    let message = |line: &&str| {
        (line.starts_with("error") || line.starts_with("ft-vm: "))
            && !line.contains("leads to the guest's port")
    };
    run.stderr.lines().filter(message).count()
}

/// A good pair starts in this folder, serves and stops.
fn good_start(bed: &Bed, name: &str) {
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let reply = client.call(&["SET", "after", name]);
    assert_eq!(reply, Ok(ft_e2e::Reply::Simple("OK".into())), "after {name}\n{}", pair.said());
    pair.stop();
    bed.assert_clean();
}

const START: &[&str] = &["--config", "pair.toml"];

/// Mistakes in the text of the config: (what, old text, new text, words of the message). Exit code 2.
const TEXTS: &[(&str, &str, &str, &[&str])] = &[
    ("not TOML", "[vm]", "[vm", &["pair.toml:1:"]),
    ("unknown key", "[vm]", "[vm]\nmemroy = \"1 GiB\"", &["pair.toml:2:1", "memroy"]),
    ("unknown table", "[vm]", "[vmm]\n[vm]", &["pair.toml:1:", "vmm"]),
    ("wrong type", "memory = \"64 MiB\"", "memory = 64", &["pair.toml:4:10"]),
    ("no unit", "memory = \"64 MiB\"", "memory = \"64\"", &["pair.toml:4:10", "unit"]),
    ("wrong unit", "memory = \"64 MiB\"", "memory = \"64 ms\"", &["pair.toml:4:10", "unit"]),
    ("too little memory", "memory = \"64 MiB\"", "memory = \"4 KiB\"", &["pair.toml:4:10"]),
    ("unknown engine", "engine = \"software\"", "engine = \"hardware\"", &["pair.toml:3:10", "hardware"]),
    (
        "time that KVM does not count",
        "engine = \"software\"",
        "engine = \"kvm\"\nclock = \"virtual\"",
        &["pair.toml:4:9", "clock = \"virtual\" makes no sense with engine = \"kvm\""],
    ),
    ("unknown guest", "builtin:kv", "builtin:nothing", &["pair.toml:5:10", "nothing"]),
    ("missing kernel", "builtin:kv", "kernels/missing.elf", &["pair.toml:5:10", "missing.elf"]),
    ("separate disks, register on the shared one", "\"shared\"", "\"separate\"", &["pair.toml:", "separate"]),
    (
        "time-out shorter than the heartbeat",
        "timeout = \"2000 ms\"",
        "timeout = \"5 ms\"",
        &["pair.toml:", "heartbeat"],
    ),
    ("two detectors", "[detector.fixed]", "[detector.phi-accrual]\n[detector.fixed]", &["pair.toml:"]),
    ("bad forward", " -> 6379", " => 6379", &["pair.toml:", "forward"]),
    ("multicast address", "52:54:00", "53:54:00", &["pair.toml:", "53:54:00"]),
    (
        "Output Rule off on a shared disk",
        "[tie-breaker.",
        "[output]\nrule = \"none\"\n\n[tie-breaker.",
        &["pair.toml:", "none"],
    ),
];

#[test]
fn mistakes_in_the_config() {
    for (name, old, new, words) in TEXTS {
        let bed = Bed::new(&Settings::new(Guest::Kv));
        bed.edit(old, new);
        refused(&bed, name, &bed.run(START), 2, words);
        refused(&bed, name, &bed.run(&["check", "pair.toml"]), 2, words);
        assert!(!bed.path().join("disk.img").exists(), "{name}: a refused config creates no disk");
    }
}

#[test]
fn a_config_that_cannot_be_read() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    refused(&bed, "missing", &bed.run(&["--config", "missing.toml"]), 2, &["missing.toml"]);
    refused(&bed, "a folder", &bed.run(&["--config", "."]), 2, &["error"]);
    fs::write(bed.path().join("bytes.toml"), b"[vm]\nname = \"\xff\xfe\"\n").expect("writable");
    refused(&bed, "not UTF-8", &bed.run(&["--config", "bytes.toml"]), 2, &["bytes.toml", "UTF-8"]);
    symlink("loop.toml", bed.path().join("loop.toml")).expect("writable");
    refused(&bed, "a loop", &bed.run(&["--config", "loop.toml"]), 2, &["loop.toml"]);
    refused(&bed, "bad --set", &bed.run(&["--config", "pair.toml", "--set", "vm.memory"]), 2, &["--set"]);
    refused(&bed, "bad --set", &bed.run(&["--config", "pair.toml", "--set", "vm.memory=64"]), 2, &["--set"]);
    refused(&bed, "nothing", &bed.run(&[]), 2, &["--config"]);
    refused(&bed, "unknown option", &bed.run(&["--config", "pair.toml", "--fast"]), 2, &["--fast"]);
    good_start(&bed, "unreadable configs");
}

/// The text is right, but something that it names is not.
#[test]
fn kernels_that_are_none() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let file = |name: &str, bytes: &[u8]| fs::write(bed.path().join(name), bytes).expect("writable");
    file("text", b"This is no kernel.\n");
    file("empty", b"");
    file("short", b"\x7fELF\x02\x01\x01");
    let mut torn = fs::read("/bin/true").expect("every Linux has /bin/true");
    torn.truncate(100);
    file("torn", &torn);
    fs::create_dir(bed.path().join("folder")).expect("writable");
    for kernel in ["text", "empty", "short", "torn", "folder", "/bin/true"] {
        let set = format!("vm.kernel=\"{kernel}\"");
        let run = bed.run(&["--config", "pair.toml", "--set", &set]);
        refused(&bed, kernel, &run, 2, &[kernel]);
    }
    good_start(&bed, "bad kernels");
}

#[test]
fn disks_that_cannot_be_used() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    fs::create_dir(bed.path().join("folder.img")).expect("writable");
    fs::write(bed.path().join("short.img"), vec![0; 1 << 20]).expect("writable");
    fs::write(bed.path().join("file"), b"").expect("writable");
    symlink("/proc/version", bed.path().join("not-writable.img")).expect("writable");
    for (path, words) in [
        ("folder.img", &["folder.img"][..]),
        ("missing/disk.img", &["missing/disk.img"]),
        ("file/disk.img", &["file/disk.img"]),
        ("short.img", &["short.img", "64 MiB"]),
        ("not-writable.img", &["not-writable.img"]),
    ] {
        bed.edit("disk.img", path);
        for more in [&[][..], &["--solo"][..]] {
            let run = bed.run(&[START, more].concat());
            refused(&bed, path, &run, 1, words);
        }
        bed.edit(path, "disk.img");
    }
    assert_eq!(
        fs::metadata(bed.path().join("short.img")).expect("it is there").len(),
        1 << 20,
        "not made longer"
    );
    good_start(&bed, "bad disks");
}

#[test]
fn ports_in_use() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    for index in 0..3 {
        let port = bed.ports.get(index);
        let holder = TcpListener::bind(("127.0.0.1", port)).expect("the port is reserved");
        let run = bed.run(START);
        refused(&bed, "port in use", &run, 1, &[&port.to_string(), "use"]);
        drop(holder);
    }
    good_start(&bed, "ports in use");
}

#[test]
fn a_second_launcher() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    for more in [&[][..], &["--solo"][..]] {
        let second = bed.run(&[START, more].concat());
        assert_eq!(second.code, Some(1), "{}", second.stderr);
        assert!(second.took < SECONDS);
        assert_eq!(messages(&second), 1, "{}", second.stderr);
        assert!(second.stderr.contains("already running"), "{}", second.stderr);
    }
    assert_eq!(client.call(&["PING"]), Ok(ft_e2e::Reply::Simple("PONG".into())), "the first one goes on");
    assert_eq!(bed.status().replicas.len(), 2);
    pair.stop();
    bed.assert_clean();
}

/// The other side has another config, or another guest: the pair does not form, and says so with exit code 6.
#[test]
fn the_other_side_is_another() {
    for (name, old, new) in [
        ("another memory", "64 MiB\"\nkernel", "128 MiB\"\nkernel"),
        ("another guest", "builtin:kv", "builtin:cpu"),
        ("another command line", "kernel = \"builtin:kv\"", "kernel = \"builtin:kv\"\ncmdline = \"other\""),
        ("another pair", "name = \"", "name = \"x"),
    ] {
        let bed = Bed::new(&Settings::new(Guest::Kv));
        let text = fs::read_to_string(bed.config()).expect("readable");
        fs::write(bed.path().join("other.toml"), text.replace(old, new)).expect("writable");
        let mut a = BareReplica::start(&bed, "pair.toml", "a");
        let mut b = BareReplica::start(&bed, "other.toml", "b");
        let a_ended = a.wait_message("ended", SECONDS);
        let b_ended = b.wait_message("ended", SECONDS);
        let codes: Vec<_> =
            [&a_ended, &b_ended].into_iter().flatten().map(|ended| ended["code"].as_u64()).collect();
        assert!(
            !codes.is_empty() && codes.iter().all(|code| *code == Some(6)),
            "{name}: {a_ended:?} {b_ended:?}\n{}\n{}",
            a.stderr.text(),
            b.stderr.text()
        );
        drop((a, b));
        bed.assert_clean();
        good_start(&bed, name);
    }
}

/// Anyone on this machine can connect to a replica's port. Nonsense there ends that connection and nothing else.
#[test]
fn strangers_on_the_replicas_ports() {
    let mut random = Random::new("strangers");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let before = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    let load = Load::start(bed.port(), "k", Shape::default(), &mut random).expect("the clients connect");
    let mut kept = Vec::new();
    for index in [1, 2] {
        for length in [0, 1, 24, 4096, 1 << 20] {
            // The port may be closed by now: the two have found each other.
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", bed.ports.get(index))) else { continue };
            stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out can be set");
            let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            let _ = stream.write_all(&bytes);
            kept.push(stream);
        }
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        for length in [0, 1, 64, 1400] {
            let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            let _ = datagram.send_to(&bytes, ("127.0.0.1", bed.ports.get(index)));
        }
    }
    load.wait_replies(1000, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    drop(kept);
    load.wait_replies(1000, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let after = bed.status();
    assert_eq!(
        (after.generation, after.replicas.len()),
        (before.generation, 2),
        "{}\n{}",
        after.json,
        pair.said()
    );
    pair.stop();
    bed.assert_clean();
}
