//! A started `ft-vm witness`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::launcher::{send_signal, stop_process};
use crate::store::{ON_STORE, STORE};
use crate::{Capture, Launcher, Store, survivors};

/// The name of the state's file.
const STATE: &str = "witness.state";

/// A tie-breaker server. It ends with this value.
pub struct Witness {
    child: Child,
    place: Place,
    /// Its standard error.
    pub stderr: Capture,
}

struct Place {
    /// What leads to its host, see [`Launcher::command_on`].
    host: Vec<String>,
    folder: PathBuf,
    mark: String,
    address: String,
    /// The file of its keys, if it has any.
    keys: Option<&'static str>,
    /// The folder of its state, in `folder`.
    state: &'static str,
}

impl Witness {
    /// Starts one and waits until it listens. Its state is a file in `folder`, from an earlier one too.
    ///
    /// On a small file system ([`Store`]) its state is there, and gone with the process.
    ///
    /// Its mark is not the pair's: it outlives the launcher, as it would on a machine of its own.
    pub(crate) fn start(
        host: &[&str],
        folder: &Path,
        pair: &str,
        address: String,
        keys: Option<&'static str>,
        on_store: bool,
    ) -> Self {
        let host: Vec<&str> = if on_store { [host, &ON_STORE].concat() } else { host.to_vec() };
        let host = host.into_iter().map(str::to_owned).collect();
        let state = if on_store { STORE } else { "." };
        let mark = format!("{pair}-witness");
        let place = Place { host, folder: folder.to_owned(), mark, address, keys, state };
        let (child, stderr) = place.spawn();
        let mut witness = Self { child, place, stderr };
        witness.wait_listening();
        witness
    }

    /// Kills it; what was acknowledged is in its file.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send_signal(self.child.id(), libc::SIGKILL);
        }
        self.child.wait().expect("a child can be waited for");
    }

    /// Stops it where it stands: connections stay, and nothing comes from it.
    pub fn freeze(&self) {
        stop_process(self.child.id());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        send_signal(self.child.id(), libc::SIGCONT);
    }

    /// Starts it again after [`Witness::kill`].
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.stderr) = self.place.spawn();
        self.wait_listening();
    }

    /// The file of its state.
    pub fn state(&self) -> PathBuf {
        self.place.folder.join(self.place.state).join(STATE)
    }

    /// The small file system of its state, if it was started on one.
    pub fn store(&self) -> Store {
        assert_eq!(self.place.state, STORE, "it was started on one");
        Store::of(self.child.id(), &self.place.folder)
    }

    fn wait_listening(&mut self) {
        let listens = |line: &str| line.contains("witness listens on ");
        if self.stderr.wait_for(0, Duration::from_secs(10), listens).is_none() {
            panic!("the witness does not listen:\n{}", self.stderr.text());
        }
    }
}

impl Place {
    fn spawn(&self) -> (Child, Capture) {
        let host: Vec<&str> = self.host.iter().map(String::as_str).collect();
        let mut command = Launcher::command_on(&host, &self.folder, &self.mark);
        let state = format!("{}/{STATE}", self.state);
        command.args(["witness", "--listen", &self.address, "--state", &state]);
        if let Some(keys) = self.keys {
            command.args(["--keys", keys]);
        }
        command.stdout(std::process::Stdio::null());
        survivors::die_with_us(&mut command);
        let mut child = command.spawn().expect("ft-vm starts");
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        (child, stderr)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
