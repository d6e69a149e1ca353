//! A small file system that can be filled up and mounted read-only, for what is to fail there.
//!
//! It is in the mount namespace of the one process that was started on it, and of that one's children: nobody else sees it, and
//! it ends with them, however that happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its place in the folder in which the process was started.
pub const STORE: &str = "store";
const FILLER: &str = "filler";

/// What runs a program with such a file system: the program and its arguments follow.
pub(crate) const ON_STORE: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mkdir -p store && mount -t tmpfs -o size=64k none store && exec \"$0\" \"$@\"",
];

/// What can be done to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Nothing more fits.
    Full,
    /// Nothing can be written.
    ReadOnly,
}

/// The file system of a process.
#[derive(Clone, Debug)]
pub struct Store {
    pid: u32,
    folder: PathBuf,
}

impl Store {
    /// Whether there can be one. If not, it is said why: the test is not run.
    pub fn possible() -> bool {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [program, arguments @ ..] = ON_STORE;
        let mut command = Command::new(program);
        command.args(arguments).args(["nsenter", "--version"]).current_dir(folder.path());
        let tried = command.stdin(Stdio::null()).output();
        let why = match tried {
            Ok(tried) if tried.status.success() => return true,
            Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        println!(
            "not run: a small file system of its own takes root, `unshare` and `nsenter` (util-linux): {why}"
        );
        false
    }

    /// That of a process that was started on one, in `folder`.
    pub(crate) fn of(pid: u32, folder: &Path) -> Self {
        Self { pid, folder: folder.join(STORE) }
    }

    /// Makes it fail.
    pub fn fail(&self, fault: StoreFault) {
        match fault {
            StoreFault::Full => {
                let error = fs::write(self.filler(), vec![1; 1 << 20]).expect_err("it is small");
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            }
            StoreFault::ReadOnly => self.remount("ro"),
        }
    }

    /// Mends it.
    pub fn mend(&self, fault: StoreFault) {
        match fault {
            StoreFault::Full => fs::remove_file(self.filler()).expect("it was filled"),
            StoreFault::ReadOnly => self.remount("rw"),
        }
    }

    /// As this process sees it.
    fn filler(&self) -> PathBuf {
        let folder = self.folder.strip_prefix("/").expect("the folder of a test is absolute");
        Path::new("/proc").join(self.pid.to_string()).join("root").join(folder).join(FILLER)
    }

    fn remount(&self, how: &str) {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--target",
            &self.pid.to_string(),
            "mount",
            "-o",
            &format!("remount,{how}"),
        ]);
        let run = command.arg(&self.folder).stdin(Stdio::null()).output().expect("nsenter runs");
        assert!(run.status.success(), "remount,{how}: {}", String::from_utf8_lossy(&run.stderr));
    }
}
