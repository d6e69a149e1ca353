//! Counters that run with guest time at a rate of their own.

const NANOS: u128 = 1_000_000_000;

/// How often something counts in a second of guest time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    hertz: u128,
}

impl Rate {
    pub(super) const fn hertz(hertz: u32) -> Self {
        Self { hertz: hertz as u128 }
    }

    /// Whole ticks in `nanos`.
    pub(super) fn ticks(self, nanos: u64) -> u64 {
        (u128::from(nanos) * self.hertz / NANOS) as u64
    }

    /// The first nanosecond at which `ticks` have passed; at the end of the range of u64 it stays there.
    pub(super) fn nanos(self, ticks: u64) -> u64 {
        u64::try_from((u128::from(ticks) * NANOS).div_ceil(self.hertz)).unwrap_or(u64::MAX)
    }
}
