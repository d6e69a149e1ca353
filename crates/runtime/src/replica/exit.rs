//! Why a replica cannot start, and the exit codes.

use std::net::SocketAddr;

use ft_devices::backend::file::DiskError;
use ft_devices::backend::stamp::StampError;
use ft_policies::Size;

use crate::machine::BuildError;

/// Exit code: the host lacks something.
pub const HOST_LACKS: u8 = 4;

/// Exit code: what the config says cannot be.
pub(crate) const BAD_CONFIG: u8 = 2;

/// Exit code: the peer is another's, or has another config.
const NO_PAIR: u8 = 6;

/// Sizes as a config has them.
fn describe(error: &DiskError) -> String {
    match error {
        DiskError::TooShort { path, found, wanted } => {
            format!("{}: has {}, the config asks for {}", path.display(), Size(*found), Size(*wanted))
        }
        other => other.to_string(),
    }
}

/// Why a replica cannot start. Displayed, it is the message for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Startup {
    /// Its own address is taken, or is not this machine's.
    #[error("cannot listen on {address} ([replicas] {replica}): {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        replica: ft_policies::ReplicaId,
        /// What the host says.
        error: std::io::Error,
    },
    /// A disk.
    #[error("disk {}", describe(.0))]
    Disk(DiskError),
    /// The stamp of a separate disk.
    #[error("disk {0}")]
    Copy(StampError),
    /// The machine.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The operating system refuses a thread, a socket option or the like.
    #[error("the host: {0}")]
    Host(std::io::Error),
}

impl Startup {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Build(BuildError::Software(_) | BuildError::Kvm(_)) => HOST_LACKS,
            // The config names a kernel or an initial RAM disk that is none.
            Self::Build(
                BuildError::Kernel { .. }
                | BuildError::Initrd { .. }
                | BuildError::Builtin(_)
                | BuildError::Boot { .. },
            ) => BAD_CONFIG,
            Self::Disk(DiskError::OtherPair(_)) => NO_PAIR,
            _ => 1,
        }
    }
}
