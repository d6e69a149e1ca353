//! Hosts on one machine: network namespaces with wires between them.
//!
//! They have every file in common, as hosts with a file system of all of them have, and nothing else: what a replica says to
//! the other one goes over the wire. They are made with `ip` (iproute2), which takes root.
//!
//! ```text
//!   a ───────────── wire, 10.99.0.1 and .2 ───────────── b      always there: the replicas' log and heartbeats
//!
//!   a ── arbiter, 10.98.0.1 ──┐            ┌── arbiter, 10.98.0.2 ── b
//!                             arbiter, 10.98.0.3                with a LAN: a third host, for a tie-breaker
//!
//!   a ── br0: ft0, uplink ────┐            ┌──── br0: ft0, uplink ── b
//!                             client, 10.0.2.100/24             with a LAN: the switch, and the guest's clients
//! ```
//!
//! What of it is cut is in [`crate::cuts`].

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cuts;

/// Where replica a is, and replica b. Every pair of hosts has the same addresses: nobody else is in its namespaces.
pub(crate) const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// Where the arbiter is, on a network that is not the replicas'.
pub(crate) const ARBITER: &str = "10.98.0.3";
/// Where a and b are on that network.
pub(crate) const ADDRESSES_FOR_ARBITER: [&str; 2] = ["10.98.0.1", "10.98.0.2"];
/// Where the client is on the LAN; `guests/kv` takes 10.0.2.15/24 if it is told nothing else.
const CLIENT: &str = "10.0.2.100/24";
/// The TAP interface of each host.
pub(crate) const TAP: &str = "ft0";

/// The interface between the hosts, and each host's way to the arbiter and into the LAN.
pub(crate) const WIRE: &str = "wire";
pub(crate) const TO_ARBITER: &str = "arbiter";
pub(crate) const UPLINK: &str = "uplink";

/// What the names of all namespaces begin with; the process that made it and a number follow.
const PREFIX: &str = "ft-e2e-";
/// Where `ip` keeps the names.
const NAMES: &str = "/run/netns";

/// Two hosts, and with a LAN the two others. They end with this value.
#[derive(Debug)]
pub struct Hosts {
    names: Vec<String>,
}

/// Places in [`Hosts::names`].
const A: usize = 0;
const B: usize = 1;
const CLIENT_HOST: usize = 2;
const ARBITER_HOST: usize = 3;

