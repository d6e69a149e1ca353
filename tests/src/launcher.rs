//! A started `ft-vm`.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{Capture, Reply, Resp, binary, survivors};

/// The longest that a started `ft-vm` may run at all, unless a test says otherwise.
pub(crate) const LIFE: Duration = Duration::from_secs(120);

/// A running `ft-vm` and what it prints. When this value ends, so do the process and its children.
pub struct Launcher {
    child: Child,
    mark: String,
    keyboard: Option<ChildStdin>,
    /// The guest's console.
    pub stdout: Capture,
    /// Everything else.
    pub stderr: Capture,
    /// When it was started.
    pub started: Instant,
    /// Dropped or told at the end: the watch over the wall clock ends too.
    _watch: Sender<()>,
}

/// What the launcher says when a replica has no other any more.
#[derive(Clone, Debug)]
pub struct Takeover {
    /// The whole line.
    pub line: String,
    /// When it was printed.
    pub at: Instant,
    /// Who goes on.
    pub replica: String,
    /// The new generation.
    pub generation: u64,
    /// Where the guest went on.
    pub position: u64,
    /// For how long the guest was silent, in milliseconds; `None` where the primary lost its backup and never was.
    pub silent_ms: Option<f64>,
}

impl Launcher {
    pub(crate) fn command(folder: &Path, mark: &str) -> Command {
        Self::command_on(&[], folder, mark)
    }

    /// The same on a host that `host` leads to: the program that runs `ft-vm` there, and its arguments.
    pub(crate) fn command_on(host: &[&str], folder: &Path, mark: &str) -> Command {
        let ft_vm = binary::ft_vm();
        let mut command = match host {
            [] => Command::new(ft_vm),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(ft_vm);
                command
            }
        };
        command.current_dir(folder).env(survivors::MARK, mark);
        // Whatever it leaves behind is left inside the test's folder.
        command.env("XDG_RUNTIME_DIR", folder.join("run")).env("TMPDIR", folder.join("run"));
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(folder: &Path, mark: &str, arguments: &[&str], life: Duration) -> Self {
        Self::start_on(&[], folder, mark, arguments, life)
    }

    /// The same on another host, see [`Launcher::command_on`].
    pub(crate) fn start_on(
        host: &[&str],
        folder: &Path,
        mark: &str,
        arguments: &[&str],
        life: Duration,
    ) -> Self {
        let mut command = Self::command_on(host, folder, mark);
        command.args(arguments);
        Self::spawn(command, mark, life)
    }

    /// The same on this machine, with a pipe for what is typed.
    pub(crate) fn start_with_keyboard(folder: &Path, mark: &str, arguments: &[&str], life: Duration) -> Self {
        let mut command = Self::command(folder, mark);
        command.args(arguments).stdin(Stdio::piped());
        Self::spawn(command, mark, life)
    }

    fn spawn(mut command: Command, mark: &str, life: Duration) -> Self {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        survivors::die_with_us(&mut command);
        let mut child = command.spawn().expect("ft-vm starts");
        let keyboard = child.stdin.take();
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
        let started = Instant::now();
        Self { child, mark: mark.to_owned(), keyboard, stdout, stderr, started, _watch: watch }
    }

