//! The schema file and the reference page are written from the types; these tests say so when they are not up to date, and
//! write them anew with `FT_UPDATE=1`.

use std::path::{Path, PathBuf};

use ft_policies::{Config, schema};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn compare(path: &Path, wanted: &str) {
    if std::env::var_os("FT_UPDATE").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not what the types say; run the test again with FT_UPDATE=1",
        path.display()
    );
}

#[test]
fn the_schema_file_is_up_to_date() {
    compare(&root().join("config/ft-vm.schema.json"), &schema::text());
}

#[test]
fn the_reference_page_is_up_to_date() {
    compare(&root().join("docs/config.md"), &schema::reference());
}

/// Editors show descriptions: everything has one, and every table refuses unknown keys.
#[test]
fn everything_is_described_and_closed() {
    fn visit(path: &str, node: &Value) {
        let object = node.as_object().unwrap();
        if let Some(properties) = node.get("properties").and_then(Value::as_object) {
            assert_eq!(node.get("additionalProperties"), Some(&Value::Bool(false)), "{path} is open");
            for (key, inner) in properties {
                // A variant's table is described beside it.
                let described = inner.get("description").is_some() || node.get("description").is_some();
                assert!(described, "{path}.{key} has no description");
                visit(&format!("{path}.{key}"), inner);
            }
        }
        for branch in object.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
            if branch.get("const").is_some() || branch.get("properties").is_some() {
                assert!(branch.get("description").is_some(), "a choice of {path} has no description");
                visit(path, branch);
            }
        }
        for (name, inner) in object.get("definitions").and_then(Value::as_object).into_iter().flatten() {
            assert!(inner.get("description").is_some(), "{name} has no description");
            visit(name, inner);
        }
    }
    let schema = schema::json();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    visit("", &schema);
    assert!(!schema::text().contains("\"null\""), "TOML has no null");
}

/// Writing a default into the file changes nothing: what the schema shows is what the checks fill in.
#[test]
fn shown_defaults_are_the_defaults() {
    let base = "[vm]\nname = 'x'\nkernel = 'builtin:kv'\n[replicas]\na = '127.0.0.1:1'\nb = '127.0.0.1:2'\n\
                [tie-breaker.shared-disk]\npath = 'g'\n";
    let disk = "[[disk]]\npath = 'd'\n";
    let faulty = "[disk.faults]\n";
    let net = "[[net]]\nuser = {}\n";
    let schema = schema::json();
    let mut tried = 0;
    let mut check = |prefix: &str, definition: &str, text: &str| {
        let before = Config::parse(Path::new("/x/x.toml"), text.as_bytes(), &[]).unwrap();
        for (key, node) in schema["definitions"][definition]["properties"].as_object().unwrap() {
            let Some(default) = node.get("default") else { continue };
            let set = format!("{prefix}.{key}={default}");
            let after = Config::parse(Path::new("/x/x.toml"), text.as_bytes(), std::slice::from_ref(&set))
                .unwrap_or_else(|error| panic!("{set}: {error}"));
            assert_eq!(before, after, "{set}");
            tried += 1;
        }
    };
    check("vm", "Vm", base);
    check("console", "Console", base);
    check("replicas", "Replicas", base);
    check("logging", "Logging", base);
    check("output", "Output", base);
    check("detector.fixed", "DetectorFixed", base);
    check("detector.phi-accrual", "DetectorPhiAccrual", &format!("{base}[detector.phi-accrual]\n"));
    check("pacing.lag-feedback", "PacingLagFeedback", base);
    check(
        "tie-breaker.etcd",
        "TieBreakerEtcd",
        &base.replace("shared-disk]\npath = 'g'", "etcd]\nendpoints = ['[::1]:1']"),
    );
    check("disk.0", "Disk", &format!("{base}{disk}"));
    check("disk.0.faults", "DiskFaults", &format!("{base}{disk}{faulty}"));
    check("net.0.user", "NetUser", &format!("{base}{net}"));
    assert!(tried >= 28, "only {tried} defaults");
}
