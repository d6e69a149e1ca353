//! A peer made by hand: what it says first, with the config and the guest of [`super::never::settings`].

use ft_core::ReplicaId;
use ft_core::wire::{Copies, Hello, PeerRole, Stamp};

pub(crate) fn hello(stamp: Stamp, replica: ReplicaId, role: PeerRole) -> Hello {
    Hello {
        stamp,
        replica,
        role,
        config: 5,
        image: 6,
        cpu: Vec::new(),
        next: 1,
        copies: Copies::default(),
        register: None,
        nonces: None,
    }
}
