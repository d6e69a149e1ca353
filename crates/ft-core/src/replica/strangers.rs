//! Who is on the log connection: the peer as it is now, or somebody who does not have the pair's key, or repeats what it said before
//! ([`crate::wire`] says what is to be kept away).

use std::mem::discriminant;

use super::{Effect, Event, Exit, Hello, Nanos, Replica, WireError};
use crate::wire::Nonces;

impl<O> Replica<O> {
    /// True if this was said on this very connection. With a key the first hello of each side only tells its number, and counts
    /// for nothing else: it may be a repetition. The next one has the other side's number too.
    pub(super) fn is_said_here(&mut self, hello: &Hello) -> bool {
        if self.settings.key.is_none() {
            return true;
        }
        let (Some(link), Some(nonces)) = (&mut self.link, hello.nonces) else { return false };
        // One's own, sent back, is none.
        let first = link.theirs == 0 && nonces.mine != link.nonce;
        if first {
            link.theirs = nonces.mine;
        }
        let here = nonces == Nonces { mine: link.theirs, yours: link.nonce };
        if first {
            self.send_hello();
        }
        here
    }

    pub(super) fn broken_stream(&mut self, error: WireError, now: Nanos) {
        let strange = matches!(
            error,
            WireError::Version(_) | WireError::Untagged | WireError::OtherKey | WireError::Tagged
        );
        // With a key, nobody ends a start who does not have it: such a peer is a stranger, or his word is no better than one's.
        if strange && self.settings.key.is_none() && self.is_starting() {
            return self.halt(Exit::Mismatch, error.to_string());
        }
        if strange && self.session.is_none() {
            self.counters.turned_away += 1;
            // It comes again, many times a second while this side waits.
            let kind = discriminant(&error);
            if !self.strangers.contains(&kind) {
                self.strangers.push(kind);
                self.notice(format!("a connection was turned away: {error}"));
            }
        }
        self.link = None;
        self.effects.push_back(Effect::CloseLink);
        self.handle(Event::Disconnected(format!("the log connection is broken: {error}")), now);
    }
}
