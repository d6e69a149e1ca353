//! Nobody goes on until a person says so (`ft-vm promote`): there is no store that both replicas reach.
//!
//! What is here is the memory of one replica: the last generation that it won, or was told of, in a small file of its own. The
//! protocol asks it only when a person has said so, or when both replicas agree that neither runs the guest; so it never has a
//! reason to say no, except that it knows of a higher generation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Deserialize;

use super::entry::{Entry, MAX_LEN};
use super::{Answer, Pair, Register, RegisterState, TieBreakerKind, Unavailable, Who};
use crate::check::Check;
use crate::config::REPLICA;
use crate::schema::At;
use crate::schema::values::NonEmpty;

/// The memory of one replica.
#[derive(Debug)]
pub struct Manual {
    path: PathBuf,
    pair: Pair,
    /// Calls of one process come one after the other: a call that hangs may still be at work when the next one begins.
    turn: Mutex<()>,
}

impl Manual {
    /// The memory in the file `path`. Does no I/O.
    pub fn new(path: PathBuf, pair: Pair) -> Self {
        Self { path, pair, turn: Mutex::new(()) }
    }

    fn entry(&self) -> Result<Option<Entry>, Unavailable> {
        let corrupt = |reason: String| Unavailable::Corrupt { path: self.path.clone(), reason };
        // Non-blocking: a pipe of that name must not hang.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", &self.path, &error)),
        };
        if !file.metadata().map_err(|error| failed("examining", &self.path, &error))?.is_file() {
            return Err(corrupt("it is not a regular file".into()));
        }
        let mut bytes = Vec::new();
        file.take(MAX_LEN as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed("reading", &self.path, &error))?;
        let entry = Entry::parse(&bytes).map_err(corrupt)?;
        if entry.pair.id != self.pair.id {
            let (path, theirs, ours) = (self.path.clone(), entry.pair.name, self.pair.name.clone());
            return Err(Unavailable::ForeignPair { path, theirs, ours });
        }
        Ok(Some(entry))
    }

    fn state(&self) -> Result<RegisterState, Unavailable> {
        Ok(match self.entry()? {
            Some(entry) => RegisterState { generation: entry.generation, holder: Some(entry.who) },
            None => RegisterState { generation: 0, holder: None },
        })
    }

    /// Whole or not at all, and durable when this returns: written beside it, and renamed over it.
    fn write(&self, generation: u64, who: Who) -> Result<(), Unavailable> {
        let entry = Entry { pair: self.pair.clone(), generation, who };
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".tmp.{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .and_then(|mut file| file.write_all(entry.render().as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            // Ours alone, and never renamed: nothing depends on it.
            let _ = fs::remove_file(&temporary);
            return Err(failed("writing", &temporary, &error));
        }
        let folder = self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("making durable", folder, &error))
    }

    fn try_advance(&self, from: u64, who: &Who) -> Result<Answer, Unavailable> {
        let wanted = from.checked_add(1).ok_or(Unavailable::Exhausted)?;
        let state = self.state()?;
        if state.generation >= wanted {
            let mine = state.generation == wanted && state.holder == Some(*who);
            if mine {
                // The one before may have failed on the way.
                self.write(wanted, *who)?;
            }
            return Ok(if mine { Answer::Won } else { Answer::Lost(state) });
        }
        self.write(wanted, *who)?;
        Ok(Answer::Won)
    }

    fn try_learn(&self, state: RegisterState) -> Result<(), Unavailable> {
        match state.holder {
            Some(who) if self.state()?.generation < state.generation => self.write(state.generation, who),
            _ => Ok(()),
        }
    }
}

impl Register for Manual {
    fn read(&self) -> Result<RegisterState, Unavailable> {
        self.state()
    }

    fn advance(&self, from: u64, who: &Who) -> Answer {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.try_advance(from, who).unwrap_or_else(Answer::Unavailable)
    }

