//! The launcher's one thread: what it waits for, and the rules by which a pair starts, changes hands and ends.

mod questions;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use self::questions::{Promotion, Query};
use super::Members;
use super::console::{Accepted, Input, Output};
use super::lan::Lan;
use super::messages::{FromReplica, ToReplica};
use super::poller::{Poller, Ready, Token};
use super::process::Signals;
use super::seat::{CONTROL_MAX, Killed, Received, Seat, is_power_off};
use super::status::{Claim, Client};

/// How long replicas may take to end once they were told to, or have said that the guest is off.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long the operator waits to hear of a death when nobody takes over.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// How long a process may take from closing its connections to its end, when the line about it is not to wait longer.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// Control messages taken from one replica before others get their turn.
const MESSAGES_PER_TURN: usize = 256;

/// A line about a loss that waits until it is known how the lost process ended.
struct Loss {
    lost: usize,
    /// What the other one says of it.
    reason: String,
    /// What the line goes on with.
    rest: String,
    deadline: Instant,
}

/// How it ends.
struct Ending {
    /// When who is still there is killed.
    deadline: Instant,
    /// The exit code, if it is decided already.
    code: Option<u8>,
}

/// What a pair is made of when it starts.
pub(crate) struct Parts {
    pub(crate) members: Members,
    pub(crate) poller: Poller,
    pub(crate) signals: Signals,
    pub(crate) lan: Lan,
    pub(crate) output: Output,
    pub(crate) input: Option<Input>,
    pub(crate) console_news: EventFd,
    pub(crate) claim: Claim,
    pub(crate) seats: Vec<Seat>,
}

/// A running pair (or a solo machine: one seat).
pub(crate) struct Pair {
    parts: Parts,
    buffer: Vec<u8>,
    /// A replica has gone live.
    started: bool,
    ending: Option<Ending>,
    /// Who asked for a fence, for which generation, and waits for the end of the other.
    fence: Option<(usize, u64)>,
    loss: Option<Loss>,
    clients: BTreeMap<u32, Client>,
    next_client: u32,
    queries: Vec<Query>,
    promotions: Vec<Promotion>,
    next_query: u64,
    /// Somebody has more to say than one turn allows.
    more: bool,
    /// When the wait for the events at hand ended.
    round: Instant,
}

fn say(line: &str) {
    eprintln!("ft-vm: {line}");
}

