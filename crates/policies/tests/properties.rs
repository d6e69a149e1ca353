//! Whatever the text: no panic; and what is accepted fits the schema that editors are given.

use std::path::Path;
use std::sync::LazyLock;

use ft_policies::Key;
use ft_policies::{Config, DiskFaults, NetBackend, Reads, ReplicaId, Sharing, TieBreakerKind, Time, schema};
use proptest::prelude::*;

const PAIR: &str = include_str!("../../../config/pair.toml");
const CPU: &str = include_str!("../../../config/cpu.toml");

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::draft7::new(&schema::json()).expect("the schema is a schema"));

/// Loads; renders whatever is said of it; checks that what is accepted fits the schema.
fn load(text: &[u8], sets: &[String]) -> Option<Config> {
    match Config::parse(Path::new("/nowhere/x.toml"), text, sets) {
        Ok(config) => {
            config.digest();
            if sets.is_empty() {
                let text = std::str::from_utf8(text).unwrap();
                let value = serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
                let errors: Vec<_> = VALIDATOR.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "accepted, but not by the schema: {errors:?}\n{text}");
            }
            Some(config)
        }
        Err(mistakes) => {
            let shown = mistakes.to_string();
            // The walk finds whatever the types refuse, and says it better.
            assert!(!shown.contains("this does not fit"), "{shown}");
            for one in mistakes.iter() {
                assert!(mistakes.place(one).is_some(), "{} has no place", one.title());
            }
            None
        }
    }
}

#[test]
fn the_files_of_the_project_are_accepted() {
    let pair = load(PAIR.as_bytes(), &[]).expect("config/pair.toml");
    let cpu = load(CPU.as_bytes(), &[]).expect("config/cpu.toml");
    assert_ne!(pair.digest(), cpu.digest());
    assert_ne!(pair.pair_id(), cpu.pair_id());
    assert_eq!(pair.disks[0].path, Path::new("/nowhere/kv.img"));
    assert_eq!(pair.nets[0].mac, [2, 0x66, 0x74, 0x76, 0x6d, 0]);
    assert_eq!(load(PAIR.as_bytes(), &["pacing={none={}}".into()]).unwrap().pacing.name(), "none");
    assert_eq!(load(PAIR.as_bytes(), &["pacing.none={}".into()]).unwrap().pacing.name(), "none");
}

