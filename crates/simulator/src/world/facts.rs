//! What an observer who sees everything knows: for the properties.

use std::collections::BTreeMap;

use ft_core::replica::View;
use ft_core::{Lsn, Nanos};
use ft_policies::{ReplicaId, Who};

use crate::guest::Guest;
use crate::guest::reference::Journal;
use crate::node::fence::IDS;

/// What is left of a process.
#[derive(Debug)]
pub struct Ghost {
    /// Its guest.
    pub guest: Guest,
    /// Every input that it had.
    pub journal: Journal,
}

/// A session, as its backup had it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Session {
    /// The highest record that the backup received before it closed the session.
    pub received: Lsn,
    /// Its backup's process.
    pub backup: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Facts {
    /// What each seat's process looks like; `None` where there is none.
    pub views: [Option<View>; 2],
    /// The processes.
    pub incarnations: [u64; 2],
    /// Sessions by number.
    pub sessions: BTreeMap<u64, Session>,
    /// Generations that were won, and by whom.
    pub wins: BTreeMap<u64, Who>,
    /// By hand: who else has won one, in a register of his own.
    pub rivals: BTreeMap<u64, Who>,
    /// For each life of the guest the process that was live in it last.
    pub lives: BTreeMap<u64, u64>,
    /// What is left of processes, by incarnation.
    pub ghosts: BTreeMap<u64, Ghost>,
    /// A fault of this run may damage the log connection's bytes.
    pub corrupt: bool,
    /// The register's store was put back.
    pub restored: bool,
    /// A person has promoted a replica although the other one goes on, or has gone on: there may be two guests.
    pub wrong: bool,
    /// A replica's copy of the disk was lost for good.
    pub copy_lost: bool,
    /// Requests to a disk have failed.
    pub disk_errors: bool,
    /// A process was started a second time.
    pub restarted: bool,
    /// The time, when something is seen.
    pub now: Nanos,
    /// When processes said that they are live.
    pub live_since: BTreeMap<u64, Nanos>,
    /// In which generation they said so last.
    pub live_in: BTreeMap<u64, u64>,
    /// In which generation each seat went on, or started the guest, without the other one last.
    pub alone: [Option<u64>; 2],
    /// Of which generation processes were the backup last.
    pub backup_in: BTreeMap<u64, u64>,
    /// A backup's process whose guest was damaged.
    pub damaged: Option<u64>,
    /// Nobody went on by itself once faults had stopped, and the operator started something.
    pub operator: bool,
    /// Bounds: outputs in the gate.
    pub gate: usize,
}

impl Facts {
    /// A process is no more.
    pub fn buried(&mut self, node: usize, incarnation: u64, ghost: Ghost) {
        self.views[node] = None;
        self.ghosts.insert(incarnation, ghost);
    }

    /// Takes in what a process looks like now.
    pub fn note(&mut self, node: usize, incarnation: u64, view: View) {
        if let (true, Some((id, _))) = (view.phase == ft_core::Phase::Backup, view.session) {
            let session = self.sessions.entry(id).or_default();
            session.received = session.received.max(view.backlog.0);
            session.backup = incarnation;
            self.backup_in.insert(incarnation, view.generation);
        }
        self.incarnations[node] = incarnation;
        self.views[node] = Some(view);
    }

    /// Another process has won a generation above this one's.
    pub fn is_deposed(&self, node: usize) -> bool {
        let Some(view) = &self.views[node] else { return false };
        let mut above = self.wins.range(view.generation + 1..);
        above.any(|(_, who)| who.incarnation != self.incarnations[node])
    }

    /// True if the other one has the guest alone, and this one may have been left behind: it was not the last that had it.
    pub fn is_left_behind(&self, node: usize) -> bool {
        let Some(generation) = self.alone[1 - node] else { return false };
        let before = self.wins.range(..generation).next_back();
        before.map_or(ReplicaId::A, |(_, who)| who.replica) != IDS[node]
    }

    /// True if a replica's guest runs, and nothing is held back.
    pub fn goes_on(&self, node: usize) -> bool {
        self.views[node]
            .as_ref()
            .is_some_and(|view| view.phase == ft_core::Phase::Live && view.started && !view.asking)
    }

    /// True if that process has won the generation.
    pub fn has_won(&self, generation: u64, incarnation: u64) -> bool {
        let winners = [self.wins.get(&generation), self.rivals.get(&generation)];
        winners.into_iter().flatten().any(|who| who.incarnation == incarnation)
    }

    /// The seat whose guest is the real one, if there is one for certain.
    pub fn live(&self) -> Option<usize> {
        (0..2).find(|node| self.goes_on(*node))
    }

    /// True if the live replica has a backup that may take over.
    pub fn is_paired(&self) -> bool {
        let Some(live) = self.live() else { return false };
        let (Some(primary), Some(backup)) = (&self.views[live], &self.views[1 - live]) else { return false };
        primary.session.is_some()
            && primary.session.map(|session| session.0) == backup.session.map(|session| session.0)
            && backup.phase == ft_core::Phase::Backup
            && backup.armed
    }
}
