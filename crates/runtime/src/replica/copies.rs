//! This replica's copies of separate disks: the stamps beside them, and the exchange that makes both replicas' copies the same
//! before the guest runs.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ft_core::wire;
use ft_devices::backend::copy::{self, CopyDisk, CopyError, CopyMessage, CopySource, CopyTarget, Origin};
use ft_devices::backend::file::FileMedium;
use ft_devices::backend::medium::Medium;
use ft_devices::backend::stamp::{CleanStop, CopyState, Stamp, StampError, mtime_ns};
use ft_policies::ReplicaId;

/// A copy of a separate disk.
#[derive(Debug)]
struct Copy {
    file: Arc<FileMedium>,
    path: PathBuf,
    /// Its index in the config.
    disk: usize,
    /// What it was when this process started.
    origin: Origin,
    /// Its stamp now; a disk that the guest only reads has none.
    stamp: Option<Mutex<Stamp>>,
}

/// All copies of this replica, in the order of the config.
#[derive(Debug, Default)]
pub(super) struct Copies {
    list: Vec<Copy>,
}

impl Copies {
    /// Takes in a copy. `created` if its file was not there before.
    ///
    /// # Errors
    /// Its stamp is none to go by.
    pub(super) fn add(
        &mut self,
        file: &Arc<FileMedium>,
        path: PathBuf,
        disk: usize,
        pair: u128,
        (created, read_only): (bool, bool),
    ) -> Result<(), StampError> {
        let file = Arc::clone(file);
        if read_only {
            // Nobody ever changes it: it has to be the same on both sides, and is never copied.
            self.list.push(Copy { file, path, disk, origin: Origin::Existing, stamp: None });
            return Ok(());
        }
        let found = Stamp::read(&path, pair)?;
        let origin = copy::origin(&path, created, found.as_ref()).map_err(|error| StampError::Io {
            doing: "examining",
            path: path.clone(),
            error,
        })?;
        let fresh = || Stamp { pair, generation: 0, state: CopyState::New, clean: None };
        let stamp = match (origin, found) {
            (Origin::New, _) => {
                // So that it is known to be empty, should this start go no further.
                fresh().write(&path)?;
                fresh()
            }
            (_, Some(stamp)) => stamp,
            (_, None) => fresh(),
        };
        self.list.push(Copy { file, path, disk, origin, stamp: Some(Mutex::new(stamp)) });
        Ok(())
    }

    /// True if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What they are worth together, for the protocol; `None` if the pair has no such disks.
    pub(super) fn worth(&self) -> Option<wire::Copies> {
        if self.list.is_empty() {
            return None;
        }
        let stamps = || self.stamps().map(|(_, stamp)| *lock(stamp));
        let live = |stamp: Stamp| if stamp.state == CopyState::Live { stamp.generation } else { 0 };
        Some(wire::Copies {
            live: stamps().map(live).min().unwrap_or(wire::Copies::ANY),
            usable: stamps().all(|stamp| stamp.state != CopyState::Incomplete),
        })
    }

    fn stamps(&self) -> impl Iterator<Item = (&Copy, &Mutex<Stamp>)> {
        self.list.iter().filter_map(|copy| Some((copy, copy.stamp.as_ref()?)))
    }

    /// Stamps all of them, durably.
    ///
    /// # Errors
    /// The host's, in words.
    pub(super) fn stamp(&self, state: CopyState, generation: u64) -> Result<(), String> {
        self.stamps().try_for_each(|(copy, stamp)| {
            set(copy, stamp, |stamp| *stamp = Stamp { state, generation, clean: None, ..*stamp })
        })
    }

    /// Notes on all of them that the guest ended in order here, with every write on the disk.
    ///
    /// # Errors
    /// The host's, in words.
    pub(super) fn stamp_clean(&self, generation: u64, position: u64) -> Result<(), String> {
        self.stamps().try_for_each(|(copy, stamp)| {
            let mtime_ns =
                mtime_ns(&copy.path).map_err(|error| format!("{}: {error}", copy.path.display()))?;
            set(copy, stamp, |stamp| stamp.clean = Some(CleanStop { generation, position, mtime_ns }))
        })
    }

    fn disks(&self) -> Vec<CopyDisk> {
        let one = |copy: &Copy| CopyDisk {
            medium: Arc::clone(&copy.file) as Arc<dyn Medium>,
            name: format!("disk {} ({})", copy.disk, copy.path.display()),
            origin: copy.origin,
        };
        self.list.iter().map(one).collect()
    }

