//! A started etcd, of one member or several: Debian's, as it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::launcher::{send_signal, stop_process};
use crate::{Capture, Ports, survivors};

/// How long a member may take to be ready, elections on a busy machine included.
const READY: Duration = Duration::from_secs(60);
/// What a member says when it serves clients; it has found a leader then. (3.4 and later.)
const SERVES: &str = "serving client traffic";

/// Whether `etcd` is installed.
pub fn have_etcd() -> bool {
    let run = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// The same for a test, which does not run without; that is said, and on a CI machine it is an error.
pub fn can_run_etcd() -> bool {
    let there = have_etcd();
    if !there {
        const MISSING: &str = "`etcd` is missing (Debian: apt install etcd-server)";
        assert!(std::env::var_os("CI").is_none(), "{MISSING}");
        println!("not run: {MISSING}");
    }
    there
}

/// Where a member runs.
#[derive(Clone, Debug)]
pub struct Site {
    /// The program that runs another one there, and its arguments; nothing for this host.
    pub host: Vec<String>,
    /// Its address there, which the other members reach.
    pub address: String,
}

impl Site {
    /// This host.
    pub fn here() -> Self {
        Self { host: Vec::new(), address: Ipv4Addr::LOCALHOST.to_string() }
    }
}

/// Files (PEM) with which the members serve clients over TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The members' certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who must have signed a client's certificate, where one is wanted.
    pub client_ca: Option<PathBuf>,
}

/// An etcd cluster. Its members end with this value, and with the thread that started it.
pub struct Etcd {
    members: Vec<Member>,
    _ports: Ports,
}

struct Member {
    command: Vec<String>,
    client: String,
    data: PathBuf,
    child: Child,
    stderr: Capture,
}

impl Etcd {
    /// Starts a cluster of `members` on this host, whose data are in `folder`, and waits until all of them serve.
    pub fn start(folder: &Path, members: usize) -> Self {
        Self::start_at(folder, &vec![Site::here(); members])
    }

    /// The same with a member at each of the sites.
    pub fn start_at(folder: &Path, sites: &[Site]) -> Self {
        Self::start_with(folder, sites, None)
    }

    /// The same, over TLS where files for it are given.
    pub fn start_with(folder: &Path, sites: &[Site], tls: Option<&ServerTls>) -> Self {
        let ports = Ports::reserve(2 * sites.len());
        let place = |port: usize, site: &Site| format!("{}:{}", site.address, ports.get(port));
        let url = |port: usize, site: &Site| format!("http://{}", place(port, site));
        let peers: Vec<String> = sites
            .iter()
            .enumerate()
            .map(|(number, site)| format!("m{number}={}", url(2 * number + 1, site)))
            .collect();
        let members = sites.iter().enumerate().map(|(number, site)| {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let client = format!("{scheme}://{}", place(2 * number, site));
            let peer = url(2 * number + 1, site);
            let data = folder.join(format!("etcd-{number}"));
            let (name, folder, peers) = (format!("m{number}"), data.display().to_string(), peers.join(","));
            let mut command = site.host.clone();
            command.extend(
                [
                    "etcd",
                    "--name",
                    &name,
                    "--data-dir",
                    &folder,
                    "--listen-client-urls",
                    &client,
                    "--advertise-client-urls",
                    &client,
                    "--listen-peer-urls",
                    &peer,
                    "--initial-advertise-peer-urls",
                    &peer,
                    "--initial-cluster",
                    &peers,
                    "--initial-cluster-state",
                    "new",
                    "--logger",
                    "zap",
                    "--log-outputs",
                    "stderr",
                ]
                .map(str::to_owned),
            );
            for (option, file) in tls.into_iter().flat_map(ServerTls::options) {
                command.extend([option.to_owned(), file.display().to_string()]);
            }
            if tls.is_some_and(|tls| tls.client_ca.is_some()) {
                command.push("--client-cert-auth".to_owned());
            }
            let (child, stderr) = spawn(&command);
            let client = place(2 * number, site);
            Member { command, client, data, child, stderr }
        });
        let etcd = Self { members: members.collect(), _ports: ports };
        for member in 0..sites.len() {
            etcd.wait_ready(member);
        }
        etcd
    }

    /// How many members there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where each member serves clients.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client.parse().expect("an address and a port")).collect()
    }

    /// The `[tie-breaker.etcd]` table for it.
    pub fn table(&self) -> String {
        let endpoints: Vec<String> =
            self.members.iter().map(|member| format!("\"{}\"", member.client)).collect();
        format!("[tie-breaker.etcd]\nendpoints = [{}]\n", endpoints.join(", "))
    }

    /// The folder of a member's data.
    pub fn data(&self, member: usize) -> &Path {
        &self.members[member].data
    }

    /// Kills a member; what it acknowledged is in its folder.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member again, on the data that are in its folder. Whether it serves depends on the others.
    pub fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.kill();
        (member.child, member.stderr) = spawn(&member.command);
    }

    /// Waits until a member that was started serves clients.
    pub fn wait_ready(&self, member: usize) {
        let Member { stderr, .. } = &self.members[member];
        if stderr.wait_for(0, READY, |line| line.contains(SERVES)).is_none() {
            panic!("member {member} of the etcd does not serve:\n{}", stderr.text());
        }
    }

    /// Stops a member where it stands: its connections stay, and nothing comes from it.
    pub fn freeze(&self, member: usize) {
        stop_process(self.members[member].child.id());
    }

    /// Lets it go on.
    pub fn thaw(&self, member: usize) {
        send_signal(self.members[member].child.id(), libc::SIGCONT);
    }
}

impl ServerTls {
    fn options(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let ca = self.client_ca.as_deref().map(|ca| ("--trusted-ca-file", ca));
        [("--cert-file", self.cert.as_path()), ("--key-file", self.key.as_path())].into_iter().chain(ca)
    }
}

impl Member {
    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send_signal(self.child.id(), libc::SIGKILL);
        }
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &[String]) -> (Child, Capture) {
    let [program, arguments @ ..] = command else { panic!("a program is named") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Its settings come from there too.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    survivors::die_with_us(&mut command);
    let mut child = command.spawn().expect("etcd is installed (Debian: package etcd-server)");
    let stderr = Capture::of(child.stderr.take().expect("piped"));
    (child, stderr)
}
