//! One pair's surroundings: a folder, a config, ports; and the check that nothing outlives the test.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{KEY, Network, WITNESS};
use crate::hosts::{ADDRESSES, ARBITER, Hosts, TAP};
use crate::launcher::{LIFE, send_signal};
use crate::store::ON_STORE;
use crate::{
    DiskPolicy, Etcd, Guest, Launcher, Line, Ports, Settings, Site, Status, Store, TieBreaker, Witness,
    linux, survivors,
};

/// Pairs run one at a time, however many threads the tests have: two replicas and their clients fill a small machine, and
/// times are part of what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The file of the guest's console, of a pair on two hosts: each launcher writes its part of it.
const CONSOLE: &str = "console";
/// Where `guests/kv` is on a LAN, unless it is told something else.
const ON_LAN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)), 6379);

/// A folder with a config of its own. Everything that was started in it ends with this value.
pub struct Bed {
    /// The tie-breaker server, from the beginning to the end. It ends before its host and its folder.
    witness: Option<Witness>,
    /// The tie-breaker where it is an etcd.
    etcd: Option<Etcd>,
    /// Where the replicas of a pair on two hosts are, and the network of a guest that has one of its own.
    hosts: Option<Hosts>,
    folder: tempfile::TempDir,
    /// 0 is forwarded to the guest, 1 and 2 are the replicas', 6 is the witness's.
    pub ports: Ports,
    settings: Settings,
    network: Network,
    mark: String,
    /// `None` if it is beside one that has it.
    _alone: Option<MutexGuard<'static, ()>>,
}

