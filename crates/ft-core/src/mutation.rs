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
    AckAfterAsk: "an ask leaves the session open: acknowledgements that come after it release outputs",
    AckAfterClose: "a backup that has lost its primary, and asks, goes on acknowledging records",
    AskAgainAfterWin: "a won generation is followed by an ask for the next one",
    AskOnce: "an ask that nobody answered is not repeated",
    WithdrawAsk: "an ask is withdrawn when the peer is heard again",
    NoAnswerIsWon: "a tie-breaker that does not answer is taken for a won one",
    NoAnswerIsLost: "a tie-breaker that does not answer is taken for a lost one",
    BehindIsWon: "a register that is behind is taken for a won one",
    BehindIsLost: "a register that is behind is taken for a lost one",
    LateAnswer: "the late answer to an earlier ask is taken for that to the present one",
    OwnWinIsLost: "one's own win, asked for again, is read as somebody else's",
    PredecessorsWin: "a win of the process before is read as one's own",
    NameBeforeContent: "a register on a disk creates the name of a generation before its content",
    OldNamesDeleted: "a register on a disk deletes the names of old generations, and a late ask gets one of them",
    ColdStartWithoutAdvance: "the last winner starts the guest anew in the generation that it had",
    StartBesideOther: "a replica starts the guest after start-alone although the other side was the last winner",
    StartUnarmed: "the guest runs before its backup is armed",
    AskUnarmed: "a backup that was never armed asks",
    OneSidedTimeout: "a backup takes a silent primary for lost only when the connection is closed",
    IdleHeartbeats: "heartbeats go out although the thread that runs the guest gets nowhere",
    StaleHeartbeat: "a heartbeat of another process or session counts as the peer's",
    NeverStuck: "a backup that acknowledges and does not execute is never taken for lost",
    StuckBackupAsks: "a backup that cannot replay asks all the same",
    RetriesWithoutEnd: "a backup that runs a failed read again and again is never taken for lost",
    WedgedPrimaryAsks: "a primary whose guest's thread gets nowhere asks all the same",
    ExcuseWithoutBound: "a replica that is always late excuses its peer for ever",
    DoubtIgnored: "a primary that was not run releases on acknowledgements that are older than its sleep",
    ReassuredByAnyAck: "any acknowledgement ends the doubt of a primary that was not run",
    WatermarkAhead: "the watermark tells of outputs that are acknowledged and not released",
    DropUnmarked: "outputs whose marker never came are dropped at go-live",
    ReleaseBeforeLive: "outputs are released before the switch was told that the guest's address moves",
    EndUntold: "a primary whose guest has ended does not wait until its backup knows",
    EndWithoutPatience: "a primary whose guest has ended waits for its backup without a bound",
    DivergedBackupAsks: "a diverged backup asks, and goes live",
    DigestIgnored: "digests are not compared",
    GateInDigest: "the digest covers the output gate",
    MarkerBeforeInstruction: "a marker is stamped with the position before the instruction that made the output",
    ProgressInHeader: "a heartbeat's position lets the backup run on",
    AnchorBack: "guest time begins anew at go-live, and an anchor takes it back",
    GateWithoutBound: "the guest runs on although the gate is full",
    InputBeforeRoom: "an input is applied before the log has room for its record",
    ReadBeforeWrite: "a read does not wait for an earlier write of the same blocks",
    WriteBeforeWrite: "a write does not wait for an earlier one of the same blocks",
    FlushBeforeWrites: "a replica that is alone tells its guest that a write is done as it begins, and a flush does not wait for it",
    WriteBeforeBackupsRead: "a write does not wait until the backup has read the same blocks",
    ReadToldWhenMade: "the backup tells of a read when its machine stands there, not when it has the data",
    LoggedReadUnacked: "a write waits for the record of an earlier read, not for its acknowledgement",
    ReissueTwice: "pending writes are issued twice at go-live, once without an order",
    WritesInBothSets: "disk writes are in the set of pending requests and among the kept outputs",
    DiscardAtOnce: "a discard is carried out at once, and by the backup too, as if it showed nothing",
    WriteBeforeDiscard: "a later request does not wait for a discard of the same blocks",
    ForgetOwnReads: "what a backup has read itself and was not told of is forgotten at go-live",
    CompletionBeforeOwn: "the backup's guest is told of a read before the backup has its data",
    WritesWaitForNobody: "a primary without a backup goes on waiting for its reads",
    ForgetEntropy: "random bytes that were asked for are forgotten at go-live",
    BringBackEarly: "blocks that are kept apart are brought back while the old primary may still write",
    SwitchLearns: "the switch takes the replica whose frame came last for the live one",
    InboundForgotten: "the switch forgets an inbound frame when its record is logged, not when it is acknowledged",
    InboundForgottenByAsk: "the switch forgets inbound frames while an ask is outstanding",
    InboundTwice: "inbound frames that come again are let in again",
    SeenForgotten: "a backup does not note which inbound frames its guest has had",
    ConsoleAppended: "console bytes are written where they come, not where they belong",
    ChecksumIgnored: "frames are taken in without a look at their checksum",
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
