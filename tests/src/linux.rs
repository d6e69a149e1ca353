//! Linux as the guest: the files that `cargo xtask assets` made, and what is found on a disk afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::binary::workspace;

/// The kernel.
pub const KERNEL: &str = "vmlinuz";
/// The initramfs.
pub const INITRD: &str = "initramfs.cpio";
/// A root with busybox alone.
pub const ROOT: &str = "root.ext4";
/// A root with redis, sqlite3 and python3 too.
pub const PROGRAMS: &str = "programs.ext4";
/// Memory of the guest.
pub(crate) const MEMORY: &str = "256 MiB";

/// Where such a file is.
pub fn asset(name: &str) -> PathBuf {
    workspace().join("target/assets").join(name)
}

/// Whether these files are there, for a test, which does not run without; that is said, and on a CI machine it is an error.
pub fn can_run(files: &[&str]) -> bool {
    let missing = files.iter().find(|name| !asset(name).is_file());
    let Some(missing) = missing else { return true };
    let line = format!("{} is missing: `cargo xtask assets programs` makes it", asset(missing).display());
    assert!(std::env::var_os("CI").is_none(), "{line}");
    println!("not run: {line}");
    false
}

/// Copies an image, holes and all.
pub(crate) fn copy_asset(name: &str, to: &Path) {
    let status =
        Command::new("cp").arg("--sparse=always").arg(asset(name)).arg(to).stdin(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{name} cannot be copied to {}", to.display());
}

/// Checks the file system of an image that no guest uses any more: it was unmounted, and nothing in it is wrong.
pub fn assert_clean_ext4(image: &Path) {
    let state = e2fsprogs("dumpe2fs", &["-h"], image);
    let clean = state.lines().any(|line| line.starts_with("Filesystem state:") && line.ends_with(" clean"));
    assert!(clean, "{} was not unmounted:\n{state}", image.display());
    assert!(!state.contains("needs_recovery"), "{} was not unmounted:\n{state}", image.display());
    // It ends with 0 where nothing had to be corrected; `-n` corrects nothing.
    e2fsprogs("e2fsck", &["-f", "-n"], image);
}

/// The SHA-256 sum of a file in an image, as sha256sum writes it; read past the guest, by debugfs.
pub fn sha256_in(image: &Path, file: &str) -> String {
    let done = command("debugfs").args(["-R", &format!("cat {file}")]).arg(image).output();
    let done = done.unwrap_or_else(|error| panic!("debugfs (package e2fsprogs): {error}"));
    assert!(done.status.success() && !done.stdout.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    sha256(&done.stdout)
}

/// Copies a folder of an image's file system to `into`, by debugfs: nothing is mounted.
pub fn copy_out(image: &Path, folder: &str, into: &Path) {
    let done =
        command("debugfs").arg("-R").arg(format!("rdump {folder} {}", into.display())).arg(image).output();
    let done = done.unwrap_or_else(|error| panic!("debugfs (package e2fsprogs): {error}"));
    // It complains, and goes on, where only root may give a file its owner.
    let there = into.join(folder.trim_start_matches('/')).is_dir();
    assert!(done.status.success() && there, "{}", String::from_utf8_lossy(&done.stderr));
}

/// The SHA-256 sum of some bytes, as sha256sum writes it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn e2fsprogs(program: &str, arguments: &[&str], image: &Path) -> String {
    let done = command(program).args(arguments).arg(image).output();
    let done = done.unwrap_or_else(|error| panic!("{program} (package e2fsprogs): {error}"));
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{program} {}: {}\n{said}", image.display(), done.status);
    said
}

/// These programs are not in every user's path.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}
