//! Editors: what the language servers behind them say of a right and of a wrong file, through the `#:schema` line.
//!
//! The tools are taken from `FT_TOMBI` and `FT_TAPLO`, or from `PATH`. Where one is missing the test says so and how to
//! get it, and checks nothing: they are no part of the build. `FT_EDITORS=require` makes a missing tool an error.

use std::path::{Path, PathBuf};
use std::process::Command;

fn tool(name: &str, variable: &str, install: &str) -> Option<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = given
        .or_else(|| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()));
    if found.is_none() {
        let line =
            format!("SKIPPED: {name} is not on PATH nor named by {variable}; to check with it: {install}");
        assert!(std::env::var_os("FT_EDITORS").is_none_or(|want| want != "require"), "{line}");
        eprintln!("{line}");
    }
    found
}

/// A folder with the schema, the right files and a wrong one.
fn folder() -> tempfile::TempDir {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let folder = tempfile::tempdir().unwrap();
    for name in ["ft-vm.schema.json", "pair.toml", "cpu.toml"] {
        std::fs::copy(config.join(name), folder.path().join(name)).unwrap();
    }
    let pair = std::fs::read_to_string(config.join("pair.toml")).unwrap();
    let wrong = pair
        .replace("memory = \"64 MiB\"", "memroy = \"64 MiB\"")
        .replace("timeout = \"200 ms\"", "timeout = 200");
    assert_ne!(pair, wrong);
    std::fs::write(folder.path().join("wrong.toml"), wrong).unwrap();
    folder
}

/// `wrong.toml:LINE:` of a text in the wrong file.
fn place(text: &str) -> String {
    let folder = folder();
    let wrong = std::fs::read_to_string(folder.path().join("wrong.toml")).unwrap();
    let line = wrong.lines().position(|line| line.contains(text)).unwrap() + 1;
    format!("wrong.toml:{line}:")
}

fn lint(program: &Path, args: &[&str], folder: &Path, file: &str) -> (bool, String) {
    let output = Command::new(program).args(args).arg(file).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn both(program: &Path, args: &[&str], words: &[&str]) {
    let folder = folder();
    for right in ["pair.toml", "cpu.toml"] {
        let (fine, said) = lint(program, args, folder.path(), right);
        assert!(fine, "{right}: {said}");
    }
    let (fine, said) = lint(program, args, folder.path(), "wrong.toml");
    assert!(!fine, "the wrong file is accepted: {said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn tombi() {
    if let Some(tombi) = tool("tombi", "FT_TOMBI", "pip install tombi") {
        both(&tombi, &["lint", "--offline"], &["memroy", &place("memroy"), &place("timeout = 200")]);
    }
}

#[test]
fn taplo() {
    if let Some(taplo) = tool("taplo", "FT_TAPLO", "npm install --global @taplo/cli") {
        both(&taplo, &["lint"], &["memroy", "200"]);
    }
}
