//! What earlier runs have left behind for a pair, and whether it is this pair's: looked at, and never changed.
//!
//! - [`register`]: what the tie-breaker's register says, and of whom;
//! - [`disks`]: what lies beside the disks: stamps of separate ones, blocks of shared ones that are kept apart; and who has a disk
//!   open.
//!
//! Each look has a thread of its own and a deadline: a file system that hangs, or a host that is not there, is a finding as well.

mod disks;
mod register;

use std::fmt;
use std::sync::mpsc::{Receiver, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use ft_policies::{Config, ReplicaId};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It may be as it should be, which a person knows.
    Warning,
    /// As things are no guest will run, or not for long.
    Error,
}

/// What a start makes of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtStart {
    /// Nothing to be said, or the replica that meets it says it.
    Silent,
    /// It is said, and the start goes on.
    Say,
    /// No waiting mends it: nothing is started, and this is the exit code.
    End(u8),
}

/// Something that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is.
    pub what: String,
    /// What to do about it, if anything.
    pub todo: Option<String>,
    /// What a start makes of it.
    pub at_start: AtStart,
}

impl Finding {
    fn good(what: String) -> Self {
        Self { level: Level::Good, what, todo: None, at_start: AtStart::Silent }
    }

    fn warning(what: String, todo: String) -> Self {
        Self { level: Level::Warning, what, todo: Some(todo), at_start: AtStart::Silent }
    }

    fn error(what: String, todo: String) -> Self {
        Self { level: Level::Error, what, todo: Some(todo), at_start: AtStart::Silent }
    }

    /// The same, with another effect on a start.
    fn at_start(self, at_start: AtStart) -> Self {
        Self { at_start, ..self }
    }
}

/// In one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.todo {
            Some(todo) => write!(f, "{}: {todo}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Looks at everything that belongs to these replicas, as far as it is on this machine. A step of it takes no longer than `limit`,
/// and there are two.
pub fn look(config: &Config, replicas: &[ReplicaId], limit: Duration) -> Vec<Finding> {
    // A stamp is written after its generation was won: in this order a register that goes on meanwhile is never behind one.
    let disks = disks::look(config, replicas, limit);
    let register = register::look(config, replicas, limit);
    let mut findings = register.findings;
    findings.extend(disks.findings(config, register.generation));
    findings
}

/// A look at something that may hang.
struct Look<T> {
    what: String,
    limit: Duration,
    until: Instant,
    result: Receiver<T>,
}

impl<T: Send + 'static> Look<T> {
    /// Begins to look at `what`.
    fn begin(what: String, limit: Duration, look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, result) = channel();
        // Without a thread the sender is dropped, which is told from a look that hangs. Nobody joins the thread: it may hang for
        // ever, and the process ends all the same.
        let _ = Builder::new().name("look".into()).spawn(move || {
            // Whether somebody still listens or not.
            let _ = sender.send(look());
        });
        Self { what, limit, until: Instant::now() + limit, result }
    }

    /// What was seen; in words why nothing was.
    fn end(self) -> Result<T, String> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.result.recv_timeout(left).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => {
                format!("{}: no answer within {} ms", self.what, self.limit.as_millis())
            }
            std::sync::mpsc::RecvTimeoutError::Disconnected => {
                format!("{}: could not be looked at", self.what)
            }
        })
    }
}

/// True if each replica has a copy of a disk that it writes: then what is said of beginning anew is about the copies too.
fn has_copies(config: &Config) -> bool {
    config.disks.iter().any(disks::has_stamp)
}

/// How to begin anew, as the end of a sentence.
fn begin_anew(config: &Config) -> String {
    let anew = config.tie_breaker.begin_anew();
    if has_copies(config) {
        format!(
            "{anew}. The copies of the separate disks go with it: put the one to keep in the other's place, and remove the .ft files \
             of both"
        )
    } else {
        anew
    }
}

#[cfg(test)]
mod tests;
