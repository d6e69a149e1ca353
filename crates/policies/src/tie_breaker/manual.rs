//! Nobody goes on until a person says so (`ft-vm promote`): there is no store that both replicas reach.
//!
//! What is here is the memory of one replica: the last generation that it won, or was told of, in a small file of its own. The
//! protocol asks it only when a person has said so, or when both replicas agree that neither runs the guest; so it never has a
//! reason to say no, except that it knows of a higher generation.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Deserialize;

use super::durable;
use super::entry::Entry;
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

    fn state(&self) -> Result<RegisterState, Unavailable> {
        Ok(match Entry::read(&self.path, &self.pair, true)? {
            Some(entry) => RegisterState { generation: entry.generation, holder: Some(entry.who) },
            None => RegisterState { generation: 0, holder: None },
        })
    }

    /// Whole or not at all, and durable when this returns.
    fn write(&self, generation: u64, who: Who) -> Result<(), Unavailable> {
        let entry = Entry { pair: self.pair.clone(), generation, who };
        Ok(durable::replace(&self.path, entry.render().as_bytes())?)
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
    use std::fs;

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
