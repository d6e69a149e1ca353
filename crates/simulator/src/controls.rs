//! How many seeds each mutation may take to be caught.

use ft_core::mutation::Mutation;

/// The budget of an ordinary mutation, in seeds.
const BUDGET: u64 = 500;

/// Seeds within which it must be caught: a few times as many as it took when the table was made last.
pub fn budget(mutation: Mutation) -> u64 {
    match mutation {
        // Of copies of the disk, in a seed of five.
        Mutation::IncompleteLives => 2000,
        // Those that need two rare things at once.
        Mutation::LoggedReadUnacked | Mutation::ForgetEntropy => 4000,
        Mutation::DoubtIgnored
        | Mutation::ReassuredByAnyAck
        | Mutation::ChecksumIgnored
        | Mutation::WedgedPrimaryAsks
        | Mutation::BringBackEarly
        | Mutation::WithdrawAsk => 1500,
        Mutation::BehindIsWon
        | Mutation::BehindIsLost
        | Mutation::AckAfterClose
        | Mutation::ReleaseBeforeLive
        | Mutation::LateAnswer
        | Mutation::StuckBackupAsks
        | Mutation::InputBeforeRoom
        | Mutation::AskUnarmed
        | Mutation::NeverStuck => 1000,
        _ => BUDGET,
    }
}
