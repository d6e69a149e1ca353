//! Who may run a config, and how it is asked how it is: a lock file and a control socket per config, in a directory that
//! only this user can enter.
//!
//! One request per line, one answer per line, both JSON: `{"request":"status"}`, or
//! `{"request":"promote","replica":"b","generation":3}` (see [`super::promote()`]).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ft_policies::{Config, ReplicaId};
use serde_json::{Value, json};

/// Longest request.
const MAX_REQUEST: usize = 4096;
/// Longest answer that is believed.
const MAX_ANSWER: u64 = 1 << 20;
/// How long the launcher's answer is waited for: it waits less for its replicas.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no status, or no launcher.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody runs this config.
    #[error("nothing runs `{0}`")]
    NothingRuns(String),
    /// Somebody else does.
    #[error("`{config}` is already running (launcher process {pid})")]
    AlreadyRunning {
        /// The config.
        config: String,
        /// Its launcher's process id, as far as it is known.
        pid: String,
    },
    /// The launcher does not answer.
    #[error("the launcher of `{config}` does not answer: {source}")]
    NoAnswer {
        /// The config.
        config: String,
        /// What happened.
        source: io::Error,
    },
    /// The directory of sockets belongs to somebody else, or others may enter it.
    #[error("`{0}` must be a directory that belongs to this user, with no rights for others")]
    UnsafeDirectory(PathBuf),
    /// A file cannot be used.
    #[error("cannot use `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where the lock and the socket of a config are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    stem: String,
    config: String,
}

impl Place {
    /// In `$XDG_RUNTIME_DIR/ft-vm`, or `/tmp/ft-vm-UID` where there is no such directory. The names follow from the
    /// config's canonical path and the name of its virtual machine.
    /// A replica of a pair on two hosts has a place of its own.
    pub fn of(config: &Config, one: Option<ReplicaId>) -> Self {
        // SAFETY: a plain call without arguments.
        let uid = unsafe { libc::getuid() };
        let runtime =
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = match runtime.filter(|path| path.is_dir()) {
            Some(path) => path.join("ft-vm"),
            None => PathBuf::from(format!("/tmp/ft-vm-{uid}")),
        };
        Self::within(directory, config, one)
    }

    fn within(directory: PathBuf, config: &Config, one: Option<ReplicaId>) -> Self {
        let path = fs::canonicalize(&config.path).unwrap_or_else(|_| config.path.clone());
        let mut named = path.as_os_str().as_encoded_bytes().to_vec();
        named.push(0);
        named.extend_from_slice(config.vm.name.as_bytes());
        // A socket's whole path may have 107 bytes: the name is there for people only.
        let name: String = config.vm.name.chars().take(16).collect();
        let one = one.map_or(String::new(), |replica| format!("-{replica}"));
        let stem = format!("{name}-{:016x}{one}", xxhash_rust::xxh3::xxh3_64(&named));
        Self { directory, stem, config: path.display().to_string() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.stem))
    }

    fn lock(&self) -> PathBuf {
        self.directory.join(format!("{}.lock", self.stem))
    }

    fn io<T>(path: &Path, result: io::Result<T>) -> Result<T, StatusError> {
        result.map_err(|source| StatusError::Io { path: path.to_owned(), source })
    }

    fn prepare(&self) -> Result<(), StatusError> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Self::io(&self.directory, Err(error))
            }
            _ => self.check(),
        }
    }

    /// Nobody else may have made the directory: /tmp is everybody's.
    fn check(&self) -> Result<(), StatusError> {
        let metadata = Self::io(&self.directory, fs::symlink_metadata(&self.directory))?;
        // SAFETY: a plain call without arguments.
        let uid = unsafe { libc::getuid() };
        if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o077 == 0 {
            Ok(())
        } else {
            Err(StatusError::UnsafeDirectory(self.directory.clone()))
        }
    }
}

/// The right to run a config, and the socket that goes with it. Both end with the launcher.
#[derive(Debug)]
pub(crate) struct Claim {
    place: Place,
    pub(crate) listener: UnixListener,
    _lock: File,
}

impl Claim {
    /// Claims a config for this process.
    pub(crate) fn new(place: Place) -> Result<Self, StatusError> {
        place.prepare()?;
        let path = place.lock();
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut lock = Place::io(&path, open)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Whoever holds the lock may not have written it yet.
                let _ = lock.take(32).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
                return Err(StatusError::AlreadyRunning { config: place.config, pid });
            }
            Err(TryLockError::Error(error)) => return Place::io(&path, Err(error)),
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
        Place::io(&path, written)?;
        // Who holds the lock owns the socket's name: what is there was left by a launcher that died.
        let path = place.socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Place::io(&path, Err(error))?,
            _ => {}
        }
        let listener = Place::io(&path, UnixListener::bind(&path))?;
        Place::io(&path, listener.set_nonblocking(true))?;
        Ok(Self { place, listener, _lock: lock })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock file stays: removing it would let two launchers lock two files of one name.
        let _ = fs::remove_file(self.place.socket());
    }
}

