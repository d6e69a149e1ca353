//! What a `[disk.faults]` table means.

use std::ops::Range;

use super::Check;
use crate::config::{DiskFaults, ReplicaId};
use crate::schema::At;
use crate::schema::tables::{self, DEFAULT_DELAY};
use crate::schema::values::Share;
use crate::units::Time;

/// Longer than any disk that is only slow.
const MAX_DELAY: Time = Time(60 * 1_000_000_000);

impl Check {
    /// `shared` is the place that says that the disk is shared, if it is.
    pub(super) fn faults(&mut self, table: tables::DiskFaults, shared: Option<Range<usize>>) -> DiskFaults {
        let tables::DiskFaults {
            replica,
            after,
            read_errors,
            write_errors,
            flush_errors,
            short,
            delayed,
            delay,
            lose_unflushed,
            seed,
        } = table;
        self.range(delay.as_ref(), "the delay", Time(0), MAX_DELAY);
        if let (Some(at), Some(shared)) = (&lose_unflushed, shared)
            && **at
        {
            self.error_with(
                at.span(),
                "lose-unflushed cannot go with a shared disk",
                "this replica would keep its writes to itself until a flush",
                "the other replica must see every completed write of a shared disk, or it goes on with old data: leave it out, or \
                 use sharing = \"separate\"",
                (shared, "this disk is shared".into()),
            );
        }
        let share = |at: Option<At<Share>>| at.map_or(0.0, |at| at.0);
        DiskFaults {
            replica: replica.map(|at| match *at {
                tables::Replica::A => ReplicaId::A,
                tables::Replica::B => ReplicaId::B,
            }),
            after: after.map_or(0, |at| *at),
            read_errors: share(read_errors),
            write_errors: share(write_errors),
            flush_errors: share(flush_errors),
            short: share(short),
            delayed: share(delayed),
            delay: self.or_default(delay.as_ref(), DEFAULT_DELAY, Time::parse),
            lose_unflushed: lose_unflushed.is_some_and(|at| *at),
            seed: seed.map_or(0, |at| *at),
        }
    }
}