/// What there is around a folder.
enum Surroundings {
    ThisMachine,
    OneHostWithLan(Hosts),
    TwoHosts(Hosts),
    TwoHostsWithLan(Hosts),
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
        let folder = folder_in(&std::env::temp_dir()).expect("a temporary folder");
        Self::on(Surroundings::ThisMachine, folder, settings, Some(turn()))
    }

    /// The same beside another, and at the same time: for measurements in which pairs are compared under one load.
    pub fn beside(_other: &Self, settings: &Settings) -> Self {
        let folder = folder_in(&std::env::temp_dir()).expect("a temporary folder");
        Self::on(Surroundings::ThisMachine, folder, settings, None)
    }

    /// The same for a pair on two hosts; the console is in a file that both write. `None` where that cannot be, which is said:
    /// the test is not run.
    pub fn on_two_hosts(settings: &Settings) -> Option<Self> {
        Self::on_hosts(settings, Hosts::new, Surroundings::TwoHosts)
    }

    /// The same with a network for the guest: a TAP interface on each host, a client on a third one ([`Bed::in_client`]), and a
    /// fourth one for a tie-breaker, where the witness of separate disks is.
    pub fn on_two_hosts_with_lan(settings: &Settings) -> Option<Self> {
        Self::on_hosts(settings, Hosts::with_lan, Surroundings::TwoHostsWithLan)
    }

    /// A pair on one machine, host a of such a network.
    pub fn on_one_host_with_lan(settings: &Settings) -> Option<Self> {
        Self::on_hosts(settings, Hosts::with_lan, Surroundings::OneHostWithLan)
    }

    fn on_hosts(
        settings: &Settings,
        make: impl Fn() -> Result<Hosts, String>,
        around: impl Fn(Hosts) -> Surroundings,
    ) -> Option<Self> {
        // A shared disk is used past the page cache there, which a file system in memory has no way of.
        let places = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
        let folder = if settings.disk.is_separate() {
            Some(folder_in(&places[0]).expect("a temporary folder"))
        } else {
            places
                .iter()
                .filter_map(|place| folder_in(place).ok())
                .find(|folder| knows_direct_io(folder.path()))
        };
        let Some(folder) = folder else {
            println!("not run: neither {} nor {} knows direct I/O", places[0].display(), places[1].display());
            return None;
        };
        let hosts = match make() {
            Ok(hosts) => hosts,
            Err(reason) => {
                println!("not run: two hosts on this machine cannot be made: {reason}");
                return None;
            }
        };
        Some(Self::on(around(hosts), folder, settings, Some(turn())))
    }

    fn on(
        around: Surroundings,
        folder: tempfile::TempDir,
        settings: &Settings,
        alone: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(folder.path().join("run")).expect("the folder is new");
        // Ports 3 to 5 are for a second config in the same folder.
        let ports = Ports::reserve(WITNESS + 1);
        let mut network = Network { replicas: ["127.0.0.1"; 2], witness: "127.0.0.1", tap: None };
        let mut settings = settings.clone();
        let (hosts, witness_host) = match around {
            Surroundings::ThisMachine => (None, ""),
            Surroundings::OneHostWithLan(hosts) => {
                network.tap = Some(TAP);
                (Some(hosts), "a")
            }
            Surroundings::TwoHosts(hosts) => {
                (network.replicas, network.witness) = (ADDRESSES, ADDRESSES[0]);
                (Some(hosts), "a")
            }
            Surroundings::TwoHostsWithLan(hosts) => {
                network = Network { replicas: ADDRESSES, witness: ARBITER, tap: Some(TAP) };
                (Some(hosts), "arbiter")
            }
        };
        if network.replicas == ADDRESSES {
            settings.extra += &format!("\n[console]\noutput = \"{CONSOLE}\"\n");
        }
        // A witness that others can reach does not listen without one.
        settings.keyed |= settings.tie_breaker == TieBreaker::Witness && network.witness != "127.0.0.1";
        let tie_breaker_host = || hosts.as_ref().map_or(Vec::new(), |hosts| hosts.on(witness_host).to_vec());
        let etcd = match settings.tie_breaker {
            TieBreaker::Etcd { members } => {
                let host = tie_breaker_host().iter().map(|word| (*word).to_owned()).collect();
                let site = Site { host, address: network.witness.to_owned() };
                Some(Etcd::start_at(folder.path(), &vec![site; members]))
            }
            TieBreaker::SharedDisk | TieBreaker::Witness | TieBreaker::Manual => None,
        };
        fs::write(folder.path().join("pair.toml"), settings.text(&name, network, &ports, etcd.as_ref()))
            .expect("the folder is writable");
        if settings.keyed {
            let key =
                Launcher::command(folder.path(), &name).args(["key", KEY]).output().expect("ft-vm starts");
            assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
        }
        if let Guest::Linux { image: Some(image) } = settings.guest {
            for replica in ["a", "b"] {
                let path = settings.disk.path(0).replace("{replica}", replica);
                linux::copy_asset(image, &folder.path().join(path));
            }
        }
        let witness = (settings.tie_breaker == TieBreaker::Witness).then(|| {
            let address = format!("{}:{}", network.witness, ports.get(WITNESS));
            let keys = settings.keyed.then_some(KEY);
            let on_store = settings.witness_on_store;
            Witness::start(&tie_breaker_host(), folder.path(), &name, address, keys, on_store)
        });
        Self { witness, etcd, hosts, folder, ports, settings, network, mark: name, _alone: alone }
    }

    /// The tie-breaker server.
    pub fn witness(&self) -> &Witness {
        self.witness.as_ref().expect("the tie-breaker is a witness")
    }

    /// The same, to be killed and started again.
    pub fn witness_mut(&mut self) -> &mut Witness {
        self.witness.as_mut().expect("the tie-breaker is a witness")
    }

    /// The tie-breaker where it is an etcd.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the settings say that the tie-breaker is an etcd")
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
        let alone = Settings {
            disk: DiskPolicy::SHARED,
            tie_breaker: TieBreaker::SharedDisk,
            ..self.settings.clone()
        };
        let network = Network { replicas: ["127.0.0.1"; 2], witness: "127.0.0.1", tap: None };
        let mut text = alone.text(&self.mark, network, &self.ports, None);
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

    /// Starts `ft-vm --config pair.toml` with more arguments, on host a where there are several.
    pub fn start_with(&self, more: &[&str]) -> Launcher {
        self.start_for(more, LIFE)
    }

    /// The same for a process that may run for longer than usual.
    pub fn start_for(&self, more: &[&str], life: Duration) -> Launcher {
        let arguments = [&["--config", "pair.toml"], more].concat();
        let host = self.hosts.as_ref().map_or(Vec::new(), |hosts| hosts.on("a").to_vec());
        Launcher::start_on(&host, self.path(), &self.mark, &arguments, life)
    }

    /// Starts it with a pipe for what is typed ([`Launcher::type_in`]).
    pub fn start_with_keyboard(&self, more: &[&str], life: Duration) -> Launcher {
        let arguments = [&["--config", "pair.toml"], more].concat();
        Launcher::start_with_keyboard(self.path(), &self.mark, &arguments, life)
    }

    /// Starts the pair with a small file system in [`crate::STORE`], which it alone sees.
    pub fn start_on_store(&self) -> (Launcher, Store) {
        let arguments = ["--config", "pair.toml"];
        let pair = Launcher::start_on(&ON_STORE, self.path(), &self.mark, &arguments, LIFE);
        let store = Store::of(pair.pid(), self.path());
        (pair, store)
    }

    /// Starts one replica of a pair on two hosts, on its own.
    pub fn start_one(&self, replica: &str, more: &[&str]) -> Launcher {
        let arguments = [&["--config", "pair.toml", "--replica", replica], more].concat();
        Launcher::start_on(&self.hosts().on(replica), self.path(), &self.mark, &arguments, LIFE)
    }

    /// The hosts and what lies between them: to be cut, and healed.
    pub fn hosts(&self) -> &Hosts {
        self.hosts.as_ref().expect("this bed is not on hosts of its own")
    }

    /// Where the guest is for the client on its LAN.
    pub fn on_lan(&self) -> SocketAddr {
        assert!(self.network.tap.is_some(), "the guest has no LAN");
        ON_LAN
    }

    /// Does something as the client on the guest's LAN: connections that are made there stay there.
    pub fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.hosts().within("client", work)
    }

    /// Kills everything of this pair that runs on a host, launcher and replica at once, as a power failure does.
    pub fn kill_host(&self, host: &str) {
        let here = self.hosts().processes(host, &survivors::marked(&self.mark));
        assert!(!here.is_empty(), "nothing of this pair runs on host {host}");
        // First none of them runs any more, so that none sees another one's end.
        for signal in [libc::SIGSTOP, libc::SIGKILL] {
            here.iter().for_each(|&pid| send_signal(pid, signal));
        }
        // What a host that starts again does not have any more either.
        let left = fs::read_dir(self.path().join("run/ft-vm")).into_iter().flatten().flatten();
        for socket in left.map(|entry| entry.path()) {
            if socket.display().to_string().ends_with(&format!("-{host}.sock")) {
                fs::remove_file(&socket).expect("its launcher is gone");
            }
        }
    }

    /// The lines of the guest's console, of a pair on two hosts.
    pub fn console(&self) -> Vec<Line> {
        let bytes = fs::read(self.path().join(CONSOLE)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        text[..complete].lines().map(|text| Line { at: Instant::now(), text: text.to_owned() }).collect()
    }

    /// Waits until the guest, of a pair on two hosts, has said a line that is as wanted. False if it does not.
    pub fn wait_console(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let until = Instant::now() + limit;
        loop {
            if self.console().iter().any(|line| wanted(&line.text)) {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
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

    /// Promotes a replica, and says so; what `ft-vm promote` says of it is in the result.
    pub fn promote(&self, replica: &str) -> Finished {
        self.run(&["promote", "--config", "pair.toml", "--replica", replica])
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
    pub fn wait_status(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> Status {
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

/// Waits for the end of every other bed.
fn turn() -> MutexGuard<'static, ()> {
    // A failed test leaves nothing behind that the next one would have to care about.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder_in(place: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("ft-e2e-").tempdir_in(place)
}

/// Whether files in this folder can be used past the page cache, sector by sector.
fn knows_direct_io(folder: &Path) -> bool {
    const SECTOR: usize = 512;
    #[repr(align(4096))]
    struct Aligned([u8; SECTOR]);
    let path = folder.join("direct");
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
    let knows = file.and_then(|file| {
        file.set_len(8 * SECTOR as u64)?;
        let sector = Aligned([1; SECTOR]);
        file.write_all_at(&sector.0, SECTOR as u64)
    });
    fs::remove_file(&path).is_ok() && knows.is_ok()
}