    /// Marks one of them, by its place among them, as being copied into.
    fn mark_incomplete(&self, index: u16, generation: u64) -> io::Result<()> {
        let copy = self.list.get(usize::from(index));
        let Some((copy, stamp)) = copy.and_then(|copy| Some((copy, copy.stamp.as_ref()?))) else {
            return Err(io::Error::other("it is read-only"));
        };
        let state = CopyState::Incomplete;
        set(copy, stamp, |stamp| *stamp = Stamp { state, generation, clean: None, ..*stamp })
            .map_err(io::Error::other)
    }
}

fn lock(stamp: &Mutex<Stamp>) -> std::sync::MutexGuard<'_, Stamp> {
    stamp.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(copy: &Copy, stamp: &Mutex<Stamp>, change: impl FnOnce(&mut Stamp)) -> Result<(), String> {
    let mut stamp = lock(stamp);
    let mut changed = *stamp;
    change(&mut changed);
    if changed != *stamp {
        changed.write(&copy.path).map_err(|error| error.to_string())?;
        *stamp = changed;
    }
    Ok(())
}

/// One side of the exchange.
pub(super) enum Exchange {
    /// This side's copies are the ones that count.
    Source(CopySource),
    /// The other side's.
    Target {
        driver: CopyTarget<Box<dyn FnMut(u16) -> io::Result<()> + Send>>,
        copies: Arc<Copies>,
        generation: u64,
        source: ReplicaId,
    },
}

/// What came of a message.
pub(super) struct Step {
    /// To be sent.
    pub(super) replies: Vec<Vec<u8>>,
    /// The exchange is over, on the source: the guest may run. On the target: what was done, for the operator.
    pub(super) over: Option<Over>,
}

/// How the exchange ended.
pub(super) enum Over {
    /// The source knows that the target's copies are as its own.
    Source,
    /// This side's copies are as the source's.
    Target {
        /// A line for the operator, if anything was copied.
        notice: Option<String>,
    },
}

impl Exchange {
    pub(super) fn source(copies: &Copies) -> Self {
        Self::Source(CopySource::new(copies.disks()))
    }

    /// `begun` is called before the first write to a copy.
    pub(super) fn target(
        copies: &Arc<Copies>,
        generation: u64,
        source: ReplicaId,
        begun: impl Fn() + Send + 'static,
    ) -> Self {
        let marks = Arc::clone(copies);
        let mark: Box<dyn FnMut(u16) -> io::Result<()> + Send> = Box::new(move |index| {
            marks.mark_incomplete(index, generation)?;
            begun();
            Ok(())
        });
        let (driver, copies) = (CopyTarget::new(copies.disks(), mark), Arc::clone(copies));
        Self::Target { driver, copies, generation, source }
    }

    /// Takes a message of the other side's, if there is one, and says what follows.
    ///
    /// # Errors
    /// The copies cannot be made the same.
    pub(super) fn step(&mut self, message: Option<&[u8]>) -> Result<Step, CopyError> {
        let message = match message.map(CopyMessage::decode).transpose() {
            Ok(message) => message,
            Err(_) => return Err(CopyError::Protocol("a message that is none")),
        };
        let mut replies = Vec::new();
        let over = match self {
            Self::Source(driver) => {
                message.map_or(Ok(()), |message| driver.handle(message))?;
                while let Some(reply) = driver.next_message()? {
                    replies.push(reply.encode());
                }
                driver.is_done().then_some(Over::Source)
            }
            Self::Target { driver, copies, generation, source } => {
                message.map_or(Ok(()), |message| driver.handle(message))?;
                while let Some(reply) = driver.next_message()? {
                    if reply == CopyMessage::Done {
                        // Before the other side knows: from then on the guest may run.
                        let stamped = copies.stamp(CopyState::Backup, *generation);
                        stamped.map_err(|error| CopyError::Io {
                            doing: "stamping",
                            name: "a copy".to_owned(),
                            error: io::Error::other(error),
                        })?;
                    }
                    replies.push(reply.encode());
                }
                let written = driver.written().iter().filter(|written| **written).count();
                let notice = (written > 0).then(|| {
                    format!("{written} of this side's disks were brought up to date from replica {source}'s")
                });
                driver.is_done().then_some(Over::Target { notice })
            }
        };
        Ok(Step { replies, over })
    }

    /// Why the source refuses the target's copies, if it does.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Source(driver) => driver.refusal().map(str::to_owned),
            Self::Target { .. } => None,
        }
    }
}
