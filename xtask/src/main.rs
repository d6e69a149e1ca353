//! The project's tasks: `cargo xtask test`, `test-kvm`, `bench`, `simulate` and `assets`.

mod assets;
mod bench;
mod nested;
mod simulate;
mod steps;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--full]    tools, formatting, lints, every test; --full: the long campaigns too (hours)
cargo xtask test-kvm [--only-inside]
                             the KVM engine's tests, on this machine's /dev/kvm and inside a machine of QEMU's that has one;
                             --only-inside: not on this machine's
cargo xtask kvm-probe [--hold]
                             whether this machine's /dev/kvm runs a guest; --hold: keeps a virtual machine until it is killed
cargo xtask bench [disks] [--json] [--quick]
                             measures and prints one table, or JSON; disks: only what each kind of disk costs;
                             --quick: fewer repeats, for a first look
cargo xtask bench kvm [--json] [--quick]
                             the KVM engine's speed, and what fault tolerance costs under it
cargo xtask bench kvm --nested [--quick]
                             the same inside the machine of test-kvm
cargo xtask bench linux [--json] [--quick]
                             Debian's kernel boots, computes and powers off: solo, as a pair, and in QEMU, recorded and replayed
cargo xtask bench detectors [--deaths N] [--busy MINUTES] [--detector fixed|phi-accrual|both]
                             how soon a silent death is detected, and how often a busy host looks dead
cargo xtask simulate [--seeds N] [--minutes M] [--seed S] [--controls]
                             runs seeds of the simulator (fresh ones with every commit) in parallel; --seed: one, and if it violates
                             a property a trace of what is left of it; --controls: every deliberate mistake must be caught
cargo xtask assets [programs] [--kernel PACKAGE]
                             Debian's kernel, an initramfs and a root image, into target/assets; programs: an image with
                             redis, sqlite3 and python3 too; --kernel: another package than linux-image-cloud-amd64";

fn are_bench_options(words: &[&str]) -> bool {
    words.iter().all(|word| ["--json", "--quick"].contains(word))
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test::run(false),
        ["test", "--full"] => test::run(true),
        ["test-kvm"] => nested::run(false),
        ["test-kvm", "--only-inside"] => nested::run(true),
        ["kvm-probe"] => nested::probe::run(),
        ["kvm-probe", "--hold"] => nested::probe::hold(),
        ["bench", "disks", options @ ..] if are_bench_options(options) => {
            bench::run(bench::Section::Disks, options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["bench", "detectors", options @ ..] => match bench::detectors::Plan::parse(options) {
            Some(plan) => bench::detectors::run(&plan),
            None => return usage(),
        },
        ["assets", options @ ..] => match assets::Wanted::parse(options) {
            Some(wanted) => assets::run(&wanted),
            None => return usage(),
        },
        ["simulate", options @ ..] => match simulate::Plan::parse(options) {
            Some(plan) => simulate::run(&plan),
            None => return usage(),
        },
        ["bench", "kvm", "--nested"] => nested::bench(false),
        ["bench", "kvm", "--nested", "--quick"] => nested::bench(true),
        ["bench", "kvm", options @ ..] if are_bench_options(options) => {
            bench::kvm::run(options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["bench", "linux", options @ ..] if are_bench_options(options) => {
            bench::linux::run(options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["bench", options @ ..] if are_bench_options(options) => {
            bench::run(bench::Section::All, options.contains(&"--json"), options.contains(&"--quick"))
        }
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
