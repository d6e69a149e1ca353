//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the workspace")
}

/// The `ft-vm` binary: `FT_VM_BIN`, or built by cargo into the target folder and the profile of the running test. Cargo's
/// own lock makes concurrent callers wait for one build.
pub fn ft_vm() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("FT_VM_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/test-0123, or target/PROFILE/program
    let mut profile = here.parent().expect("an executable is in a folder");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps is in the profile's folder");
    }
    let release = profile.ends_with("release");
    let target = profile.parent().expect("a profile is in the target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--package", "ft-vm", "--bin", "ft-vm"]);
    cargo.arg("--target-dir").arg(target);
    if release {
        cargo.arg("--release");
    }
    forget_package(&mut cargo);
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "building ft-vm failed: {status}");
    profile.join("ft-vm")
}

/// Takes from the environment of a cargo that a program starts what another cargo told that program about itself: it is not true of
/// the build, and build scripts that look at it would run again, and all that depends on them be built again.
pub fn forget_package(cargo: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") || text == "CARGO_CRATE_NAME"
        {
            cargo.env_remove(&name);
        }
    }
}