#[test]
fn the_digest_sees_what_is_shared_and_no_paths() {
    let digest = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        load(PAIR.as_bytes(), &sets).unwrap_or_else(|| panic!("{sets:?}")).digest()
    };
    let base = digest(&[]);
    for same in [
        "disk.0.path='elsewhere.img'",
        "tie-breaker.shared-disk.path='/mnt/g'",
        "console.output='console.txt'",
        "vm.memory='65536 KiB'",
        "disk.0.read-only=false",
        "disk.0.faults={write-errors=0.1}",
    ] {
        assert_eq!(digest(&[same]), base, "{same}");
    }
    let mut seen = vec![base];
    for other in [
        "vm.name='x'",
        "vm.memory='65 MiB'",
        "vm.kernel='builtin:cpu'",
        "vm.cmdline='x'",
        "vm.clock='virtual'",
        "disk=[]",
        "disk.0.size='65 MiB'",
        "disk.0={path='kv.img'}",
        "disk.0.read-only=true",
        "disk.0.reads='backup'",
        "disk.1={path='b.img'}",
        "net=[]",
        "net.0.mac='02:00:00:00:00:01'",
        "net.0.user.forward=[]",
        "net.0={tap={interface='ft0'}}",
        "replicas.a='127.0.0.1:9'",
        "replicas.b='127.0.0.1:9'",
        "replicas.start-alone='31 s'",
        "logging.buffer='17 MiB'",
        "detector.fixed.heartbeat='21 ms'",
        "detector.fixed.timeout='201 ms'",
        "detector={phi-accrual={}}",
        "detector={phi-accrual={heartbeat='21 ms'}}",
        "detector={phi-accrual={threshold=7}}",
        "detector={phi-accrual={acceptable-pause='101 ms'}}",
        "detector={phi-accrual={min-deviation='6 ms'}}",
        "detector={phi-accrual={max-silence='1001 ms'}}",
        "detector={phi-accrual={window=101}}",
        "tie-breaker.witness.address='127.0.0.1:7100'",
        "tie-breaker.witness.address='127.0.0.1:7101'",
        "tie-breaker.etcd.endpoints=['127.0.0.1:2379']",
        "tie-breaker.etcd.endpoints=['127.0.0.1:2379', '127.0.0.1:2381']",
        "tie-breaker.etcd={endpoints=['127.0.0.1:2379'], prefix='/other/'}",
        "pacing.none={}",
        "pacing.lag-feedback.target='101 ms'",
    ] {
        let digest = digest(&[other]);
        assert!(!seen.contains(&digest), "{other}");
        seen.push(digest);
    }
    assert_ne!(digest(&["disk=[]", "output.rule='none'"]), digest(&["disk=[]"]));
    let etcd = |endpoints: &str| digest(&[&format!("tie-breaker.etcd.endpoints=[{endpoints}]")]);
    let (one, other) = ("'127.0.0.1:2379', '[::1]:2379'", "'[::1]:2379', 'localhost:2379'");
    assert_eq!(etcd(one), etcd(other), "each replica may begin with another member");

    // Whether there is a key, and not which one.
    let folder = tempfile::tempdir().unwrap();
    let keyed = |name| {
        let path = folder.path().join(name);
        Key::make(&path).unwrap();
        digest(&[&format!("tie-breaker.witness={{address='127.0.0.1:7100', key='{}'}}", path.display())])
    };
    let one = keyed("one");
    assert!(!seen.contains(&one));
    assert_eq!(keyed("other"), one);
    let keyed = |name| digest(&[&format!("replicas.key='{}'", folder.path().join(name).display())]);
    assert!(!seen.contains(&keyed("one")) && keyed("one") != one);
    assert_eq!(keyed("other"), keyed("one"));
}

/// What is right on two hosts: addresses that are not loopback, one path for two files, no network of one machine.
#[test]
fn a_pair_on_two_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("pair.key");
    Key::make(&key).unwrap();
    let sets = [
        "replicas.a='192.0.2.1:7001'",
        "replicas.b='[2001:db8::2]:7001'",
        "disk.0.sharing='separate'",
        "disk.0.reads='backup'",
        "net=[]",
        "tie-breaker.witness.address='192.0.2.3:7100'",
        &format!("tie-breaker.witness.key='{}'", key.display()),
        "output.rule='none'",
    ]
    .map(str::to_owned);
    let config = load(PAIR.as_bytes(), &sets).unwrap();
    let secret = std::fs::read_to_string(&key).unwrap();
    assert!(!format!("{config:?}").contains(secret.trim()), "a key is shown");
    assert!(!config.replicas.one_machine());
    assert_eq!(config.tie_breaker.place(), "the witness at 192.0.2.3:7100");
    let warning = config.replicas.warning().unwrap();
    assert!(warning.contains("whoever reaches 192.0.2.1:7001 or [2001:db8::2]:7001"), "{warning}");
    // One key for both purposes.
    let both = [&sets[..], &[format!("replicas.key='{}'", key.display())]].concat();
    let config = load(PAIR.as_bytes(), &both).unwrap();
    assert!(config.replicas.key.is_some() && config.replicas.warning().is_none());
    assert!(!format!("{config:?}").contains(secret.trim()), "a key is shown");
    let disk = &config.disks[0];
    assert_eq!((disk.sharing, disk.reads), (Sharing::Separate, Reads::Backup));
    assert_eq!(disk.path_of(Some(ReplicaId::A)), disk.path_of(Some(ReplicaId::B)));
    assert!(load(PAIR.as_bytes(), &[]).unwrap().replicas.one_machine());
}

