//! A disk's file: a regular file or a block device of the host, read and written with pread, pwrite and fdatasync.
//!
//! Where another host may go on with the disk, a write is complete only when the medium that both reach has it: such a disk is
//! opened past the page cache ([`DiskOptions::direct`]).
//!
//! Never io_uring on a shared disk: a killed process's requests there may still land after it is gone (the fence of a shared
//! disk relies on that they do not).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::direct::{Direct, Unfit};
use super::lock::{self, Taken};
use super::medium::Medium;
use super::zero;

pub use super::lock::{Holder, Lock, User, user};

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
    /// A write that has ended is on the medium, not in this host's page cache: for disks that another host goes on with.
    pub direct: bool,
    /// How it is locked against other users.
    pub lock: Lock,
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
    /// A member of another pair has it open, or of this one with another configuration: a member knows no difference.
    #[error("{}: is in use by another pair, or by a replica of this one that has another configuration", .0.display())]
    OtherPair(PathBuf),
    /// Its file system has no direct I/O.
    #[error(
        "{}: cannot be used past the page cache (O_DIRECT), as a disk must be that two hosts share; keep it on a file system \
         that can, such as NFS or ext4, or on a block device",
        .0.display()
    )]
    NoDirectIo(PathBuf),
    /// The medium takes whole blocks only, and they are larger than the guest's sectors.
    #[error(
        "{}: takes direct I/O in blocks of {granularity} bytes only, and the guest's are of 512; keep the disk on a device \
         with 512-byte sectors, real or emulated",
        .path.display()
    )]
    CoarseBlocks {
        /// The file.
        path: PathBuf,
        /// Bytes of a block.
        granularity: u32,
    },
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
    block_device: bool,
    new: bool,
    access: Access,
    lock: Lock,
}

/// How bytes get to the file.
#[derive(Debug, Clone, Copy)]
enum Access {
    /// Through the host's page cache.
    Cached,
    /// Past it; and if `sync`, past the caches of the file's server too.
    Direct { how: Direct, sync: bool },
}

/// File systems whose medium is behind a server: a direct write may end in the server's memory unless it is to be durable.
/// NFS, the three of SMB, FUSE, 9p, Ceph.
const BEHIND_A_SERVER: [u32; 7] =
    [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400];

