//! Who has a disk open: open-file-description locks on bytes far beyond the end of the disk's file.
//!
//! Such a lock goes with the last handle of the file, even of a killed process, and network file systems carry it to other
//! hosts. The bytes that are locked say who holds them: one stands for the pair, one for the process. So members of one pair
//! get along, another pair is refused, and a member can ask whether a process that it does not know still has the disk open:
//! one that does may still write.
//!
//! On a block device the locks are this host's own.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Bytes in each of the two ranges: names of 64 bits are cut to this.
const SPAN: u64 = 1 << 60;
/// Where the byte of a pair is.
const PAIRS: u64 = 2 * SPAN;
/// Where the byte of a process is.
const INCARNATIONS: u64 = 4 * SPAN;
/// The last byte that can be locked.
const END: u64 = i64::MAX as u64;
const _: () = assert!(PAIRS + SPAN <= INCARNATIONS && INCARNATIONS + SPAN <= END);

/// A process of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The pair and its configuration.
    pub pair: u64,
    /// The process: random for each.
    pub incarnation: u64,
}

/// The lock that is held on a disk while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The members of a pair hold it together.
    Member(Holder),
    /// Nobody else may have it open.
    Alone,
}

/// What came of the wish for a lock. What was taken before it was refused stays with the handle: it is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is held.
    Yes,
    /// Somebody else's excludes it.
    InUse,
    /// Only that of a member of another pair does.
    OtherPair,
}

/// Takes a lock.
pub(super) fn acquire(file: &File, lock: Lock, read_only: bool) -> io::Result<Taken> {
    let free = |free: bool| if free { Taken::Yes } else { Taken::InUse };
    match lock {
        Lock::Alone if !read_only => set(file, libc::F_WRLCK, &(0..END)).map(free),
        // A handle that cannot write takes no write lock. Of two that come at the same time both may be refused, never neither.
        Lock::Alone => Ok(free(set(file, libc::F_RDLCK, &(0..END))? && others(file, &(0..END))?.is_none())),
        Lock::Member(holder) => {
            let pair = PAIRS + holder.pair % SPAN;
            let incarnation = INCARNATIONS + holder.incarnation % SPAN;
            // The locks come before the look around: of two pairs that come at the same time, at least one sees the other.
            if !(set(file, libc::F_RDLCK, &(pair..pair + 1))?
                && set(file, libc::F_RDLCK, &(incarnation..incarnation + 1))?)
            {
                return Ok(Taken::InUse);
            }
            for range in [PAIRS..pair, pair + 1..PAIRS + SPAN] {
                match others(file, &range)? {
                    // Whoever is alone locks everything, from the first byte on.
                    Some(start) if start < PAIRS => return Ok(Taken::InUse),
                    Some(_) => return Ok(Taken::OtherPair),
                    None => {}
                }
            }
            Ok(Taken::Yes)
        }
    }
}

/// True if a process holds its lock on the file that is not among `known`. The handle's own locks do not count.
pub(super) fn strangers(file: &File, known: impl Iterator<Item = u64>) -> io::Result<bool> {
    let mut known: Vec<u64> = known.map(|incarnation| INCARNATIONS + incarnation % SPAN).collect();
    known.sort_unstable();
    let mut from = INCARNATIONS;
    for byte in known.into_iter().chain([INCARNATIONS + SPAN]) {
        if others(file, &(from..byte))?.is_some() {
            return Ok(true);
        }
        from = byte + 1;
    }
    Ok(false)
}

/// Who has a disk open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Members of the pair that was asked for, and nobody else.
    ThisPair,
    /// A member of another pair.
    OtherPair,
    /// Somebody who wants it alone.
    Alone,
}

/// Who has the disk at `path` open, as far as the locks on it tell. `pair` is as in [`Holder::pair`]. No lock is taken; `None` if
/// nobody has, or if it is no disk.
///
/// # Errors
/// It cannot be opened for reading, or the host cannot tell.
pub fn user(path: &Path, pair: u64) -> io::Result<Option<User>> {
    // Non-blocking: a pipe of that name must not hang.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(None);
    }
    let pair = PAIRS + pair % SPAN;
    for range in [PAIRS..pair, pair + 1..PAIRS + SPAN] {
        match others(&file, &range)? {
            // Whoever is alone locks everything, from the first byte on.
            Some(start) if start < PAIRS => return Ok(Some(User::Alone)),
            Some(_) => return Ok(Some(User::OtherPair)),
            None => {}
        }
    }
    Ok(others(&file, &(pair..pair + 1))?.map(|_| User::ThisPair))
}

fn flock(kind: libc::c_int, range: &Range<u64>) -> libc::flock {
    // SAFETY: flock is plain integers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // All are below i64::MAX.
    lock.l_start = range.start as libc::off_t;
    // Zero means all that follows, also what `END` leaves out.
    lock.l_len = if range.end == END { 0 } else { (range.end - range.start) as libc::off_t };
    lock
}

