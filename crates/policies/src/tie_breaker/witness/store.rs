//! The witness's durable store: the registers of many pairs in one small file.
//!
//! A change is written whole to a file of its own, made durable, and renamed over the old one before anybody hears of it; the
//! registers in memory change last. Whatever fails on the way leaves them as they were: nothing was won, and the asker is told
//! that it is not known. Should the rename have been the last thing that worked, the next start finds a win that nobody was told
//! of, and its asker, asking again, gets it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::state::{self, MAX_LEN, MAX_PAIRS, Registers};
use crate::tie_breaker::durable::{self, Content, Failed, beside, folder};
use crate::tie_breaker::remedy::remedy;
use crate::tie_breaker::{RegisterState, Who};

/// Why the witness's state cannot be used, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{doing} {path}: {error}{}", remedy(error))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's words.
        error: io::Error,
    },
    /// Two witnesses with one state would both give away the same generation.
    #[error(
        "{state} is in use by another witness (which holds {lock}): stop that one, or give this one a file of its own"
    )]
    InUse {
        /// The state file.
        state: PathBuf,
        /// The file whose lock says so.
        lock: PathBuf,
    },
    /// Nothing is served from a damaged state.
    #[error(
        "{path} is not an intact state of a witness ({reason}); nothing is served from it. If it cannot be brought back as it \
         was last, stop every pair that uses this witness, move the file away and start anew"
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There are pairs enough.
    #[error("this witness serves {MAX_PAIRS} pairs already: give the pair another one")]
    Full,
}

/// The registers of all pairs, in memory and in the state file. This process is the only one that has the file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    registers: Mutex<Registers>,
    /// Held as long as this lives.
    _lock: File,
}

impl Store {
    /// Takes over the state file, which is made where it is missing.
    ///
    /// # Errors
    /// When another witness has it, it is damaged, or the file system says no.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = real(path)?;
        let lock = lock(&path)?;
        let registers = read(&path)?;
        remove_leftovers(&path);
        let found = registers.is_some();
        let store = Self { path, registers: Mutex::new(registers.unwrap_or_default()), _lock: lock };
        if !found {
            // A place where nothing can be written is told now and not at the first failover.
            store.write(&Registers::new())?;
        }
        Ok(store)
    }

    /// The state file, as it was found: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many pairs have a register here.
    pub fn pairs(&self) -> usize {
        self.registers().len()
    }

    /// What the register of a pair holds.
    pub fn read(&self, pair: u128) -> RegisterState {
        state::of(&self.registers(), pair)
    }

    /// Gives generation `from + 1` to `who` if the register stands at `from`, and says what it holds then, durably.
    ///
    /// # Errors
    /// When it cannot be made durable; then it is unchanged.
    pub fn advance(&self, pair: u128, from: u64, who: Who) -> Result<RegisterState, StoreError> {
        let mut registers = self.registers();
        let now = state::of(&registers, pair);
        let Some(next) = from.checked_add(1).filter(|_| now.generation == from) else { return Ok(now) };
        if now.generation == 0 && registers.len() >= MAX_PAIRS {
            return Err(StoreError::Full);
        }
        let mut changed = registers.clone();
        changed.insert(pair, (next, who));
        self.write(&changed)?;
        *registers = changed;
        Ok(state::of(&registers, pair))
    }

    /// Nothing is changed in place under this lock, so a thread that panicked with it left a whole state.
    fn registers(&self) -> std::sync::MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, registers: &Registers) -> Result<(), StoreError> {
        Ok(durable::replace(&self.path, state::render(registers).as_bytes())?)
    }
}

/// Where the state file really is: two names of one file must have one lock, and a rename must not replace a link.
fn real(path: &Path) -> Result<PathBuf, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => path.canonicalize().map_err(io_failed("finding", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = folder(path);
            let name = path.file_name().ok_or_else(|| {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "this is not the name of a file");
                io_failed("finding", path)(error)
            })?;
            Ok(folder.canonicalize().map_err(io_failed("finding the folder", folder))?.join(name))
        }
        Err(error) => Err(io_failed("finding", path)(error)),
    }
}

/// The lock is on a file of its own: the state file itself is another one after every change.
fn lock(state: &Path) -> Result<File, StoreError> {
    let path = beside(state, ".lock");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // For reading also where it was made just now: an open file that can be written keeps its file system from being mounted
    // read-only.
    let open = || OpenOptions::new().read(true).custom_flags(flags).open(&path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags)
            .open(&path)
            .and_then(|_| open()),
        other => other,
    };
    let file = opened.map_err(io_failed("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { state: state.to_owned(), lock: path }),
        Err(TryLockError::Error(error)) => Err(io_failed("locking", &path)(error)),
    }
}

/// `None` where there is no file yet.
fn read(path: &Path) -> Result<Option<Registers>, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged { path: path.to_owned(), reason: reason.into() };
    let bytes = match durable::read(path, MAX_LEN, true)? {
        Content::Missing => return Ok(None),
        Content::NoFile(reason) => return Err(damaged(reason)),
        Content::Bytes(bytes) => bytes,
    };
    if bytes.len() as u64 > MAX_LEN {
        return Err(damaged("it is too long"));
    }
    let registers = state::parse(&bytes).map_err(|reason| damaged(&reason))?;
    if registers.len() > MAX_PAIRS { Err(damaged("it has too many pairs")) } else { Ok(Some(registers)) }
}

/// What earlier processes were writing when they were killed. The lock is held: nobody is writing now.
fn remove_leftovers(state: &Path) {
    let prefix = beside(state, ".tmp.");
    let Some(prefix) = prefix.file_name().and_then(|name| name.to_str()) else { return };
    for entry in fs::read_dir(folder(state)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if process
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        {
            // Nothing depends on it: it only takes room.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn io_failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |error| Failed::new(doing, path)(error).into()
}

impl From<Failed> for StoreError {
    fn from(Failed { doing, path, error }: Failed) -> Self {
        Self::Io { doing, path, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReplicaId;

    #[test]
    fn there_is_an_end_to_the_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let who = Who { replica: ReplicaId::A, incarnation: 1, config: 0 };
        let registers: Registers = (0..MAX_PAIRS as u128).map(|pair| (pair, (1, who))).collect();
        fs::write(&path, state::render(&registers)).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.pairs(), MAX_PAIRS);
        let error = store.advance(u128::MAX, 0, who).unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error}");
        assert_eq!(store.read(u128::MAX).generation, 0);
        assert_eq!(store.advance(7, 1, who).unwrap().generation, 2, "the others go on");
        drop(store);
        assert_eq!(Store::open(&path).unwrap().read(7).generation, 2);

        let mut registers = registers;
        registers.insert(u128::MAX, (1, who));
        fs::write(&path, state::render(&registers)).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("too many pairs"), "{error}");
    }
}
