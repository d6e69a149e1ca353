//! Programs of others that tests use: redis-tools, iproute2, nftables, etcd, bindfs, QEMU, and two TOML language servers.
//!
//! All but the last come from the distribution: they are installed where this runs as root and apt is there, else a
//! person is told. tombi (PyPI) and taplo (npm) are put under `target/tools`; without network or package manager the test that
//! wants them says that it was not run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::nested;
use crate::steps::target;

const TOMBI: &str = "tombi==1.9.6";
const TAPLO: &str = "@taplo/cli@0.7.0";

/// A package of the distribution that tests need.
struct Package {
    name: &'static str,
    /// Whether what is in it is there.
    is_there: fn() -> bool,
    /// What is said where it is not, before and after the package's name.
    missing: [&'static str; 2],
}

const PACKAGES: [Package; 7] = [
    Package {
        name: "redis-tools",
        is_there: ft_e2e::have_redis_tools,
        missing: ["redis-benchmark and redis-cli are missing", ""],
    },
    Package {
        name: "iproute2",
        is_there: ft_e2e::have_iproute2,
        missing: ["`ip` is missing", ": the tests of pairs on two hosts did not run"],
    },
    Package {
        name: "iputils-ping",
        is_there: ft_e2e::have_ping,
        missing: ["`ping` is missing", ": whether Linux answers it was not tested"],
    },
    Package {
        name: "nftables",
        is_there: ft_e2e::have_nftables,
        missing: ["`nft` is missing", ": the tests of networks between hosts did not run"],
    },
    Package {
        name: "etcd-server",
        is_there: ft_e2e::have_etcd,
        missing: ["`etcd` is missing", ": the tests of that tie-breaker did not run"],
    },
    Package {
        name: "bindfs",
        is_there: ft_e2e::have_bindfs,
        missing: [
            "`bindfs` or /dev/fuse is missing",
            ": the partition tests of the shared-disk tie-breaker did not run",
        ],
    },
    Package {
        name: "qemu-system-x86",
        is_there: nested::have_qemu,
        missing: [
            "`qemu-system-x86_64` is missing",
            ": the KVM engine was not tested in a machine of its own",
        ],
    },
];

/// What there is and what is missing.
pub(crate) struct Tools {
    found: Vec<(&'static str, PathBuf)>,
    missing: Vec<String>,
}

impl Tools {
    /// Variables for the tests.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.found.iter().map(|(name, path)| (*name, path.as_path()))
    }

    /// What is missing, each in a line.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }
}

/// Looks for all of them, and installs what can be.
pub(crate) fn provide() -> Tools {
    let mut tools = Tools { found: Vec::new(), missing: Vec::new() };
    for Package { name, is_there, missing: [what, so] } in PACKAGES {
        if !provide_package(name, is_there) {
            tools.missing.push(format!("{what} (Debian: apt install {name}){so}"));
        }
    }
    let folder = target().join("tools");
    let python = folder.join("python");
    tools.add("FT_TOMBI", "tombi", &python.join("bin/tombi"), |_| {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--target",
        ])
        .arg(&python)
        .arg(TOMBI);
        pip
    });
    let node = folder.join("node");
    tools.add("FT_TAPLO", "taplo", &node.join("node_modules/.bin/taplo"), |_| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&node).arg(TAPLO);
        npm
    });
    tools
}

impl Tools {
    fn add(&mut self, variable: &'static str, name: &str, path: &Path, install: impl Fn(&Path) -> Command) {
        if let Some(given) = std::env::var_os(variable) {
            self.found.push((variable, PathBuf::from(given)));
            return;
        }
        if !runs(path) {
            let mut command = install(path);
            println!("== installing {name} under {}", target().join("tools").display());
            match command.stdin(Stdio::null()).status() {
                Ok(status) if status.success() => {}
                Ok(status) => println!("{}: {status}", command.get_program().display()),
                Err(error) => println!("{}: {error}", command.get_program().display()),
            }
        }
        if runs(path) {
            self.found.push((variable, path.to_owned()));
        } else {
            self.missing.push(format!("{name} is missing: the editor test did not run with it"));
        }
    }
}

/// Whether the program starts.
pub(crate) fn runs(path: &Path) -> bool {
    let run = Command::new(path).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// Sees to one of the packages that tests need, for a command that is nothing without it.
pub(crate) fn need(name: &str) -> Result<(), String> {
    let package = PACKAGES.iter().find(|package| package.name == name);
    let Package { is_there, missing: [what, _], .. } = package.ok_or(format!("{name} is not on the list"))?;
    if provide_package(name, is_there) { Ok(()) } else { Err(format!("{what} (Debian: apt install {name})")) }
}

/// Installs a package of the distribution if what it has is not there. Whether it is there now.
fn provide_package(package: &str, is_there: impl Fn() -> bool) -> bool {
    if !is_there() {
        install(package);
    }
    is_there()
}

fn install(package: &str) {
    // SAFETY: geteuid has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !runs(Path::new("apt-get")) {
        return;
    }
    println!("== installing {package}");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends", package])
            .env("DEBIAN_FRONTEND", "noninteractive");
        apt.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !install() {
        let _ = Command::new("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()).status();
        install();
    }
}
