//! `cargo xtask test`: everything that must hold before a change goes in. Continuous integration runs exactly this.

use std::process::Command;

use crate::nested;
use crate::simulate;
use crate::steps::{Steps, cargo, root, target};
use crate::tools;

/// Runs all steps. `full` asks for the long campaigns as well.
pub(crate) fn run(full: bool) -> Result<(), String> {
    let tools = tools::provide();
    let mut steps = Steps::default();

    let me = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    println!("== kernel and images of Linux guests");
    // Without them the tests that boot Linux say so, and on a CI machine they fail.
    let made = Command::new(&me).args(["assets", "programs"]).status().is_ok_and(|status| status.success());

    let mut format = cargo(&["fmt", "--all", "--check"]);
    steps.run("formatting", without_target(&mut format));
    // The programs that run inside the virtual machine are a workspace of their own.
    let mut format = cargo(&["fmt", "--manifest-path", "guests/programs/Cargo.toml", "--all", "--check"]);
    steps.run("formatting of the guest programs", without_target(&mut format));

    // The tests' profile: build scripts, and the guests that they build, are built once.
    let lints = ["clippy", "--workspace", "--all-targets", "--release", "--locked"];
    steps.run("lints", cargo(&lints).args(["--", "-D", "warnings"]));

    let mut docs = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--release",
        "--locked",
        "--quiet",
    ]);
    // Module pages link to what is private beside them: they are written for who works on it.
    let strict = "-D warnings -A rustdoc::private-intra-doc-links";
    steps.run("documentation", docs.env("RUSTDOCFLAGS", strict));

    // With the tests of its crate comes the binary `ft-vm` itself, built with the same features: nothing is built twice.
    if steps
        .run("build", &mut cargo(&["test", "--workspace", "--release", "--locked", "--no-run", "--quiet"]))
    {
        let mut tests = cargo(&["test", "--workspace", "--release", "--locked", "--no-fail-fast"]);
        tests.env("FT_VM_BIN", target().join("release/ft-vm")).envs(tools.environment());
        if full {
            tests.env("FT_FULL", "1");
        }
        steps.run(if full { "tests, with the long campaigns" } else { "tests" }, &mut tests);
        let mut seeds = Command::new(&me);
        seeds.arg("simulate").env(simulate::BUILT, target().join("release/ft-simulator"));
        steps.run("the protocol in the simulator, seeds of this commit", &mut seeds);
        if made && nested::have_qemu() {
            let mut inside = Command::new(&me);
            steps.run(
                "the KVM engine, inside a machine of QEMU's",
                inside.args(["test-kvm", "--only-inside"]),
            );
        }
    }

    if !made {
        println!("note: no kernel and images of Linux guests: what boots Linux was not tested");
    }
    for line in tools.missing() {
        println!("note: {line}");
    }
    let verdict = steps.verdict();
    if let Ok(line) = &verdict {
        println!("xtask test: {line}");
    }
    verdict.map(drop)
}

/// `cargo fmt` knows no `--target-dir`: the same command without it.
fn without_target(command: &mut Command) -> &mut Command {
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let kept = words.iter().position(|word| word == "--target-dir").unwrap_or(words.len());
    let mut plain = Command::new(command.get_program());
    plain.current_dir(root()).args(&words[..kept]);
    *command = plain;
    command
}
