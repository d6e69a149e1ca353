//! Holders of generations, for the tests of registers.
#![allow(dead_code, reason = "each test file is a program of its own, and none needs all of it")]

use ft_policies::{RegisterState, ReplicaId, Who};

/// What nobody has won.
pub(crate) const NOBODY: RegisterState = RegisterState { generation: 0, holder: None };

/// A process of replica a.
pub(crate) fn a(incarnation: u64) -> Who {
    Who { replica: ReplicaId::A, incarnation, config: 0 }
}

/// A process of replica b.
pub(crate) fn b(incarnation: u64) -> Who {
    Who { replica: ReplicaId::B, incarnation, config: 0 }
}

/// A register that somebody holds.
pub(crate) fn state(generation: u64, holder: Who) -> RegisterState {
    RegisterState { generation, holder: Some(holder) }
}