    fn learn(&self, state: RegisterState) -> Result<(), Unavailable> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.try_learn(state)
    }
}

fn failed(doing: &'static str, path: &Path, error: &io::Error) -> Unavailable {
    Unavailable::Io { doing, path: path.to_owned(), error: error.to_string() }
}

/// The `[tie-breaker.manual]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "TieBreakerManual")]
pub(crate) struct Table {
    /// The file in which a replica remembers the last generation that it knows of, relative to this file. Each replica has its
    /// own: `{replica}` stands for the replica's name. Left out, it is `NAME.{replica}.generation` with the name of the virtual
    /// machine.
    #[schemars(extend("examples" = ["kv.{replica}.generation"]))]
    pub(crate) path: Option<At<NonEmpty>>,
}

impl Table {
    /// `name` is that of the virtual machine.
    pub(crate) fn resolve(self, name: &str, check: &mut Check) -> TieBreakerKind {
        let path = match &self.path {
            Some(at) => {
                if !at.value().0.contains(REPLICA) {
                    check.error(
                        at.span(),
                        "each replica needs a file of its own",
                        "both would write this one",
                        format!("{REPLICA} in the path stands for the replica's name: for example \"{name}.{REPLICA}.generation\""),
                    );
                }
                check.path(at)
            }
            None => check.beside(&format!("{name}.{REPLICA}.generation")),
        };
        TieBreakerKind::Manual { path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReplicaId;

    fn pair(name: &str) -> Pair {
        Pair { id: name.len() as u128, name: name.to_owned() }
    }

    fn who(replica: ReplicaId, incarnation: u64) -> Who {
        Who { replica, incarnation, config: 3 }
    }

    #[test]
    fn it_remembers_what_was_won_and_what_was_learnt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.a.generation");
        let register = || Manual::new(path.clone(), pair("kv"));
        let (me, other) = (who(ReplicaId::A, 1), who(ReplicaId::B, 2));
        assert_eq!(register().read(), Ok(RegisterState { generation: 0, holder: None }));
        assert_eq!(register().advance(0, &me), Answer::Won);
        assert_eq!(register().advance(0, &me), Answer::Won, "asked again");
        let mine = RegisterState { generation: 1, holder: Some(me) };
        assert_eq!(register().advance(0, &other), Answer::Lost(mine));
        // What it did not take part in does not hold it back: a person has decided.
        assert_eq!(register().advance(6, &me), Answer::Won);
        register().learn(RegisterState { generation: 5, holder: Some(other) }).unwrap();
        assert_eq!(register().read().unwrap().generation, 7, "that was less");
        let theirs = RegisterState { generation: 9, holder: Some(other) };
        register().learn(theirs).unwrap();
        assert_eq!(register().read(), Ok(theirs));
        assert_eq!(register().advance(7, &me), Answer::Lost(theirs));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn what_is_not_its_own_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g");
        let me = who(ReplicaId::A, 1);
        assert_eq!(Manual::new(path.clone(), pair("kv")).advance(0, &me), Answer::Won);
        let other = Manual::new(path.clone(), pair("other"));
        let error = other.read().unwrap_err().to_string();
        assert!(error.contains("belongs to the pair `kv`, and this one is `other`"), "{error}");
        assert!(matches!(other.advance(1, &me), Answer::Unavailable(Unavailable::ForeignPair { .. })));
        fs::write(&path, "rubbish").unwrap();
        let damaged = Manual::new(path.clone(), pair("kv"));
        assert!(matches!(damaged.advance(1, &me), Answer::Unavailable(Unavailable::Corrupt { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(damaged.read(), Err(Unavailable::Corrupt { .. })));
        let nowhere = Manual::new(folder.path().join("no/such/folder/g"), pair("kv"));
        assert_eq!(nowhere.read().unwrap().generation, 0);
        assert!(matches!(nowhere.advance(0, &me), Answer::Unavailable(Unavailable::Io { .. })));
    }
}
