//! The command as a person and as other programs use it.

use std::process::Command;
use std::time::Duration;

use ft_e2e::{Bed, Guest, RedisBenchmark, Reply, Settings, have_redis_tools, workspace};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn check_and_schema() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let check = bed.run(&["check", "pair.toml"]);
    assert_eq!(
        (check.code, check.stderr.lines().filter(|line| line.contains("error")).count()),
        (Some(0), 0),
        "{check:?}"
    );

    bed.edit("memory = \"64 MiB\"", "memory = 64\ncolour = \"red\"");
    let check = bed.run(&["check", "pair.toml"]);
    assert_eq!(check.code, Some(2), "{}", check.stderr);
    // All mistakes, each with its place.
    assert!(
        check.stderr.contains("pair.toml:4:10") && check.stderr.contains("pair.toml:5:1"),
        "{}",
        check.stderr
    );

    let schema = bed.run(&["schema"]);
    assert_eq!(schema.code, Some(0));
    let file = std::fs::read_to_string(workspace().join("config/ft-vm.schema.json"))
        .expect("the schema is in the tree");
    assert_eq!(schema.stdout, file, "config/ft-vm.schema.json is what `ft-vm schema` prints");
    let json: serde_json::Value = serde_json::from_str(&schema.stdout).expect("the schema is JSON");
    assert_eq!(json["$schema"], "http://json-schema.org/draft-07/schema#");

    let version = bed.run(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert!(version.stdout.starts_with("ft-vm "), "{}", version.stdout);
    let help = bed.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--config") && !help.stdout.contains("--fault"), "{}", help.stdout);
    bed.assert_clean();
}

#[test]
fn status() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let none = bed.run(&["status", "--config", "pair.toml"]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.took < Duration::from_secs(5));

    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    client.call(&["SET", "a", "1"]).expect("a reply");
    let status = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
    assert!(status.generation >= 1);
    assert_eq!(
        (status.primary().replica.as_str(), status.backup().replica.as_str()),
        ("a", "b"),
        "{}",
        status.json
    );
    assert_eq!((status.primary().state.as_str(), status.live()), ("live", 1), "{}", status.json);
    for replica in &status.replicas {
        assert!(ft_e2e::alive(replica.pid));
        for number in ["lag_ms", "log_bytes", "records", "outputs_held"] {
            assert!(replica.number(number) >= 0.0, "{number}: {}", replica.json);
        }
    }
    for number in ["output_delay_ms/p50", "output_delay_ms/p99", "lag/p50", "lag/p99", "stalls"] {
        assert!(status.primary().number(number) >= 0.0, "{number}");
    }
    let human = bed.run(&["status", "--config", "pair.toml"]);
    assert_eq!(human.code, Some(0));
    for word in ["primary", "backup", &status.primary().pid.to_string(), &status.backup().pid.to_string()] {
        assert!(human.stdout.contains(word), "{word}: {}", human.stdout);
    }
    pair.stop();
    let gone = bed.run(&["status", "--config", "pair.toml"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    bed.assert_clean();
}

/// SIGINT and SIGTERM stop the pair in order, also when one replica gets the signal instead of the launcher; the same
/// without fault tolerance.
#[test]
fn signals() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        for more in [&[][..], &["--solo"][..]] {
            let mut pair = bed.start_with(more);
            pair.wait_service(bed.port());
            pair.signal(signal);
            assert_eq!(
                pair.exit_code(Duration::from_secs(5)),
                0,
                "signal {signal} {more:?}\n{}",
                pair.said()
            );
            drop(pair);
            bed.assert_clean();
        }
    }
    for role in ["primary", "backup"] {
        let mut pair = bed.start();
        pair.wait_service(bed.port());
        let status = bed.wait_status("both replicas", LIMIT, |status| status.replicas.len() == 2);
        bed.signal(status.role(role).expect("both are there").pid, libc::SIGTERM);
        assert_eq!(pair.exit_code(Duration::from_secs(5)), 0, "SIGTERM of the {role}\n{}", pair.said());
        drop(pair);
        bed.assert_clean();
    }
}

/// Ctrl-C on a terminal goes to the whole process group at once.
#[test]
fn interrupt_of_the_whole_group() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let group = libc::pid_t::try_from(pair.pid()).expect("a process id");
    // SAFETY: killpg touches no memory of this process; the group is the launcher's own.
    assert_eq!(unsafe { libc::killpg(group, libc::SIGINT) }, 0);
    assert_eq!(pair.exit_code(Duration::from_secs(5)), 0, "{}", pair.said());
    drop(pair);
    bed.assert_clean();
}

