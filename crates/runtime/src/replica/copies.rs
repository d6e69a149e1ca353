//! This replica's copies of separate disks: the stamps beside them, and the exchange that makes both replicas' copies the same
//! before the guest runs. No I/O of its own but through [`Medium`] and [`Place`]: the simulator of the protocol uses it too.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ft_core::mutation::{Mutation, mutated};
use ft_core::wire;
use ft_devices::backend::copy::{self, CopyDisk, CopyError, CopyMessage, CopySource, CopyTarget, Origin};
use ft_devices::backend::file::FileMedium;
use ft_devices::backend::medium::Medium;
use ft_devices::backend::stamp::{CleanStop, CopyState, Stamp, StampError, mtime_ns};
use ft_policies::ReplicaId;

/// Where the stamp of a copy is.
pub trait Place: Send + Sync + Debug {
    /// Makes this the copy's stamp, durably.
    ///
    /// # Errors
    /// The host's.
    fn write(&self, stamp: &Stamp) -> Result<(), StampError>;

    /// When the copy was last changed, in nanoseconds since 1970.
    ///
    /// # Errors
    /// The host's.
    fn mtime_ns(&self) -> io::Result<i64>;

    /// The copy's name, for people.
    fn name(&self) -> String;
}

/// Beside the file of that path.
impl Place for PathBuf {
    fn write(&self, stamp: &Stamp) -> Result<(), StampError> {
        stamp.write(self)
    }

    fn mtime_ns(&self) -> io::Result<i64> {
        mtime_ns(self)
    }

    fn name(&self) -> String {
        self.display().to_string()
    }
}

/// A copy of a separate disk.
#[derive(Debug)]
struct Copy {
    medium: Arc<dyn Medium>,
    place: Box<dyn Place>,
    /// Its index in the config.
    disk: usize,
    /// What it was when this process started.
    origin: Origin,
    /// Its stamp; a disk that the guest only reads has none.
    stamp: Option<Mutex<Marked>>,
}

/// A stamp, and whether this process made it.
#[derive(Debug, Clone, Copy)]
struct Marked {
    stamp: Stamp,
    /// Whether a guest of this pair's has ever used the copy, as far as is known.
    used: bool,
    ours: bool,
}

impl Copy {
    /// Where its content comes from, now.
    fn origin(&self) -> Origin {
        match self.stamp.as_ref().map(|marked| *lock(marked)) {
            Some(Marked { stamp: Stamp { state, generation, .. }, ours: true, .. }) => {
                Origin::Stamped { state, generation, clean: None }
            }
            _ => self.origin,
        }
    }
}

