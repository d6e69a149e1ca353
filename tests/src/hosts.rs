//! Two hosts on one machine: two network namespaces with a wire between them.
//!
//! They have every file in common, as two hosts with a file system of both have, and nothing else: what a replica says to the
//! other one goes over the wire. They are made with `ip` (iproute2), which takes root.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where replica a is, and replica b. Every pair of hosts has the same addresses: nobody else is in its namespaces.
pub(crate) const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

/// What the names of all namespaces begin with; the process that made it and a number follow.
const PREFIX: &str = "ft-e2e-";
/// Where `ip` keeps the names.
const NAMES: &str = "/run/netns";

/// Two hosts. They end with this value.
#[derive(Debug)]
pub(crate) struct Hosts {
    names: [String; 2],
}

impl Hosts {
    /// Makes them.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub(crate) fn new() -> Result<Self, String> {
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
        let name = |host| format!("{PREFIX}{}-{number}-{host}", std::process::id());
        // From here on what is there is removed, however far this comes.
        let hosts = Self { names: ["a", "b"].map(name) };
        let [a, b] = &hosts.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b])?;
        for (name, address) in hosts.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
            // A host reaches its own address this way.
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        // Some containers let namespaces be made and not entered.
        ip(&["netns", "exec", a, "true"])?;
        Ok(hosts)
    }

    /// What runs a program on the host of a replica: the program and its arguments follow.
    pub(crate) fn on(&self, replica: &str) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[usize::from(replica == "b")]]
    }

    /// Pulls the wire out, or plugs it in again.
    pub(crate) fn set_wire(&self, plugged: bool) {
        let to = if plugged { "up" } else { "down" };
        ip(&["-n", &self.names[0], "link", "set", "wire", to]).expect("the wire is there");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
    }
}

/// Whether `ip` is there.
pub fn have_iproute2() -> bool {
    let mut ip = Command::new("ip");
    ip.arg("-Version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ip.status().is_ok_and(|status| status.success())
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("ip {}: {why}", arguments.join(" "));
    let run = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
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
