//! `cargo xtask test-kvm`: the tests of the KVM engine on a machine without hardware virtualisation.
//!
//! QEMU emulates an AMD processor with SVM (`-accel tcg -cpu EPYC,+svm`), Debian's own kernel boots there from an initramfs and loads
//! `kvm-amd`, and the tests run inside, on a `/dev/kvm` that behaves as real ones do. They are built here, and go in with the
//! libraries that they are linked with. What they print is shown as it comes; their exit codes come out over a serial line of their
//! own. Each has a time limit, and so has the machine.
//! `cargo xtask bench kvm --nested` measures there.
//!
//! The same tests run directly too: they probe this machine's `/dev/kvm`, and say so where it is none.

mod machine;
mod payload;
pub(crate) mod probe;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) use machine::have_qemu;

use machine::Processors;

use crate::assets;
use crate::steps::root;

/// An integration test.
struct Test {
    package: &'static str,
    /// The package's folder in the checkout.
    folder: &'static str,
    target: &'static str,
    /// How long it may run inside, on a host that has much else to do.
    limit: Duration,
}

const TESTS: [Test; 2] = [
    Test { package: "ft-vcpu", folder: "crates/vcpu", target: "kvm", limit: Duration::from_secs(600) },
    Test { package: "ft-e2e", folder: "tests", target: "kvm", limit: Duration::from_secs(1200) },
];

/// How long the machine itself may take to start and to stop.
const MACHINE_LIMIT: Duration = Duration::from_secs(120);
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Runs of up to 100 s each.
const BENCH_LIMIT: Duration = Duration::from_secs(1800);

/// The shell's exit code of a program that SIGKILL ended.
const TIME_IS_OVER: i32 = 137;

/// Something that runs inside.
struct Job {
    name: String,
    /// The program, here.
    program: PathBuf,
    /// Its name inside. [`XTASK`] is this program.
    file: String,
    /// The folder of the checkout in which cargo would run it.
    folder: &'static str,
    words: Vec<&'static str>,
    limit: Duration,
}

/// The name of this program inside.
const XTASK: &str = "xtask";

impl Job {
    /// This very program.
    fn of_xtask(name: &str, words: &[&'static str], limit: Duration) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
        let (name, file) = (name.to_owned(), XTASK.to_owned());
        Ok(Self { name, program, file, folder: "tests", words: words.to_vec(), limit })
    }

    /// Whether KVM runs a guest at all.
    fn probe() -> Result<Self, String> {
        Self::of_xtask("probe", &["kvm-probe"], PROBE_LIMIT)
    }

    fn test(test: &Test, program: PathBuf) -> Self {
        Self {
            name: format!("{} {}", test.package, test.target),
            program,
            file: format!("{}-{}", test.package, test.target),
            folder: test.folder,
            words: vec!["--nocapture"],
            limit: test.limit,
        }
    }
}

/// Runs the tests on this machine, where they say so if it has no KVM that works.
fn directly(built: &payload::Built) -> Result<(), String> {
    for (Test { package, folder, target, .. }, program) in TESTS.iter().zip(&built.tests) {
        println!("== {package} {target}, on this machine");
        let mut test = Command::new(program);
        test.arg("--nocapture").current_dir(root().join(folder)).env("FT_VM_BIN", &built.ft_vm);
        let status = test.status().map_err(|error| format!("{}: {error}", program.display()))?;
        if !status.success() {
            return Err(format!("{package} {target} on this machine: {status}"));
        }
    }
    Ok(())
}

/// Runs the tests, directly and inside. `only_inside` leaves out the direct runs, which `cargo xtask test` has made.
pub(crate) fn run(only_inside: bool) -> Result<(), String> {
    let started = Instant::now();
    needs_qemu()?;
    let built = payload::build(&TESTS)?;
    if !only_inside {
        directly(&built)?;
    }
    let tests = TESTS.iter().zip(&built.tests).map(|(test, program)| Job::test(test, program.clone()));
    let jobs: Vec<Job> = std::iter::once(Job::probe()?).chain(tests).collect();
    inside("test-kvm", started, &jobs, &built, Processors::InTurn)
}

/// Measures inside.
pub(crate) fn bench(quick: bool) -> Result<(), String> {
    let started = Instant::now();
    needs_qemu()?;
    let built = payload::build(&[])?;
    let words: &[&str] = if quick { &["bench", "kvm", "--quick"] } else { &["bench", "kvm"] };
    let jobs = [Job::probe()?, Job::of_xtask("bench", words, BENCH_LIMIT)?];
    inside("bench kvm --nested", started, &jobs, &built, Processors::AtOnce)
}

fn needs_qemu() -> Result<(), String> {
    if have_qemu() {
        return Ok(());
    }
    Err("qemu-system-x86_64 is missing (Debian: apt install qemu-system-x86)".to_owned())
}

fn inside(
    task: &str,
    started: Instant,
    jobs: &[Job],
    built: &payload::Built,
    processors: Processors,
) -> Result<(), String> {
    let kernel = assets::kernel(None)?;
    let initramfs = payload::initramfs(&kernel, jobs, &built.ft_vm)?;
    let ready = started.elapsed();
    println!(
        "== a machine of QEMU's with Linux {} and an initramfs of {:.1} MB; what it says, with its age in seconds:",
        kernel.release,
        initramfs.len() as f64 / 1e6
    );
    let limit = jobs.iter().map(|job| job.limit).sum::<Duration>() + MACHINE_LIMIT;
    let outcome = machine::run(&kernel.vmlinuz, &initramfs, processors, limit)?;
    let mut failed = Vec::new();
    for Job { name, .. } in jobs {
        match outcome.codes.get(name) {
            Some(0) => println!("== {name}: passed"),
            Some(code) => {
                let why = if *code == TIME_IS_OVER { " (killed: its time was over)" } else { "" };
                println!("== {name}: FAILED, exit code {code}{why}");
                failed.push(name.as_str());
            }
            None => {
                println!("== {name}: FAILED, it never ended");
                failed.push(name);
            }
        }
    }
    println!(
        "xtask {task}: {:.0} s of preparing, {:.1} s until the machine was up, {:.1} s for all in it ({:.1} s of processor time), {:.1} s \
         in all",
        ready.as_secs_f64(),
        outcome.up.map_or(f64::NAN, |up| up.as_secs_f64()),
        outcome.took.as_secs_f64(),
        outcome.worked.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    match outcome.wrong {
        _ if !failed.is_empty() => Err(format!("inside the machine FAILED: {}", failed.join(", "))),
        Some(wrong) => Err(wrong),
        None => Ok(()),
    }
}
