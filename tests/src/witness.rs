//! A started `ft-vm witness`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::launcher::{send_signal, stop_process};
use crate::{Capture, Launcher, survivors};

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
}

impl Witness {
    /// Starts one and waits until it listens. Its state is a file in `folder`, from an earlier one too.
    ///
    /// Its mark is not the pair's: it outlives the launcher, as it would on a machine of its own.
    pub(crate) fn start(host: &[&str], folder: &Path, pair: &str, address: String) -> Self {
        let host = host.iter().map(|word| (*word).to_owned()).collect();
        let place = Place { host, folder: folder.to_owned(), mark: format!("{pair}-witness"), address };
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
        command.args(["witness", "--listen", &self.address, "--state", "witness.state"]);
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
