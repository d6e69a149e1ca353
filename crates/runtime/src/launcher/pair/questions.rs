//! Questions for the pair's status: the launcher asks its replicas, and answers without those that are silent.

use std::time::{Duration, Instant};

use ft_policies::ReplicaId;

use serde_json::{Value, json};

use super::Pair;
use crate::launcher::messages::ToReplica;
use crate::launcher::poller::Token;
use crate::launcher::seat::Seat;
use crate::launcher::status::{Asked, Client, unanswered};

/// How long a replica may take to tell its status.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);
/// Clients of `status` at one time.
const MAX_CLIENTS: usize = 16;

/// A question for the pair's status that is being answered.
pub(super) struct Query {
    client: u32,
    id: u64,
    pub(super) deadline: Instant,
    answers: Vec<Option<Value>>,
}

/// A person's decision that was passed on, and that the replica has yet to answer.
pub(super) struct Promotion {
    client: u32,
    id: u64,
    deadline: Instant,
}

impl Pair {
    pub(super) fn accept_client(&mut self) {
        while let Ok((stream, _)) = self.parts.claim.listener.accept() {
            let number = self.next_client;
            self.next_client = number.wrapping_add(1);
            if self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            if let Ok(client) = Client::new(stream)
                && self.parts.poller.add_level(&client.stream, Token::StatusClient(number)).is_ok()
            {
                self.clients.insert(number, client);
            }
        }
    }

    pub(super) fn client_ready(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        match client.read() {
            Asked::Nothing => {}
            Asked::Gone => drop(self.clients.remove(&number)),
            Asked::Nonsense(why) => {
                // Whether it reads that or not, it is dropped.
                let _ = client.answer(&json!({ "error": why }));
                self.clients.remove(&number);
            }
            Asked::Promote(replica, generation) => self.promote(number, replica, generation),
            Asked::Status => {
                let id = self.next_query;
                self.next_query += 1;
                let deadline = Instant::now() + STATUS_PATIENCE;
                for seat in
                    self.parts.seats.iter_mut().filter(|seat| seat.gone.is_none() && !seat.is_behind())
                {
                    seat.send(&ToReplica::Status { id });
                }
                let answers = vec![None; self.parts.seats.len()];
                self.queries.push(Query { client: number, id, deadline, answers });
            }
        }
    }

    fn promote(&mut self, client: u32, replica: ReplicaId, generation: u64) {
        let id = self.next_query;
        self.next_query += 1;
        let seat = self.parts.seats.iter_mut().find(|seat| seat.id == replica && seat.gone.is_none());
        match seat.filter(|seat| !seat.is_behind()) {
            Some(seat) => {
                seat.send(&ToReplica::Promote { id, generation });
                self.promotions.push(Promotion { client, id, deadline: Instant::now() + STATUS_PATIENCE });
            }
            None => self
                .promoted(client, Some(format!("replica {replica} does not run here, or does not listen"))),
        }
    }

    /// The replica has answered.
    pub(super) fn promotion_answered(&mut self, id: u64, refused: Option<String>) {
        if let Some(at) = self.promotions.iter().position(|promotion| promotion.id == id) {
            let client = self.promotions.remove(at).client;
            self.promoted(client, refused);
        }
    }

    fn promoted(&mut self, client: u32, refused: Option<String>) {
        if let Some(asker) = self.clients.get_mut(&client)
            && asker.answer(&json!({ "refused": refused })).is_err()
        {
            self.clients.remove(&client);
        }
    }

    pub(super) fn status_answered(&mut self, index: usize, id: u64, status: Value) {
        if let Some(query) = self.queries.iter_mut().find(|query| query.id == id) {
            query.answers[index] = Some(status);
        }
    }

    fn answer(&mut self, query: Query) {
        let live = self.parts.lan.switch.live();
        let mut replicas = Vec::new();
        for (index, (seat, answer)) in self.parts.seats.iter().zip(query.answers).enumerate() {
            let (role, state) = match (seat.gone, live) {
                (Some(_), _) => ("none", "gone"),
                (None, Some(live)) if live == index => ("primary", "silent"),
                (None, Some(_)) => ("backup", "silent"),
                (None, None) => ("none", "silent"),
            };
            let mut fields = unanswered(seat.id.name(), role, seat.pid, state);
            if seat.gone.is_none()
                && let (Some(Value::Object(said)), Value::Object(fields)) = (answer, &mut fields)
            {
                let own = |key: &String| key != "replica" && key != "pid";
                fields.extend(said.into_iter().filter(|(key, _)| own(key)));
            }
            replicas.push(fields);
        }
        // The backup of a pair on two hosts has a launcher that was never told a generation.
        let followed = replicas.iter().filter_map(|replica| replica["generation"].as_u64()).max();
        let generation = match live {
            Some(_) => self.parts.lan.switch.generation(),
            None => followed.unwrap_or(0),
        };
        let answer = json!({
            "generation": generation,
            "replicas": replicas,
            "launcher": {
                "pid": std::process::id(),
                "connections": self.parts.lan.connections(),
                "frames_kept": self.parts.lan.switch.kept(),
                "frames": self.parts.lan.switch.counters,
                "tap": self.parts.lan.tap_status(),
            },
        });
        if let Some(client) = self.clients.get_mut(&query.client)
            && client.answer(&answer).is_err()
        {
            self.clients.remove(&query.client);
        }
    }

    /// When the first of the questions has waited long enough.
    pub(super) fn next_answer(&self) -> Option<Instant> {
        let queries = self.queries.iter().map(|query| query.deadline);
        queries.chain(self.promotions.iter().map(|promotion| promotion.deadline)).min()
    }

    /// Answers the questions that are answered by all, or have waited long enough.
    pub(super) fn answer_due(&mut self, now: Instant) {
        let late: Vec<Promotion> =
            self.promotions.extract_if(.., |promotion| now >= promotion.deadline).collect();
        for promotion in late {
            let why = "the replica did not answer; `ft-vm status` tells whether it goes on";
            self.promoted(promotion.client, Some(why.to_owned()));
        }
        let due: Vec<Query> = self
            .queries
            .extract_if(.., |query| {
                let waits = |(seat, answer): (&Seat, &Option<Value>)| answer.is_none() && seat.gone.is_none();
                now >= query.deadline || !self.parts.seats.iter().zip(&query.answers).any(waits)
            })
            .collect();
        for query in due {
            self.answer(query);
        }
    }
}