/// Somebody who asks.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    request: Vec<u8>,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Not a whole line yet.
    Nothing,
    /// How the pair is.
    Status,
    /// This replica is to go on in this generation.
    Promote(ReplicaId, u64),
    /// Something else, or too much; in words.
    Nonsense(String),
    /// It is gone.
    Gone,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, request: Vec::new() })
    }

    /// Reads what there is.
    pub(crate) fn read(&mut self) -> Asked {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Asked::Gone,
                Ok(len) => {
                    self.request.extend_from_slice(&buffer[..len]);
                    if let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                        let line: Vec<u8> = self.request.drain(..=end).collect();
                        return match serde_json::from_slice::<Value>(&line) {
                            Ok(value) => understand(&value),
                            Err(error) => Asked::Nonsense(error.to_string()),
                        };
                    }
                    if self.request.len() > MAX_REQUEST {
                        return Asked::Nonsense("the request is too long".into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Asked::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Asked::Gone,
            }
        }
    }

    /// Sends an answer. It fits the socket's buffer many times over; a client that does not read is dropped.
    pub(crate) fn answer(&mut self, answer: &Value) -> io::Result<()> {
        let mut line = answer.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())
    }
}

fn understand(request: &Value) -> Asked {
    match request["request"].as_str() {
        Some("status") => Asked::Status,
        Some("promote") => {
            let replica = request["replica"].as_str().and_then(|name| name.parse().ok());
            match (replica, request["generation"].as_u64()) {
                (Some(replica), Some(generation)) => Asked::Promote(replica, generation),
                _ => Asked::Nonsense("promote needs a replica and a generation".into()),
            }
        }
        _ => Asked::Nonsense(format!("unknown request {}", request["request"])),
    }
}

/// How the pair of this config is: `{"generation":N,"replicas":[...],...}` as the command's contract says.
///
/// # Errors
/// Nothing runs it, or its launcher does not answer.
pub fn status(config: &Config) -> Result<Value, StatusError> {
    let request = json!({"request": "status"});
    let nothing = match ask(&Place::of(config, None), &request) {
        Err(error @ StatusError::NothingRuns(_)) => error,
        other => return other,
    };
    // Replicas of a pair on two hosts have launchers of their own; usually one of them is on this host.
    let mut found: Option<Value> = None;
    for replica in [ReplicaId::A, ReplicaId::B] {
        match (ask(&Place::of(config, Some(replica)), &request), &mut found) {
            (Err(StatusError::NothingRuns(_)), _) => {}
            (Err(error), _) => return Err(error),
            (Ok(mut more), Some(all)) => {
                if let (Some(more), Some(all)) =
                    (more["replicas"].as_array_mut(), all["replicas"].as_array_mut())
                {
                    all.append(more);
                }
                let newest = all["generation"].as_u64().max(more["generation"].as_u64());
                all["generation"] = json!(newest);
            }
            (Ok(one), found) => *found = Some(one),
        }
    }
    found.ok_or(nothing)
}

/// Asks the launcher that has this place.
pub(super) fn ask(place: &Place, request: &Value) -> Result<Value, StatusError> {
    let nothing = || StatusError::NothingRuns(place.config.clone());
    if fs::symlink_metadata(&place.directory).is_err() {
        return Err(nothing());
    }
    place.check()?;
    let no_answer = |source| StatusError::NoAnswer { config: place.config.clone(), source };
    let mut stream = match UnixStream::connect(place.socket()) {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => nothing(),
                _ => no_answer(error),
            });
        }
    };
    let mut exchange = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new((&stream).take(MAX_ANSWER)).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(answer),
        }
    };
    exchange().map_err(no_answer)
}

/// Prints the status on standard output, as JSON or for people. Returns the command's exit code.
pub fn print_status(config: &Config, as_json: bool) -> u8 {
    match status(config) {
        Ok(status) => {
            let text = if as_json { format!("{status}\n") } else { table(&status) };
            // A closed pipe (`| head`) is no failure of the pair, but the caller got no status.
            u8::from(io::stdout().write_all(text.as_bytes()).is_err())
        }
        Err(error) => {
            eprintln!("ft-vm: {error}");
            1
        }
    }
}

/// A status for people.
pub fn table(status: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    let columns = [
        ("REPLICA", "replica"),
        ("ROLE", "role"),
        ("STATE", "state"),
        ("PID", "pid"),
        ("POSITION", "position"),
        ("LAG MS", "lag_ms"),
        ("LOG BYTES", "log_bytes"),
    ];
    let mut rows = vec![columns.map(|(title, _)| title.to_owned())];
    for replica in status["replicas"].as_array().into_iter().flatten() {
        rows.push(columns.map(|(_, key)| text(&replica[key])));
    }
    let mut out = format!("generation {}\n", text(&status["generation"]));
    for row in &rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[index].len()).max().unwrap_or(0);
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for replica in status["replicas"].as_array().into_iter().flatten() {
        if let Some(generation) = replica["waits_for_promotion"].as_u64() {
            out.push_str(&format!(
                "replica {}: waits for a person; `ft-vm promote` lets it go on in generation {generation}\n",
                text(&replica["replica"])
            ));
        }
        if let Some(inputs) = replica["held_up"]["inputs"].as_u64() {
            out.push_str(&format!(
                "replica {}: {inputs} inputs wait because the guest has not left its own code for {} ms: engine = \"kvm\" applies \
                 inputs where it does\n",
                text(&replica["replica"]),
                text(&replica["held_up"]["ms"])
            ));
        }
        for kept in replica["quarantine"].as_array().into_iter().flatten() {
            out.push_str(&format!(
                "replica {}: {} sectors of disk {} are in {} until the old primary is known to be gone\n",
                text(&replica["replica"]),
                text(&kept["sectors"]),
                text(&kept["disk"]),
                text(&kept["path"])
            ));
        }
    }
    out
}

