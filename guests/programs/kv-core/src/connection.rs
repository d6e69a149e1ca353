//! One client: bytes in, replies out, each reply held until what it tells is durable.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::commands;
use crate::parser::{Parser, ProtocolError, Step};
use crate::reply;
use crate::server::Server;

/// Replies that a client has not fetched: beyond, its commands wait.
const MAX_OUTPUT: usize = 1 << 20;
/// Records not yet written: beyond, all commands wait.
const MAX_PENDING: usize = 1 << 20;
/// An empty buffer above this size gives its memory back.
const KEEP: usize = 64 << 10;

/// A client's state.
#[derive(Debug, Default)]
pub struct Connection {
    input: Vec<u8>,
    parser: Parser,
    output: Vec<u8>,
    /// How much of `output` has been sent.
    sent: usize,
    /// Ends of stretches of `output`, each with the batch that must be durable before it may be sent; both ascend.
    holds: VecDeque<(u64, usize)>,
    /// No further commands; ends when everything is sent.
    closing: bool,
    /// A command is waiting for room.
    stalled: bool,
    /// What of `Server::buffered` is ours.
    counted: usize,
}

impl Connection {
    /// Takes bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.closing {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Whether more input should wait: there are commands that could not be executed yet.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Brings the server's count of buffered bytes up to date. `false`: all connections together hold too much, and
    /// this one too much of it: it is to be dropped.
    #[must_use]
    pub fn is_within_limits(&mut self, server: &mut Server) -> bool {
        let held = self.input.len() + self.output.len();
        server.buffered = server.buffered - self.counted + held;
        self.counted = held;
        held <= KEEP || server.buffered <= server.limits.buffers
    }

    /// Takes this connection's bytes off the server's count.
    pub fn forget(&mut self, server: &mut Server) {
        server.buffered -= self.counted;
        self.counted = 0;
    }

    /// Executes the commands that have arrived.
    pub fn run(&mut self, server: &mut Server) {
        self.stalled = false;
        while !self.closing {
            if self.output.len() - self.sent > MAX_OUTPUT || server.log.pending() > MAX_PENDING {
                self.stalled = true;
                break;
            }
            match self.parser.next(&self.input) {
                Ok(Step::Incomplete) => break,
                Ok(Step::Command) => {
                    let arguments = commands::Arguments { parser: &self.parser, buffer: &self.input };
                    let outcome = commands::execute(server, arguments, &mut self.output);
                    self.closing |= outcome.close;
                    self.hold(outcome.needs);
                }
                Err(error) => {
                    protocol_error(error, &mut self.output);
                    self.closing = true;
                    self.hold(0);
                }
            }
        }
        let consumed = self.parser.consume();
        if consumed == self.input.len() {
            self.input.clear();
            if self.input.capacity() > KEEP {
                self.input = Vec::new();
            }
        } else if consumed > 0 {
            self.input.drain(..consumed);
        }
    }

    fn hold(&mut self, needs: u64) {
        match self.holds.back_mut() {
            Some((batch, end)) if *batch >= needs => *end = self.output.len(),
            _ => self.holds.push_back((needs, self.output.len())),
        }
    }

    /// What may be sent now.
    pub fn sendable(&self, durable: u64) -> &[u8] {
        let end = self.holds.iter().take_while(|(batch, _)| *batch <= durable).last();
        &self.output[self.sent..end.map_or(self.sent, |&(_, end)| end)]
    }

    /// Notes that `count` bytes of that have been sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        while self.holds.front().is_some_and(|&(_, end)| end <= self.sent) {
            self.holds.pop_front();
        }
        if self.sent == self.output.len() {
            self.sent = 0;
            self.output.clear();
            if self.output.capacity() > KEEP {
                self.output = Vec::new();
            }
        } else if self.sent > KEEP {
            self.output.drain(..self.sent);
            for (_, end) in &mut self.holds {
                *end -= self.sent;
            }
            self.sent = 0;
        }
    }

    /// Whether the connection is to be closed now: the client asked for it or broke the protocol, and has its replies.
    pub fn is_finished(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    /// Whether replies wait to be sent, or to be allowed.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }
}

fn protocol_error(error: ProtocolError, out: &mut Vec<u8>) {
    let shown;
    let text: &[&[u8]] = match error {
        ProtocolError::MultibulkLength => &[b"invalid multibulk length"],
        ProtocolError::BulkLength => &[b"invalid bulk length"],
        ProtocolError::ExpectedDollar(other) => {
            shown = [other];
            &[b"expected '$', got '", &shown, b"'"]
        }
        ProtocolError::MultibulkTooBig => &[b"too big mbulk count string"],
        ProtocolError::BulkTooBig => &[b"too big bulk count string"],
        ProtocolError::InlineTooBig => &[b"too big inline request"],
        ProtocolError::Quotes => &[b"unbalanced quotes in request"],
    };
    let mut parts: Vec<&[u8]> = Vec::from([&b"ERR Protocol error: "[..]]);
    parts.extend_from_slice(text);
    reply::error(out, &parts);
}
