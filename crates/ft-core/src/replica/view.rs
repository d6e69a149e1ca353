//! What a checker sees of a replica: all that the protocol's invariants speak of, cheap to take after every step.

use super::{Phase, Replica};
use crate::Lsn;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where it is in its life.
    pub phase: Phase,
    /// The generation of which it is, or was last, a part.
    pub generation: u64,
    /// The session, and the process of the peer in it.
    pub session: Option<(u64, u64)>,
    /// Its guest runs, or ran.
    pub started: bool,
    /// An ask is outstanding.
    pub asking: bool,
    /// Primary: the last record appended, the highest acknowledged, and the cost of what the backup has not executed, in bytes.
    pub log: (Lsn, Lsn, u64),
    /// Outputs in the gate, and their bytes.
    pub gate: (usize, u64),
    /// Backup: the highest record received, the highest executed, and the cost of what waits, in bytes.
    pub backlog: (Lsn, Lsn, u64),
    /// Backup: the highest position told.
    pub told: u64,
    /// Backup: outputs kept back.
    pub kept: usize,
    /// Backup: the highest watermark heard.
    pub released: Lsn,
    /// Backup: `Armed` was received.
    pub armed: bool,
    /// How often it found that its peer breaks the protocol.
    pub lies: u64,
}

impl<O> Replica<O> {
    /// What a checker sees.
    pub fn view(&self) -> View {
        View {
            phase: self.phase.clone(),
            generation: self.generation,
            session: self.session.map(|session| (session.id, session.peer)),
            started: self.started,
            asking: self.ask.is_some(),
            log: (self.last, self.log.acked(), self.log.bytes()),
            gate: (self.gate.len(), self.gate.bytes()),
            backlog: (self.backlog.received(), self.backlog.executed_lsn(), self.backlog.bytes()),
            told: self.backlog.told(),
            kept: self.backlog.kept(),
            released: self.backlog.released_lsn(),
            armed: self.backlog.is_armed(),
            lies: self.counters.lies,
        }
    }
}
