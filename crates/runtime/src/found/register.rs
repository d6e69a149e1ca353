//! The register: in which generation it is, who won that, and under which config; or that it is not this pair's, or damaged.

use std::time::Duration;

use ft_policies::{Config, RegisterState, ReplicaId, Unavailable};

use super::{AtStart, Finding, Look, begin_anew};
use crate::replica::BAD_CONFIG;

/// Exit code of a start: nothing is wrong with the config.
const FAILURE: u8 = 1;

/// What the register is like.
pub(super) struct Found {
    pub(super) findings: Vec<Finding>,
    /// The last generation; `None` if it could not be found out.
    pub(super) generation: Option<u64>,
}

pub(super) fn look(config: &Config, replicas: &[ReplicaId], limit: Duration) -> Found {
    let by_hand = config.tie_breaker.by_hand();
    // By hand each replica has a register of its own; otherwise either's is the one that there is.
    let registers = if by_hand { replicas } else { &replicas[..replicas.len().min(1)] };
    let looks: Vec<_> = registers
        .iter()
        .map(|&replica| {
            let place = config.tie_breaker.place_of(replica);
            let register = config.tie_breaker.build(&config.pair(), replica);
            (place.clone(), Look::begin(place, limit, move || register.read()))
        })
        .collect();
    let mut found = Found { findings: Vec::new(), generation: Some(0) };
    for (place, look) in looks {
        let read = match look.end() {
            Ok(read) => read,
            Err(reason) => Err(Unavailable::NoAnswer { place: place.clone(), reason }),
        };
        found.generation = match (found.generation, &read) {
            (Some(before), Ok(state)) => Some(before.max(state.generation)),
            _ => None,
        };
        // The other replica's file is on the other host, and says nothing here.
        let elsewhere = by_hand && !config.replicas.one_machine() && replicas.len() > 1;
        if !(elsewhere && matches!(read, Ok(RegisterState { holder: None, .. }))) {
            found.findings.push(finding(config, &place, read));
        }
    }
    found
}

fn finding(config: &Config, place: &str, read: Result<RegisterState, Unavailable>) -> Finding {
    let name = &config.vm.name;
    match read {
        Ok(RegisterState { holder: None, .. }) => Finding::good(format!(
            "the tie-breaker ({place}) knows of no generation of {name} yet: the first start begins with 1"
        )),
        Ok(RegisterState { generation, holder: Some(who) }) if who.config == config.digest() => {
            Finding::good(format!(
                "the tie-breaker ({place}) is in generation {generation}, which replica {} won under this config",
                who.replica
            ))
        }
        Ok(RegisterState { generation, holder: Some(who) }) => Finding::warning(
            format!(
                "the tie-breaker ({place}) is in generation {generation}, which replica {} won under another config",
                who.replica
            ),
            format!(
                "harmless if the config was changed since then, and both replicas have the same; if another one has the name \
                 {name} too, give each its own (vm.name)"
            ),
        )
        .at_start(AtStart::Say),
        Err(Unavailable::ForeignPair { path, theirs, ours }) => Finding::error(
            format!("the tie-breaker belongs to another pair: {} is of `{theirs}`, and this one is `{ours}` (vm.name)", path.display()),
            format!(
                "give each pair a tie-breaker of its own; if this pair was called {theirs} before, call it that again, or begin \
                 anew: {}",
                begin_anew(config)
            ),
        )
        .at_start(AtStart::End(BAD_CONFIG)),
        Err(error) if error.is_damage() => Finding::error(
            error.to_string(),
            format!("where that cannot be, begin anew: {}", begin_anew(config)),
        )
        .at_start(AtStart::End(FAILURE)),
        // The replicas say it too, and when it is over.
        Err(error) => Finding::warning(error.to_string(), "a start waits until it answers".to_owned()),
    }
}
