//! What is known about one copy of a *separate* disk: a small file beside it, by which a start tells the copy to go on with
//! from one that is old, half copied, or of another pair.
//!
//! The copy itself is locked with [`Lock::Alone`](super::file::Lock) while a replica has it, and whoever holds that lock may
//! change the stamp: it needs no lock of its own. It is text, because in the end a person decides what to do with two copies
//! that do not agree, and a checksum at its end, because a copy must never be taken for what it is not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::durable;

/// What the name of a stamp has behind the disk's.
const SUFFIX: &str = ".ft";
const FORMAT: u32 = 1;
/// No stamp is longer.
const MAX_LEN: u64 = 4096;
const COMMENT: &str =
    "# What ft-vm knows about the disk beside this file. Not to be edited: the last line is a checksum.\n";

/// What a copy is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Created for this pair, nothing of a guest in it.
    New,
    /// The disk of the replica that was live in the stamp's generation.
    Live,
    /// Complete, and kept up by the backup of that generation.
    Backup,
    /// It was being copied when it was last used: of no use until that is done.
    Incomplete,
}

impl CopyState {
    const ALL: [Self; 4] = [Self::New, Self::Live, Self::Backup, Self::Incomplete];

    /// Its name in the file and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Live => "live",
            Self::Backup => "backup",
            Self::Incomplete => "incomplete",
        }
    }
}

/// A stop in order, with which a copy is known to be the same as its other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanStop {
    /// The generation that ended.
    pub generation: u64,
    /// Where the guest stood.
    pub position: u64,
    /// When the copy was last changed, in nanoseconds since 1970: whoever changed it since then did not write a stamp.
    pub mtime_ns: i64,
}

/// What is known about a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Identity of the pair.
    pub pair: u128,
    /// The generation in which it was written.
    pub generation: u64,
    /// What the copy is good for.
    pub state: CopyState,
    /// How it was stopped, if in order.
    pub clean: Option<CleanStop>,
}

/// Why there is no stamp to go by.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    /// Nothing can be beside a block device.
    #[error("{}: is a block device, and a separate disk needs a place for a file beside it; keep it in a file", .0.display())]
    NoPlace(PathBuf),
    /// The copy is of another pair.
    #[error(
        "{}: the disk belongs to another pair ({found:032x}, this one is {wanted:032x}); give this pair a disk of its own, \
         or remove the file to take the disk over",
        .path.display()
    )]
    OtherPair {
        /// The stamp.
        path: PathBuf,
        /// Whose it is.
        found: u128,
        /// Who asks.
        wanted: u128,
    },
    /// It was written by a later program.
    #[error("{}: has format {found}, this program knows {FORMAT}; use the ft-vm that wrote it", .path.display())]
    Newer {
        /// The stamp.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It was cut off or changed.
    #[error(
        "{}: is damaged: it is not known any more whether the disk beside it is complete. Remove the file together with the \
         disk to have it copied from the other replica, or the file alone if you know that the disk is good",
        .0.display()
    )]
    Damaged(PathBuf),
    /// There is a stamp of a copy that holds a guest's data, and no copy.
    #[error(
        "{}: is gone or empty, and is in use by this pair ({}, generation {generation}); put it back, or remove {} to have the \
         disk made again from the other replica's",
        .path.display(),
        .state.name(),
        Stamp::path_of(.path).display()
    )]
    Gone {
        /// The disk.
        path: PathBuf,
        /// What it was good for.
        state: CopyState,
        /// The generation of the stamp.
        generation: u64,
    },
    /// The host refuses.
    #[error("{doing} {}: {error}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
}

/// Why bytes are no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Newer(u32),
    Damaged,
}

impl Stamp {
    /// Where the stamp of `disk` is.
    pub fn path_of(disk: &Path) -> PathBuf {
        durable::beside(disk, SUFFIX)
    }

