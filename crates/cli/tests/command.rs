//! What the command says and how it ends, without a machine.

use std::path::Path;
use std::process::{Command, Output};

fn ft_vm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ft-vm")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name).display().to_string()
}

#[test]
fn check_of_right_files() {
    for name in ["pair.toml", "cpu.toml"] {
        let output = ft_vm(&["check", &config(name)]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        // What follows is what was run beside these files.
        assert!(said(&output).contains(&format!("{name}: ok\n")));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn check_names_every_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    let text = std::fs::read_to_string(config("pair.toml")).unwrap();
    let text =
        text.replace("memory =", "memroy =").replace("\"20 ms\"", "20").replace("\"software\"", "\"kwm\"");
    std::fs::write(&broken, &text).unwrap();
    let broken = broken.to_str().unwrap();
    for args in [
        &["check", broken][..],
        &["--config", broken],
        &["--config", broken, "--solo"],
        &["status", "--config", broken],
    ] {
        let output = ft_vm(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        for wrong in ["memroy", "heartbeat = 20", "\"kwm\""] {
            let (at, line) = text.lines().enumerate().find(|(_, line)| line.contains(wrong)).unwrap();
            let place = format!("{broken}:{}:", at + 1);
            assert!(
                said(&output).contains(&place) && said(&output).contains(line.trim_end()),
                "{wrong}: {}",
                said(&output)
            );
        }
        assert!(said(&output).contains("3 mistakes"));
    }
    let output = ft_vm(&["check", &config("pair.toml"), "--set", "vm.memory=\"1 TiB\""]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--set:1:11"), "{}", said(&output));
}

#[test]
fn unreadable_files_and_arguments() {
    for args in [
        &["check", "/nowhere/x.toml"][..],
        &["--config", "/nowhere/x.toml"],
        &["check", "/"],
        &["--nonsense"],
        &[],
    ] {
        let output = ft_vm(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!said(&output).is_empty());
    }
    let output = ft_vm(&["check", "/nowhere/x.toml"]);
    assert_eq!(said(&output).matches("cannot read").count(), 1, "{}", said(&output));
}

#[test]
fn schema_is_the_file() {
    let output = ft_vm(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, std::fs::read(config("ft-vm.schema.json")).unwrap());
}

#[test]
fn a_promotion_is_for_a_pair_whose_tie_breaker_is_a_person() {
    let output = ft_vm(&["promote", "--config", &config("pair.toml")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("has [tie-breaker.shared-disk], which decides by itself"),
        "{}",
        said(&output)
    );
}
#[test]
fn where_the_replicas_are_must_fit_how_they_are_started() {
    let two_hosts =
        ["--set", "replicas={a='192.0.2.1:7001', b='192.0.2.2:7001'}", "--set", "net=[]", "--set", "disk=[]"];
    for (args, word) in [
        (&["--replica", "b"][..], "[net.user] is a network inside one launcher"),
        (&["--replica", "a", "--solo"], "has no replicas"),
        (&two_hosts, "start --replica a on the one, --replica b on the other"),
    ] {
        let output = ft_vm(&[&["--config", &config("pair.toml")], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(word), "{}", said(&output));
    }
    // Right, and worth a word.
    let output = ft_vm(&[&["check", &config("pair.toml")], &two_hosts[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for word in
        [": ok\n", "warning: the replicas do not know each other by a key", "192.0.2.2:7001", "`ft-vm key"]
    {
        assert!(said(&output).contains(word), "{word}: {}", said(&output));
    }
}
