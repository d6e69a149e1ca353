//! The register as a witness keeps it, seen from a replica: a connection for each call, and an answer in time or none.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::wire::{Ask, MAX_LINE, Reply, Request, Said};
use crate::key::Key;
use crate::tie_breaker::{Answer, DEADLINE, Register, RegisterState, Unavailable, Who, answer};

/// The register of one pair at a witness.
#[derive(Clone, Debug)]
pub struct Witness {
    address: SocketAddr,
    pair: u128,
    key: Option<Key>,
}

impl Witness {
    /// The register of the pair `pair` at the witness that listens at `address` and knows the pair by `key`. Does no I/O.
    pub fn new(address: SocketAddr, pair: u128, key: Option<Key>) -> Self {
        Self { address, pair, key }
    }

    fn call(&self, ask: Ask) -> Result<RegisterState, Unavailable> {
        let cannot = |reason: String| Unavailable::Witness { address: self.address, reason };
        let request = Request::new(self.pair, ask)
            .map_err(|error| cannot(format!("it was not asked, for want of random bytes: {error}")))?;
        let tag = self.key.as_ref().map(|key| request.sign(key));
        let line = self.exchange(&request.encode(tag))?;
        let Said { what, tag: signed } =
            Reply::decode(&line).map_err(|error| cannot(format!("its answer is not understood: {error}")))?;
        let believed = match (&self.key, tag, signed) {
            (Some(key), Some(request), Some(signed)) => what.verify(key, &request, &signed),
            (Some(_), ..) => false,
            (None, ..) => true,
        };
        match what {
            Reply::State { .. } if !believed => Err(cannot(
                "its answer is not signed with this pair's key, and not believed: is this the right address, and is a witness \
                 there that was started with --keys?"
                    .into(),
            )),
            Reply::State { pair, state } if pair == self.pair => Ok(state),
            Reply::State { pair, .. } => {
                Err(cannot(format!("it answered for pair {pair:032x}, and was asked for {:032x}", self.pair)))
            }
            Reply::Unavailable(reason) if believed => Err(cannot(printable(&reason))),
            Reply::Unavailable(reason) => {
                Err(cannot(format!("{} (which is not signed with this pair's key)", printable(&reason))))
            }
            Reply::Denied(reason) if self.key.is_some() => {
                Err(cannot(format!("it refuses this pair's key: {}", printable(&reason))))
            }
            Reply::Denied(reason) => {
                Err(cannot(format!("it refuses this pair, which has no key: {}", printable(&reason))))
            }
            Reply::Refused(reason) => {
                Err(cannot(format!("it does not understand the request: {}", printable(&reason))))
            }
        }
    }

    /// Sends a line and receives one.
    fn exchange(&self, request: &str) -> Result<Vec<u8>, Unavailable> {
        let deadline = Instant::now() + DEADLINE;
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
        };
        let failed = |doing| {
            move |error: io::Error| {
                let error = match error.kind() {
                    // What a socket's time-out is called.
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        format!("no answer within {} ms", DEADLINE.as_millis())
                    }
                    _ => error.to_string(),
                };
                Unavailable::Unreachable { address: self.address, doing, error }
            }
        };
        let mut connection =
            TcpStream::connect_timeout(&self.address, DEADLINE).map_err(failed("connecting"))?;
        connection.set_nodelay(true).map_err(failed("connecting"))?;
        left()
            .and_then(|left| connection.set_write_timeout(Some(left)))
            .and_then(|()| connection.write_all(request.as_bytes()))
            .map_err(failed("asking"))?;
        let mut received = Vec::new();
        loop {
            let mut piece = [0; MAX_LINE];
            let count = left()
                .and_then(|left| connection.set_read_timeout(Some(left)))
                .and_then(|()| connection.read(&mut piece));
            match count {
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
                    return Err(failed("waiting for the answer")(error));
                }
                Ok(count) => received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("waiting for the answer")(error)),
            }
            if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
                received.truncate(end + 1);
                return Ok(received);
            }
            if received.len() > MAX_LINE {
                // It is no answer, whatever follows.
                return Ok(received);
            }
        }
    }
}

/// A text of the network's, for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

impl Register for Witness {
    fn read(&self) -> Result<RegisterState, Unavailable> {
        self.call(Ask::Read)
    }

    fn advance(&self, from: u64, who: &Who) -> Answer {
        if from == u64::MAX {
            return Answer::Unavailable(Unavailable::Exhausted);
        }
        match self.call(Ask::Advance { from, who: *who }) {
            // After an ask the register has gone on from there, or it is lower.
            Ok(state) if state.generation == from => Answer::Unavailable(Unavailable::Witness {
                address: self.address,
                reason: format!(
                    "it says that it stands at generation {from} still, after it was asked for the next one"
                ),
            }),
            Ok(state) => answer(from, who, state),
            Err(error) => Answer::Unavailable(error),
        }
    }
}