    /// The stamp of `disk`; `None` if it has none.
    ///
    /// # Errors
    /// There is one that `pair` cannot go by.
    pub fn read(disk: &Path, pair: u128) -> Result<Option<Self>, StampError> {
        let path = place(disk)?;
        let mut text = Vec::new();
        // Non-blocking: a pipe of that name must not hang.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let read = opened.and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StampError::Io { doing: "reading", path, error }),
            Ok(_) => {}
        }
        match Self::decode(&text) {
            Ok(stamp) if stamp.pair == pair => Ok(Some(stamp)),
            Ok(stamp) => Err(StampError::OtherPair { path, found: stamp.pair, wanted: pair }),
            Err(Bad::Newer(found)) => Err(StampError::Newer { path, found }),
            Err(Bad::Damaged) => Err(StampError::Damaged(path)),
        }
    }

    /// Checks, for a disk that is not there, that nothing is lost with it: a new one in its place would be taken for it.
    ///
    /// # Errors
    /// It held a guest's data; or its stamp is none that `pair` can go by.
    pub fn check_gone(disk: &Path, pair: u128) -> Result<(), StampError> {
        match Self::read(disk, pair)? {
            Some(Self { state: state @ (CopyState::Live | CopyState::Backup), generation, .. }) => {
                Err(StampError::Gone { path: disk.to_owned(), state, generation })
            }
            _ => Ok(()),
        }
    }

    /// Makes this the stamp of `disk`. When it returns, that is durable; when the host fails meanwhile, the one before stays.
    ///
    /// # Errors
    /// The host refuses: which of the two it is then is not known.
    pub fn write(&self, disk: &Path) -> Result<(), StampError> {
        let path = place(disk)?;
        let write = || {
            let mut file = File::create(durable::temporary(&path))?;
            file.write_all(self.encode().as_bytes())?;
            file.sync_all()?;
            durable::publish(&path)
        };
        write().map_err(|error| StampError::Io { doing: "writing", path: path.clone(), error })
    }

    /// The stop in order after which nobody has changed `disk`.
    ///
    /// # Errors
    /// The host's.
    pub fn still_clean(&self, disk: &Path) -> io::Result<Option<CleanStop>> {
        let Some(clean) = self.clean else { return Ok(None) };
        Ok((mtime_ns(disk)? == clean.mtime_ns).then_some(clean))
    }

    fn encode(&self) -> String {
        let Self { pair, generation, state, clean } = self;
        let mut text = format!(
            "{COMMENT}format = {FORMAT}\npair = \"{pair:032x}\"\ngeneration = {generation}\nstate = \"{}\"\n",
            state.name()
        );
        if let Some(CleanStop { generation, position, mtime_ns }) = clean {
            text += &format!(
                "clean-generation = {generation}\nclean-position = {position}\nclean-mtime-ns = {mtime_ns}\n"
            );
        }
        let crc = crc32fast::hash(text.as_bytes());
        text + &format!("crc32 = \"{crc:08x}\"\n")
    }

    /// For fuzzers: what is understood is what would be written.
    pub(super) fn check_decoder(bytes: &[u8]) {
        if let Ok(stamp) = Self::decode(bytes) {
            assert_eq!(stamp.encode().as_bytes(), bytes);
        }
    }

    fn decode(text: &[u8]) -> Result<Self, Bad> {
        let text = std::str::from_utf8(text).map_err(|_| Bad::Damaged)?;
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(" = "));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
        };
        let wanted = |name| field(name).ok_or(Bad::Damaged);
        let damaged = |_| Bad::Damaged;
        let format: u32 = wanted("format")?.parse().map_err(damaged)?;
        if format > FORMAT {
            return Err(Bad::Newer(format));
        }
        let number = |name| wanted(name)?.parse::<u64>().map_err(damaged);
        let state = wanted("state")?;
        let clean = if field("clean-generation").is_some() {
            Some(CleanStop {
                generation: number("clean-generation")?,
                position: number("clean-position")?,
                mtime_ns: wanted("clean-mtime-ns")?.parse().map_err(damaged)?,
            })
        } else {
            None
        };
        let stamp = Self {
            pair: u128::from_str_radix(wanted("pair")?, 16).map_err(damaged)?,
            generation: number("generation")?,
            state: CopyState::ALL.into_iter().find(|known| known.name() == state).ok_or(Bad::Damaged)?,
            clean,
        };
        // There is one way to write each stamp, so this compares the checksum and everything that it would not notice.
        if stamp.encode() == text { Ok(stamp) } else { Err(Bad::Damaged) }
    }
}

/// When `disk` was last changed, in nanoseconds since 1970.
///
/// # Errors
/// The host's.
pub fn mtime_ns(disk: &Path) -> io::Result<i64> {
    let metadata = std::fs::metadata(disk)?;
    Ok(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()))
}

