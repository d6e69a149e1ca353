//! The side file: the blocks that are kept apart, with the table that says which they are.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::durable;
use super::super::medium::Medium;
use super::QuarantineError;
use super::table::{PREFIX, Place, RELEASED, Table};

/// What the name of a side file has behind the disk's, before the generation. The generation is in the name so that a process
/// that was deposed in the middle of replacing or removing its own file cannot touch a later one's.
const SUFFIX: &str = ".quarantine-";
/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// An open side file. What is written to it is durable at once: the replica that goes on after this one must find it.
#[derive(Debug)]
pub(super) struct SideFile {
    file: File,
    path: PathBuf,
    pub(super) table: Table,
}

/// What is beside a disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Side files, by generation.
    pub(super) files: Vec<(u64, PathBuf)>,
    /// Files that were never finished.
    pub(super) unfinished: Vec<PathBuf>,
}

/// Looks for side files of `disk`.
pub(super) fn find(disk: &Path) -> Result<Found, QuarantineError> {
    let directory = durable::directory(disk);
    let failed = QuarantineError::io("looking for side files in", directory);
    let mut prefix = disk.file_name().unwrap_or_default().to_owned();
    prefix.push(SUFFIX);
    let mut found = Found::default();
    for entry in std::fs::read_dir(directory).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes()) else { continue };
        let Ok(rest) = std::str::from_utf8(rest) else { continue };
        match (rest.parse(), rest.strip_suffix(".tmp").map(str::parse::<u64>)) {
            (Ok(generation), _) => found.files.push((generation, entry.path())),
            (_, Some(Ok(_))) => found.unfinished.push(entry.path()),
            _ => {}
        }
    }
    found.files.sort_unstable();
    Ok(found)
}

impl SideFile {
    /// Writes the side file of `table` for `disk`, with what `content` holds now, and makes it durable.
    pub(super) fn create(disk: &Path, table: Table, content: &dyn Medium) -> Result<Self, QuarantineError> {
        let path = durable::beside(disk, &format!("{SUFFIX}{}", table.latest().generation));
        let temporary = durable::temporary(&path);
        let failed = QuarantineError::io("writing", &path);
        let result = Self::fill(&temporary, &table, content)
            // Opened before it has its name: by name it might be another's by then.
            .and_then(|()| Self::open_file(&temporary))
            .and_then(|file| durable::publish(&path).map(|()| file));
        match result {
            Ok(file) => Ok(Self { file, path, table }),
            Err(error) => {
                // Best effort: what stays is not taken for a side file.
                let _ = std::fs::remove_file(&temporary);
                Err(failed(error))
            }
        }
    }

    fn fill(temporary: &Path, table: &Table, content: &dyn Medium) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(temporary)?;
        file.set_len(table.file_len())?;
        file.write_all(&table.encode())?;
        copy(table, |buffer, offset, place| {
            content.read(buffer, offset)?;
            file.write_all_at(buffer, place)
        })?;
        file.sync_all()
    }

    fn open_file(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(path)
    }

    /// Opens a side file; `None` if the disk holds everything again and it was only left behind.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, QuarantineError> {
        let file = Self::open_file(path).map_err(QuarantineError::io("reading", path))?;
        let table = Self::table_of(&file, path)?;
        Ok(table.map(|table| Self { file, path: path.to_owned(), table }))
    }

    /// Looks at a side file without a right to change it; `None` as of [`SideFile::open`].
    pub(super) fn look(path: &Path) -> Result<Option<Table>, QuarantineError> {
        // Non-blocking: a pipe of that name must not hang.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        Self::table_of(&file.map_err(QuarantineError::io("reading", path))?, path)
    }

    fn table_of(file: &File, path: &Path) -> Result<Option<Table>, QuarantineError> {
        let failed = QuarantineError::io("reading", path);
        let damaged = |reason: String| QuarantineError::Damaged { path: path.to_owned(), reason };
        let len = file.metadata().map_err(&failed)?.len();
        let mut head = vec![0; PREFIX];
        let read = |head: &mut [u8]| {
            file.read_exact_at(head, 0).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => damaged("it is cut off".into()),
                _ => failed(error),
            })
        };
        read(&mut head)?;
        let prefix = head.first_chunk().ok_or_else(|| damaged("it is cut off".into()))?;
        let Some(size) = Table::head_len_of(prefix).map_err(|bad| damaged(bad.to_string()))? else {
            return Ok(None);
        };
        head.resize(size, 0);
        read(&mut head)?;
        let table = Table::decode(&head).map_err(|bad| damaged(bad.to_string()))?;
        if len != table.file_len() {
            return Err(damaged(format!("it has {len} bytes, and should have {}", table.file_len())));
        }
        Ok(Some(table))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self, buffer: &mut [u8], place: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, place)
    }

    pub(super) fn write(&self, data: &[u8], place: u64) -> io::Result<()> {
        self.file.write_all_at(data, place)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Puts all the blocks onto `medium`.
    pub(super) fn copy_back(&self, medium: &dyn Medium) -> io::Result<()> {
        copy(&self.table, |buffer, offset, place| {
            self.read(buffer, place)?;
            medium.write(buffer, offset)
        })
    }

    /// Says in the file, durably, that the disk holds everything again. On an error it may say either.
    pub(super) fn mark_released(&self) -> io::Result<()> {
        self.file.write_all_at(&RELEASED, 0)?;
        self.file.sync_all()
    }

    /// Takes [`SideFile::mark_released`] back.
    pub(super) fn mark_valid(&self) -> io::Result<()> {
        self.file.write_all_at(&self.table.encode()[..RELEASED.len()], 0)?;
        self.file.sync_all()
    }
}

/// Calls `step` with a buffer, the offset on the disk and the place in the side file for every piece of what is kept apart.
fn copy(table: &Table, mut step: impl FnMut(&mut [u8], u64, u64) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK.min(table.bytes() as usize)];
    for run in table.runs() {
        let mut offset = run.start;
        while offset < run.end {
            let len = buffer.len().min((run.end - offset) as usize);
            for part in table.parts(offset, len) {
                // A run of the table is all in the side file.
                if let Place::Side(place) = part.place {
                    step(&mut buffer[..part.within.len()], offset + part.within.start as u64, place)?;
                }
            }
            offset += len as u64;
        }
    }
    Ok(())
}
