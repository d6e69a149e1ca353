//! The launcher with real processes. The replicas are fakes: this test program itself, told by its environment to play one,
//! started through a shell script that stands where the `ft-vm` executable would.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ft_policies::Config;
use ft_runtime::launcher::messages::{FromReplica, ToReplica};
use ft_runtime::launcher::packet::PacketSocket;
use ft_runtime::launcher::{LaunchOptions, Members, Program, run_program, status};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
const ROLE: &str = "FT_TEST_ROLE";

/// Not a test of its own: what a child does that was told to.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("replica") => replica(),
        Ok("launcher") => launcher(),
        _ => {}
    }
}

/// `options` come from the environment; the script that is run as replica lies beside the config.
fn launcher() {
    let path = PathBuf::from(std::env::var("FT_TEST_CONFIG").unwrap());
    let script = path.with_file_name("replica.sh");
    let program = Program { path: "/bin/sh".into(), arguments: vec![script.into()] };
    let options = LaunchOptions {
        config: Config::load(&path, &[]).unwrap(),
        config_path: path,
        sets: vec!["vm.cmdline=\"two words\"".into()],
        members: if std::env::var("FT_TEST_SOLO").is_ok() { Members::Solo } else { Members::Pair },
        faults: vec!["flip-bit:7".into()],
    };
    std::process::exit(run_program(&options, &program).into());
}

