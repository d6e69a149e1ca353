//! The small files in which registers are kept: read whole or not at all, replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Unavailable;
use super::remedy::remedy;

/// What the operating system refused.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) doing: &'static str,
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

impl Failed {
    pub(super) fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { doing, path, error }
    }
}

impl From<Failed> for Unavailable {
    fn from(Failed { doing, path, error }: Failed) -> Self {
        let remedy = remedy(&error);
        Self::Io { doing, path, error: format!("{error}{remedy}") }
    }
}

/// What is under a name.
#[derive(Debug)]
pub(super) enum Content {
    Missing,
    /// No file that could be read; in words.
    NoFile(&'static str),
    /// The beginning of a file: one byte more than was asked for if there is more.
    Bytes(Vec<u8>),
}

/// Reads at most `most` bytes and one. `follow`: a symbolic link leads to the file; otherwise it is none.
pub(super) fn read(path: &Path, most: u64, follow: bool) -> Result<Content, Failed> {
    // Non-blocking: a pipe of that name must not hang.
    let flags = libc::O_NONBLOCK | if follow { 0 } else { libc::O_NOFOLLOW };
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Missing),
        Err(error) if !follow && error.raw_os_error() == Some(libc::ELOOP) => {
            return Ok(Content::NoFile("it is a symbolic link"));
        }
        Err(error) => return Err(Failed::new("opening", path)(error)),
    };
    if !file.metadata().map_err(Failed::new("examining", path))?.is_file() {
        return Ok(Content::NoFile("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(Failed::new("reading", path))?;
    Ok(Content::Bytes(bytes))
}

/// Replaces a file, durably: written to one of its own, which is renamed over it. Not to be done twice at once.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let temporary = beside(path, &format!(".tmp.{}", std::process::id()));
    let failed = |doing| {
        let temporary = &temporary;
        move |error| {
            // Ours alone, and never renamed: nothing depends on it.
            let _ = fs::remove_file(temporary);
            Failed::new(doing, temporary)(error)
        }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)
        .map_err(Failed::new("making", &temporary))?;
    file.write_all(bytes).map_err(failed("writing"))?;
    file.sync_all().map_err(failed("making durable"))?;
    fs::rename(&temporary, path).map_err(failed("renaming"))?;
    sync_folder(folder(path))
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Failed> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Failed::new("making durable", path))
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path with `more` after the file's name.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}
