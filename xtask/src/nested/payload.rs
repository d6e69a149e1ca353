//! What goes into the machine: busybox, KVM's modules, this very program as the probe, `ft-vm`, the tests, and every library that
//! any of them is linked with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Job, Test};
use crate::assets::tree::{Content, Node, Tree};
use crate::assets::{self, Kernel};
use crate::steps::{cargo, root};

/// How the line begins that says that the machine is up.
pub(crate) const UP: &str = "== the machine is up";
/// The line on the second serial port after the last exit code.
pub(crate) const END: &str = "the end";
/// `kvm_amd` needs the others.
const MODULES: [&str; 1] = ["kvm_amd"];
/// What of the checkout the tests read.
const READ: [&str; 2] = ["config", "examples"];
/// Variables of ours that are the tests' too.
const PASSED_ON: [&str; 3] = ["FT_FULL", "FT_SEED", "FT_CASES"];

/// The initramfs that does the jobs.
pub(crate) fn initramfs(kernel: &Kernel, jobs: &[Job], ft_vm: &Path) -> Result<Vec<u8>, String> {
    let mut tree = Tree::default();
    assets::add_userland(&mut tree)?;
    assets::add_modules(&mut tree, &kernel.modules, &MODULES)?;
    let mut programs = BTreeMap::from([("ft-vm", ft_vm)]);
    programs.extend(jobs.iter().map(|job| (job.file.as_str(), job.program.as_path())));
    let mut libraries = BTreeSet::new();
    for (name, path) in &programs {
        libraries.extend(linked_with(path)?);
        tree.put(&format!("usr/bin/{name}"), Node::File(0o755, Content::File(path.to_path_buf())));
    }
    for library in libraries {
        tree.put(&in_merged_usr(&library), Node::File(0o755, Content::File(library)));
    }
    for folder in READ {
        let place = inside(&root().join(folder));
        let mut files = Tree::default();
        files.copy(&root().join(folder), &|path| path.ends_with(".toml") || path.ends_with(".json"))?;
        for (path, node) in files.nodes() {
            tree.put(&format!("{place}/{path}"), node.clone());
        }
    }
    tree.text("init", 0o755, include_str!("guest/init"));
    tree.put("dev/console", Node::Device(5, 1));
    let mut script = String::from("# What /init runs, in order.\n");
    for variable in PASSED_ON {
        if let Ok(value) = std::env::var(variable) {
            let _ = writeln!(script, "export {variable}={}", quoted(&value));
        }
    }
    for Job { name, file, folder, words, limit, .. } in jobs {
        let place = inside(&root().join(folder));
        tree.folders(&place);
        let (place, seconds) = (quoted(&format!("/{place}")), limit.as_secs());
        let _ = writeln!(script, "run {} {place} {seconds} {file} {}", quoted(name), words.join(" "));
    }
    tree.text("etc/tests", 0o644, &script);
    assets::archive(&tree)
}

/// What cargo built.
pub(crate) struct Built {
    /// The command.
    pub(crate) ft_vm: PathBuf,
    /// The executable of each test, in the order in which they were asked for.
    pub(crate) tests: Vec<PathBuf>,
}

/// Builds all in one go and for the whole workspace: with the features that `cargo xtask test` builds with, so that nothing is
/// built twice.
pub(crate) fn build(tests: &[Test]) -> Result<Built, String> {
    println!("== building the tests");
    let mut words = vec!["build", "--workspace", "--release", "--locked", "--bin", "ft-vm"];
    let targets: BTreeSet<&str> = tests.iter().map(|test| test.target).collect();
    words.extend(targets.iter().flat_map(|target| ["--test", target]));
    let said = messages(cargo(&words).args(["--message-format", "json-render-diagnostics"]))?;
    let of = |folder: &str, target: &str, kind: &str| {
        executable(&said, &root().join(folder).join("Cargo.toml"), target, kind)
            .ok_or_else(|| format!("cargo built no {kind} {target} in {folder}"))
    };
    let mut built = Built { ft_vm: of("crates/cli", "ft-vm", "bin")?, tests: Vec::new() };
    for Test { folder, target, .. } in tests {
        built.tests.push(of(folder, target, "test")?);
    }
    Ok(built)
}

/// What cargo says of what it builds; its errors are shown.
fn messages(command: &mut Command) -> Result<Vec<Value>, String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.map_err(|error| format!("cargo: {error}"))?;
    if !done.status.success() {
        return Err(format!("cargo: {}", done.status));
    }
    Ok(done
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// The file of a target of a package.
fn executable(messages: &[Value], manifest: &Path, target: &str, kind: &str) -> Option<PathBuf> {
    let is_it = |message: &&Value| {
        message["target"]["name"] == target
            && message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|it| it == kind))
            && message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
    };
    messages.iter().filter(is_it).find_map(|message| message["executable"].as_str()).map(PathBuf::from)
}

/// The libraries, and the loader, that a program is linked with.
fn linked_with(program: &Path) -> Result<Vec<PathBuf>, String> {
    let done = Command::new("ldd").arg(program).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("ldd: {error}"))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        // A static program has none.
        let text = String::from_utf8_lossy(&done.stderr).into_owned() + &said;
        return if text.contains("not a dynamic") { Ok(Vec::new()) } else { Err(format!("ldd: {text}")) };
    }
    if let Some(line) = said.lines().find(|line| line.contains("not found")) {
        return Err(format!("{}: {}", program.display(), line.trim()));
    }
    Ok(libraries(&said))
}

/// Reads `NAME => PATH (ADDRESS)` and `PATH (ADDRESS)`.
fn libraries(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let (before, _) = line.trim().rsplit_once(" (")?;
        let path = before.rsplit_once(" => ").map_or(before, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter_map(path).collect()
}

/// A path of this machine as one of the tree.
fn inside(path: &Path) -> String {
    path.strip_prefix("/").unwrap_or(path).display().to_string()
}

fn in_merged_usr(path: &Path) -> String {
    let path = inside(path);
    if path.starts_with("lib") { format!("usr/{path}") } else { path }
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_ldd() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<String> = libraries(said).iter().map(|path| in_merged_usr(path)).collect();
        assert_eq!(found, ["usr/lib/x86_64-linux-gnu/libgcc_s.so.1", "usr/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn the_messages_of_cargo() {
        let message = |package: &str, kind: &str, executable: Value| {
            serde_json::json!({"target": {"name": "kvm", "kind": [kind]}, "executable": executable,
                               "manifest_path": format!("/x/{package}/Cargo.toml")})
        };
        let said = [
            message("tests", "lib", Value::Null),
            message("vcpu", "test", "/t/kvm-1".into()),
            message("tests", "test", "/t/kvm-2".into()),
        ];
        let of = |package: &str, kind| {
            executable(&said, &Path::new("/x").join(package).join("Cargo.toml"), "kvm", kind)
        };
        assert_eq!(of("tests", "test"), Some("/t/kvm-2".into()));
        assert_eq!(of("tests", "bin"), None);
        assert_eq!(of("cli", "test"), None);
    }

    #[test]
    fn words_of_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
