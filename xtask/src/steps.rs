//! Commands, one after the other, said aloud and timed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    ft_e2e::workspace()
}

/// The target folder: where this very program was built.
pub(crate) fn target() -> PathBuf {
    let here = std::env::current_exe().expect("a program knows its own path");
    here.parent().and_then(Path::parent).expect("target/PROFILE/xtask").to_owned()
}

/// `cargo` with these words, in the workspace.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words).arg("--target-dir").arg(target());
    ft_e2e::forget_package(&mut command);
    command
}

/// The processor time of every process under this one that has ended and was waited for.
pub(crate) fn processor_time_of_ended() -> Duration {
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a rusage of this function's.
    let got = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    assert_eq!(got, 0, "getrusage of one's own children cannot fail");
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// What happened to each step.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, bool, Duration)>,
}

impl Steps {
    /// Runs a step; a failed one does not keep the next ones from running.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> bool {
        println!("== {name}");
        let started = Instant::now();
        let passed = match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                println!("{}: {error}", command.get_program().display());
                false
            }
        };
        self.note(name, passed, started.elapsed());
        passed
    }

    fn note(&mut self, name: &str, passed: bool, took: Duration) {
        println!("== {name}: {}, {:.0} s", if passed { "passed" } else { "FAILED" }, took.as_secs_f64());
        self.done.push((name.to_owned(), passed, took));
    }

    /// One line of all; an error if any step failed.
    pub(crate) fn verdict(&self) -> Result<String, String> {
        let total: Duration = self.done.iter().map(|(_, _, took)| *took).sum();
        let failed: Vec<&str> =
            self.done.iter().filter(|(_, passed, _)| !passed).map(|(name, _, _)| name.as_str()).collect();
        let count = self.done.len();
        if failed.is_empty() {
            return Ok(format!("all {count} steps passed in {:.1} minutes", total.as_secs_f64() / 60.0));
        }
        Err(format!("{} of {count} steps FAILED: {}", failed.len(), failed.join(", ")))
    }
}
