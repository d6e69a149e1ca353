//! A started `ft-vm witness`.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::launcher::send_signal;
use crate::{Capture, Launcher, survivors};

/// A tie-breaker server. It ends with this value.
pub struct Witness {
    child: Child,
    folder: PathBuf,
    mark: String,
    port: u16,
    /// Its standard error.
    pub stderr: Capture,
}

impl Witness {
    /// Starts one and waits until it listens. Its state is a file in `folder`, from an earlier one of this port too.
    ///
    /// Its mark is not the pair's: it outlives the launcher, as it would on a machine of its own.
    pub(crate) fn start(folder: &Path, pair: &str, port: u16) -> Self {
        let mark = format!("{pair}-witness");
        let (child, stderr) = spawn(folder, &mark, port);
        let mut witness = Self { child, folder: folder.to_owned(), mark, port, stderr };
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

    /// Starts it again after [`Witness::kill`].
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.stderr) = spawn(&self.folder, &self.mark, self.port);
        self.wait_listening();
    }

    fn wait_listening(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if let Some(status) = ended {
                self.stderr.wait_end(Duration::from_secs(2));
                panic!("ft-vm witness ended ({status}):\n{}", self.stderr.text());
            }
            assert!(Instant::now() < until, "the witness does not listen:\n{}", self.stderr.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(folder: &Path, mark: &str, port: u16) -> (Child, Capture) {
    let mut command = Launcher::command(folder, mark);
    command.args(["witness", "--listen", &format!("127.0.0.1:{port}"), "--state", "witness.state"]);
    command.stdout(std::process::Stdio::null());
    survivors::die_with_us(&mut command);
    let mut child = command.spawn().expect("ft-vm starts");
    let stderr = Capture::of(child.stderr.take().expect("piped"));
    (child, stderr)
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
