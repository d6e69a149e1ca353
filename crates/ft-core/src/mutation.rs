//! Deliberate mistakes, for the simulator to catch: each is one that the protocol must not make.
//!
//! Where a mistake could be made the code asks [`mutated`]. Without the feature `mutations` that is `false` at compile time, and
//! nothing is left of it. The feature is for the simulator's own second binary (`ft-simulator-mutated`); the `ft-vm` command
//! does not compile with it (see [`COMPILED_IN`]).

macro_rules! mutations {
    ($($name:ident: $what:literal,)*) => {
        /// A mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation {
            $(#[doc = $what] $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name by which it is asked for.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// What is wrong with it.
            pub fn what(self) -> &'static str {
                match self { $(Self::$name => $what),* }
            }
        }
    };
}

mutations! {
    AckBeforeReceipt: "a record is acknowledged when the first bytes of its frame are there",
    ReleaseAtMarker: "an output is released when its marker is logged, not when it is acknowledged",
    SkipMarker: "an output is held without a marker in the log",
    LiveWithoutTieBreaker: "a backup goes live without having asked the tie-breaker",
    IgnoreLost: "a lost tie-breaker is taken for a won one",
    ReplayOneTooFew: "a backup goes live with one record not replayed",
    ForgetReissue: "pending disk requests are not issued again at go-live",
    DropKept: "outputs that were kept back are dropped at go-live",
    KeepReleased: "outputs that are known to be released are kept, and released again at go-live",
    SameGeneration: "the generation is not incremented by a win",
    ReleaseWhileAsking: "acknowledged outputs are released although an ask is outstanding",
    IgnoreHigherGeneration: "a higher generation is heard of and ignored",
    WriteWithoutFence: "a shared disk is written after the win without a fence",
    WriteBeforeRead: "a write does not wait for an earlier read of the same blocks",
    EndIsACrash: "the closed connection of a guest that has ended is taken for a crash",
    LiveStampBeforeReplay: "a separate copy is stamped live at the win, before everything is replayed",
    WinWithoutStamp: "a primary that goes on alone does not stamp its separate copies",
    WriteCompletionBeforeOwn: "a backup passes the completion of a write before its own has ended",
    BadCopyKept: "a backup goes on with a copy to which a write failed that succeeded on the primary",
    IncompleteLives: "a copy that was being copied into is taken for a whole one",
    CopyUnmarked: "a copy is not marked while it is being copied into",
    CopyUncompared: "two stamped copies are taken for the same without being compared",
    BackupStampBeforeFlush: "a copy is stamped as the backup's before it is durable",
    CleanWithoutFlush: "a stop is stamped as one in order although not everything is on the disk",
    StaleCopyStarts: "a copy that is not the last live replica's starts the guest alone",
    PromoteUnseen: "a person's promotion is accepted although the other side was just heard",
    PromoteAnyGeneration: "a promotion is accepted that names another generation",
    TwinIgnored: "a replica that hears that both were promoted goes on",
}

/// True if the mistakes are compiled in: never in the product.
pub const COMPILED_IN: bool = cfg!(feature = "mutations");

/// True if this mistake is to be made.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
mod chosen {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// True if this mistake is to be made on this thread.
    pub fn mutated(mutation: Mutation) -> bool {
        CHOSEN.get() == Some(mutation)
    }

    /// From now on this mistake is made on this thread, or none.
    pub fn choose(mutation: Option<Mutation>) {
        CHOSEN.set(mutation);
    }
}

#[cfg(feature = "mutations")]
pub use chosen::{choose, mutated};
