//! A thread for what may take long and must not hold up any other: fences, blocks that come back to their disks, and the exchange
//! that makes copies the same.

use std::io;
use std::sync::{Arc, mpsc};

use ft_core::Event;
use ft_devices::backend::copy::CopyError;

use super::copies::{Exchange, Over};
use super::fence;
use super::shared::Shared;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Chore {
    /// See [`fence::fence`].
    Fence(u64),
    /// A process of the peer's was heard.
    PeerHeard,
    /// The exchange begins, and this side's copies are the ones that count.
    CopyFrom(u64),
    /// The other side's are.
    CopyTo(u64),
    /// The other side says something in the exchange of this session.
    CopyMessage(u64, Vec<u8>),
    /// The exchange is off.
    CopyOff,
}

/// Starts the thread.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    shared.set_chores(sender);
    let mut chores = Chores { shared: Arc::clone(shared), exchange: None };
    std::thread::Builder::new().name("chores".into()).spawn(move || {
        while let Ok(chore) = receiver.recv() {
            chores.perform(chore);
        }
    })?;
    Ok(())
}

struct Chores {
    shared: Arc<Shared>,
    /// The exchange of a session.
    exchange: Option<(u64, Exchange)>,
}

impl Chores {
    fn perform(&mut self, chore: Chore) {
        let shared = &self.shared;
        match chore {
            Chore::Fence(generation) => fence::fence(shared, generation),
            Chore::PeerHeard => fence::peer_heard(shared),
            Chore::CopyFrom(session) => {
                let generation = shared.core().generation();
                self.exchange = Some((session, Exchange::source(&shared.media.copies, generation)));
            }
            Chore::CopyTo(session) => {
                let (generation, source) = (shared.core().generation(), shared.me().replica.peer());
                let to = Arc::clone(shared);
                let begun = move || {
                    if let Some(worth) = to.media.copies.worth() {
                        to.handle(Event::Copies(worth));
                    }
                };
                let exchange = Exchange::target(&shared.media.copies, generation, source, begun);
                self.exchange = Some((session, exchange));
                self.step(session, None);
            }
            Chore::CopyMessage(session, message) => self.step(session, Some(&message)),
            Chore::CopyOff => self.exchange = None,
        }
    }

    fn step(&mut self, session: u64, message: Option<&[u8]>) {
        let current = self.exchange.as_mut().filter(|(current, _)| *current == session);
        let Some((_, exchange)) = current else { return };
        let shared = &self.shared;
        let over = match exchange.step(message) {
            Ok(step) => {
                for reply in step.replies {
                    shared.core().send_copy(session, reply);
                }
                shared.transmit();
                match (exchange.refusal(), step.over) {
                    (Some(reason), _) => Some(Event::CopyRefused { session, reason }),
                    (None, Some(Over::Source)) => Some(Event::Copied { session }),
                    (None, Some(Over::Target { notice })) => {
                        notice.into_iter().for_each(|notice| shared.control.notice(notice));
                        self.exchange = None;
                        None
                    }
                    (None, None) => None,
                }
            }
            // The peer's fault is no reason to end.
            Err(error @ CopyError::Protocol(_)) => {
                Some(Event::CopyBroken { session, reason: error.to_string() })
            }
            Err(error) => {
                self.exchange = None;
                return shared.disk_failed(format!("the replicas' disks cannot be made the same: {error}"));
            }
        };
        if let Some(worth) = shared.media.copies.worth() {
            shared.handle(Event::Copies(worth));
        }
        if let Some(event) = over {
            self.exchange = None;
            shared.handle(event);
        }
        shared.pump();
    }
}