fn set(file: &File, kind: libc::c_int, range: &Range<u64>) -> io::Result<bool> {
    let lock = flock(kind, range);
    // SAFETY: the descriptor is open during the call and `lock` is a valid flock that outlives it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => Ok(false),
        _ => Err(error),
    }
}

/// Where a lock begins that another handle holds in `range`.
fn others(file: &File, range: &Range<u64>) -> io::Result<Option<u64>> {
    if range.is_empty() {
        return Ok(None);
    }
    let mut lock = flock(libc::F_WRLCK, range);
    // SAFETY: the descriptor is open during the call and `lock` is a valid flock that outlives it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_start as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;

    struct Place {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            File::create(&path).unwrap();
            Self { _dir: dir, path }
        }

        /// A handle with the lock, if nobody is in its way.
        fn take(&self, lock: Lock, read_only: bool) -> Option<File> {
            let file = open(&self.path, read_only);
            (acquire(&file, lock, read_only).unwrap() == Taken::Yes).then_some(file)
        }

        fn member(&self, pair: u64, incarnation: u64) -> Option<File> {
            self.take(Lock::Member(Holder { pair, incarnation }), false)
        }
    }

    fn open(path: &Path, read_only: bool) -> File {
        OpenOptions::new().read(true).write(!read_only).open(path).unwrap()
    }

    #[test]
    fn members_of_one_pair_get_along_and_nobody_else_does() {
        for read_only in [false, true] {
            let place = Place::new();
            let member =
                |pair, incarnation| place.take(Lock::Member(Holder { pair, incarnation }), read_only);
            let first = member(7, 1).unwrap();
            let second = member(7, 2).unwrap();
            for other in [0, 6, 8, SPAN - 1, u64::MAX] {
                assert!(member(other, 3).is_none(), "pair {other}");
            }
            assert!(place.take(Lock::Alone, read_only).is_none());
            assert!(place.take(Lock::Alone, !read_only).is_none());
            drop(first);
            assert!(place.take(Lock::Alone, read_only).is_none());
            drop(second);
            let alone = place.take(Lock::Alone, read_only).unwrap();
            assert!(member(7, 1).is_none());
            assert!(place.take(Lock::Alone, read_only).is_none());
            drop(alone);
            assert!(member(8, 1).is_some());
        }
    }

    #[test]
    fn another_pair_is_told_from_one_who_is_alone() {
        for read_only in [false, true] {
            let place = Place::new();
            let member = |pair| {
                let lock = Lock::Member(Holder { pair, incarnation: 1 });
                acquire(&open(&place.path, true), lock, true).unwrap()
            };
            let first = place.member(7, 1).unwrap();
            assert_eq!([member(6), member(7), member(8)], [Taken::OtherPair, Taken::Yes, Taken::OtherPair]);
            drop(first);
            let _alone = place.take(Lock::Alone, read_only).unwrap();
            assert_eq!(member(7), Taken::InUse);
        }
    }

    #[test]
    fn who_has_it_open_is_seen_without_a_lock() {
        let place = Place::new();
        let seen = |pair| user(&place.path, pair).unwrap();
        assert_eq!(seen(7), None);
        for pair in [0, 7, SPAN - 1] {
            let _member = place.member(pair, 1).unwrap();
            assert_eq!(seen(pair), Some(User::ThisPair));
            assert_eq!([seen(3), seen(9)], [Some(User::OtherPair); 2]);
        }
        for read_only in [false, true] {
            let _alone = place.take(Lock::Alone, read_only).unwrap();
            assert_eq!([seen(0), seen(7), seen(SPAN - 1)], [Some(User::Alone); 3]);
        }
        assert!(place.take(Lock::Alone, false).is_some(), "looking took none");
        assert!(user(&place.path.with_file_name("missing"), 7).is_err());
        assert_eq!(user(Path::new("/dev/null"), 7).unwrap(), None);
    }

    #[test]
    fn the_first_and_the_last_pair_have_one_neighbour_only() {
        for pair in [0, SPAN - 1] {
            let place = Place::new();
            let _first = place.member(pair, u64::MAX).unwrap();
            assert!(place.member(pair, 0).is_some());
            assert!(place.member(1, 1).is_none());
        }
    }

    #[test]
    fn a_process_that_is_not_known_is_seen_until_it_is_gone() {
        let place = Place::new();
        let me = place.member(7, 100).unwrap();
        let alone = |known: &[u64]| !strangers(&me, known.iter().copied()).unwrap();
        assert!(alone(&[]) && alone(&[100]) && alone(&[0, SPAN - 1, 100]));
        for other in [0, 99, 101, SPAN - 1] {
            let _other = place.member(7, other).unwrap();
            assert!(!alone(&[]), "{other}");
            assert!(!alone(&[100, 98, 102]), "{other}");
            assert!(alone(&[other]) && alone(&[other, other, 100]), "{other}");
            // A known one does not hide another.
            let _third = place.member(7, 500).unwrap();
            assert!(!alone(&[other, 100]) && alone(&[500, other]), "{other}");
        }
        assert!(alone(&[]));
    }
}
