//! `ft-vm promote`: a person decides that a replica goes on alone (tie-breaker manual).
//!
//! The replica says in its status in which generation it would go on; the request names that generation, so that what the
//! person saw is what happens. The replica itself refuses while it hears its peer.

use ft_policies::{Config, ReplicaId};
use serde_json::{Value, json};

use super::status::{Place, StatusError, ask, status};

/// Why nobody was promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// Nothing runs, or it does not answer.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The tie-breaker decides by itself.
    #[error(
        "promote is for [tie-breaker.manual], and {name} has [tie-breaker.{kind}], which decides by itself who goes on"
    )]
    OtherTieBreaker {
        /// `vm.name`.
        name: String,
        /// The kind.
        kind: &'static str,
    },
    /// Nothing waits for a decision.
    #[error("nothing waits for a decision: {0}")]
    NobodyWaits(String),
    /// More than one could be meant.
    #[error("both replicas wait for a decision: say which one is to go on, with --replica")]
    Both,
    /// The replica, or its launcher, says no.
    #[error("not promoted: {0}")]
    Refused(String),
}

/// Who was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promoted {
    /// The replica.
    pub replica: ReplicaId,
    /// The generation in which it goes on.
    pub generation: u64,
}

/// Lets a replica that waits for it go on alone: `only`, or the one that waits.
///
/// # Errors
/// Nobody waits, several do, or it is refused.
pub fn promote(config: &Config, only: Option<ReplicaId>) -> Result<Promoted, PromoteError> {
    if !config.tie_breaker.by_hand() {
        let (name, kind) = (config.vm.name.clone(), config.tie_breaker.name());
        return Err(PromoteError::OtherTieBreaker { name, kind });
    }
    let status = status(config)?;
    let replicas = status["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let waiting: Vec<Promoted> = replicas
        .iter()
        .filter_map(|fields| {
            let replica = fields["replica"].as_str()?.parse().ok()?;
            Some(Promoted { replica, generation: fields["waits_for_promotion"].as_u64()? })
        })
        .filter(|one| only.is_none_or(|only| only == one.replica))
        .collect();
    let chosen = match waiting[..] {
        [one] => one,
        [] => return Err(PromoteError::NobodyWaits(states(replicas, only))),
        _ => return Err(PromoteError::Both),
    };
    let request =
        json!({"request": "promote", "replica": chosen.replica.name(), "generation": chosen.generation});
    let answer = match ask(&Place::of(config, None), &request) {
        Err(StatusError::NothingRuns(_)) => ask(&Place::of(config, Some(chosen.replica)), &request)?,
        other => other?,
    };
    match answer["refused"].as_str() {
        Some(why) => Err(PromoteError::Refused(why.to_owned())),
        None => Ok(chosen),
    }
}

/// How the replicas are, for whoever expected one of them to wait.
fn states(replicas: &[Value], only: Option<ReplicaId>) -> String {
    let told: Vec<String> = replicas
        .iter()
        .filter_map(|fields| Some((fields["replica"].as_str()?, fields["state"].as_str()?)))
        .filter(|(replica, _)| only.is_none_or(|only| only.name() == *replica))
        .map(|(replica, state)| format!("replica {replica} is {state}"))
        .collect();
    match (told.is_empty(), only) {
        (false, _) => told.join(", "),
        (true, Some(only)) => format!("replica {only} does not run here"),
        (true, None) => "no replica runs here".to_owned(),
    }
}
