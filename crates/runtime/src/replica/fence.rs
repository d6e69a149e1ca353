//! The fence between winning a generation and the first write in it (PROTOCOL "Disks"), and what becomes of blocks that were kept
//! apart for it.
//!
//! On one machine the launcher kills and reaps the old process. Between hosts nobody can: the blocks that the old process may still
//! write are kept apart ([`ft_devices::backend::quarantine`]) until it is known to be gone. It is known to be gone when another
//! process of the same replica is heard (it holds the address that the old one held), when it says so as its last word, or when
//! this process is itself the successor.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ft_core::{Event, Phase};
use ft_devices::backend::stamp::CopyState;

use super::Setting;
use super::shared::Shared;
use crate::launcher::messages::FromReplica;

/// Between two attempts at what must succeed before this side can go on.
const RETRY: std::time::Duration = std::time::Duration::from_millis(200);

/// Most processes of the peer's that are remembered to be gone.
const MAX_GONE: usize = 1000;

/// What is known of the peer's processes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<u64>,
    gone: BTreeSet<u64>,
}

impl Peers {
    /// A process of the peer's has connected; or said its last word.
    pub(super) fn heard(&self, incarnation: u64, gone: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if gone && state.gone.len() < MAX_GONE {
            state.gone.insert(incarnation);
        } else if gone {
            // Nobody has so many processes.
        } else if let Some(before) = state.last.replace(incarnation).filter(|before| *before != incarnation) {
            state.gone.insert(before);
        }
    }

    /// True if that process of the peer's can write no more.
    pub(super) fn is_gone(&self, incarnation: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.gone.contains(&incarnation) || state.last.is_some_and(|last| last != incarnation)
    }
}

/// Cuts the old primary off from what this side is about to write, then tells the protocol.
pub(super) fn fence(shared: &Shared, generation: u64) {
    // After the win and the replay, and before the first output in this generation.
    if !shared.media.copies.is_empty() {
        insist(shared, || {
            shared.media.copies.flush()?;
            shared.media.copies.stamp(CopyState::Live, generation)
        });
    }
    insist(shared, || match shared.setting {
        Setting::Solo | Setting::OneMachine => Ok(()),
        Setting::TwoHosts => keep_apart(shared, generation),
    });
    if shared.setting == Setting::OneMachine {
        // Answered when the old process is reaped.
        shared.control.send(&FromReplica::Fence { generation });
    } else {
        shared.handle(Event::Fenced { generation });
        shared.pump();
    }
}

fn keep_apart(shared: &Shared, generation: u64) -> Result<(), String> {
    let lost = shared.core().lost_peer();
    let Some(incarnation) = lost.filter(|lost| !shared.peers.is_gone(*lost)) else {
        return shared.media.load_apart(shared.pair);
    };
    let replica = shared.me().replica.peer();
    shared.media.keep_apart(shared.pair, generation, (replica, incarnation), |disk| {
        shared.disks.writes_elsewhere(disk)
    })
}

/// Brings blocks that were kept apart back to their disks, if nobody can write there any more. For the replica that is live, or is
/// about to be.
pub(super) fn bring_back(shared: &Shared) {
    let me = shared.me();
    let is_gone = |replica, incarnation| {
        if replica == me.replica { incarnation != me.incarnation } else { shared.peers.is_gone(incarnation) }
    };
    match shared.media.bring_back(is_gone) {
        Ok(0) => {}
        Ok(sectors) => shared.control.notice(format!(
            "{sectors} blocks that the old primary could still have written are back on their disks: its process is gone"
        )),
        Err(error) => shared.control.notice(format!("{error}; the blocks stay where they are")),
    }
}

/// The same when a process of the peer's was heard.
pub(super) fn peer_heard(shared: &Shared) {
    if matches!(shared.core().phase(), Phase::Live) && shared.media.keeps_apart() {
        bring_back(shared);
    }
}

/// Tries until it succeeds: without it this side can do nothing, and the operator is told why.
pub(super) fn insist(shared: &Shared, mut attempt: impl FnMut() -> Result<(), String>) {
    let mut told = false;
    while let Err(error) = attempt() {
        if !std::mem::replace(&mut told, true) {
            shared.control.notice(format!("{error}; trying again, everything is held back until then"));
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_its_successor_is_heard_or_when_it_says_so() {
        let peers = Peers::default();
        assert!(!peers.is_gone(1), "nobody was heard yet");
        peers.heard(1, false);
        assert!(!peers.is_gone(1));
        assert!(peers.is_gone(7), "another process of that replica has its address");
        peers.heard(2, false);
        assert!(peers.is_gone(1) && !peers.is_gone(2));
        peers.heard(2, true);
        assert!(peers.is_gone(2));
    }
}
