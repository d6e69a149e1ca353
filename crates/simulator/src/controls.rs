//! How many seeds each mutation may take to be caught.

use ft_core::mutation::Mutation;

/// The budget of an ordinary mutation, in seeds.
const BUDGET: u64 = 500;

/// Seeds within which it must be caught.
pub fn budget(mutation: Mutation) -> u64 {
    match mutation {
        // Needs a takeover at a rare moment.
        Mutation::WriteWithoutFence => 4000,
        Mutation::IncompleteLives
        | Mutation::StaleCopyStarts
        | Mutation::TwinIgnored
        | Mutation::CleanWithoutFlush
        | Mutation::BadCopyKept
        | Mutation::WriteBeforeRead
        | Mutation::EndIsACrash => 2000,
        _ => BUDGET,
    }
}