impl Pair {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        parts.poller.add_level(&parts.signals, Token::Signal)?;
        parts.poller.add_level(&parts.console_news, Token::Console)?;
        parts.poller.add_level(&parts.claim.listener, Token::StatusListener)?;
        Ok(Self {
            parts,
            buffer: vec![0; CONTROL_MAX],
            started: false,
            ending: None,
            fence: None,
            loss: None,
            clients: BTreeMap::new(),
            next_client: 0,
            queries: Vec::new(),
            promotions: Vec::new(),
            next_query: 0,
            more: false,
            round: Instant::now(),
        })
    }

    /// Runs the pair to its end. Returns the exit code.
    pub(crate) fn run(mut self) -> io::Result<u8> {
        let mut events = Vec::new();
        loop {
            self.more = false;
            self.reap()?;
            for seat in 0..self.parts.seats.len() {
                self.listen_to(seat)?;
            }
            self.pass_input();
            let (idle, malformed) = self.parts.lan.service(&self.parts.poller);
            self.parts.lan.notices().iter().for_each(|notice| say(notice));
            for (port, problem) in malformed {
                self.distrust(port, problem.to_string());
            }
            self.check_deadlines();
            if self.parts.seats.iter().all(|seat| seat.gone.is_some()) {
                break;
            }
            let timeout = if self.more { Some(Duration::ZERO) } else { self.next_deadline(idle) };
            self.parts.poller.wait(timeout, &mut events)?;
            self.round = Instant::now();
            for &(token, ready) in &events {
                self.dispatch(token, ready);
            }
        }
        let code = self.final_code();
        if !self.parts.output.finish(END_PATIENCE) {
            say("some of the console's output could not be written");
        }
        Ok(code)
    }

    fn dispatch(&mut self, token: Token, ready: Ready) {
        match token {
            Token::Signal => {
                while let Some(signal) = self.parts.signals.next() {
                    self.signalled(signal);
                }
            }
            // Looked at in every round.
            Token::Process(_) => {}
            Token::Control(index) => {
                if let Some(seat) = self.parts.seats.get_mut(index as usize) {
                    seat.readable |= ready.readable && !seat.closed;
                    if ready.writable {
                        seat.set_writable();
                    }
                }
            }
            Token::Lan(_) | Token::Listener(_) | Token::Connection(_) | Token::Tap => {
                self.parts.lan.ready(token, ready);
            }
            Token::StatusListener => self.accept_client(),
            Token::StatusClient(number) => self.client_ready(number),
            Token::Console => {
                // Level-triggered and non-blocking: an error means that it was empty.
                let _ = self.parts.console_news.read();
                if let Some(error) = self.parts.output.failure() {
                    say(&format!("cannot write the guest's console output any more: {error}"));
                }
            }
        }
    }

    // Replicas.

    fn reap(&mut self) -> io::Result<()> {
        for index in 0..self.parts.seats.len() {
            if self.parts.seats[index].reap(&self.parts.poller)? {
                // Its last words come first: they say why.
                while self.parts.seats[index].readable {
                    self.listen_to(index)?;
                }
                self.gone(index);
            }
        }
        Ok(())
    }

    fn gone(&mut self, index: usize) {
        self.parts.lan.detach(index);
        if self.loss.as_ref().is_some_and(|loss| loss.lost == index) {
            self.say_loss();
        }
        if let Some((asker, generation)) = self.fence.take_if(|(asker, _)| *asker != index) {
            self.parts.seats[asker].send(&ToReplica::Fenced { generation });
        }
        let seat = &mut self.parts.seats[index];
        if !self.started && self.ending.is_none() {
            let code = match (&seat.ended, seat.gone.and_then(|status| status.code())) {
                (Some((code, _)), _) => *code,
                (None, Some(code @ 1..=6)) => code as u8,
                _ => 1,
            };
            if !std::mem::replace(&mut seat.announced, true) {
                let when = if self.parts.members.one().is_some() { "" } else { " at the start" };
                say(&format!("{}{when}", seat.loss("")));
            }
            self.stop(Some(code));
        }
    }

    /// Takes what a replica says.
    fn listen_to(&mut self, index: usize) -> io::Result<()> {
        for _ in 0..MESSAGES_PER_TURN {
            let seat = &mut self.parts.seats[index];
            // Console bytes that cannot be written hold back who writes them; a dead one's last words are finite.
            if seat.gone.is_none() && self.parts.lan.switch.live() == Some(index) && self.parts.output.full()
            {
                return Ok(());
            }
            match seat.receive(&mut self.buffer) {
                Received::Message(message) => self.heard(index, message)?,
                Received::Malformed(why) => {
                    seat.readable = false;
                    self.distrust(index, why);
                    return Ok(());
                }
                Received::Nothing => return Ok(()),
            }
        }
        self.more = true;
        Ok(())
    }

    fn distrust(&mut self, index: usize, why: String) {
        let seat = &mut self.parts.seats[index];
        if seat.killed.is_none() && seat.gone.is_none() {
            say(&format!("{}: {why}; it is killed", seat.name()));
            seat.kill(Killed::Distrusted(why));
        }
    }

    fn heard(&mut self, index: usize, message: FromReplica) -> io::Result<()> {
        let seat = &mut self.parts.seats[index];
        if !seat.hello
            && !matches!(
                message,
                FromReplica::Hello { .. } | FromReplica::Ended { .. } | FromReplica::Notice(_)
            )
        {
            self.distrust(index, "its first message is not `hello`".into());
            return Ok(());
        }
        match message {
            FromReplica::Hello { replica, pid, .. } => {
                if replica != seat.id.name() || pid != seat.pid {
                    let why = format!("it says it is replica `{}`, process {pid}", replica.escape_debug());
                    self.distrust(index, why);
                } else {
                    seat.hello = true;
                }
            }
            FromReplica::Notice(text) => say(&format!("replica {}: {}", seat.id, one_line(&text))),
            FromReplica::Status { id, status } => self.status_answered(index, id, status),
            FromReplica::Promoted { id, refused } => self.promotion_answered(id, refused),
            FromReplica::Console { offset, bytes } => match self.parts.output.accept(offset, bytes) {
                Accepted::Yes => {}
                Accepted::AfterGap(bytes) => {
                    say(&format!(
                        "{bytes} bytes of the guest's console output before offset {offset} are lost"
                    ));
                }
                Accepted::Malformed => self.distrust(index, format!("console bytes at offset {offset}")),
            },
            FromReplica::RxAcknowledged { generation, seq } => {
                if let Err(violation) = self.parts.lan.switch.acknowledged(index, generation, seq) {
                    self.distrust(index, violation.to_string());
                }
            }
            FromReplica::Fence { generation } => {
                self.look_at_other(index)?;
                self.fence(index, generation);
            }
            FromReplica::Live {
                generation,
                position,
                takeover,
                alone,
                silent_ms,
                reason,
                seen,
                addresses,
            } => {
                self.look_at_other(index)?;
                let moved = takeover.then_some(&addresses[..]);
                match self.parts.lan.go_live(index, generation, seen, moved) {
                    Ok(()) => {
                        let moved = Moved {
                            generation,
                            position,
                            takeover,
                            alone,
                            silent_ms,
                            reason: one_line(&reason),
                        };
                        self.went_live(index, &moved);
                    }
                    Err(violation) => self.distrust(index, violation.to_string()),
                }
            }
            FromReplica::Ended { code, message } => self.ended(index, code, message),
        }
        Ok(())
    }

    /// Whether the other one is dead or dying decides what is said and done, and was perhaps not seen yet.
    fn look_at_other(&mut self, index: usize) -> io::Result<()> {
        let Some(other) = self.other(index) else { return Ok(()) };
        let seat = &mut self.parts.seats[other];
        if seat.reap(&self.parts.poller)? {
            while self.parts.seats[other].readable {
                self.listen_to(other)?;
            }
            self.gone(other);
        } else {
            seat.look_for_end();
        }
        Ok(())
    }

    /// The other replica, if there is a pair.
    fn other(&self, index: usize) -> Option<usize> {
        (self.parts.seats.len() == 2).then_some(1 - index)
    }

    fn fence(&mut self, index: usize, generation: u64) {
        let switch = &self.parts.lan.switch;
        // The register decided; a question about a generation that is over must not kill its successor.
        let stale = generation < switch.generation()
            || (generation == switch.generation() && switch.live() != Some(index));
        if stale {
            self.distrust(index, format!("it asks for a fence in generation {generation}, which it has not"));
            return;
        }
        match self.other(index).filter(|&other| self.parts.seats[other].gone.is_none()) {
            Some(other) => {
                self.fence = Some((index, generation));
                let seat = &mut self.parts.seats[other];
                // Killing what is dead already changes nothing, and must not be said to be the reason.
                if seat.lost_at.is_none() {
                    seat.kill(Killed::Fenced);
                } else {
                    seat.kill_again();
                }
            }
            None => self.parts.seats[index].send(&ToReplica::Fenced { generation }),
        }
    }

    fn went_live(&mut self, index: usize, moved: &Moved) {
        let Moved { generation, position, takeover, alone, silent_ms, reason } = moved;
        let id = self.parts.seats[index].id;
        let first = !std::mem::replace(&mut self.started, true);
        let Some(other) = self.other(index) else { return self.went_live_by_itself(index, moved) };
        let lost = &self.parts.seats[other];
        if *takeover {
            // The launcher's own view is the better one, unless it sees death and succession in the same moment.
            let silent = match lost.lost_at.filter(|&at| lost.killed.is_none() && at < self.round) {
                Some(at) => at.elapsed().as_secs_f64() * 1e3,
                None => *silent_ms,
            };
            let rest = format!(
                "replica {id} took over in generation {generation} at position {position}; the guest was silent for {silent:.1} ms"
            );
            self.announce_loss(other, reason, rest);
        } else if first && !alone {
            say(&format!(
                "replica {id} (process {}) is primary in generation {generation} at position {position}, replica {} (process {}) is its backup",
                self.parts.seats[index].pid, lost.id, lost.pid
            ));
        } else if first {
            say(&format!(
                "replica {id} is primary in generation {generation} at position {position}, without a backup: {reason}"
            ));
        } else if *alone {
            let rest = format!(
                "replica {id} goes on alone in generation {generation} at position {position}, without a backup"
            );
            self.announce_loss(other, reason, rest);
        }
    }

    /// A replica without another one on this machine.
    fn went_live_by_itself(&self, index: usize, moved: &Moved) {
        let Moved { generation, position, takeover, alone, silent_ms, reason } = moved;
        let seat = &self.parts.seats[index];
        let id = seat.id;
        if self.parts.members == Members::Solo {
            say(&format!("the guest runs without fault tolerance, as process {}", seat.pid));
        } else if *takeover {
            say(&format!(
                "{reason}; replica {id} took over in generation {generation} at position {position}; the guest was silent for \
                 {silent_ms:.1} ms"
            ));
        } else if *alone {
            say(&format!(
                "replica {id} goes on alone in generation {generation} at position {position}, without a backup: {reason}"
            ));
        } else {
            let (peer, pid) = (id.peer(), seat.pid);
            say(&format!(
                "replica {id} (process {pid}) is primary in generation {generation} at position {position}, replica {peer} is its \
                 backup"
            ));
        }
    }

    /// One line says who was lost, and what became of the guest.
    fn announce_loss(&mut self, lost: usize, reason: &str, rest: String) {
        self.say_loss();
        let seat = &mut self.parts.seats[lost];
        if std::mem::replace(&mut seat.announced, true) {
            say(&format!("{reason}; {rest}"));
        } else {
            // A killed process closes its connections before it can be reaped: its successor may be faster.
            let deadline = Instant::now() + LAST_BREATH;
            self.loss = Some(Loss { lost, reason: reason.to_owned(), rest, deadline });
            if self.parts.seats[lost].gone.is_some() {
                self.say_loss();
            }
        }
    }

    fn say_loss(&mut self) {
        if let Some(loss) = self.loss.take() {
            say(&format!("{}; {}", self.parts.seats[loss.lost].loss(&loss.reason), loss.rest));
        }
    }

    fn ended(&mut self, index: usize, code: u8, message: String) {
        let decides = self.parts.lan.switch.live().is_none_or(|live| live == index);
        self.parts.lan.silence(index);
        let seat = &mut self.parts.seats[index];
        let message = message.trim_end();
        if self.ending.is_none() && !is_power_off(code) {
            say(&format!("{} ended with code {code}: {message}", seat.name()));
            seat.announced = true;
        } else if self.ending.is_none() && decides && !message.is_empty() {
            say(&format!("replica {}: {message}", seat.id));
        }
        seat.ended = Some((code, message.to_owned()));
        if self.ending.is_some() {
            return;
        }
        if !self.started {
            self.stop(Some(code));
        } else if is_power_off(code) && decides {
            // The guest is off. The backup ends by itself, once it has executed that.
            self.ending = Some(Ending { deadline: Instant::now() + END_PATIENCE, code: Some(code) });
        }
    }

    // The end.

    fn signalled(&mut self, signal: i32) {
        if let Some(ending) = &mut self.ending {
            // A second Ctrl-C: no more patience.
            ending.deadline = Instant::now();
            return;
        }
        say(&format!("stopping (signal {signal})"));
        self.stop(None);
    }

    fn stop(&mut self, code: Option<u8>) {
        for seat in self.parts.seats.iter_mut().filter(|seat| seat.gone.is_none()) {
            seat.send(&ToReplica::Stop);
        }
        self.ending = Some(Ending { deadline: Instant::now() + END_PATIENCE, code });
    }

    fn final_code(&mut self) -> u8 {
        self.say_loss();
        if let Some(code) = self.ending.as_ref().and_then(|ending| ending.code) {
            return code;
        }
        let live = self.parts.lan.switch.live();
        let seats = &self.parts.seats;
        if let Some(code) =
            live.and_then(|live| seats[live].power_off()).or(seats.iter().find_map(Seat::power_off))
        {
            return code;
        }
        if self.ending.is_some() {
            return u8::from(seats.iter().any(|seat| seat.killed.is_some()));
        }
        for seat in seats.iter().filter(|seat| !seat.announced) {
            say(&seat.loss(""));
        }
        match self.parts.members {
            Members::Pair => say("both replicas are gone, and the guest was not switched off"),
            Members::Solo => say("the machine is gone, and the guest was not switched off"),
            // The other one may well go on.
            Members::One(_) => {}
        }
        let last = live.or(self.parts.members.one().map(|_| 0));
        match last.and_then(|last| seats[last].ended.as_ref()) {
            Some((code, _)) => *code,
            None => 1,
        }
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        if self.ending.as_ref().is_some_and(|ending| now >= ending.deadline) {
            for seat in
                self.parts.seats.iter_mut().filter(|seat| seat.gone.is_none() && seat.killed.is_none())
            {
                say(&format!("{} does not stop; it is killed", seat.name()));
                seat.kill(Killed::Overdue);
            }
        }
        if self.loss.as_ref().is_some_and(|loss| now >= loss.deadline) {
            self.say_loss();
        }
        for seat in &mut self.parts.seats {
            let Some(at) = seat.lost_at else { continue };
            if seat.gone.is_none() && now >= at + END_PATIENCE {
                // It closed its socket, but goes on.
                seat.kill(Killed::Overdue);
            }
            if !seat.announced && self.ending.is_none() && now >= at + ANNOUNCE {
                seat.announced = true;
                say(&seat.loss(""));
            }
        }
        self.answer_due(now);
    }

    fn next_deadline(&self, idle: Option<Duration>) -> Option<Duration> {
        let now = Instant::now();
        let ending = self.ending.as_ref().map(|ending| ending.deadline).filter(|&at| at > now);
        let losses = self.parts.seats.iter().flat_map(|seat| {
            let at = seat.lost_at;
            let announce = at.filter(|_| !seat.announced && self.ending.is_none()).map(|at| at + ANNOUNCE);
            let end = at.filter(|_| seat.gone.is_none() && seat.killed.is_none()).map(|at| at + END_PATIENCE);
            [announce, end]
        });
        let line = self.loss.as_ref().map(|loss| loss.deadline);
        let next = [ending, line].into_iter().chain(losses).chain([self.next_answer()]).flatten().min();
        let next = next.map(|at| at.saturating_duration_since(now));
        match (next, idle) {
            (Some(next), Some(idle)) => Some(next.min(idle)),
            (next, idle) => next.or(idle),
        }
    }

    /// What was typed, for the live replica. Without one it waits.
    fn pass_input(&mut self) {
        let (Some(input), Some(live)) = (&mut self.parts.input, self.parts.lan.switch.live()) else { return };
        let seat = &mut self.parts.seats[live];
        while seat.gone.is_none() && !seat.is_behind() {
            match input.next() {
                Some(bytes) => seat.send(&ToReplica::ConsoleInput(bytes)),
                None => break,
            }
        }
    }
}

/// The guest's port has moved, or its replica is alone.
struct Moved {
    generation: u64,
    position: u64,
    takeover: bool,
    alone: bool,
    silent_ms: f64,
    reason: String,
}

/// A replica's words as part of one line.
fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}
