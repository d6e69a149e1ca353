//! How many seeds each mutation may take to be caught.

use ft_core::mutation::Mutation;

/// The budget of an ordinary mutation, in seeds.
const BUDGET: u64 = 500;

/// Seeds within which it must be caught.
pub fn budget(mutation: Mutation) -> u64 {
    match mutation {
        // Needs a takeover at a rare moment, or a fault of the start at one.
        Mutation::WriteWithoutFence
        | Mutation::AskUnarmed
        | Mutation::PredecessorsWin
        | Mutation::AckAfterClose
        | Mutation::DoubtIgnored
        | Mutation::ReassuredByAnyAck
        | Mutation::EndWithoutPatience => 4000,
        Mutation::WriteBeforeRead
        | Mutation::EndIsACrash
        | Mutation::ExcuseWithoutBound
        | Mutation::StaleHeartbeat
        | Mutation::InboundForgottenByAsk
        | Mutation::ChecksumIgnored
        | Mutation::WatermarkAhead
        | Mutation::InputBeforeRoom
        | Mutation::IncompleteLives
        | Mutation::StaleCopyStarts
        | Mutation::TwinIgnored
        | Mutation::CleanWithoutFlush
        | Mutation::BadCopyKept
        | Mutation::DigestIgnored => 2000,
        _ => BUDGET,
    }
}
