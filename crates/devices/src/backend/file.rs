//! A disk's file: a regular file or a block device of the host, read and written with pread, pwrite and fdatasync.
//!
//! Never io_uring on a shared disk: a killed process's requests there may still land after it is gone (the fence of a shared
//! disk relies on that they do not).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use super::medium::Medium;

/// How a disk is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOptions {
    /// File or block device.
    pub path: PathBuf,
    /// Bytes that it has at least, and exactly if it is created; `None` takes what is there.
    pub size: Option<u64>,
    /// Creates the file, sparse, if it is missing. Needs `size`.
    pub create: bool,
    /// Opened for reading only.
    pub read_only: bool,
    /// How it is locked against other users.
    pub lock: Lock,
}

/// The lock held on a disk while it is open (an open-file-description lock: it goes with the last handle, even of a
/// killed process).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Members of a pair hold it together.
    Shared,
    /// Nobody else may have it open.
    Exclusive,
}

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The directory of the path is missing.
    #[error("{}: its directory does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// There is no such file and it is not to be created.
    #[error("{}: does not exist, and no size is given to create it with", .0.display())]
    Missing(PathBuf),
    /// No right to write, or the medium is read-only.
    #[error("{}: cannot be written; give it write permission or make the disk read-only", .0.display())]
    NotWritable(PathBuf),
    /// Neither a regular file nor a block device.
    #[error("{}: is neither a file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// The file has fewer bytes than the config says.
    #[error("{}: has {found} bytes, the config asks for {wanted}", .path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// The size is not a multiple of a sector.
    #[error("{}: {size} bytes is not a whole number of 512-byte sectors", .path.display())]
    NotSectors {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Somebody else has it open in a way that excludes this use.
    #[error("{}: is in use by another machine", .0.display())]
    InUse(PathBuf),
    /// Any other failure of the host.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host said.
        error: std::io::Error,
    },
}

/// An open file.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    path: PathBuf,
    len: u64,
    read_only: bool,
}

impl FileMedium {
    /// Opens, and creates if asked to, a disk's file, and locks it.
    ///
    /// # Errors
    /// See [`DiskError`]; each says what to do or where to look.
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        let path = options.path.clone();
        let io = |error| DiskError::Io { path: path.clone(), error };
        let file = open(options)?;
        set_lock(&file, &path, options.lock, options.read_only)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return Err(DiskError::NotADisk(path));
        }
        // The metadata of a block device says 0 bytes; its end does not.
        let mut found = (&file).seek(SeekFrom::End(0)).map_err(io)?;
        if let Some(wanted) = options.size {
            // Only a file that was just created, here or by the other member a moment ago, is empty.
            if found == 0 && options.create && !options.read_only && metadata.is_file() {
                file.set_len(wanted).map_err(io)?;
                found = wanted;
            }
            if found < wanted {
                return Err(DiskError::TooShort { path, found, wanted });
            }
        }
        let len = options.size.unwrap_or(found);
        if !len.is_multiple_of(512) {
            return Err(DiskError::NotSectors { path, size: len });
        }
        Ok(Self { file, path, len, read_only: options.read_only })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the lock that is held: a cold start takes it exclusively, then lets the other member in.
    ///
    /// # Errors
    /// Somebody else's lock excludes it; the one held so far stays.
    pub fn set_lock(&self, lock: Lock) -> Result<(), DiskError> {
        set_lock(&self.file, &self.path, lock, self.read_only)
    }
}

impl Medium for FileMedium {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        if self.read_only {
            return Err(std::io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        if self.read_only {
            return Err(std::io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mode = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: the descriptor is open during the call; the rest are integers.
        let done =
            unsafe { libc::fallocate(self.file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, offset, len) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    fn flush(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

fn open(options: &DiskOptions) -> Result<File, DiskError> {
    use std::io::ErrorKind;
    let path = options.path.clone();
    let create = options.create && options.size.is_some() && !options.read_only;
    // No truncation: the other member may have created and filled it.
    let result =
        OpenOptions::new().read(true).write(!options.read_only).create(create).truncate(false).open(&path);
    result.map_err(|error| match error.kind() {
        ErrorKind::NotFound
            if path.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.exists()) =>
        {
            DiskError::NoDirectory(path)
        }
        ErrorKind::NotFound => DiskError::Missing(path),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if !options.read_only => {
            DiskError::NotWritable(path)
        }
        ErrorKind::IsADirectory => DiskError::NotADisk(path),
        _ => DiskError::Io { path, error },
    })
}

fn set_lock(file: &File, path: &Path, kind: Lock, read_only: bool) -> Result<(), DiskError> {
    // A write lock needs a handle that can write; a read-only disk is shared by nature.
    let exclusive = kind == Lock::Exclusive && !read_only;
    // SAFETY: flock is plain integers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open during the call and `lock` is a valid flock that outlives it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => DiskError::InUse(path.to_owned()),
        _ => DiskError::Io { path: path.to_owned(), error },
    })
}