impl Hosts {
    /// Makes two, with a wire between them.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub(crate) fn new() -> Result<Self, String> {
        Self::named(&["a", "b"])
    }

    /// The same with a LAN on which there is a client, and a third host for a tie-breaker.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub(crate) fn with_lan() -> Result<Self, String> {
        if !cuts::have_nftables() {
            return Err("`nft` is missing (Debian: apt install nftables)".into());
        }
        let hosts = Self::named(&["a", "b", "client", "arbiter"])?;
        let [client, arbiter] = [CLIENT_HOST, ARBITER_HOST].map(|place| hosts.names[place].as_str());
        bridge(client, CLIENT)?;
        bridge(arbiter, &format!("{ARBITER}/24"))?;
        for (replica, address) in ["a", "b"].into_iter().zip(ADDRESSES_FOR_ARBITER) {
            let host = hosts.name(replica);
            ip(&["-n", host, "link", "add", "br0", "type", "bridge"])?;
            ip(&["-n", host, "tuntap", "add", "dev", TAP, "mode", "tap"])?;
            ip(&["-n", host, "link", "set", TAP, "master", "br0", "up"])?;
            port(host, UPLINK, client, replica)?;
            ip(&["-n", host, "link", "set", UPLINK, "master", "br0", "up"])?;
            ip(&["-n", host, "link", "set", "br0", "up"])?;
            port(host, TO_ARBITER, arbiter, replica)?;
            ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", TO_ARBITER])?;
            ip(&["-n", host, "link", "set", TO_ARBITER, "up"])?;
        }
        for name in &hosts.names {
            cuts::prepare(name)?;
        }
        Ok(hosts)
    }

    fn named(hosts: &[&str]) -> Result<Self, String> {
        // SAFETY: geteuid has no arguments and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Err("network namespaces take root".into());
        }
        if !have_iproute2() {
            return Err("`ip` is missing (Debian: apt install iproute2)".into());
        }
        remove_left_over();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |host: &&str| format!("{PREFIX}{}-{number}-{host}", std::process::id());
        // From here on what is there is removed, however far this comes.
        let hosts = Self { names: hosts.iter().map(name).collect() };
        for name in &hosts.names {
            ip(&["netns", "add", name])?;
            // A host reaches its own address this way.
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let [a, b] = [A, B].map(|place| hosts.names[place].as_str());
        ip(&["link", "add", WIRE, "netns", a, "type", "veth", "peer", "name", WIRE, "netns", b])?;
        for (name, address) in [a, b].into_iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", WIRE])?;
            ip(&["-n", name, "link", "set", WIRE, "up"])?;
        }
        // Some containers let namespaces be made and not entered.
        ip(&["netns", "exec", a, "true"])?;
        Ok(hosts)
    }

    /// The namespace of `a`, `b`, `client` or `arbiter`.
    pub(crate) fn name(&self, host: &str) -> &str {
        let place = match host {
            "a" => A,
            "b" => B,
            "client" => CLIENT_HOST,
            "arbiter" => ARBITER_HOST,
            _ => panic!("there is no host {host}"),
        };
        self.names.get(place).unwrap_or_else(|| panic!("these hosts have no {host}"))
    }

    /// What runs a program on `a`, `b`, `client` or `arbiter`: the program and its arguments follow.
    pub fn on(&self, host: &str) -> [&str; 4] {
        ["ip", "netns", "exec", self.name(host)]
    }

    /// What runs a program on the host of the guest's clients.
    pub fn client(&self) -> [&str; 4] {
        self.on("client")
    }

    /// Does something on the network of `a`, `b`, `client` or `arbiter`: a socket belongs to the host on which it was made, whoever
    /// uses it later.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let name = self.name(host);
        let namespace = File::open(Path::new(NAMES).join(name)).expect("the namespace has a name");
        let enter = move || {
            // SAFETY: a plain call with an open descriptor. It moves this thread alone, which ends with the work.
            let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "setns {name}: {}", std::io::Error::last_os_error());
            work()
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Which of some processes are on a host.
    pub(crate) fn processes(&self, host: &str, of: &[u32]) -> Vec<u32> {
        let namespace =
            fs::metadata(Path::new(NAMES).join(self.name(host))).expect("the namespace has a name");
        let here = |pid: &&u32| {
            let its = fs::metadata(format!("/proc/{pid}/ns/net"));
            its.is_ok_and(|its| (its.dev(), its.ino()) == (namespace.dev(), namespace.ino()))
        };
        of.iter().filter(here).copied().collect()
    }

    /// Pulls the wire between the replicas out, or plugs it in again.
    pub fn set_wire(&self, plugged: bool) {
        self.set_link("a", WIRE, plugged);
    }

    pub(crate) fn set_link(&self, host: &str, interface: &str, up: bool) {
        let to = if up { "up" } else { "down" };
        ip(&["-n", self.name(host), "link", "set", interface, to]).expect("the interface is there");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
    }
}

/// A switch on a host that takes part in its network itself.
fn bridge(host: &str, address: &str) -> Result<(), String> {
    ip(&["-n", host, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", host, "address", "add", address, "dev", "br0"])?;
    ip(&["-n", host, "link", "set", "br0", "up"])
}

/// A wire from an interface of `host` to a port of the switch on `switch`.
fn port(host: &str, interface: &str, switch: &str, port: &str) -> Result<(), String> {
    let port = format!("port-{port}");
    ip(&["link", "add", interface, "netns", host, "type", "veth", "peer", "name", &port, "netns", switch])?;
    ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"])
}

/// Whether `ip` is there.
pub fn have_iproute2() -> bool {
    let mut ip = Command::new("ip");
    ip.arg("-Version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ip.status().is_ok_and(|status| status.success())
}

/// Whether `ping` is there.
pub fn have_ping() -> bool {
    let mut ping = Command::new("ping");
    ping.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ping.status().is_ok_and(|status| status.success())
}

pub(crate) fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("{program} {}: {why}", arguments.join(" "));
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let run = run.map_err(|error| failed(&error))?;
    if run.status.success() {
        return Ok(());
    }
    Err(failed(&String::from_utf8_lossy(&run.stderr).trim()))
}

fn remove(name: &str) {
    // Before its first use there is none.
    if Path::new(NAMES).join(name).exists()
        && let Err(error) = ip(&["netns", "delete", name])
    {
        eprintln!("{error}");
    }
}

/// Removes what test processes left behind that were killed.
fn remove_left_over() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(name);
        }
    }
}
