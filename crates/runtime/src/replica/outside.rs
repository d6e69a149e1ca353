//! What goes out: the protocol's effects and released outputs, performed by one thread at a time and in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ft_core::output::OutputBody;
use ft_core::{Effect, OutputClass, Released};

use super::chores::Chore;
use super::net;
use super::register::Call;
use super::shared::{Ending, Held, Shared};
use crate::launcher::messages::FromReplica;
use crate::launcher::packet::PacketSocket;

/// The way out, behind one lock.
pub(super) struct Outside {
    lan: Arc<PacketSocket>,
    pub(super) dropped_batches: u64,
}

impl Outside {
    pub(super) fn new(lan: Arc<PacketSocket>) -> Self {
        Self { lan, dropped_batches: 0 }
    }

    /// Does one thing that the protocol wants done. Never waits.
    pub(super) fn perform(&mut self, shared: &Shared, effect: Effect) {
        match effect {
            Effect::ReadRegister => shared.call_register(Call::Read),
            Effect::Ask { from } => shared.call_register(Call::Ask(from)),
            Effect::Learn(state) => shared.call_register(Call::Learn(state)),
            Effect::Fence { generation } => shared.chore(Chore::Fence(generation)),
            Effect::Live { generation, takeover, alone, silent, reason } => {
                if alone {
                    shared.disks.forget_backup();
                }
                // What was heard of the peer while this side was not live yet.
                shared.chore(Chore::PeerHeard);
                shared.control.send(&FromReplica::Live {
                    generation,
                    position: shared.position.load(Ordering::Acquire),
                    takeover,
                    alone,
                    silent_ms: silent as f64 / 1e6,
                    reason,
                    seen: shared.seen(),
                    addresses: shared.addresses(),
                });
            }
            Effect::RxAcknowledged { generation, seq } => {
                shared.control.send(&FromReplica::RxAcknowledged { generation, seq });
            }
            Effect::ReadFinished { disk, request } => shared.disks.read_finished(disk, request),
            Effect::CopyFrom { session } => shared.chore(Chore::CopyFrom(session)),
            Effect::CopyTo { session } => shared.chore(Chore::CopyTo(session)),
            Effect::CopyMessage { session, message } => shared.chore(Chore::CopyMessage(session, message)),
            Effect::CopyOff => shared.chore(Chore::CopyOff),
            Effect::Peer { incarnation, gone } => {
                shared.peers.heard(incarnation, gone);
                shared.chore(Chore::PeerHeard);
            }
            Effect::Heartbeat(bytes) => shared.heartbeat(&bytes),
            Effect::CloseLink => {
                // What waits is an answer to what the peer did wrong, if anything: it goes first, if it can.
                shared.transmit();
                shared.close_link();
            }
            Effect::Notice(text) => shared.control.notice(text),
            Effect::Halt { exit, message } => {
                shared.transmit();
                shared.end(Ending { code: exit as u8, message, orderly: false });
            }
            Effect::End => {
                shared.transmit();
                let (code, message) = shared.guest_end();
                shared.end(Ending { code, message, orderly: true });
            }
        }
    }

    /// Lets out what may go out now. True if there was anything.
    pub(super) fn release(&mut self, shared: &Shared) -> bool {
        let mut last = None;
        // When the launcher does not read, outputs stay in the gate, and the guest stalls when that is full.
        while !shared.control.is_crowded() {
            let released = shared.core().poll_release(shared.now());
            let Some(released) = released else { break };
            last = Some((released.lsn, released.class == OutputClass::End));
            self.perform_output(shared, released);
        }
        let Some((lsn, end)) = last else { return false };
        shared.core().released(lsn, end, shared.now());
        true
    }

    fn perform_output(&mut self, shared: &Shared, released: Released<Held>) {
        let body = match released.payload {
            Held::Output(body) => body,
            Held::Write((disk, request)) => return shared.disks.release(disk, request),
        };
        match body {
            OutputBody::NetTx { nic, frames } => {
                let whole = net::send(&self.lan, released.generation, nic, frames);
                self.dropped_batches += u64::from(!whole);
            }
            OutputBody::Console { offset, bytes } => shared.control.console(offset, &bytes),
            // What they mean was noted when they were made; the protocol ends the replica.
            OutputBody::PowerOff { .. } | OutputBody::Reset | OutputBody::Dead(_) => {}
            // Held as [`Held::Write`], or not at all; and what nobody outside sees.
            OutputBody::Disk(_) | OutputBody::Entropy { .. } => {}
        }
    }
}
