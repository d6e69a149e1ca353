//! Why a replica cannot start, and the exit codes.

use std::net::SocketAddr;

use ft_devices::backend::disk::DiskError;

use crate::machine::BuildError;

/// Exit code: the host lacks something.
pub const HOST_LACKS: u8 = 4;

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
    #[error("disk {0}")]
    Disk(DiskError),
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
            Self::Build(BuildError::Engine(_)) => HOST_LACKS,
            _ => 1,
        }
    }
}
