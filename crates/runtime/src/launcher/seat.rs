//! One of the two places of a pair: a replica's process, and what is said over its control socket.

use std::collections::VecDeque;
use std::io;
use std::process::ExitStatus;
use std::time::Instant;

use ft_policies::ReplicaId;

use super::messages::{FromReplica, ToReplica};
use super::poller::{Poller, Token};
use super::process::{Process, describe};

/// Longest control message. Console bytes are the longest ones, at up to four characters each.
pub(crate) const CONTROL_MAX: usize = 1 << 20;
/// Messages that may wait for a replica that does not read, beyond which nothing optional is added.
const OUTBOX: usize = 64;

/// What the control socket had.
pub(crate) enum Received {
    Message(FromReplica),
    /// Nothing more for now.
    Nothing,
    /// Not a message; in words.
    Malformed(String),
}

/// Why the launcher killed a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Killed {
    /// The other one has won and asked for it.
    Fenced,
    /// It did not stop in time.
    Overdue,
    /// It said what no replica says.
    Distrusted(String),
}

pub(crate) struct Seat {
    pub(crate) id: ReplicaId,
    pub(crate) pid: u32,
    process: Process,
    pub(crate) readable: bool,
    writable: bool,
    /// End of file was read.
    pub(crate) closed: bool,
    outbox: VecDeque<Vec<u8>>,
    pub(crate) hello: bool,
    /// What it said of its end.
    pub(crate) ended: Option<(u8, String)>,
    /// How its process ended. It is reaped then.
    pub(crate) gone: Option<ExitStatus>,
    /// When its socket was closed or its process ended, whatever was seen first.
    pub(crate) lost_at: Option<Instant>,
    pub(crate) killed: Option<Killed>,
    /// The operator was told of its end.
    pub(crate) announced: bool,
}

impl Seat {
    /// Takes over a process that was started, except for its LAN socket. `place` is its index among the seats, and its port of
    /// the switch.
    pub(crate) fn new(id: ReplicaId, place: usize, process: Process, poller: &Poller) -> io::Result<Self> {
        let number = place as u32;
        poller.add_edge(&process.control, Token::Control(number))?;
        poller.add_level(&process.pidfd, Token::Process(number))?;
        Ok(Self {
            id,
            pid: process.pid(),
            process,
            readable: true,
            writable: true,
            closed: false,
            outbox: VecDeque::new(),
            hello: false,
            ended: None,
            gone: None,
            lost_at: None,
            killed: None,
            announced: false,
        })
    }

    /// The next message.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        while self.readable {
            match self.process.control.recv(buffer) {
                Ok(Some(bytes)) => {
                    return match serde_json::from_slice(bytes) {
                        Ok(message) => Received::Message(message),
                        Err(error) => Received::Malformed(format!("malformed control message: {error}")),
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Received::Malformed(format!("control message: {error}"));
                }
                // End of file, or a reset: messages that were not read are its own loss.
                Ok(None) | Err(_) => {
                    self.readable = false;
                    self.closed = true;
                    self.lost_at.get_or_insert_with(Instant::now);
                }
            }
        }
        Received::Nothing
    }

    /// Sees whether the other end was closed, and reads nothing.
    pub(crate) fn look_for_end(&mut self) {
        if self.process.control.is_hung_up() {
            self.lost_at.get_or_insert_with(Instant::now);
        }
    }

    /// Sends a message, at once or as soon as the replica reads.
    pub(crate) fn send(&mut self, message: &ToReplica) {
        // Serialising these types to memory cannot fail.
        if let Ok(bytes) = serde_json::to_vec(message) {
            self.outbox.push_back(bytes);
            self.flush();
        }
    }

    /// Whether a message that may be left out should be.
    pub(crate) fn is_behind(&self) -> bool {
        self.outbox.len() >= OUTBOX
    }

    pub(crate) fn set_writable(&mut self) {
        self.writable = true;
        self.flush();
    }

    fn flush(&mut self) {
        while let (true, Some(message)) = (self.writable, self.outbox.front()) {
            match self.process.control.send(message) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                // Closed: nobody will read them.
                Err(_) => self.outbox.clear(),
            }
        }
    }

    /// SIGKILL, and why.
    pub(crate) fn kill(&mut self, why: Killed) {
        if self.gone.is_none() {
            self.killed.get_or_insert(why);
            self.process.kill();
        }
    }

    /// SIGKILL for one that is ending by itself, so that it certainly does.
    pub(crate) fn kill_again(&mut self) {
        self.process.kill();
    }

    /// True when the process is found to have ended, the first time.
    pub(crate) fn reap(&mut self, poller: &Poller) -> io::Result<bool> {
        if self.gone.is_some() {
            return Ok(false);
        }
        let Some(status) = self.process.ended() else { return Ok(false) };
        poller.remove(&self.process.pidfd)?;
        self.gone = Some(status);
        self.lost_at.get_or_insert_with(Instant::now);
        // What it said last may still be there.
        self.readable = !self.closed;
        Ok(true)
    }

    /// `replica a (process 123)`
    pub(crate) fn name(&self) -> String {
        format!("replica {} (process {})", self.id, self.pid)
    }

    /// How it was lost, in words; `reason` is what the other one says.
    pub(crate) fn loss(&self, reason: &str) -> String {
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let what = match (&self.killed, self.gone) {
            (Some(Killed::Fenced), _) => {
                format!("was lost{because}; it was killed before its successor went on")
            }
            (Some(Killed::Distrusted(why)), _) => format!("was killed by the launcher: {why}"),
            (Some(Killed::Overdue), _) => "did not stop in time and was killed".to_owned(),
            (None, Some(status)) => describe(status),
            (None, None) => format!("is lost{because}"),
        };
        format!("{} {what}", self.name())
    }

    /// The code of an orderly end of the guest that it told: 0, or 64 and more.
    pub(crate) fn power_off(&self) -> Option<u8> {
        self.ended.as_ref().map(|(code, _)| *code).filter(|&code| is_power_off(code))
    }
}

pub(crate) fn is_power_off(code: u8) -> bool {
    code == 0 || code >= 64
}
