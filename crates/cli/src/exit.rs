//! The exit codes of `ft-vm`, in one place: other programs rely on them.

use std::process::ExitCode;

/// Why the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Every code of the command's contract stands here, also where nothing in this crate ends with it.
#[allow(dead_code)]
pub(crate) enum Exit {
    /// The guest powered off, or the command did what it was asked to.
    Done,
    /// Something failed at run time.
    Failed,
    /// The configuration or the arguments are wrong. (clap ends with the same code.)
    BadConfig,
    /// This replica lost the tie-breaker.
    LostTieBreaker,
    /// The host lacks something.
    HostLacks,
    /// The two replicas diverged.
    Diverged,
    /// The peer speaks another version, or has another configuration or guest.
    PeerMismatch,
    /// The guest powered off with a code of its own, above 0.
    Guest(u8),
}

impl Exit {
    /// The number that the process ends with. A guest's code is shifted by 64 so that it cannot be taken for one of ft-vm's
    /// own; what no longer fits ends as 255.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done | Self::Guest(0) => 0,
            Self::Failed => 1,
            Self::BadConfig => 2,
            Self::LostTieBreaker => 3,
            Self::HostLacks => 4,
            Self::Diverged => 5,
            Self::PeerMismatch => 6,
            Self::Guest(code) => code.saturating_add(64),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        let own = [
            Exit::Done,
            Exit::Failed,
            Exit::BadConfig,
            Exit::LostTieBreaker,
            Exit::HostLacks,
            Exit::Diverged,
            Exit::PeerMismatch,
        ];
        assert_eq!(own.map(Exit::code), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!([0, 1, 42, 191, 255].map(|code| Exit::Guest(code).code()), [0, 65, 106, 255, 255]);
    }
}