/// All copies of this replica, in the order of the config.
#[derive(Debug, Default)]
pub struct Copies {
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
        let medium = Arc::clone(file) as Arc<dyn Medium>;
        if read_only {
            // Nobody ever changes it: it has to be the same on both sides, and is never copied.
            let (place, origin) = (Box::new(path), Origin::Existing);
            self.list.push(Copy { medium, place, disk, origin, stamp: None });
            return Ok(());
        }
        // A stamp beside a file that was made just now says nothing of it.
        let found = if created { None } else { Stamp::read(&path, pair)? };
        let origin = copy::origin(&path, created, found.as_ref()).map_err(|error| StampError::Io {
            doing: "examining",
            path: path.clone(),
            error,
        })?;
        let stamp = found.unwrap_or_else(|| Self::first_stamp(pair));
        if created {
            // So that it is known to be empty, should this start go no further.
            stamp.write(&path)?;
        }
        self.push(medium, Box::new(path), disk, origin, stamp);
        Ok(())
    }

    /// The stamp of a copy that nobody has used yet.
    pub fn first_stamp(pair: u128) -> Stamp {
        Stamp { pair, generation: 0, state: CopyState::New, clean: None }
    }

    /// Takes in a copy that the guest writes, with what was found beside it.
    pub fn push(
        &mut self,
        medium: Arc<dyn Medium>,
        place: Box<dyn Place>,
        disk: usize,
        origin: Origin,
        stamp: Stamp,
    ) {
        let marked = Marked { stamp, used: stamp.state != CopyState::New, ours: false };
        self.list.push(Copy { medium, place, disk, origin, stamp: Some(Mutex::new(marked)) });
    }

    /// True if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What they are worth together, for the protocol; `None` if the pair has no such disks.
    pub fn worth(&self) -> Option<wire::Copies> {
        if self.list.is_empty() {
            return None;
        }
        let all: Vec<Marked> = self.stamps().map(|(_, marked)| *lock(marked)).collect();
        let live = |marked: &Marked| match marked.stamp {
            Stamp { state: CopyState::Live, generation, .. } => generation,
            Stamp { state: CopyState::Incomplete, generation, .. } if mutated(Mutation::IncompleteLives) => {
                generation
            }
            _ => 0,
        };
        let used = all.iter().filter(|marked| marked.used).count();
        let newest = all.iter().map(live).max();
        Some(wire::Copies {
            live: newest.unwrap_or(wire::Copies::ANY),
            highest: all.iter().map(|marked| marked.stamp.generation).max().unwrap_or(0),
            whole: newest.is_some_and(|newest| newest > 0)
                && all.iter().all(|marked| Some(live(marked)) == newest),
            usable: all.iter().all(|marked| marked.stamp.state != CopyState::Incomplete)
                || mutated(Mutation::IncompleteLives),
            used: match used {
                0 => wire::Used::None,
                used if used == all.len() => wire::Used::All,
                _ => wire::Used::Some,
            },
        })
    }

    fn stamps(&self) -> impl Iterator<Item = (&Copy, &Mutex<Marked>)> {
        self.list.iter().filter_map(|copy| Some((copy, copy.stamp.as_ref()?)))
    }

    /// Stamps all of them, durably.
    ///
    /// # Errors
    /// The host's, in words.
    pub fn stamp(&self, state: CopyState, generation: u64) -> Result<(), String> {
        self.stamps().try_for_each(|(copy, stamp)| {
            set(copy, stamp, |stamp| *stamp = Stamp { state, generation, clean: None, ..*stamp })
        })
    }

    /// Makes all that was written to them durable.
    ///
    /// # Errors
    /// The host's, in words.
    pub fn flush(&self) -> Result<(), String> {
        self.stamps().try_for_each(|(copy, _)| {
            copy.medium.flush().map_err(|error| format!("flushing {}: {error}", copy.place.name()))
        })
    }

    /// Notes on all of them that the guest ended in order here, with every write on the disk.
    ///
    /// # Errors
    /// The host's, in words.
    pub fn stamp_clean(&self, generation: u64, position: u64) -> Result<(), String> {
        self.stamps().try_for_each(|(copy, stamp)| {
            let mtime_ns =
                copy.place.mtime_ns().map_err(|error| format!("{}: {error}", copy.place.name()))?;
            set(copy, stamp, |stamp| {
                let current = matches!(stamp.state, CopyState::Live | CopyState::Backup);
                if current && stamp.generation == generation {
                    stamp.clean = Some(CleanStop { generation, position, mtime_ns });
                }
            })
        })
    }

    fn disks(&self) -> Vec<CopyDisk> {
        let one = |copy: &Copy| CopyDisk {
            medium: Arc::clone(&copy.medium),
            name: format!("disk {} ({})", copy.disk, copy.place.name()),
            origin: copy.origin(),
        };
        self.list.iter().map(one).collect()
    }

    /// Marks one of them, by its place among them, as being copied into.
    fn mark_incomplete(&self, index: u16, generation: u64) -> io::Result<()> {
        let copy = self.list.get(usize::from(index));
        let Some((copy, stamp)) = copy.and_then(|copy| Some((copy, copy.stamp.as_ref()?))) else {
            return Err(io::Error::other("it is read-only"));
        };
        if mutated(Mutation::CopyUnmarked) {
            return Ok(());
        }
        let state = CopyState::Incomplete;
        set(copy, stamp, |stamp| *stamp = Stamp { state, generation, clean: None, ..*stamp })
            .map_err(io::Error::other)
    }
}