impl FileMedium {
    /// Opens, and creates if asked to, a disk's file, and locks it.
    ///
    /// # Errors
    /// See [`DiskError`]; each says what to do or where to look.
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        let path = options.path.clone();
        let io = |error| DiskError::Io { path: path.clone(), error };
        let mut file = open(options, false)?;
        let sync = options.direct && is_behind_a_server(&file).map_err(io)?;
        if sync {
            file = open(options, true)?;
        }
        match lock::acquire(&file, options.lock, options.read_only).map_err(io)? {
            Taken::Yes => {}
            Taken::InUse => return Err(DiskError::InUse(path)),
            Taken::OtherPair => return Err(DiskError::OtherPair(path)),
        }
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return Err(DiskError::NotADisk(path));
        }
        // The metadata of a block device says 0 bytes; its end does not.
        let mut found = (&file).seek(SeekFrom::End(0)).map_err(io)?;
        let mut new = false;
        if let Some(wanted) = options.size {
            // Only a file that was just created, here or by the other member a moment ago, is empty.
            if found == 0 && options.create && !options.read_only && metadata.is_file() {
                file.set_len(wanted).map_err(io)?;
                found = wanted;
                new = true;
            }
            if found < wanted {
                return Err(DiskError::TooShort { path, found, wanted });
            }
        }
        let len = options.size.unwrap_or(found);
        if !len.is_multiple_of(512) {
            return Err(DiskError::NotSectors { path, size: len });
        }
        let access = if options.direct {
            let how = Direct::probe(&file, len).map_err(|unfit| match unfit {
                Unfit::Unknown => DiskError::NoDirectIo(path.clone()),
                Unfit::Coarse(granularity) => DiskError::CoarseBlocks { path: path.clone(), granularity },
                Unfit::Io(error) => io(error),
            })?;
            Access::Direct { how, sync }
        } else {
            Access::Cached
        };
        let (read_only, lock, block_device) = (options.read_only, options.lock, !metadata.is_file());
        Ok(Self { file, path, len, read_only, block_device, new, access, lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if it is a block device, beside which no other file can be.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// True if the file was empty, or not there, before it was opened here.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// True if a process has the disk open, as a member of the pair, that is neither this one nor among the incarnations
    /// `known`: it may still write.
    ///
    /// # Errors
    /// The host cannot tell.
    pub fn strangers(&self, known: &[u64]) -> std::io::Result<bool> {
        match self.lock {
            Lock::Alone => Ok(false),
            Lock::Member(me) => lock::strangers(&self.file, known.iter().copied().chain([me.incarnation])),
        }
    }

    fn check_writable(&self) -> std::io::Result<()> {
        if self.read_only { Err(std::io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

impl Medium for FileMedium {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self.access {
            Access::Cached => self.file.read_exact_at(buffer, offset),
            Access::Direct { how, .. } => how.read(&self.file, buffer, offset),
        }
    }

    fn write(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        self.check_writable()?;
        match self.access {
            Access::Cached => self.file.write_all_at(data, offset),
            Access::Direct { how, .. } => how.write(&self.file, data, offset),
        }
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        self.check_writable()?;
        if !zero::cheaply(&self.file, offset, len, unmap, self.block_device)? {
            return zero::in_chunks(offset, len, |data, offset| self.write(data, offset));
        }
        match self.access {
            // What holds for writes by the way the file is open does not hold for a hole in it.
            Access::Direct { sync: true, .. } => self.flush(),
            _ => Ok(()),
        }
    }

    fn is_hole(&self, offset: u64, len: u64) -> bool {
        let Ok(from) = libc::off_t::try_from(offset) else { return false };
        // SAFETY: the descriptor is open during the call; the rest are integers. It moves the file's position, which nobody
        // uses.
        let data = unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_DATA) };
        // A device has no holes, and says so or that all of it is data.
        if data < 0 {
            return std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO)
                && offset.saturating_add(len) <= self.len;
        }
        data as u64 >= offset.saturating_add(len)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

fn open(options: &DiskOptions, sync: bool) -> Result<File, DiskError> {
    use std::io::ErrorKind;
    let path = options.path.clone();
    let create = options.create && options.size.is_some() && !options.read_only;
    let direct = if options.direct { libc::O_DIRECT } else { 0 };
    let result = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .create(create)
        // The other member may have created and filled it.
        .truncate(false)
        .custom_flags(direct | if sync { libc::O_DSYNC } else { 0 })
        .open(&path);
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
        ErrorKind::InvalidInput if options.direct => DiskError::NoDirectIo(path),
        _ => DiskError::Io { path, error },
    })
}

fn is_behind_a_server(file: &File) -> std::io::Result<bool> {
    // SAFETY: statfs is plain integers, for which zero is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open during the call, and `stat` is a statfs to write to.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // The type of the field differs between platforms; the numbers have 32 bits.
    Ok(BEHIND_A_SERVER.contains(&(stat.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 10;

    fn options(dir: &tempfile::TempDir) -> DiskOptions {
        DiskOptions {
            path: dir.path().join("disk"),
            size: Some(SIZE),
            create: true,
            read_only: false,
            direct: false,
            lock: Lock::Member(Holder { pair: 1, incarnation: 1 }),
        }
    }

    /// A directory where the program was built: unlike that for temporary files it is hardly ever in memory.
    fn directory() -> tempfile::TempDir {
        let program = std::env::current_exe().unwrap();
        tempfile::tempdir_in(program.parent().unwrap()).unwrap()
    }

    #[test]
    fn opening_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let base = options(&dir);
        let missing = DiskOptions { create: false, ..base.clone() };
        assert!(matches!(FileMedium::open(&missing), Err(DiskError::Missing(_))));
        let nowhere = DiskOptions { path: dir.path().join("no/disk"), ..base.clone() };
        assert!(matches!(FileMedium::open(&nowhere), Err(DiskError::NoDirectory(_))));
        let directory = DiskOptions { path: dir.path().to_owned(), ..base.clone() };
        assert!(matches!(FileMedium::open(&directory), Err(DiskError::NotADisk(_))));

        let _first = FileMedium::open(&base).unwrap();
        let longer = DiskOptions { size: Some(1 << 20), ..base.clone() };
        let error = FileMedium::open(&longer).unwrap_err();
        assert!(matches!(error, DiskError::TooShort { found: SIZE, wanted: 1048576, .. }), "{error}");
        let odd = DiskOptions { size: Some(1000), ..base.clone() };
        assert!(matches!(FileMedium::open(&odd), Err(DiskError::NotSectors { size: 1000, .. })));
    }

    #[test]
    fn a_disk_is_for_one_pair_and_a_member_sees_who_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let base = options(&dir);
        let member = |pair, incarnation| {
            let lock = Lock::Member(Holder { pair, incarnation });
            FileMedium::open(&DiskOptions { lock, ..base.clone() })
        };
        let first = member(7, 1).unwrap();
        assert!(!first.strangers(&[]).unwrap());
        let second = member(7, 2).unwrap();
        assert!(first.strangers(&[]).unwrap() && !first.strangers(&[2]).unwrap());
        assert!(second.strangers(&[]).unwrap() && !second.strangers(&[1]).unwrap());
        assert!(matches!(member(8, 3), Err(DiskError::OtherPair(_))));
        let alone = DiskOptions { lock: Lock::Alone, ..base.clone() };
        let error = FileMedium::open(&alone).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: is in use by another machine", base.path.display()));
        drop((first, second));
        let alone = FileMedium::open(&alone).unwrap();
        assert!(!alone.strangers(&[]).unwrap());
        assert!(matches!(member(7, 1), Err(DiskError::InUse(_))));
    }

    fn check_zero(medium: &FileMedium) {
        let mut model = vec![7; SIZE as usize];
        medium.write(&model, 0).unwrap();
        for (offset, len, unmap) in [(0, 512, true), (1024, 20 << 10, true), (32 << 10, 9 << 10, false)] {
            medium.zero(offset, len, unmap).unwrap();
            model[offset as usize..(offset + len) as usize].fill(0);
        }
        let mut found = vec![1; SIZE as usize];
        medium.read(&mut found, 0).unwrap();
        assert!(found == model);
        assert_eq!(std::fs::metadata(medium.path()).unwrap().len(), SIZE);
    }

    #[test]
    fn zeroed_blocks_read_as_zeroes_whatever_the_file_system_can_do() {
        // The second is in memory, where a range can be a hole but cannot be zeroed in place.
        for dir in [Ok(directory()), tempfile::tempdir_in("/dev/shm")] {
            match dir {
                Ok(dir) => check_zero(&FileMedium::open(&options(&dir)).unwrap()),
                Err(error) => println!("skipped: no file system in memory here: {error}"),
            }
        }
    }

    #[test]
    fn holes_are_where_nothing_was_written() {
        let dir = directory();
        let medium = FileMedium::open(&options(&dir)).unwrap();
        assert!(medium.is_new());
        if !medium.is_hole(0, SIZE) {
            return println!("skipped: a file system without holes");
        }
        medium.write(&[1; 512], 20 << 10).unwrap();
        assert!(medium.is_hole(0, 8 << 10) && medium.is_hole(40 << 10, 24 << 10));
        assert!(!medium.is_hole(0, SIZE) && !medium.is_hole(20 << 10, 512));
        assert!(!medium.is_hole(40 << 10, SIZE) && !medium.is_hole(u64::MAX, 1));
        drop(medium);
        assert!(!FileMedium::open(&options(&dir)).unwrap().is_new());
    }

    #[test]
    fn a_read_only_disk_is_read_only() {
        let dir = tempfile::tempdir().unwrap();
        drop(FileMedium::open(&options(&dir)).unwrap());
        let medium = FileMedium::open(&DiskOptions { read_only: true, ..options(&dir) }).unwrap();
        medium.read(&mut [0; 512], 0).unwrap();
        assert!(medium.write(&[0; 512], 0).is_err());
        assert!(medium.zero(0, 512, true).is_err());
    }

    #[test]
    fn direct_io_takes_buffers_as_they_are() {
        let dir = directory();
        let medium = match FileMedium::open(&DiskOptions { direct: true, ..options(&dir) }) {
            Ok(medium) => medium,
            Err(error @ (DiskError::NoDirectIo(_) | DiskError::CoarseBlocks { .. })) => {
                return println!("skipped: {error}");
            }
            Err(error) => panic!("{error}"),
        };
        check_zero(&medium);
        let data: Vec<u8> = (0..4097).map(|index| (index % 251) as u8).collect();
        let mut buffer = vec![0; 4097];
        for from in [0, 1] {
            let sector = 512 * (from as u64 + 3);
            medium.write(&data[from..from + 4096], sector).unwrap();
            medium.read(&mut buffer[1 - from..4097 - from], sector).unwrap();
            assert!(buffer[1 - from..4097 - from] == data[from..from + 4096]);
        }
        medium.flush().unwrap();
        // The same bytes are there for one who comes through the page cache.
        let cached = std::fs::read(medium.path()).unwrap();
        assert!(cached[2048..2048 + 4096] == data[1..]);
    }

    #[test]
    fn what_cannot_be_used_directly_says_so() {
        // A kernel file that has no direct I/O.
        let options = DiskOptions {
            path: "/proc/version".into(),
            size: None,
            create: false,
            read_only: true,
            direct: true,
            lock: Lock::Alone,
        };
        let error = FileMedium::open(&options).unwrap_err();
        assert!(matches!(error, DiskError::NoDirectIo(_)), "{error}");
    }
}