/// What the README says, with the config that it names; only ports and paths are others.
#[test]
fn the_config_of_the_readme() {
    assert!(have_redis_tools(), "redis-benchmark and redis-cli are missing: install the package redis-tools");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let config = std::fs::read_to_string(workspace().join("config/pair.toml"))
        .expect("config/pair.toml is in the tree");
    std::fs::write(bed.config(), config).expect("the folder is writable");
    let port = bed.port().to_string();
    let sets = [
        format!("net=[{{user={{forward=[\"127.0.0.1:{port} -> 6379\"]}}}}]"),
        format!("replicas.a=\"127.0.0.1:{}\"", bed.ports.get(1)),
        format!("replicas.b=\"127.0.0.1:{}\"", bed.ports.get(2)),
        "vm.name=\"override\"".to_owned(),
    ];
    let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let mut pair = bed.start_with(&more);
    pair.wait_service(bed.port());

    let redis_cli = |arguments: &[&str]| {
        let run =
            Command::new("redis-cli").args(["-p", &port]).args(arguments).output().expect("redis-cli starts");
        String::from_utf8_lossy(&run.stdout).trim_end().to_owned()
    };
    assert_eq!(redis_cli(&["set", "a", "1"]), "OK");
    assert_eq!(redis_cli(&["get", "a"]), "1");
    assert_eq!(redis_cli(&["incrby", "a", "41"]), "42");
    assert!(redis_cli(&["lpush", "a", "1"]).starts_with("ERR"), "a command that it does not have");
    assert!(redis_cli(&["info"]).contains("redis_version"));
    let benchmark =
        RedisBenchmark::start(bed.port(), &["-t", "set,get,incr", "-n", "3000", "-c", "20", "-q"]);
    let said =
        benchmark.finish(Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    for test in ["SET:", "GET:", "INCR:"] {
        assert!(said.contains(test), "{said}");
    }
    assert_eq!(redis_cli(&["dbsize"]).parse::<u64>().map(|size| size >= 3), Ok(true));
    pair.stop();
    bed.assert_clean();
}

/// Pipelining, several connections, wrong commands: as Redis does it.
#[test]
fn a_redis_of_sorts() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let mut call = |words: &[&str]| client.call(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let ok = || Reply::Simple("OK".into());
    let bulk = |text: &str| Reply::Bulk(Some(text.into()));
    assert_eq!(call(&["SET", "k", "v"]), ok());
    assert_eq!(call(&["GET", "k"]), bulk("v"));
    assert_eq!(call(&["GET", "none"]), Reply::Bulk(None));
    assert_eq!(call(&["APPEND", "k", "w"]), Reply::Int(2));
    assert_eq!(call(&["STRLEN", "k"]), Reply::Int(2));
    assert_eq!(call(&["EXISTS", "k", "none", "k"]), Reply::Int(2));
    assert_eq!(call(&["MSET", "x", "1", "y", "2"]), ok());
    assert_eq!(
        call(&["MGET", "x", "none", "y"]),
        Reply::Array(Some(vec![bulk("1"), Reply::Bulk(None), bulk("2")]))
    );
    assert_eq!(call(&["INCR", "x"]), Reply::Int(2));
    assert_eq!(call(&["DECR", "x"]), Reply::Int(1));
    assert_eq!(call(&["INCRBY", "x", "-5"]), Reply::Int(-4));
    assert_eq!(call(&["DEL", "x", "y", "none"]), Reply::Int(2));
    assert_eq!(call(&["ECHO", "hello"]), bulk("hello"));
    assert_eq!(call(&["DBSIZE"]), Reply::Int(1));
    for (words, error) in [
        (&["NOTHING"][..], "ERR unknown command"),
        (&["GET"], "ERR wrong number of arguments for 'get' command"),
        (&["INCR", "k"], "ERR value is not an integer or out of range"),
    ] {
        match call(words) {
            Reply::Error(said) => assert!(said.starts_with(error), "{words:?}: {said}"),
            other => panic!("{words:?}: {other:?}"),
        }
    }
    assert_eq!(call(&["FLUSHALL"]), ok());
    assert_eq!(call(&["DBSIZE"]), Reply::Int(0));
    assert_eq!(call(&["QUIT"]), ok());
    assert!(client.reply().is_err(), "QUIT closes the connection");
    pair.stop();
    bed.assert_clean();
}
