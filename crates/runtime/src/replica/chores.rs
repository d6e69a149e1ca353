//! A thread for what may take long and must not hold up any other: fences, blocks that come back to their disks, and the exchange
//! that makes copies the same.

use std::io;
use std::sync::{Arc, mpsc};

use ft_core::Event;
use ft_core::wire::Copies;

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
    CopyFrom,
    /// The other side's are.
    CopyTo,
    /// The other side says something in the exchange.
    CopyMessage(Vec<u8>),
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
    exchange: Option<Exchange>,
}

impl Chores {
    fn perform(&mut self, chore: Chore) {
        let shared = &self.shared;
        match chore {
            Chore::Fence(generation) => fence::fence(shared, generation),
            Chore::PeerHeard => fence::peer_heard(shared),
            Chore::CopyFrom => self.exchange = Some(Exchange::source(&shared.media.copies)),
            Chore::CopyTo => {
                let (generation, source) = (shared.core().generation(), shared.me().replica.peer());
                let to = Arc::clone(shared);
                let begun = move || {
                    let worth = to.media.copies.worth().unwrap_or(Copies { live: 0, usable: false });
                    to.handle(Event::Copies(worth));
                };
                self.exchange = Some(Exchange::target(&shared.media.copies, generation, source, begun));
                self.step(None);
            }
            Chore::CopyMessage(message) => self.step(Some(&message)),
            Chore::CopyOff => self.exchange = None,
        }
    }

    fn step(&mut self, message: Option<&[u8]>) {
        let Some(exchange) = &mut self.exchange else { return };
        let shared = &self.shared;
        match exchange.step(message) {
            Ok(step) => {
                for reply in step.replies {
                    shared.core().send_copy(reply);
                }
                shared.transmit();
                if let Some(refusal) = exchange.refusal() {
                    self.exchange = None;
                    shared.handle(Event::CopyRefused(refusal));
                } else {
                    match step.over {
                        None => return,
                        Some(Over::Source) => shared.handle(Event::Copied),
                        Some(Over::Target { notice }) => {
                            if let Some(worth) = shared.media.copies.worth() {
                                shared.handle(Event::Copies(worth));
                            }
                            notice.into_iter().for_each(|notice| shared.control.notice(notice));
                        }
                    }
                    self.exchange = None;
                }
                shared.pump();
            }
            Err(error) => {
                self.exchange = None;
                shared.disk_failed(format!("the replicas' disks cannot be made the same: {error}"));
            }
        }
    }
}
