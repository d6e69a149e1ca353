//! How the command ends. The codes are a contract: other programs rely on them.

use std::process::ExitCode;

/// Why the command ended.
///
/// | code | meaning |
/// |---|---|
/// | 0 | the guest powered off, or the command did what it was asked to |
/// | 1 | a failure at run time |
/// | 2 | the configuration or the arguments are wrong (clap ends with the same code), or `check` found what is another pair's or damaged |
/// | 3 | this replica lost the tie-breaker |
/// | 4 | the host lacks something |
/// | 5 | the two replicas diverged |
/// | 6 | the peer speaks another version, or has another configuration or guest |
/// | 64 + N | the guest powered off with a code N of its own, above 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did what it was asked to.
    Done,
    /// 2.
    BadConfig,
    /// A code that the runtime chose.
    Runtime(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::BadConfig => 2,
            Exit::Runtime(code) => code,
        })
    }
}
