//! What may be done with two copies of a disk: nothing that could destroy the only good one.

use ft_core::mutation::{Mutation, mutated};

use super::super::stamp::CopyState;
use super::message::Origin;

/// What is done with the target's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing: it is the same.
    Skip,
    /// What differs is copied over.
    Copy,
    /// It must be the same already; if it is not, this says what to do.
    MustBeEqual(&'static str),
    /// Nothing, and it is no use either; in words.
    Refuse(String),
}

const NEITHER_IS_KNOWN: &str = "neither belongs to this pair yet, so it is not known which is right; make them equal, or \
                                remove the one that is not to be kept and it will be copied from the other";
const TARGET_IS_KEPT: &str = "the one of the other replica was there before and does not belong to this pair; to go on with \
                              it, put its file in the place of this one; to go on with this one, remove it there and it will \
                              be made a copy of this one";

/// Decides on the target's copy, given where the content of each comes from.
pub(super) fn plan(source: Origin, target: Origin) -> Plan {
    use CopyState::{Backup, Incomplete, Live, New};
    // A stamp of a copy that nobody has used yet says no more than that it is new.
    let plain = |origin| match origin {
        Origin::Stamped { state: New, .. } => Origin::New,
        other => other,
    };
    match (plain(source), plain(target)) {
        (Origin::Stamped { state: Incomplete, .. }, _) => Plan::Refuse(
            "this copy was itself being copied when it was last used, so there is nothing to copy from it; start the replica \
             that has the other one"
                .into(),
        ),
        (_, Origin::New) => Plan::Copy,
        (Origin::Existing, Origin::Existing) => Plan::MustBeEqual(NEITHER_IS_KNOWN),
        (_, Origin::Existing) => Plan::MustBeEqual(TARGET_IS_KEPT),
        (Origin::New, Origin::Stamped { state, generation, .. }) => Plan::Refuse(format!(
            "this copy is new and empty, and the other replica's is in use by this pair ({}, generation {generation}); bring \
             this one back; if it is lost, put the other's file in its place, and remove the other's and both .ft files",
            state.name()
        )),
        (_, Origin::Stamped { state: Incomplete, .. }) => Plan::Copy,
        (Origin::Existing, Origin::Stamped { state, generation, .. }) => Plan::Refuse(format!(
            "the other replica's copy is in use by this pair ({}, generation {generation}), and this one is not known to be; \
             start the other replica first, or remove its copy to have it copied from this one",
            state.name()
        )),
        (Origin::Stamped { generation: ours, .. }, Origin::Stamped { generation: theirs, .. }) if theirs > ours => {
            Plan::Refuse(format!(
                "the other replica's copy is newer (generation {theirs}, this one is of {ours}); start the other replica first"
            ))
        }
        // A pair that stops leaves one of each. Two of live replicas are of two guests, which a person has let go on both, and whose stops
        // may have the same generation and position.
        (
            Origin::Stamped { state: Live, clean: Some(ours), .. },
            Origin::Stamped { state: Backup, clean: Some(theirs), .. },
        )
        | (
            Origin::Stamped { state: Backup, clean: Some(ours), .. },
            Origin::Stamped { state: Live, clean: Some(theirs), .. },
        ) if ours == theirs => Plan::Skip,
        (Origin::Stamped { .. }, Origin::Stamped { state: Live | Backup, .. })
            if mutated(Mutation::CopyUncompared) =>
        {
            Plan::Skip
        }
        (Origin::Stamped { .. }, Origin::Stamped { .. }) => Plan::Copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(state: CopyState, generation: u64, clean: Option<(u64, u64)>) -> Origin {
        Origin::Stamped { state, generation, clean }
    }

    #[test]
    fn a_copy_that_may_be_the_only_good_one_is_left_alone() {
        use CopyState::{Backup, Incomplete, Live, New};
        let (new, existing) = (Origin::New, Origin::Existing);
        let live = stamped(Live, 5, None);
        let incomplete = stamped(Incomplete, 9, None);
        for source in [new, existing, live, stamped(New, 1, None)] {
            assert_eq!(plan(source, new), Plan::Copy);
            assert_eq!(plan(source, stamped(New, 1, None)), Plan::Copy);
            assert!(matches!(plan(source, existing), Plan::MustBeEqual(_)));
        }
        for target in [new, existing, live, incomplete] {
            assert!(matches!(plan(incomplete, target), Plan::Refuse(_)));
        }
        for target in [live, incomplete, stamped(Backup, 5, None)] {
            assert!(matches!(plan(new, target), Plan::Refuse(_)));
            assert!(matches!(plan(stamped(New, 7, None), target), Plan::Refuse(_)));
        }
        assert!(matches!(plan(existing, live), Plan::Refuse(_)));
        assert_eq!(plan(existing, incomplete), Plan::Copy);
        assert_eq!(plan(live, incomplete), Plan::Copy);
        assert_eq!(plan(live, stamped(Live, 4, None)), Plan::Copy);
        assert_eq!(plan(live, stamped(Backup, 5, None)), Plan::Copy);
        assert!(matches!(plan(live, stamped(Backup, 6, None)), Plan::Refuse(_)));
    }

    #[test]
    fn two_copies_of_one_clean_stop_are_the_same() {
        use CopyState::{Backup, Live};
        let source = stamped(Live, 5, Some((5, 1000)));
        assert_eq!(plan(source, stamped(Backup, 5, Some((5, 1000)))), Plan::Skip);
        assert_eq!(plan(source, stamped(Backup, 4, Some((5, 1000)))), Plan::Skip);
        assert_eq!(plan(source, stamped(Backup, 5, Some((5, 1001)))), Plan::Copy);
        assert_eq!(plan(source, stamped(Backup, 5, Some((4, 1000)))), Plan::Copy);
        assert_eq!(plan(source, stamped(Backup, 5, None)), Plan::Copy);
        assert_eq!(plan(stamped(Live, 5, None), stamped(Backup, 5, Some((5, 1000)))), Plan::Copy);
        // Each of a guest of its own, which a person had promoted.
        assert_eq!(plan(source, stamped(Live, 5, Some((5, 1000)))), Plan::Copy);
        // Marked incomplete since.
        assert_eq!(plan(source, stamped(CopyState::Incomplete, 5, Some((5, 1000)))), Plan::Copy);
    }
}
