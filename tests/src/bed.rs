//! One pair's surroundings: a folder, a config, ports; and the check that nothing outlives the test.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::WITNESS;
use crate::launcher::{LIFE, send_signal};
use crate::{DiskPolicy, Launcher, Ports, Settings, Status, Witness, survivors};

/// Pairs run one at a time, however many threads the tests have: two replicas and their clients fill a small machine, and
/// times are part of what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A folder with a config of its own. Everything that was started in it ends with this value.
pub struct Bed {
    /// The tie-breaker of separate disks, from the beginning to the end. It ends before its folder.
    witness: Option<Witness>,
    folder: tempfile::TempDir,
    /// 0 is forwarded to the guest, 1 and 2 are the replicas', 6 is the witness's.
    pub ports: Ports,
    settings: Settings,
    mark: String,
    _alone: MutexGuard<'static, ()>,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Bed {
    /// A folder with `pair.toml`. Waits for the end of every other bed of this process; a thread has one at a time.
    pub fn new(settings: &Settings) -> Self {
        // A failed test leaves nothing behind that the next one would have to care about.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("ft-e2e-").tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("run")).expect("the folder is new");
        // Ports 3 to 5 are for a second config in the same folder.
        let ports = Ports::reserve(WITNESS + 1);
        fs::write(folder.path().join("pair.toml"), settings.text(&name, &ports))
            .expect("the folder is writable");
        let witness = settings.disk.is_separate();
        let witness = witness.then(|| Witness::start(folder.path(), &name, ports.get(WITNESS)));
        Self { witness, folder, ports, settings: settings.clone(), mark: name, _alone: alone }
    }

    /// The tie-breaker of separate disks.
    pub fn witness(&self) -> &Witness {
        self.witness.as_ref().expect("a pair with separate disks has a witness")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.path().join("pair.toml")
    }

    /// The forwarded port.
    pub fn port(&self) -> u16 {
        self.ports.get(0)
    }

    /// The mark of every process that was started here.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// The image of disk `number` that `replica` (`a` or `b`) writes: with a shared disk, both the same.
    pub fn image(&self, number: usize, replica: &str) -> PathBuf {
        self.path().join(self.settings.disk.path(number).replace("{replica}", replica))
    }

    /// Starts the guest without fault tolerance on the disks that `replica` has left behind.
    pub fn start_solo_on(&self, replica: &str) -> Launcher {
        let alone = Settings { disk: DiskPolicy::SHARED, ..self.settings.clone() };
        let mut text = alone.text(&self.mark, &self.ports);
        for disk in 0..self.settings.guest.disks() {
            let image = self.image(disk, replica).display().to_string();
            text = text.replace(&format!("\"{}\"", alone.disk.path(disk)), &format!("\"{image}\""));
        }
        fs::write(self.path().join("solo.toml"), text).expect("the folder is writable");
        Launcher::start(self.path(), &self.mark, &["--config", "solo.toml", "--solo"], LIFE)
    }

    /// Replaces a part of the config, which must be there.
    pub fn edit(&self, old: &str, new: &str) {
        let text = fs::read_to_string(self.config()).expect("the config is readable");
        assert!(text.contains(old), "{old:?} is not in the config");
        fs::write(self.config(), text.replace(old, new)).expect("the config is writable");
    }

    /// Starts the pair.
    pub fn start(&self) -> Launcher {
        self.start_with(&[])
    }

    /// Starts `ft-vm --config pair.toml` with more arguments.
    pub fn start_with(&self, more: &[&str]) -> Launcher {
        self.start_for(more, LIFE)
    }

    /// The same for a process that may run for longer than usual.
    pub fn start_for(&self, more: &[&str], life: Duration) -> Launcher {
        let arguments = [&["--config", "pair.toml"], more].concat();
        Launcher::start(self.path(), &self.mark, &arguments, life)
    }

    /// Runs `ft-vm` with these arguments to its end, which must come within ten seconds.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut launcher = Launcher::start(self.path(), &self.mark, arguments, LIFE);
        let Some(status) = launcher.wait(Duration::from_secs(10)) else {
            panic!("ft-vm {} did not end within ten seconds:\n{}", arguments.join(" "), launcher.said());
        };
        let took = launcher.started.elapsed();
        Finished { code: status.code(), stdout: launcher.stdout.text(), stderr: launcher.stderr.text(), took }
    }

    /// What `ft-vm status --json` says; an error if it says nothing.
    pub fn try_status(&self) -> Result<Status, String> {
        let run = self.run(&["status", "--config", "pair.toml", "--json"]);
        match run.code {
            Some(0) => Status::parse(&run.stdout),
            code => Err(format!("status ended with {code:?}: {}", run.stderr)),
        }
    }

    /// What `ft-vm status --json` says.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks for the status until it is as wanted; a pair that is only starting has none yet.
    pub fn wait_status(&self, what: &str, limit: Duration, wanted: impl Fn(&Status) -> bool) -> Status {
        let until = Instant::now() + limit;
        loop {
            let last = match self.try_status() {
                Ok(status) if wanted(&status) => return status,
                Ok(status) => status.json.to_string(),
                Err(error) => error,
            };
            assert!(Instant::now() < until, "status is not as expected ({what}): {last}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to a process of this pair: it must be one.
    pub fn signal(&self, pid: u32, signal: i32) {
        assert!(survivors::marked(&self.mark).contains(&pid), "{pid} is no process of this pair");
        send_signal(pid, signal);
    }

    /// Checks that nothing is left: no process, no socket in the folder.
    pub fn assert_clean(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = survivors::marked(&self.mark);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "processes {left:?} are left");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("the folder is readable").flatten() {
                let kind = entry.file_type().expect("a file has a type");
                if kind.is_dir() {
                    folders.push(entry.path());
                }
                assert!(!kind.is_socket(), "the socket {} is left", entry.path().display());
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        survivors::kill_marked(&self.mark);
        if std::thread::panicking() && std::env::var_os("FT_KEEP").is_some() {
            eprintln!("kept for a look: {}", self.path().display());
            self.folder.disable_cleanup(true);
        }
    }
}
