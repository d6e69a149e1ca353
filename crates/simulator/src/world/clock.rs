//! A host's clock: it starts anywhere, runs a little fast or slow, and may jump forward.

use ft_core::Nanos;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    world: Nanos,
    local: Nanos,
    /// Local nanoseconds in a million of the world's.
    rate: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    /// A clock that shows `local` at the world's beginning.
    pub fn new(local: Nanos, rate: u64) -> Self {
        Self { world: 0, local, rate }
    }

    /// What it shows when the world's time is `now`.
    pub fn at(&self, now: Nanos) -> Nanos {
        self.local + (u128::from(now - self.world) * u128::from(self.rate) / u128::from(MILLION)) as u64
    }

    /// How long the world takes from `now` until it shows `local`.
    pub fn until(&self, local: Nanos, now: Nanos) -> Nanos {
        let left = local.saturating_sub(self.at(now));
        (u128::from(left) * u128::from(MILLION)).div_ceil(u128::from(self.rate)) as u64
    }

    /// Jumps forward.
    pub fn jump(&mut self, now: Nanos, by: Nanos) {
        *self = Self { world: now, local: self.at(now) + by, rate: self.rate };
    }
}