/// A fake replica: does what the lines of `FT_TEST_PLAN` beside the config say for it, and answers like one.
fn replica() {
    let arguments: Vec<String> = std::env::var("FT_TEST_ARGS").unwrap().lines().map(str::to_owned).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let name = value("--replica").unwrap();
    let directory = PathBuf::from(value("--config").unwrap()).parent().unwrap().to_owned();
    fs::write(directory.join(format!("args-{name}")), arguments.join("\n")).unwrap();
    let (control, lan) =
        value("--launcher-fds").unwrap().split_once(',').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    // SAFETY: the launcher gave these two to this process, and nothing else here owns them.
    let (control, _lan) = unsafe {
        (OwnedFd::from_raw_fd(control.parse().unwrap()), OwnedFd::from_raw_fd(lan.parse().unwrap()))
    };
    let control = PacketSocket::from(control);
    let send = |message: &FromReplica| {
        control.send(&serde_json::to_vec(message).unwrap()).unwrap();
    };
    send(&FromReplica::Hello { replica: name.clone(), pid: std::process::id(), incarnation: 1 });
    let end = Instant::now() + LIMIT;
    let mut done = 0;
    let mut buffer = vec![0; 65_536];
    while Instant::now() < end {
        let plan = fs::read_to_string(directory.join(format!("plan-{name}"))).unwrap_or_default();
        for line in plan.lines().skip(done) {
            done += 1;
            if let Some(code) = line.strip_prefix("exit ") {
                std::process::exit(code.parse().unwrap());
            } else if let Some(raw) = line.strip_prefix("raw ") {
                control.send(raw.as_bytes()).unwrap();
            } else {
                send(&serde_json::from_str(line).unwrap());
            }
        }
        match control.recv(&mut buffer) {
            Ok(Some(bytes)) => match serde_json::from_slice(bytes).unwrap() {
                ToReplica::Status { id } => {
                    let status = json!({"role": if name == "a" {"primary"} else {"backup"}, "state": "live", "position": 42, "lag_ms": 0.5, "log_bytes": 9});
                    send(&FromReplica::Status { id, status });
                }
                ToReplica::Promote { id, .. } => {
                    send(&FromReplica::Promoted { id, refused: Some("no".into()) });
                }
                ToReplica::Stop => {
                    if directory.join("stubborn").exists() {
                        continue;
                    }
                    send(&FromReplica::Ended { code: 0, message: String::new() });
                    std::process::exit(0);
                }
                ToReplica::Fenced { generation } => {
                    fs::write(directory.join(format!("fenced-{name}")), generation.to_string()).unwrap();
                }
                ToReplica::ConsoleInput(bytes) => {
                    fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(directory.join(format!("typed-{name}")))
                        .unwrap()
                        .write_all(&bytes)
                        .unwrap();
                }
            },
            Ok(None) => std::process::exit(1),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    std::process::exit(99);
}

/// A launcher in a process of its own, with a folder for everything.
struct Launched {
    directory: tempfile::TempDir,
    child: Child,
}

const PREFIX: &str = "[vm]\nname = \"test\"\nmemory = \"16 MiB\"\nkernel = \"builtin:cpu\"\n[replicas]\na = \"127.0.0.1:1\"\nb = \"127.0.0.1:2\"\n[tie-breaker.shared-disk]\npath = \"tie\"\n";

impl Launched {
    fn prepare(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(path("tie")).unwrap();
        fs::write(path("pair.toml"), format!("{PREFIX}{config}")).unwrap();
        let this = std::env::current_exe().unwrap();
        let script = format!(
            "FT_TEST_ARGS=$(printf '%s\\n' \"$@\") {ROLE}=replica exec '{}' --exact role --nocapture\n",
            this.display()
        );
        fs::write(path("replica.sh"), script).unwrap();
        directory
    }

    fn spawn(directory: &Path, solo: bool) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, "launcher")
            .env("FT_TEST_CONFIG", directory.join("pair.toml"))
            .env("XDG_RUNTIME_DIR", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).create(true).open(directory.join("stderr")).unwrap());
        if solo {
            command.env("FT_TEST_SOLO", "1");
        }
        // The launcher takes signals in a thread of the test harness; the harness's own thread must not die of them.
        // SAFETY: async-signal-safe calls on a local that is initialised first.
        unsafe {
            command.pre_exec(|| {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGINT);
                libc::sigaddset(&raw mut set, libc::SIGTERM);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    fn start(config: &str, solo: bool) -> Self {
        let directory = Self::prepare(config);
        let child = Self::spawn(directory.path(), solo);
        Self { directory, child }
    }

    /// A pair whose replica a is live in generation 1.
    fn running() -> Self {
        let launched = Self::start("", false);
        launched.wait_for("replicas", || launched.pids().is_some());
        launched.plan("a", &live(1, false, false));
        launched.wait_for("the start", || launched.stderr().contains("is primary"));
        launched
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn plan(&self, replica: &str, line: &str) {
        let mut file =
            File::options().create(true).append(true).open(self.path(&format!("plan-{replica}"))).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn say(&self, replica: &str, message: &FromReplica) {
        self.plan(replica, &serde_json::to_string(message).unwrap());
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// Where a status is asked, XDG_RUNTIME_DIR is process-wide: so it is asked by the socket itself.
    fn status(&self) -> Option<Value> {
        let socket = fs::read_dir(self.path("ft-vm"))
            .ok()?
            .flatten()
            .find(|entry| entry.path().extension().is_some_and(|e| e == "sock"))?;
        let mut stream = std::os::unix::net::UnixStream::connect(socket.path()).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"{\"request\":\"status\"}\n").ok()?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).ok()?;
            answer.extend_from_slice(&byte);
        }
        Some(serde_json::from_slice(&answer).unwrap())
    }

    fn pids(&self) -> Option<[i32; 2]> {
        let status = self.status()?;
        let live = |index: usize| {
            let replica = &status["replicas"][index];
            (replica["state"] == "live").then(|| replica["pid"].as_i64().unwrap() as i32)
        };
        Some([live(0)?, live(1)?])
    }

    fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "no {what}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("it does not end: {}", self.stderr()))
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain call; the pid is of a child of a launcher that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn runs(pid: i32) -> bool {
    // A zombie of a killed launcher's children is reaped by init at once, or has state Z.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn live(generation: u64, takeover: bool, alone: bool) -> String {
    let reason = "connection closed".into();
    let message = FromReplica::Live {
        generation,
        position: 1000,
        takeover,
        alone,
        silent_ms: 3.5,
        reason,
        seen: 0,
        addresses: Vec::new(),
    };
    serde_json::to_string(&message).unwrap()
}

fn console(offset: u64, bytes: &[u8]) -> FromReplica {
    FromReplica::Console { offset, bytes: bytes.to_vec() }
}

fn off(code: u8) -> FromReplica {
    FromReplica::Ended { code, message: String::new() }
}

#[test]
fn a_pair_runs_to_the_guests_power_off() {
    let mut launched = Launched::running();
    let arguments = fs::read_to_string(launched.path("args-b")).unwrap();
    let expected = format!(
        "--replica\nb\n--config\n{}\n--set\nvm.cmdline=\"two words\"\n--fault\nflip-bit:7\n--launcher-fds\n",
        launched.path("pair.toml").display()
    );
    assert!(arguments.starts_with(&expected), "{arguments}");
    let status = launched.status().unwrap();
    assert_eq!((&status["generation"], &status["replicas"][0]["position"]), (&json!(1), &json!(42)));
    launched.child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    launched.wait_for("input", || fs::read(launched.path("typed-a")).is_ok_and(|typed| typed == b"typed\n"));
    launched.say("a", &console(0, b"guest says "));
    launched.say("a", &console(0, b"guest says hi\n"));
    launched.say("a", &off(64 + 7));
    launched.plan("a", "exit 71");
    launched.say("b", &off(64 + 7));
    launched.plan("b", "exit 71");
    assert_eq!(launched.end().code(), Some(71));
    let mut out = String::new();
    launched.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    // The test harness of the launcher's process writes too.
    assert_eq!(out.matches("guest says").count(), 1, "{out}");
    assert!(out.contains("guest says hi\n"), "{out}");
    assert!(!launched.stderr().contains("guest says"));
    assert!(launched.status().is_none(), "its socket is still there");
}

#[test]
fn a_killed_primary_is_replaced_in_one_line() {
    let mut launched = Launched::running();
    let [a, b] = launched.pids().unwrap();
    let before = launched.stderr().lines().count();
    launched.say("a", &console(0, b"one "));
    kill(a, libc::SIGKILL);
    // The launcher sees the death itself; a fence that came first would say that the launcher killed it.
    launched.wait_for("death", || {
        launched.status().is_some_and(|status| status["replicas"][0]["state"] == "gone")
    });
    launched.say("b", &FromReplica::Fence { generation: 2 });
    launched
        .wait_for("fence", || fs::read_to_string(launched.path("fenced-b")).is_ok_and(|text| text == "2"));
    assert!(!runs(a));
    launched.plan("b", &live(2, true, true));
    launched.wait_for("takeover", || launched.stderr().contains("took over"));
    let stderr = launched.stderr();
    let lines: Vec<_> = stderr.lines().skip(before).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    let start = format!(
        "ft-vm: replica a (process {a}) was killed by signal 9; replica b took over in generation 2 at position 1000; the guest was silent for "
    );
    let silent: f64 = lines[0]
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{stderr}"))
        .strip_suffix(" ms")
        .unwrap()
        .parse()
        .unwrap();
    assert!((0.0..20_000.0).contains(&silent));
    let status = launched.status().unwrap();
    assert_eq!(status["generation"], 2);
    assert_eq!(
        (&status["replicas"][0]["state"], &status["replicas"][0]["role"]),
        (&json!("gone"), &json!("none"))
    );
    assert_eq!(status["replicas"][1]["pid"], b);
    launched.say("b", &off(0));
    launched.plan("b", "exit 0");
    assert_eq!(launched.end().code(), Some(0));
}

#[test]
fn a_fence_kills_a_primary_that_stands_still() {
    let launched = Launched::running();
    let [a, _] = launched.pids().unwrap();
    kill(a, libc::SIGSTOP);
    let stopped = || fs::read_to_string(format!("/proc/{a}/stat")).is_ok_and(|stat| stat.contains(") T "));
    launched.wait_for("standstill", stopped);
    // A stopped replica is silent in the status, and holds up nothing.
    let began = Instant::now();
    let status = launched.status().unwrap();
    assert_eq!(
        (&status["replicas"][0]["state"], &status["replicas"][0]["role"]),
        (&json!("silent"), &json!("primary"))
    );
    assert_eq!(status["replicas"][1]["state"], "live");
    assert!(began.elapsed() < Duration::from_secs(2));
    launched.say("b", &FromReplica::Fence { generation: 2 });
    launched.wait_for("fence", || launched.path("fenced-b").exists());
    assert!(!runs(a));
    launched.plan("b", &live(2, true, true));
    launched.wait_for("takeover", || launched.stderr().contains("the guest was silent for 3.5 ms"));
    assert!(
        launched.stderr().contains("was lost: connection closed; it was killed before"),
        "{}",
        launched.stderr()
    );
}

#[test]
fn a_stale_fence_kills_who_asks() {
    let launched = Launched::running();
    let [a, b] = launched.pids().unwrap();
    launched.say("b", &FromReplica::Fence { generation: 1 });
    launched.wait_for("verdict", || !runs(b));
    assert!(runs(a));
    assert!(
        launched.stderr().contains("it asks for a fence in generation 1, which it has not; it is killed")
    );
}

#[test]
fn a_lost_backup_does_not_end_the_service() {
    let mut launched = Launched::running();
    let [_, b] = launched.pids().unwrap();
    kill(b, libc::SIGKILL);
    launched.plan("a", &live(2, false, true));
    let line = format!(
        "ft-vm: replica b (process {b}) was killed by signal 9; replica a goes on alone in generation 2 at position 1000, without a backup\n"
    );
    launched.wait_for("line", || launched.stderr().contains(&line));
    launched.say("a", &off(0));
    launched.plan("a", "exit 0");
    assert_eq!(launched.end().code(), Some(0));
}

#[test]
fn a_backup_that_diverged_does_not_end_the_service() {
    let mut launched = Launched::running();
    launched.say("b", &FromReplica::Ended { code: 5, message: "page 3 differs".into() });
    launched.plan("b", "exit 5");
    launched.wait_for("report", || launched.stderr().contains("ended with code 5: page 3 differs\n"));
    launched.plan("a", &live(2, false, true));
    launched.wait_for("line", || launched.stderr().contains("replica a goes on alone in generation 2"));
    launched.say("a", &off(0));
    launched.plan("a", "exit 0");
    assert_eq!(launched.end().code(), Some(0));
}

#[test]
fn both_dead_is_a_failure() {
    let mut launched = Launched::running();
    let [a, b] = launched.pids().unwrap();
    kill(a, libc::SIGKILL);
    kill(b, libc::SIGKILL);
    assert_eq!(launched.end().code(), Some(1));
    assert!(
        launched.stderr().contains("both replicas are gone, and the guest was not switched off"),
        "{}",
        launched.stderr()
    );
}

#[test]
fn a_failure_at_the_start_is_told_once_and_leaves_nothing() {
    let directory = Launched::prepare("");
    let failure = FromReplica::Ended { code: 2, message: "the kernel is not an ELF file".into() };
    for name in ["a", "b"] {
        fs::write(
            directory.path().join(format!("plan-{name}")),
            format!("{}\nexit 2\n", serde_json::to_string(&failure).unwrap()),
        )
        .unwrap();
    }
    let child = Launched::spawn(directory.path(), false);
    let mut launched = Launched { directory, child };
    assert_eq!(launched.end().code(), Some(2));
    assert_eq!(
        launched.stderr().matches("the kernel is not an ELF file").count(),
        1,
        "{}",
        launched.stderr()
    );
}

#[test]
fn a_stop_reaches_both() {
    let mut launched = Launched::running();
    let pids = launched.pids().unwrap();
    kill(launched.child.id() as i32, libc::SIGTERM);
    assert_eq!(launched.end().code(), Some(0));
    assert!(!pids.into_iter().any(runs));
}

#[test]
fn who_does_not_stop_is_killed() {
    let mut launched = Launched::running();
    let pids = launched.pids().unwrap();
    fs::write(launched.path("stubborn"), "").unwrap();
    kill(launched.child.id() as i32, libc::SIGINT);
    launched.wait_for("stop", || launched.stderr().contains("stopping"));
    kill(launched.child.id() as i32, libc::SIGINT);
    assert_eq!(launched.end().code(), Some(1));
    assert!(!pids.into_iter().any(runs));
}

#[test]
fn replicas_die_with_the_launcher_and_its_socket_is_cleared() {
    let mut launched = Launched::running();
    let pids = launched.pids().unwrap();
    launched.child.kill().unwrap();
    launched.child.wait().unwrap();
    launched.wait_for("end of the replicas", || !pids.into_iter().any(runs));
    // The next launcher finds the socket and the lock file of the killed one.
    for name in ["plan-a", "plan-b"] {
        let _ = fs::remove_file(launched.path(name));
    }
    launched.child = Launched::spawn(launched.directory.path(), false);
    launched.wait_for("replicas", || launched.pids().is_some());
}

#[test]
fn a_second_launcher_is_refused() {
    let launched = Launched::running();
    let before = launched.pids().unwrap();
    let mut second = Launched::spawn(launched.directory.path(), false);
    assert_eq!(wait(&mut second).unwrap().code(), Some(1));
    let said = format!("is already running (launcher process {})", launched.child.id());
    assert!(launched.stderr().contains(&said), "{}", launched.stderr());
    assert_eq!(launched.pids().unwrap(), before);
}

#[test]
fn a_port_in_use_ends_it_before_any_replica_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut launched =
        Launched::start(&format!("[[net]]\n[net.user]\nforward = [\"{address} -> 80\"]\n"), false);
    assert_eq!(launched.end().code(), Some(1));
    assert!(launched.stderr().contains(&format!("cannot listen on {address}")), "{}", launched.stderr());
    assert!(!launched.path("args-a").exists());
}

#[test]
fn nonsense_ends_its_sender_only() {
    for nonsense in
        ["raw {\"live\":{}}", "raw nonsense", "raw {\"rx-acknowledged\":{\"generation\":1,\"seq\":5}}"]
    {
        let launched = Launched::running();
        let [a, b] = launched.pids().unwrap();
        launched.plan("b", nonsense);
        launched.wait_for("verdict", || !runs(b));
        assert!(launched.stderr().contains("; it is killed"));
        assert!(runs(a));
    }
}

#[test]
fn a_solo_machine() {
    let mut launched = Launched::start("", true);
    launched.wait_for("machine", || {
        launched.status().is_some_and(|status| status["replicas"][0]["state"] == "live")
    });
    assert!(fs::read_to_string(launched.path("args-a")).unwrap().contains("\n--solo\n"));
    launched.plan("a", &live(1, false, true));
    launched.wait_for("start", || launched.stderr().contains("without fault tolerance"));
    launched.say("a", &FromReplica::Fence { generation: 1 });
    launched.wait_for("fence", || launched.path("fenced-a").exists());
    launched.say("a", &off(0));
    launched.plan("a", "exit 0");
    assert_eq!(launched.end().code(), Some(0));
}

#[test]
fn nothing_runs() {
    let directory = Launched::prepare("");
    let config = Config::load(&directory.path().join("pair.toml"), &[]).unwrap();
    assert!(status(&config).unwrap_err().to_string().starts_with("nothing runs `"));
}
