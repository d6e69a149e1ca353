//! A thread for what may take long and must not hold up any other: fences, blocks that come back to their disks, and the exchange
//! that makes copies the same.

use std::io;
use std::sync::{Arc, mpsc};

use super::fence;
use super::shared::Shared;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Chore {
    /// See [`fence::fence`].
    Fence(u64),
    /// A process of the peer's was heard.
    PeerHeard,
}

/// Starts the thread.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    shared.set_chores(sender);
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("chores".into()).spawn(move || {
        while let Ok(chore) = receiver.recv() {
            match chore {
                Chore::Fence(generation) => fence::fence(&shared, generation),
                Chore::PeerHeard => fence::peer_heard(&shared),
            }
        }
    })?;
    Ok(())
}
