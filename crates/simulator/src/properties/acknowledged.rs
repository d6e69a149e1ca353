//! Outputs released in g ⊆ received by the backup when it closes the session; nothing while an ask is outstanding; nothing again that is
//! known to be out.

use super::{Property, Seen};
use crate::world::facts::Facts;

/// Nothing is let out in a session that its backup did not have.
#[derive(Debug)]
pub struct Acknowledged;

impl Property for Acknowledged {
    fn name(&self) -> &'static str {
        "no output before its ack"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Released { lsn, session: Some((id, _)), .. } = seen else { return Ok(()) };
        let received = facts.sessions.get(id).map_or(0, |session| session.received);
        if *lsn <= received {
            return Ok(());
        }
        Err(format!("output {lsn} is let out, and the backup has received only up to {received}"))
    }
}

/// An ask is binding: nothing is let out until it is answered.
#[derive(Debug)]
pub struct BindingAsk;

impl Property for BindingAsk {
    fn name(&self) -> &'static str {
        "an ask is binding"
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        match seen {
            Seen::Released { lsn, asking: true, .. } => {
                Err(format!("output {lsn} is let out while an ask is outstanding"))
            }
            _ => Ok(()),
        }
    }
}

/// What a backup knows to be released it does not release again.
#[derive(Debug)]
pub struct NotAgain;

impl Property for NotAgain {
    fn name(&self) -> &'static str {
        "nothing again that is known to be out"
    }

    fn see(&mut self, seen: &Seen<'_>, facts: &Facts) -> Result<(), String> {
        let Seen::Released { node, lsn, .. } = seen else { return Ok(()) };
        match &facts.views[*node] {
            Some(view) if *lsn <= view.released => Err(format!(
                "output {lsn} is let out again; this side heard that all up to {} were",
                view.released
            )),
            _ => Ok(()),
        }
    }
}
