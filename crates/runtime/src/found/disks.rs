//! The disks: what their stamps and side files say, compared with the register, and who has them open.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ft_devices::backend::file::{User, user};
use ft_devices::backend::quarantine::{self, QuarantineError, QuarantineStatus};
use ft_devices::backend::stamp::{CopyState, Stamp, StampError};
use ft_policies::{Config, Disk, ReplicaId, Sharing};

use super::{AtStart, Finding, Look};
use crate::replica::fold;

/// True if each replica has a copy of this disk with a stamp beside it.
pub(super) fn has_stamp(disk: &Disk) -> bool {
    disk.sharing == Sharing::Separate && !disk.read_only
}

/// What there is of one disk.
enum Seen {
    /// A separate one.
    Copy {
        /// There is something in the file.
        is_there: bool,
        stamp: Result<Option<Stamp>, StampError>,
    },
    /// A shared one.
    Shared { user: io::Result<Option<User>>, apart: Result<Option<QuarantineStatus>, QuarantineError> },
    /// A shared one whose file is not here.
    NoFile,
}

/// What there is of all disks: where each is, and what was seen there, or why nothing was.
pub(super) struct Found(Vec<(PathBuf, Result<Seen, String>)>);

pub(super) fn look(config: &Config, replicas: &[ReplicaId], limit: Duration) -> Found {
    let mut looks: Vec<(PathBuf, Look<Seen>)> = Vec::new();
    for disk in &config.disks {
        for &replica in replicas {
            let path = disk.path_of(Some(replica));
            // A shared one is the same for both; a separate one may have one name on both hosts.
            let known = looks.iter().any(|(known, _)| *known == path);
            if known || disk.sharing == Sharing::Separate && disk.read_only {
                continue;
            }
            let (pair, lock) = (config.pair_id(), fold(config));
            let (place, read_only, separate) = (path.clone(), disk.read_only, has_stamp(disk));
            let one =
                move || if separate { copy(&place, pair) } else { shared(&place, pair, lock, read_only) };
            looks.push((path.clone(), Look::begin(format!("disk {}", path.display()), limit, one)));
        }
    }
    Found(looks.into_iter().map(|(path, look)| (path, look.end())).collect())
}

fn copy(path: &Path, pair: u128) -> Seen {
    let is_there = std::fs::metadata(path).is_ok_and(|found| !found.is_file() || found.len() > 0);
    let stamp = if is_there { Stamp::read(path, pair) } else { without_copy(path, pair) };
    Seen::Copy { is_there, stamp }
}

/// A stamp beside a copy that is not there.
fn without_copy(path: &Path, pair: u128) -> Result<Option<Stamp>, StampError> {
    Stamp::check_gone(path, pair)?;
    Stamp::read(path, pair)
}

fn shared(path: &Path, pair: u128, lock: u64, read_only: bool) -> Seen {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Seen::NoFile,
        // Anything else is found by opening it.
        _ => {}
    }
    let apart = if read_only { Ok(None) } else { quarantine::look(path, pair) };
    Seen::Shared { user: user(path, lock), apart }
}

impl Found {
    /// `generation` is the register's, if that is known.
    pub(super) fn findings(self, config: &Config, generation: Option<u64>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (path, seen) in self.0 {
            let path = path.display();
            match seen {
                Err(reason) => findings.push(Finding::warning(
                    reason,
                    "a start may wait for it too: is its file system there?".to_owned(),
                )),
                Ok(Seen::Copy { is_there, stamp }) => {
                    let here = is_there || config.replicas.one_machine();
                    findings.extend(of_stamp(&path.to_string(), here, is_there, stamp, generation, config));
                }
                Ok(Seen::NoFile) if config.replicas.one_machine() => {
                    findings.push(Finding::good(format!("disk {path} is not there yet")));
                }
                // It may be on another host.
                Ok(Seen::NoFile) => {}
                Ok(Seen::Shared { user, apart }) => {
                    findings.extend(of_user(&path.to_string(), user));
                    findings.extend(of_apart(&path.to_string(), apart, generation));
                }
            }
        }
        findings
    }
}