/// What is known of a replica that does not answer.
pub(crate) fn unanswered(replica: &str, role: &str, pid: u32, state: &str) -> Value {
    json!({"replica": replica, "role": role, "pid": pid, "state": state, "position": null, "lag_ms": null, "log_bytes": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> Place {
        Place { directory: directory.to_owned(), stem: "vm-1".into(), config: "x.toml".into() }
    }

    #[test]
    fn one_launcher_per_config() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory.path().join("run"));
        assert!(matches!(ask(&place, &json!({"request": "status"})), Err(StatusError::NothingRuns(_))));
        let first = Claim::new(place.clone()).unwrap();
        let error = Claim::new(place.clone()).unwrap_err().to_string();
        assert_eq!(error, format!("`x.toml` is already running (launcher process {})", std::process::id()));
        drop(first);
        assert!(!place.socket().exists());
        assert!(matches!(ask(&place, &json!({"request": "status"})), Err(StatusError::NothingRuns(_))));
        // A launcher that was killed leaves its socket, and somebody else's lock with its old pid.
        drop(UnixListener::bind(place.socket()).unwrap());
        assert!(matches!(ask(&place, &json!({"request": "status"})), Err(StatusError::NothingRuns(_))));
        Claim::new(place).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Claim::new(place(&run)), Err(StatusError::UnsafeDirectory(_))));
        assert!(matches!(
            ask(&place(&run), &json!({"request": "status"})),
            Err(StatusError::UnsafeDirectory(_))
        ));
        let link = directory.path().join("link");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&run, &link).unwrap();
        assert!(matches!(Claim::new(place(&link)), Err(StatusError::UnsafeDirectory(_))));
    }

    #[test]
    fn requests_are_lines_and_bounded() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours).unwrap();
        assert_eq!(client.read(), Asked::Nothing);
        theirs.write_all(b"{\"request\":").unwrap();
        assert_eq!(client.read(), Asked::Nothing);
        theirs.write_all(b"\"status\"}\n").unwrap();
        assert_eq!(client.read(), Asked::Status);
        theirs.write_all(b"{\"request\":\"promote\",\"replica\":\"b\",\"generation\":3}\n").unwrap();
        assert_eq!(client.read(), Asked::Promote(ReplicaId::B, 3));
        theirs.write_all(b"{\"request\":\"promote\",\"replica\":\"c\",\"generation\":3}\n").unwrap();
        assert!(matches!(client.read(), Asked::Nonsense(_)));
        for nonsense in [&b"[]\n"[..], b"{\"request\":1}\n", b"\xff\n", b"\n"] {
            theirs.write_all(nonsense).unwrap();
            assert!(matches!(client.read(), Asked::Nonsense(_)));
        }
        theirs.write_all(&[b'x'; 2 * MAX_REQUEST]).unwrap();
        assert!(matches!(client.read(), Asked::Nonsense(_)));
        drop(theirs);
        let (theirs, ours) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(Client::new(ours).unwrap().read(), Asked::Gone);
    }

    #[test]
    fn the_table_has_a_row_for_each_replica() {
        let status = json!({"generation": 2, "replicas": [
            {"replica": "a", "role": "none", "pid": 10, "state": "gone"},
            {"replica": "b", "role": "primary", "pid": 11, "state": "live", "position": 123, "lag_ms": 0.25, "log_bytes": 0},
        ]});
        let expected = "generation 2\n\
                        REPLICA  ROLE     STATE  PID  POSITION  LAG MS  LOG BYTES\n\
                        a        none     gone   10   -         -       -\n\
                        b        primary  live   11   123       0.2     0\n";
        assert_eq!(table(&status), expected);
        let status = json!({"generation": 2, "replicas": [
            {"replica": "a", "held_up": {"inputs": 3, "ms": 1500.04}},
        ]});
        let line = "replica a: 3 inputs wait because the guest has not left its own code for 1500.0 ms: engine = \"kvm\" applies inputs \
                    where it does\n";
        assert!(table(&status).ends_with(line), "{}", table(&status));
        let status = json!({"generation": 2, "replicas": [
            {"replica": "b", "quarantine": [{"disk": 0, "sectors": 8, "path": "kv.img.quarantine-2"}]},
        ]});
        let line = "replica b: 8 sectors of disk 0 are in kv.img.quarantine-2 until the old primary is known to be gone\n";
        assert!(table(&status).ends_with(line), "{}", table(&status));
    }
}