fn lock(marked: &Mutex<Marked>) -> std::sync::MutexGuard<'_, Marked> {
    marked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(copy: &Copy, marked: &Mutex<Marked>, change: impl FnOnce(&mut Stamp)) -> Result<(), String> {
    let mut marked = lock(marked);
    let mut changed = marked.stamp;
    change(&mut changed);
    if changed != marked.stamp {
        copy.place.write(&changed).map_err(|error| error.to_string())?;
        *marked = Marked { stamp: changed, used: true, ours: true };
    }
    Ok(())
}

/// One side of the exchange.
#[derive(Debug)]
pub struct Exchange {
    copies: Arc<Copies>,
    generation: u64,
    side: Side,
}

#[derive(Debug)]
enum Side {
    /// This side's copies are the ones that count.
    Source(CopySource),
    /// The other side's.
    Target(CopyTarget<Box<dyn FnMut(u16) -> io::Result<()> + Send>>, ReplicaId),
}

fn stamping(error: String) -> CopyError {
    CopyError::Io { doing: "stamping", name: "a copy".to_owned(), error: io::Error::other(error) }
}

/// What came of a message.
#[derive(Debug)]
pub struct Step {
    /// To be sent.
    pub replies: Vec<Vec<u8>>,
    /// The exchange is over, on the source: the guest may run. On the target: what was done, for the operator.
    pub over: Option<Over>,
}

/// How the exchange ended.
#[derive(Debug)]
pub enum Over {
    /// The source knows that the target's copies are as its own.
    Source,
    /// This side's copies are as the source's.
    Target {
        /// A line for the operator, if anything was copied.
        notice: Option<String>,
    },
}

impl Exchange {
    /// `generation` is the one that this side has won to start the guest in.
    pub fn source(copies: &Arc<Copies>, generation: u64) -> Self {
        let side = Side::Source(CopySource::new(copies.disks()));
        Self { copies: Arc::clone(copies), generation, side }
    }

    /// `begun` is called before the first write to a copy.
    pub fn target(
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
        let side = Side::Target(CopyTarget::new(copies.disks(), mark), source);
        Self { copies: Arc::clone(copies), generation, side }
    }

    /// Takes a message of the other side's, if there is one, and says what follows.
    ///
    /// # Errors
    /// The copies cannot be made the same.
    pub fn step(&mut self, message: Option<&[u8]>) -> Result<Step, CopyError> {
        let message = match message.map(CopyMessage::decode).transpose() {
            Ok(message) => message,
            Err(_) => return Err(CopyError::Protocol("a message that is none")),
        };
        let (copies, generation) = (&self.copies, self.generation);
        let mut replies = Vec::new();
        let over = match &mut self.side {
            Side::Source(driver) => {
                message.map_or(Ok(()), |message| driver.handle(message))?;
                while let Some(reply) = driver.next_message()? {
                    if reply == CopyMessage::Done {
                        // Every rule is satisfied, and not before: a stamp outlives a start that is refused.
                        copies.stamp(CopyState::Live, generation).map_err(stamping)?;
                    }
                    replies.push(reply.encode());
                }
                driver.is_done().then_some(Over::Source)
            }
            Side::Target(driver, source) => {
                message.map_or(Ok(()), |message| driver.handle(message))?;
                while let Some(reply) = driver.next_message()? {
                    if reply == CopyMessage::Done {
                        // Before the other side knows: from then on the guest may run. Blocks that were found to be the same may be
                        // in the host's cache only, from an earlier process.
                        if !mutated(Mutation::BackupStampBeforeFlush) {
                            copies.flush().map_err(stamping)?;
                        }
                        copies.stamp(CopyState::Backup, generation).map_err(stamping)?;
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
    pub fn refusal(&self) -> Option<String> {
        match &self.side {
            Side::Source(driver) => driver.refusal().map(str::to_owned),
            Side::Target(..) => None,
        }
    }
}