    /// Types into the guest's console.
    pub fn type_in(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("it was started with a keyboard");
        let typed = keyboard.write_all(text.as_bytes()).and_then(|()| keyboard.flush());
        typed.unwrap_or_else(|error| panic!("typing {text:?}: {error}\n{}", self.said()));
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

    /// Kills the launcher alone, and waits until its replicas have ended with it and given back their ports.
    pub fn kill(&mut self, limit: Duration) {
        let all = survivors::Watched::new(&self.mark);
        self.signal(libc::SIGKILL);
        let ended = self.wait(limit).is_some() && all.wait(limit);
        assert!(ended, "the replicas outlive their launcher\n{}", self.said());
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
        self.wait_service_at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The same at any address.
    pub fn wait_service_at(&mut self, address: SocketAddr) -> Resp {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.stderr.wait_end(Duration::from_secs(2));
                panic!("ft-vm ended ({status}) before the guest answered:\n{}", self.said());
            }
            let mut last = String::new();
            match Resp::connect_to(address, Duration::from_secs(2)) {
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

    /// Waits for the line that says who is primary and who is its backup: name and process of each. A guest that is soon done
    /// is gone before a status could be asked for.
    pub fn wait_roles(&self, limit: Duration) -> [(String, u32); 2] {
        let line = self.stderr.wait_for(0, limit, |line| roles(line).is_some());
        let line = line.unwrap_or_else(|| panic!("no pair within {limit:?}:\n{}", self.said()));
        roles(&line.text).expect("it was accepted just now")
    }

    /// The same of a replica with a launcher of its own: the line that says that it is primary, with a backup elsewhere. The process.
    pub fn wait_primary(&self, limit: Duration) -> u32 {
        let line = self.stderr.wait_for(0, limit, |line| primary(line).is_some());
        let line = line.unwrap_or_else(|| panic!("no pair within {limit:?}:\n{}", self.said()));
        primary(&line.text).expect("it was accepted just now")
    }

    /// Waits for the line that says that a replica goes on, from line `from` of standard error on.
    pub fn wait_takeover(&self, from: usize, limit: Duration) -> Takeover {
        let line = self.stderr.wait_for(from, limit, |line| Takeover::parse(line, Instant::now()).is_some());
        let line =
            line.unwrap_or_else(|| panic!("no replica went on alone within {limit:?}:\n{}", self.said()));
        Takeover::parse(&line.text, line.at).expect("it was accepted just now")
    }

    /// Checks that nothing has gone wrong: no replica was lost, nothing diverged.
    pub fn assert_undisturbed(&self) {
        let lost = self.stderr.lines().iter().any(|line| Takeover::parse(&line.text, line.at).is_some());
        assert!(!lost && !self.stderr.text().contains("diverged"), "{}", self.said());
    }

    /// Everything it printed, for the message of a failed test.
    pub fn said(&self) -> String {
        format!("--- console\n{}\n--- standard error\n{}", self.stdout.text(), self.stderr.text())
    }
}

/// Reads `... replica a (process 1) is primary in generation 1 at position 0, replica b (process 2) is its backup`.
fn roles(line: &str) -> Option<[(String, u32); 2]> {
    let (primary, backup) = line.strip_suffix(" is its backup")?.split_once(" is primary in ")?;
    let replica = |text: &str| {
        let (name, process) = text.rsplit_once("replica ")?.1.split_once(" (process ")?;
        Some((name.to_owned(), process.strip_suffix(')')?.parse().ok()?))
    };
    Some([replica(primary)?, replica(backup)?])
}

/// Reads the process in `... replica a (process 1) is primary in generation 1 at position 0, replica b is its backup`.
fn primary(line: &str) -> Option<u32> {
    let (primary, backup) = line.strip_suffix(" is its backup")?.split_once(" is primary in ")?;
    let here = primary.rsplit_once(" (process ")?.1.strip_suffix(')')?;
    if backup.contains("(process ") { None } else { here.parse().ok() }
}

impl Takeover {
    /// Reads `...; replica b took over in generation 2 at position 123; the guest was silent for 4.5 ms`, or `...; replica a
    /// goes on alone in generation 2 at position 123, ...`.
    pub fn parse(line: &str, at: Instant) -> Option<Self> {
        let (who, what) =
            line.split_once(" took over in ").or_else(|| line.split_once(" goes on alone in "))?;
        let replica = who.rsplit(' ').next()?.to_owned();
        let words: Vec<&str> = what.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let generation = after("generation")?.parse().ok()?;
        let position = after("position")?.parse().ok()?;
        let silent_ms = what.split_once("silent for ").and_then(|(_, rest)| rest.split_once(" ms"));
        let silent_ms = silent_ms.and_then(|(number, _)| number.parse().ok());
        let complete = silent_ms.is_some() == line.contains(" took over in ");
        complete.then(|| Self { line: line.to_owned(), at, replica, generation, position, silent_ms })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whatever failed, here is most often why.
            eprintln!("what ft-vm said until then:\n{}", self.said());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            survivors::kill_marked(&self.mark);
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Stops a process, and waits until none of its threads runs any more: the signal is taken by one of them, and on a busy machine
/// the others go on until that one is run.
pub(crate) fn stop_process(pid: u32) {
    send_signal(pid, libc::SIGSTOP);
    let until = Instant::now() + Duration::from_secs(30);
    let stopped = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default()).all(|stat| {
            // The state follows the name, which may hold anything.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
        })
    };
    while !stopped() {
        assert!(Instant::now() < until, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_start() {
        let line = "ft-vm: replica a (process 7) is primary in generation 1 at position 0, replica b (process 8) is its backup";
        assert_eq!(roles(line), Some([("a".into(), 7), ("b".into(), 8)]));
        assert_eq!(primary(line), None);
        let line =
            "ft-vm: replica a (process 7) is primary in generation 1 at position 0, replica b is its backup";
        assert_eq!((roles(line), primary(line)), (None, Some(7)));
        assert_eq!(
            roles("ft-vm: replica a goes on alone in generation 3 at position 99, without a backup"),
            None
        );
    }

    #[test]
    fn the_lines_of_a_loss() {
        let at = Instant::now();
        let line = "ft-vm: replica a (process 7) was killed by signal 9; replica b took over in generation 2 at position \
                    1234; the guest was silent for 4.5 ms";
        let takeover = Takeover::parse(line, at).expect("it is one");
        assert_eq!((takeover.replica.as_str(), takeover.generation, takeover.position), ("b", 2, 1234));
        assert_eq!(takeover.silent_ms, Some(4.5));
        let line = "ft-vm: replica a goes on alone in generation 3 at position 99, without a backup";
        let alone = Takeover::parse(line, at).expect("it is one");
        assert_eq!(
            (alone.replica.as_str(), alone.generation, alone.position, alone.silent_ms),
            ("a", 3, 99, None)
        );
        for other in [
            "ft-vm: replica a (process 1) is primary in generation 1 at position 0, replica b (process 2) is its backup",
            "ft-vm: replica b took over in generation 2 at position 1234",
            "",
        ] {
            assert!(Takeover::parse(other, at).is_none(), "{other}");
        }
    }
}