/// Each host names its own interface; what the guest sees of it is the same on both.
#[test]
fn a_tap_interface() {
    let load = |set: &str| load(PAIR.as_bytes(), &[set.to_owned()]).unwrap();
    let on_a = load("net.0={tap={interface='ft0'}}");
    assert_eq!(on_a.nets[0].backend, NetBackend::Tap { interface: "ft0".into() });
    let on_b = load("net.0={tap={interface='tap7'}}");
    assert_eq!((on_a.digest(), &on_a.nets[0].mac), (on_b.digest(), &on_b.nets[0].mac));
    // Other pairs may be on that network.
    let other = ["vm.name='another'".to_owned(), "net.0={tap={interface='ft0'}}".to_owned()];
    let other = ft_policies::Config::parse(Path::new("/nowhere/pair.toml"), PAIR.as_bytes(), &other).unwrap();
    assert_ne!(other.nets[0].mac, on_a.nets[0].mac);
    assert_eq!(other.nets[0].mac[0], 2);
}

/// An etcd has no file system either, and may run on the hosts of the pair; without a prefix the schema's counts.
#[test]
fn a_pair_with_an_etcd() {
    let sets = [
        "replicas.a='192.0.2.1:7001'",
        "replicas.b='192.0.2.2:7001'",
        "disk.0.sharing='separate'",
        "net=[]",
        "tie-breaker.etcd.endpoints=['192.0.2.1:2379', '192.0.2.2:2379', '[2001:db8::3]:2379']",
    ]
    .map(str::to_owned);
    let config = load(PAIR.as_bytes(), &sets).unwrap();
    assert_eq!(config.tie_breaker.name(), "etcd");
    assert_eq!(config.tie_breaker.place(), "the etcd at 192.0.2.1:2379, 192.0.2.2:2379, [2001:db8::3]:2379");
    let TieBreakerKind::Etcd { prefix, .. } = &config.tie_breaker else { panic!("{config:?}") };
    assert_eq!(prefix, "/ft-vm/");
}

#[test]
fn faults_of_a_disk() {
    let faults = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        load(PAIR.as_bytes(), &sets).unwrap_or_else(|| panic!("{sets:?}")).disks[0].faults.clone()
    };
    assert_eq!(faults(&[]), None);
    let nothing = DiskFaults {
        replica: None,
        after: 0,
        read_errors: 0.0,
        write_errors: 0.0,
        flush_errors: 0.0,
        short: 0.0,
        delayed: 0.0,
        delay: Time::millis(5),
        lose_unflushed: false,
        seed: 0,
    };
    assert_eq!(faults(&["disk.0.faults={}"]), Some(nothing.clone()));
    assert_eq!(
        faults(&[
            "disk.0.faults={write-errors=0.1}",
            "disk.0.faults.flush-errors=1",
            "disk.0.faults.replica='b'"
        ]),
        Some(DiskFaults {
            replica: Some(ReplicaId::B),
            write_errors: 0.1,
            flush_errors: 1.0,
            ..nothing.clone()
        })
    );
    assert_eq!(
        faults(&["disk.0.faults={after=7, short=1e-3, delayed=1.0, delay='1 s', seed=9}"]),
        Some(DiskFaults {
            after: 7,
            short: 0.001,
            delayed: 1.0,
            delay: Time::millis(1000),
            seed: 9,
            ..nothing
        })
    );
}

/// Pieces that have a meaning somewhere, so that random texts get past the parser.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\n".into()),
        Just(" = ".into()),
        Just(".".into()),
        Just("\"".into()),
        Just("[".into()),
        Just("]".into()),
        Just("{".into()),
        Just("}".into()),
        Just(",".into()),
        prop::sample::select(
            PAIR.split_inclusive(['\n', ' ', '.', '"']).map(str::to_owned).collect::<Vec<_>>()
        ),
        prop::sample::select(CPU.lines().map(|line| format!("{line}\n")).collect::<Vec<_>>()),
        "[a-z0-9é\u{1F600}\t\r-]{1,4}",
    ]
}

