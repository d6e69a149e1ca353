//! A started `ft-vm`.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{Capture, Reply, Resp, binary, survivors};

/// The longest that a started `ft-vm` may run at all, unless a test says otherwise.
pub(crate) const LIFE: Duration = Duration::from_secs(120);

/// A running `ft-vm` and what it prints. When this value ends, so do the process and its children.
pub struct Launcher {
    child: Child,
    mark: String,
    /// The guest's console.
    pub stdout: Capture,
    /// Everything else.
    pub stderr: Capture,
    /// When it was started.
    pub started: Instant,
    /// Dropped or told at the end: the watch over the wall clock ends too.
    _watch: Sender<()>,
}

/// What the launcher says when a replica goes on alone.
#[derive(Clone, Debug)]
pub struct Takeover {
    /// The whole line.
    pub line: String,
    /// When it was printed.
    pub at: Instant,
    /// The new generation.
    pub generation: u64,
    /// Where the guest went on.
    pub position: u64,
    /// For how long the guest was silent, in milliseconds.
    pub silent_ms: f64,
}

impl Launcher {
    pub(crate) fn command(folder: &Path, mark: &str) -> Command {
        let mut command = Command::new(binary::ft_vm());
        command.current_dir(folder).env(survivors::MARK, mark);
        // Whatever it leaves behind is left inside the test's folder.
        command.env("XDG_RUNTIME_DIR", folder.join("run")).env("TMPDIR", folder.join("run"));
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(folder: &Path, mark: &str, arguments: &[&str], life: Duration) -> Self {
        let mut command = Self::command(folder, mark);
        command.args(arguments);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        survivors::die_with_us(&mut command);
        let mut child = command.spawn().expect("ft-vm starts");
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        let (watch, over) = channel();
        let kill = mark.to_owned();
        std::thread::spawn(move || {
            if over.recv_timeout(life) == Err(RecvTimeoutError::Timeout) {
                eprintln!("ft-vm ran longer than {life:?}: killed");
                survivors::kill_marked(&kill);
            }
        });
        Self { child, mark: mark.to_owned(), stdout, stderr, started: Instant::now(), _watch: watch }
    }

    /// Process id of the launcher.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the launcher alone.
    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Waits for its end, and for the end of what it prints. `None` if it goes on.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        // Its children hold the same pipes: the end of the pipes is the end of them all.
        self.stderr.wait_end(limit);
        self.stdout.wait_end(until.saturating_duration_since(Instant::now()));
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end and returns its exit code; panics with what it said if it goes on or was killed.
    pub fn exit_code(&mut self, limit: Duration) -> i32 {
        match self.wait(limit) {
            None => panic!("ft-vm did not end within {limit:?}:\n{}", self.said()),
            Some(status) => status.code().unwrap_or_else(|| panic!("ft-vm: {status}:\n{}", self.said())),
        }
    }

    /// SIGTERM, and an orderly end.
    pub fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let code = self.exit_code(Duration::from_secs(10));
        assert_eq!(code, 0, "an orderly stop:\n{}", self.said());
    }

    /// Waits until the guest answers on the forwarded port; the connection that it answered on.
    pub fn wait_service(&mut self, port: u16) -> Resp {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.stderr.wait_end(Duration::from_secs(2));
                panic!("ft-vm ended ({status}) before the guest answered:\n{}", self.said());
            }
            let mut last = String::new();
            match Resp::connect(port, Duration::from_secs(2)) {
                Ok(mut client) => match client.call(&["PING"]) {
                    Ok(Reply::Simple(pong)) if pong == "PONG" => {
                        client.set_limit(Duration::from_secs(15)).expect("a time-out can be set");
                        return client;
                    }
                    other => last = format!("{other:?}"),
                },
                Err(error) => last.push_str(&error),
            }
            assert!(Instant::now() < until, "the guest does not answer ({last}):\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the line that says that a replica goes on, from line `from` of standard error on.
    pub fn wait_takeover(&self, from: usize, limit: Duration) -> Takeover {
        let line = self.stderr.wait_for(from, limit, |line| Takeover::parse(line, Instant::now()).is_some());
        let line =
            line.unwrap_or_else(|| panic!("no replica went on alone within {limit:?}:\n{}", self.said()));
        Takeover::parse(&line.text, line.at).expect("it was accepted just now")
    }

    /// Everything it printed, for the message of a failed test.
    pub fn said(&self) -> String {
        format!("--- console\n{}\n--- standard error\n{}", self.stdout.text(), self.stderr.text())
    }
}

impl Takeover {
    /// Reads a line such as `replica b took over in generation 2 at position 123: the guest was silent for 4.5 ms`.
    pub fn parse(line: &str, at: Instant) -> Option<Self> {
        let words: Vec<&str> = line
            .split(|letter: char| {
                letter.is_whitespace() || matches!(letter, ',' | ':' | ';' | '(' | ')' | '=')
            })
            .filter(|word| !word.is_empty())
            .collect();
        let after = |name: &str| {
            words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied()
        };
        let number = |word: &str| word.replace('_', "").trim_end_matches('.').parse::<u64>().ok();
        let generation = number(after("generation")?)?;
        let position = number(after("position")?)?;
        let unit = words.iter().rposition(|word| word.trim_end_matches('.') == "ms")?;
        let silent_ms = words.get(unit.checked_sub(1)?)?.parse().ok()?;
        line.contains("silent").then(|| Self { line: line.to_owned(), at, generation, position, silent_ms })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            survivors::kill_marked(&self.mark);
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub(crate) fn send_signal(pid: u32, signal: i32) {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    assert!(pid > 1, "never a group, never everyone");
    // SAFETY: kill touches no memory of this process.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}
