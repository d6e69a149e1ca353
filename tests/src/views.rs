//! A folder as each of two hosts sees it, over a file system of its own (bindfs), which can stand still for one of them alone: what
//! is asked of it then has no answer until it goes on, as on a network file system whose server is out of reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::hosts::run;
use crate::launcher::{send_signal, stop_process};
use crate::survivors;

/// How long a mount may take.
const READY: Duration = Duration::from_secs(20);

/// The views of one folder. They end with this value.
#[derive(Debug)]
pub struct Views {
    views: Vec<View>,
}

#[derive(Debug)]
struct View {
    host: &'static str,
    place: PathBuf,
    server: Child,
}

/// Whether `bindfs` is there, and the kernel lets it mount something.
pub fn have_bindfs() -> bool {
    let run = Command::new("bindfs").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success()) && Path::new("/dev/fuse").exists()
}

impl Views {
    /// Makes a view of `folder` for each of a and b, beside it: `folder.a`, `folder.b`. The folder is made.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn new(folder: &Path) -> Result<Self, String> {
        if !have_bindfs() {
            return Err("`bindfs`, or /dev/fuse, is missing (Debian: apt install bindfs)".into());
        }
        unmount_left_over();
        let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
        fs::create_dir(folder).map_err(|error| failed(folder, error))?;
        let mut views = Self { views: Vec::new() };
        for host in ["a", "b"] {
            let place = folder.with_extension(host);
            fs::create_dir(&place).map_err(|error| failed(&place, error))?;
            let mut command = Command::new("bindfs");
            // Nothing is remembered on this side of it: what the other host has changed is seen.
            command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]);
            command.arg(folder).arg(&place);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            survivors::die_with_us(&mut command);
            let server = command.spawn().map_err(|error| format!("bindfs: {error}"))?;
            views.views.push(View { host, place, server });
        }
        for view in &views.views {
            view.wait_mounted()?;
        }
        Ok(views)
    }

    /// Where a host sees the folder.
    pub fn of(&self, host: &str) -> &Path {
        &self.view(host).place
    }

    /// It stands still for this host.
    pub fn freeze(&self, host: &str) {
        stop_process(self.view(host).server.id());
    }

    /// It goes on.
    pub fn thaw(&self, host: &str) {
        send_signal(self.view(host).server.id(), libc::SIGCONT);
    }

    fn view(&self, host: &str) -> &View {
        self.views.iter().find(|view| view.host == host).unwrap_or_else(|| panic!("no view for {host}"))
    }
}

impl View {
    fn wait_mounted(&self) -> Result<(), String> {
        let until = Instant::now() + READY;
        // Without asking the file system itself, which may not answer.
        while !mounts().contains(&self.place) {
            if Instant::now() > until {
                return Err(format!("bindfs does not mount {}", self.place.display()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // A stopped one would keep whoever still waits for it.
        let _ = self.server.kill();
        let _ = self.server.wait();
        unmount(&self.place);
    }
}

fn unmount(place: &Path) {
    // Detached at once; whoever still has it open gets errors.
    if mounts().iter().any(|mounted| mounted == place)
        && let Err(error) = run("umount", &["-l", &place.display().to_string()])
    {
        eprintln!("{error}");
    }
}

/// Where FUSE file systems are mounted.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fuse = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        kind.starts_with("fuse").then(|| PathBuf::from(place))
    });
    fuse.collect()
}

/// Unmounts what test processes left behind that were killed: their servers died with them.
fn unmount_left_over() {
    for place in mounts() {
        let ours = place.components().any(|part| part.as_os_str().to_string_lossy().starts_with("ft-e2e-"));
        let dead = fs::metadata(&place).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
        if ours && dead {
            unmount(&place);
        }
    }
}
