//! The register in an etcd, seen from a replica: one key for each pair, read and replaced whole.
//!
//! An ask reads the key at some member, and if the register stands where the asker thinks, replaces it in a transaction that
//! compares with what was read; what the key holds after that decides. A transaction whose answer did not come may still be
//! carried out: the next ask, of any member, finds the asker's own incarnation there, and that is a win.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::gateway::{self, Held};
use super::http::{self, Http};
use super::tls::{self, Tls};
use crate::tie_breaker::entry::Entry;
use crate::tie_breaker::{Answer, DEADLINE, Pair, Register, RegisterState, Unavailable, Who, answer};

/// The register of one pair in an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<SocketAddr>,
    key: String,
    tls: Option<Tls>,
    pair: Pair,
    /// Which member is asked first: the one that answered last.
    first: AtomicUsize,
}

/// One member, in one call.
struct Member {
    address: SocketAddr,
    http: Http,
    until: Instant,
}

/// What a member was asked for in vain, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub address: SocketAddr,
    /// What was tried.
    pub doing: &'static str,
    /// What went wrong.
    pub error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.address, self.doing, self.error)
    }
}

/// Why a member gave no answer.
enum Failed {
    /// Another one may.
    Member(Failure),
    /// The register is damaged, whoever is asked.
    Register(Unavailable),
}

impl Etcd {
    /// The register of `pair` in the cluster that has these members, in a key that begins with `prefix`. Does no I/O.
    pub fn new(members: Vec<SocketAddr>, prefix: &str, tls: Option<Tls>, pair: Pair) -> Self {
        let key = format!("{prefix}{:032x}/generation", pair.id);
        Self { members, key, tls, pair, first: AtomicUsize::new(0) }
    }

    /// Asks one member after the other until one answers.
    fn ask<T>(&self, ask: impl Fn(&Member) -> Result<T, Failed>) -> Result<T, Unavailable> {
        let deadline = Instant::now() + DEADLINE;
        let tls = self.tls.as_ref().map(tls::load).transpose().map_err(Unavailable::EtcdTls)?;
        let count = self.members.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for turn in 0..count {
            let index = (first + turn) % count;
            let until = share(Instant::now(), deadline, count - turn);
            let address = self.members[index];
            let member = Member { address, http: Http::new(address, tls.as_ref()), until };
            match ask(&member) {
                Ok(answer) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failed::Register(error)) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Err(error);
                }
                Err(Failed::Member(failure)) => failures.push(failure),
            }
        }
        // One that hangs has had the largest share of the time: it is another one's turn.
        self.first.store(first.wrapping_add(1) % count.max(1), Ordering::Relaxed);
        Err(Unavailable::Etcd { failures })
    }

    /// What the key says.
    fn state(&self, member: &Member, held: Option<&Held>) -> Result<RegisterState, Failed> {
        let Some(held) = held else { return Ok(RegisterState { generation: 0, holder: None }) };
        let damaged = |reason| {
            Failed::Register(Unavailable::EtcdKey { key: self.key.clone(), address: member.address, reason })
        };
        let entry = Entry::parse(&held.value).map_err(damaged)?;
        if entry.pair.id != self.pair.id {
            let theirs = format!("pair {:032x} (`{}`)", entry.pair.id, entry.pair.name);
            return Err(damaged(format!("it is the entry of {theirs}")));
        }
        if entry.generation == 0 {
            return Err(damaged("it is the entry of generation 0, which nobody can win".to_owned()));
        }
        Ok(RegisterState { generation: entry.generation, holder: Some(entry.who) })
    }

    fn read_at(&self, member: &Member) -> Result<(Option<Held>, RegisterState), Failed> {
        const DOING: &str = "reading the generation";
        let answer = member.post(DOING, gateway::RANGE, &gateway::range(&self.key))?;
        let held = gateway::read_range(&answer, &self.key).map_err(|error| member.failed(DOING, error))?;
        let state = self.state(member, held.as_ref())?;
        Ok((held, state))
    }

    fn advance_at(&self, member: &Member, from: u64, wanted: u64, who: &Who) -> Result<Answer, Failed> {
        const DOING: &str = "asking for the next generation";
        let (held, state) = self.read_at(member)?;
        if state.generation != from {
            return Ok(answer(from, who, state));
        }
        let entry = Entry { pair: self.pair.clone(), generation: wanted, who: *who };
        let request = gateway::replace(&self.key, held.as_ref(), &entry.render());
        let said = member.post(DOING, gateway::TXN, &request)?;
        let held = gateway::read_txn(&said, &self.key).map_err(|error| member.failed(DOING, error))?;
        match self.state(member, held.as_ref())? {
            // Nothing but somebody's hand on the key does that: the transaction fails only if another one won.
            state if state.generation == from => {
                let error = format!("it says that the register stands at generation {from} still");
                Err(member.failed(DOING, error))
            }
            state => Ok(answer(from, who, state)),
        }
    }
}

impl Member {
    fn post(&self, doing: &'static str, path: &str, request: &str) -> Result<Vec<u8>, Failed> {
        let left = self.until.saturating_duration_since(Instant::now());
        let reply = self.http.post(path, request, left).map_err(|error| self.failed(doing, error))?;
        match reply {
            http::Reply { status: 200, body } => Ok(body),
            http::Reply { status, body } => Err(self.failed(doing, gateway::refusal(status, &body))),
        }
    }

    fn failed(&self, doing: &'static str, error: String) -> Failed {
        Failed::Member(Failure { address: self.address, doing, error })
    }
}

/// Until when a member may take, with so many to ask, it included: half of what is left, and the last one all of it. So one
/// that hangs does not take the time of all, and one that is slow has more than an equal share.
fn share(now: Instant, deadline: Instant, members: usize) -> Instant {
    let left = deadline.saturating_duration_since(now);
    now + if members > 1 { left / 2 } else { left }
}

impl Register for Etcd {
    fn read(&self) -> Result<RegisterState, Unavailable> {
        self.ask(|member| Ok(self.read_at(member)?.1))
    }

    fn advance(&self, from: u64, who: &Who) -> Answer {
        let Some(wanted) = from.checked_add(1) else {
            return Answer::Unavailable(Unavailable::Exhausted);
        };
        self.ask(|member| self.advance_at(member, from, wanted, who)).unwrap_or_else(Answer::Unavailable)
    }
}