/// Where the stamp of `disk` is, if one can be there: what is beside a device is gone when the host starts again.
fn place(disk: &Path) -> Result<PathBuf, StampError> {
    match std::fs::metadata(disk) {
        Ok(metadata) if metadata.file_type().is_block_device() => Err(StampError::NoPlace(disk.to_owned())),
        _ => Ok(Stamp::path_of(disk)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> Stamp {
        let clean = CleanStop { generation: 6, position: 1 << 40, mtime_ns: 1_700_000_000_123_456_789 };
        Stamp { pair: 0xabc << 100, generation: 7, state: CopyState::Live, clean: Some(clean) }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("a.img");
        std::fs::write(&disk, "disk").unwrap();
        (dir, disk)
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let (dir, disk) = place();
        assert_eq!(Stamp::read(&disk, 1).unwrap(), None);
        for stamp in [stamp(), Stamp { state: CopyState::Incomplete, clean: None, ..stamp() }] {
            stamp.write(&disk).unwrap();
            assert_eq!(Stamp::read(&disk, stamp.pair).unwrap(), Some(stamp));
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!((files, Stamp::path_of(&disk)), (2, dir.path().join("a.img.ft")));
    }

    #[test]
    fn a_person_can_read_it() {
        let text = stamp().encode();
        assert!(text.starts_with('#') && text.lines().all(|line| line.len() < 100), "{text}");
        for line in ["state = \"live\"", "generation = 7", "clean-position = 1099511627776", "format = 1"] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_change_of_the_disk_is_noticed() {
        let (_dir, disk) = place();
        let mtime_ns = mtime_ns(&disk).unwrap();
        let clean = CleanStop { mtime_ns, generation: 6, position: 5 };
        let stamp = Stamp { clean: Some(clean), ..stamp() };
        assert_eq!(stamp.still_clean(&disk).unwrap(), Some(clean));
        let file = File::options().write(true).open(&disk).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(super::mtime_ns(&disk).unwrap(), 0);
        assert_eq!(stamp.still_clean(&disk).unwrap(), None);
        assert_eq!(Stamp { clean: None, ..stamp }.still_clean(&disk).unwrap(), None);
    }

    #[test]
    fn what_is_no_stamp_of_this_pair_says_what_to_do() {
        let (_dir, disk) = place();
        let stamp = stamp();
        stamp.write(&disk).unwrap();
        let error = Stamp::read(&disk, 1).unwrap_err();
        assert!(matches!(error, StampError::OtherPair { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("{}.ft: ", disk.display())), "{error}");
        let text = stamp.encode().replace("format = 1", "format = 2");
        std::fs::write(Stamp::path_of(&disk), text).unwrap();
        let error = Stamp::read(&disk, stamp.pair).unwrap_err();
        assert!(matches!(error, StampError::Newer { found: 2, .. }), "{error}");
        for text in [String::new(), "x".repeat(1 << 20), stamp.encode() + "\n"] {
            std::fs::write(Stamp::path_of(&disk), text).unwrap();
            assert!(matches!(Stamp::read(&disk, stamp.pair), Err(StampError::Damaged(_))));
        }
        std::fs::remove_file(Stamp::path_of(&disk)).unwrap();
        let pipe =
            std::ffi::CString::new(Stamp::path_of(&disk).into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        assert!(matches!(Stamp::read(&disk, stamp.pair), Err(StampError::Damaged(_))), "it must not hang");
        std::fs::remove_file(Stamp::path_of(&disk)).unwrap();
        std::fs::create_dir(Stamp::path_of(&disk)).unwrap();
        assert!(matches!(Stamp::read(&disk, stamp.pair), Err(StampError::Io { doing: "reading", .. })));
        assert!(matches!(stamp.write(&disk), Err(StampError::Io { doing: "writing", .. })));
    }

    #[test]
    fn a_copy_that_is_gone_is_missed_if_it_held_anything() {
        let (_dir, disk) = place();
        std::fs::remove_file(&disk).unwrap();
        Stamp::check_gone(&disk, 1).unwrap();
        for state in CopyState::ALL {
            let stamp = Stamp { state, clean: None, ..stamp() };
            stamp.write(&disk).unwrap();
            let checked = Stamp::check_gone(&disk, stamp.pair);
            match state {
                CopyState::New | CopyState::Incomplete => checked.unwrap(),
                CopyState::Live | CopyState::Backup => {
                    let error = checked.unwrap_err();
                    assert!(matches!(error, StampError::Gone { .. }), "{error}");
                    assert!(error.to_string().contains(&format!("remove {}.ft ", disk.display())), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_stamp_that_is_cut_off_or_changed_is_damaged() {
        for stamp in [stamp(), Stamp { clean: None, ..stamp() }] {
            let bytes = stamp.encode().into_bytes();
            assert_eq!(Stamp::decode(&bytes), Ok(stamp));
            for len in 0..bytes.len() {
                assert_eq!(Stamp::decode(&bytes[..len]), Err(Bad::Damaged), "{len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Stamp::decode(&bytes).is_err(), "{bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_stamp_survives_and_any_bytes_are_judged(
            pair: u128, generation: u64, state in 0..4_usize, clean: Option<(u64, u64, i64)>, bytes: Vec<u8>, text: String,
        ) {
            let clean = clean.map(|(generation, position, mtime_ns)| CleanStop { generation, position, mtime_ns });
            let stamp = Stamp { pair, generation, state: CopyState::ALL[state], clean };
            prop_assert_eq!(Stamp::decode(stamp.encode().as_bytes()), Ok(stamp));
            prop_assert!(stamp.encode().len() as u64 <= MAX_LEN);
            prop_assert!(Stamp::decode(&bytes).is_err());
            prop_assert!(Stamp::decode(text.as_bytes()).is_err());
        }
    }
}
