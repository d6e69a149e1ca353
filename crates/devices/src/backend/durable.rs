//! Small files that are either wholly there or not at all, whenever the host fails.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The directory that a file is in.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `path` with `suffix` added to the file's name: a file that belongs to another is beside it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}

/// Makes what was created, renamed or removed in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Where the new content of `path` is written before it takes the name.
pub(super) fn temporary(path: &Path) -> PathBuf {
    beside(path, ".tmp")
}

/// Gives the file that was written at [`temporary`], and is durable, the name `path`, durably.
pub(super) fn publish(path: &Path) -> io::Result<()> {
    std::fs::rename(temporary(path), path)?;
    sync_directory(path)
}
