//! The register as files in a folder that both replicas reach, ideally on the file system of the shared disk, so that
//! whoever cannot reach the register cannot reach the disk either.
//!
//! Generation `g` is the file `generation.<g>`; it is made once, whole, by `link`, and never changed or removed:
//!
//! 1. write the entry to a temporary name of one's own and fsync it (a linked entry is never torn);
//! 2. `link` it to the name of the wanted generation and *ignore what `link` says*: a network file system may report that
//!    the name exists when it was this very call that made it;
//! 3. read that name back: it is mine or it is not;
//! 4. fsync the folder, so that the win outlives a crash, and look once more for higher names, before saying "won".

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::Deserialize;

use super::durable::{Failed, folder, sync_folder};
use super::entry::Entry;
use super::{Answer, Pair, Register, RegisterState, TieBreakerKind, Unavailable, Who};
use crate::check::Check;
use crate::schema::At;
use crate::schema::values::NonEmpty;

const PREFIX: &str = "generation.";
/// `u64::MAX` has twenty digits: names sort as their numbers do.
const DIGITS: usize = 20;

/// Tells apart the temporary files of several asks of one process: an ask that hangs in the kernel may still be about to
/// link its file when the next one begins, so no ask ever touches the file of another.
static ASKS: AtomicU64 = AtomicU64::new(0);

/// The register in a folder.
#[derive(Clone, Debug)]
pub struct SharedDisk {
    folder: PathBuf,
    pair: Pair,
}

impl SharedDisk {
    /// The register of the pair `pair` in `folder`. Does no I/O.
    pub fn new(folder: PathBuf, pair: Pair) -> Self {
        Self { folder, pair }
    }

    fn name(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{generation:0DIGITS$}"))
    }

    /// The entry of one generation; `None` where there is none.
    fn entry(&self, generation: u64) -> Result<Option<Entry>, Unavailable> {
        let path = self.name(generation);
        // A link of that name must not mislead.
        let Some(entry) = Entry::read(&path, &self.pair, false)? else { return Ok(None) };
        if entry.generation != generation {
            return Err(Unavailable::Corrupt {
                path,
                reason: format!("it is the entry of generation {}", entry.generation),
            });
        }
        Ok(Some(entry))
    }

    /// Every generation that has a name in the folder, in order; temporary files and strangers are passed over.
    fn generations(&self) -> Result<Vec<u64>, Unavailable> {
        let failed = |error: io::Error| Failed::new("listing", &self.folder)(error).into();
        let listing = match fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for item in listing {
            let name = item.map_err(failed)?.file_name();
            let Some(digits) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if digits.len() == DIGITS
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && let Ok(generation @ 1..) = digits.parse::<u64>()
            {
                found.push(generation);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The state, with the check that no generation is missing.
    fn state(&self) -> Result<RegisterState, Unavailable> {
        let found = self.generations()?;
        let Some(&highest) = found.last() else { return Ok(RegisterState { generation: 0, holder: None }) };
        // A name that was made while the folder was listed may be absent from the listing with a later one present: each
        // that is not listed is looked for by itself. (However high `highest` is, this ends at the first real gap.)
        let mut listed = found.iter().peekable();
        for wanted in 1..highest {
            if listed.next_if_eq(&&wanted).is_none() && self.entry(wanted)?.is_none() {
                return Err(Unavailable::Gap { path: self.name(wanted), highest });
            }
        }
        match self.entry(highest)? {
            Some(entry) => Ok(RegisterState { generation: highest, holder: Some(entry.who) }),
            None => Err(Unavailable::Gap { path: self.name(highest), highest }),
        }
    }

    /// Makes the folder, durably, where it is missing.
    fn make_folder(&self) -> Result<(), Unavailable> {
        match fs::create_dir(&self.folder) {
            Ok(()) => Ok(sync_folder(folder(&self.folder))?),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Failed::new("making the folder", &self.folder)(error).into()),
        }
    }

    /// Steps 1 and 2: offers an entry under the name of its generation. Whether it was taken shows in reading it back; what
    /// `link` said of it is for the message, should nothing have appeared.
    fn offer(&self, entry: &Entry) -> Result<io::Result<()>, Unavailable> {
        let ask = ASKS.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("tmp.{:016x}.{ask}", entry.who.incarnation));
        let written =
            OpenOptions::new().write(true).create_new(true).open(&temporary).and_then(|mut file| {
                file.write_all(entry.render().as_bytes()).and_then(|()| file.sync_all())
            });
        if let Err(error) = written {
            // Ours alone, and never linked: nothing depends on it.
            let _ = fs::remove_file(&temporary);
            return Err(Failed::new("writing", &temporary)(error).into());
        }
        let linked = fs::hard_link(&temporary, self.name(entry.generation));
        // The entry has its own name now, or never will; a temporary file that stays behind is passed over.
        let _ = fs::remove_file(&temporary);
        Ok(linked)
    }

    /// `link` did fail.
    fn not_linked(&self, wanted: u64, linked: io::Result<()>) -> Unavailable {
        let error = match linked {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => {
                io::Error::other(format!(
                    "{error}; this file system has no hard links: put the tie-breaker's folder on one that has, such as ext4, XFS or \
                     NFS"
                ))
            }
            Err(error) => error,
            Ok(()) => {
                io::Error::other("the entry did not appear; look after that file system, or its server")
            }
        };
        Failed::new("linking", &self.name(wanted))(error).into()
    }

    fn try_advance(&self, from: u64, who: &Who) -> Result<Answer, Unavailable> {
        let wanted = from.checked_add(1).ok_or(Unavailable::Exhausted)?;
        let state = self.state()?;
        if state.generation < from {
            return Ok(Answer::Behind(state));
        }
        let mut linked = Ok(());
        if state.generation == from {
            if from == 0 {
                self.make_folder()?;
            }
            linked = self.offer(&Entry { pair: self.pair.clone(), generation: wanted, who: *who })?;
        }
        let Some(entry) = self.entry(wanted)? else {
            return Err(self.not_linked(wanted, linked));
        };
        if entry.who == *who {
            sync_folder(&self.folder)?;
        }
        let state = self.state()?;
        if state.generation < wanted {
            return Ok(Answer::Behind(state));
        }
        Ok(if entry.who == *who && state.generation == wanted { Answer::Won } else { Answer::Lost(state) })
    }
}

impl Register for SharedDisk {
    fn read(&self) -> Result<RegisterState, Unavailable> {
        self.state()
    }

    fn advance(&self, from: u64, who: &Who) -> Answer {
        self.try_advance(from, who).unwrap_or_else(Answer::Unavailable)
    }
}

/// The `[tie-breaker.shared-disk]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerSharedDisk")]
pub(crate) struct Table {
    /// The folder of the generation entries, relative to this file. It is made when missing; the folder that it is in must
    /// exist. Keep it on the file system of the shared disk, and never remove anything from it.
    #[schemars(with = "At<NonEmpty>", extend("examples" = ["pair.generations"]))]
    pub(crate) path: Option<At<NonEmpty>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> TieBreakerKind {
        TieBreakerKind::SharedDisk {
            path: self.path.as_ref().map(|path| check.path(path)).unwrap_or_default(),
        }
    }
}