fn size() -> impl Strategy<Value = String> {
    (16u64..=3072).prop_map(|mib| format!("{mib} MiB"))
}

/// Random configurations that are right.
fn valid() -> impl Strategy<Value = String> {
    let vm = (
        "[a-z0-9][a-z0-9-]{0,62}",
        size(),
        prop::sample::select(vec!["kv", "cpu"]),
        "[ -!#-\\[\\]-~]{0,40}",
        any::<bool>(),
    );
    let disks = prop::collection::vec(
        (
            prop::option::of(1u64..100_000),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            prop::option::of((0.0f64..=1.0, prop::sample::select(vec!["0", "1", "0.5", "1e-9", "1.0"]))),
        ),
        0..4,
    );
    let net = prop::option::of((
        prop::option::of(any::<[u8; 5]>()),
        prop::collection::btree_map(1u16..=6000, 1u16.., 0..4),
    ));
    let policies = (
        prop::option::of(1u64..=60_000),
        prop::option::of((1u64..=1000, 2u64..=50, prop::option::of((1u64..=16, 2u64..=1000)))),
        3u64..=1024,
        any::<bool>(),
    );
    (vm, disks, net, 7000u16..8000, 0u64..=3600, policies).prop_map(|(vm, disks, net, port, alone, policies)| {
        let (name, memory, kernel, cmdline, host) = vm;
        let clock = if host { "host" } else { "virtual" };
        let mut text = format!(
            "[vm]\nname = '{name}'\nmemory = '{memory}'\nkernel = 'builtin:{kernel}'\ncmdline = \"{cmdline}\"\nclock = '{clock}'\n"
        );
        for (index, (size, read_only, separate, backup_reads, faults)) in disks.iter().enumerate() {
            text += &format!("[[disk]]\nread-only = {read_only}\n");
            text += &match separate {
                true => format!("path = 'disk-{index}-{{replica}}.img'\nsharing = 'separate'\n"),
                false => format!("path = 'disk-{index}.img'\n"),
            };
            if let Some(kib) = size {
                text += &format!("size = '{kib} KiB'\n");
            }
            if *backup_reads {
                text += "reads = 'backup'\n";
            }
            if let Some((errors, short)) = faults {
                text += &format!("[disk.faults]\nwrite-errors = {errors:?}\nshort = {short}\nlose-unflushed = {separate}\n");
            }
        }
        if let Some((mac, forward)) = net {
            text += "[[net]]\n";
            if let Some(tail) = mac {
                text += &format!("mac = '02:{}'\n", tail.map(|byte| format!("{byte:02x}")).join(":"));
            }
            let forward: Vec<_> = forward.iter().map(|(from, to)| format!("'127.0.0.1:{from} -> {to}'")).collect();
            text += &format!("[net.user]\nforward = [{}]\n", forward.join(", "));
        }
        text += &format!("[replicas]\na = '127.0.0.1:{port}'\nb = '[::1]:{port}'\nstart-alone = '{alone} s'\n");
        let (target, detector, buffer, commit) = policies;
        text += &format!("[logging]\nbuffer = '{buffer} MiB'\n");
        text += match disks.iter().any(|(_, _, separate, ..)| *separate) {
            true if commit => "[tie-breaker.witness]\naddress = '[::1]:6999'\n",
            true => "[tie-breaker.etcd]\nendpoints = ['[::1]:6999', '127.0.0.1:6999']\nprefix = '/x'\n",
            false => "[tie-breaker.shared-disk]\npath = 'g'\n",
        };
        if !commit && disks.iter().all(|(_, read_only, separate, ..)| *read_only || *separate) {
            text += "[output]\nrule = 'none'\n";
        }
        match target {
            Some(ms) => text += &format!("[pacing.lag-feedback]\ntarget = '{ms} ms'\n"),
            None => text += "[pacing.none]\n",
        }
        match detector {
            Some((beat, factor, None)) => {
                text += &format!("[detector.fixed]\nheartbeat = '{beat} ms'\ntimeout = '{} ms'\n", beat * factor);
            }
            Some((beat, factor, Some((threshold, window)))) => {
                text += &format!(
                    "[detector.phi-accrual]\nheartbeat = '{beat} ms'\nacceptable-pause = '{beat} ms'\nmin-deviation = '{factor} ms'\n\
                     max-silence = '{} ms'\nthreshold = {threshold}\nwindow = {window}\n",
                    beat * (factor + 1)
                );
            }
            None => {}
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        load(&bytes, &[]);
    }

    #[test]
    fn any_pieces_are_no_panic(pieces in prop::collection::vec(piece(), 0..80)) {
        load(pieces.concat().as_bytes(), &[]);
    }

    #[test]
    fn any_mutation_of_a_right_file_is_no_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, piece()), 1..4)
    ) {
        let mut bytes = PAIR.as_bytes().to_vec();
        for (at, length, piece) in changes {
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        load(&bytes, &[]);
    }

    #[test]
    fn any_line_may_go(line in 0usize..70) {
        let text: String = PAIR.lines().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| format!("{line}\n")).collect();
        load(text.as_bytes(), &[]);
    }

    #[test]
    fn any_override_is_no_panic(sets in prop::collection::vec(prop::collection::vec(piece(), 0..12), 0..4)) {
        let sets: Vec<String> = sets.into_iter().map(|set| set.concat()).collect();
        load(PAIR.as_bytes(), &sets);
    }

    #[test]
    fn right_files_are_accepted_by_both(text in valid()) {
        prop_assert!(load(text.as_bytes(), &[]).is_some(), "{}", Config::parse(Path::new("/x.toml"), text.as_bytes(), &[]).unwrap_err());
    }

    /// One key of a right file replaced by something of another type: both say no.
    #[test]
    fn what_the_schema_refuses_is_refused(index in any::<prop::sample::Index>(), value in prop::sample::select(vec!["7", "true", "[1]", "{x = 1}", "\"\\u0000\"", "1.5"])) {
        let keys: Vec<usize> = PAIR.lines().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#')).map(|(at, _)| at).collect();
        let chosen = keys[index.index(keys.len())];
        let text: String = PAIR.lines().enumerate().map(|(at, line)| {
            if at == chosen { format!("{} = {value}\n", line.split(" = ").next().unwrap()) } else { format!("{line}\n") }
        }).collect();
        let json = serde_json::to_value(toml::from_str::<toml::Value>(&text).unwrap()).unwrap();
        prop_assert!(!VALIDATOR.is_valid(&json), "{text}");
        prop_assert!(load(text.as_bytes(), &[]).is_none(), "{text}");
    }
}

#[test]
fn deep_and_long_texts_end() {
    for text in [
        "[".repeat(200_000),
        "a.".repeat(100_000),
        "x = [".repeat(50_000),
        format!("x = {}", "[".repeat(100_000)),
        "\n".repeat(2 << 20),
    ] {
        assert!(Config::parse(Path::new("/x.toml"), text.as_bytes(), &[]).is_err());
    }
    let many: Vec<String> = vec!["vm.name='x'".into(); 300];
    assert!(Config::parse(Path::new("/x.toml"), PAIR.as_bytes(), &many).is_err());
    assert!(
        Config::load(Path::new("/nowhere/at/all.toml"), &[])
            .unwrap_err()
            .to_string()
            .contains("No such file")
    );
    assert!(Config::load(Path::new("/"), &[]).unwrap_err().to_string().contains("directory"));
}