/// `here` if the copy is this host's, as far as is known.
fn of_stamp(
    path: &str,
    here: bool,
    is_there: bool,
    stamp: Result<Option<Stamp>, StampError>,
    register: Option<u64>,
    config: &Config,
) -> Option<Finding> {
    let stamp = match stamp {
        Ok(Some(stamp)) => stamp,
        Ok(None) if is_there => {
            return Some(Finding::good(format!(
                "disk {path} has no stamp: no guest of this pair has used it yet"
            )));
        }
        Ok(None) => return here.then(|| Finding::good(format!("disk {path} is not there yet"))),
        Err(error) => return Some(of_bad_stamp(path, error)),
    };
    let Stamp { generation, state, .. } = stamp;
    let says = format!("disk {path} is stamped `{}` in generation {generation}", state.name());
    Some(match (register, state) {
        (Some(register), _) if generation > register => ahead(&says, register, config),
        (_, CopyState::Incomplete) => Finding::warning(
            format!("{says}: it was being copied into when it was last used"),
            "it is of no use before that is done: start both replicas".to_owned(),
        )
        .at_start(AtStart::Say),
        (Some(register), CopyState::Live) if generation < register => {
            Finding::good(format!("{says}: an earlier one, a start needs the other replica's copy as well"))
        }
        _ => Finding::good(says),
    })
}

/// A stamp that knows of a later generation than the register. A start goes on to its replicas, which start nothing: that the
/// other one hears of this side's stamp is what keeps it from a start of its own with an older copy.
fn ahead(says: &str, register: u64, config: &Config) -> Finding {
    if config.tie_breaker.by_hand() {
        // What a backup is told of a generation is on its disks before it is in its file.
        return Finding::warning(
            format!("{says}, and the generation that was written down here is {register}"),
            "the other replica knows of the later one: start both. If its file is lost, put the copy to keep in the other's place, \
             and remove the .ft files of both"
                .to_owned(),
        )
        .at_start(AtStart::Say);
    }
    Finding::error(
        format!(
            "{says}, and the tie-breaker is in {register}: its store was restored from an old copy, or is another one, and nothing is \
             started"
        ),
        "bring the store back as it was. If it is lost: with both replicas stopped, put the copy that is stamped `live` with the \
         highest generation in the other's place, and remove the .ft files of both"
            .to_owned(),
    )
    .at_start(AtStart::Say)
}

/// A start is refused with the same by the replica.
fn of_bad_stamp(path: &str, error: StampError) -> Finding {
    match error {
        StampError::OtherPair { path: stamp, .. } => Finding::error(
            format!("disk {path} belongs to another pair, or to this one under another vm.name, says {}", stamp.display()),
            "give this pair disks of its own. To take this one over, put it in the place of the other replica's too, and remove the .ft \
             files of both"
                .to_owned(),
        ),
        StampError::Io { .. } => {
            Finding::warning(format!("disk {error}"), "a start needs to read it".to_owned())
        }
        // They say themselves what to do.
        error => Finding { todo: None, ..Finding::error(format!("disk {error}"), String::new()) },
    }
}

fn of_user(path: &str, user: io::Result<Option<User>>) -> Option<Finding> {
    match user {
        Ok(None) => None,
        Ok(Some(User::ThisPair)) => {
            Some(Finding::good(format!("disk {path} is in use by this pair, under this config")))
        }
        Ok(Some(User::OtherPair)) => Some(Finding::error(
            format!("disk {path} is in use by another pair, or by this one under another config"),
            "end that one first, or give each pair disks of its own".to_owned(),
        )),
        Ok(Some(User::Alone)) => Some(Finding::error(
            format!("disk {path} is in use by another machine"),
            "end that one first, or give each its own".to_owned(),
        )),
        Err(error) => Some(Finding::warning(
            format!("disk {path} cannot be looked at: {error}"),
            "a start needs to read it".to_owned(),
        )),
    }
}

fn of_apart(
    path: &str,
    apart: Result<Option<QuarantineStatus>, QuarantineError>,
    register: Option<u64>,
) -> Option<Finding> {
    let status = match apart {
        Ok(status) => status?,
        Err(error @ QuarantineError::Io { .. }) => {
            let what = format!("disk {path}: {error}");
            return Some(Finding::warning(what, "a start needs to read it".to_owned()));
        }
        // They say themselves what to do; a start is refused with the same by the replica.
        Err(error) => {
            return Some(Finding {
                todo: None,
                ..Finding::error(format!("disk {path}: {error}"), String::new())
            });
        }
    };
    let generation = status.owners.last()?.generation;
    let what = format!(
        "{} blocks of disk {path} are kept apart in {} since generation {generation}",
        status.sectors,
        status.path.display()
    );
    const BACK: &str = "start both replicas, which brings them back once the old process is known to be gone";
    Some(match register {
        Some(register) if generation > register => Finding::error(
            format!(
                "{what}, and the tie-breaker is in {register}: its store was restored from an old copy, or is another one, and no replica \
                 could take over"
            ),
            format!("bring the store back as it was. If it is lost: {BACK}, and let none fail before `ft-vm status` says so"),
        )
        .at_start(AtStart::Say),
        _ => Finding::warning(
            what,
            format!("the two files belong together, the disk alone has old data there; {BACK}"),
        ),
    })
}
