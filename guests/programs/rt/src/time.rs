//! Time from the local APIC timer alone: it counts down at 1 GHz over the divisor, and elapsed counts are added up
//! each time it is armed again.
//!
//! After the timer has run out it stands still until [`Clock::now`] is asked next, and that span is lost. A program
//! that asks once per turn of its loop is good to tens of microseconds.

use crate::irq::{lapic, lapic_read, lapic_write};

/// Nanoseconds per count: the divisor is 16.
const TICK_NS: u64 = 16;
/// The longest the timer can be armed for: 68 s.
const LONGEST: u32 = u32::MAX;

/// The guest's clock and its one timer.
#[derive(Debug)]
pub struct Clock {
    /// Time when the timer was last armed, in ns since boot.
    base: u64,
    /// The count it was armed with.
    initial: u32,
}

impl Clock {
    /// Starts the clock at 0. There should be one.
    #[expect(clippy::new_without_default, reason = "it takes over the timer, which a default should not")]
    pub fn new() -> Self {
        const DIVIDE_BY_16: u32 = 0b0011;
        lapic_write(lapic::TIMER_DIVIDE, DIVIDE_BY_16);
        lapic_write(lapic::TIMER_INITIAL, LONGEST);
        Self { base: 0, initial: LONGEST }
    }

    /// Nanoseconds since boot.
    pub fn now(&mut self) -> u64 {
        let current = lapic_read(lapic::TIMER_CURRENT);
        let now = self.base + u64::from(self.initial - current.min(self.initial)) * TICK_NS;
        if current == 0 {
            self.arm(now, LONGEST);
        }
        now
    }

    /// Makes sure that an interrupt comes at `deadline` (ns since boot) or before; `now` is the last [`Clock::now`].
    pub fn wake_at(&mut self, now: u64, deadline: u64) {
        let count = deadline.saturating_sub(now).div_ceil(TICK_NS).clamp(1, u64::from(LONGEST));
        if now + count * TICK_NS < self.base + u64::from(self.initial) * TICK_NS {
            self.arm(now, count as u32);
        }
    }

    fn arm(&mut self, now: u64, count: u32) {
        self.base = now;
        self.initial = count;
        lapic_write(lapic::TIMER_INITIAL, count);
    }
}
