//! Guest time as a function of position, and the timers that hang on it.
//!
//! Between two anchors guest time is `anchor.time + (((p - anchor.position) * anchor.rate) >> 32)` nanoseconds. Everything
//! the guest can read as time (TSC, LAPIC count, deadlines) is derived from this one value, so a machine that replays
//! the anchors at the same positions reads the same times.

use ft_core::input::Anchor;
use ft_vcpu::Position;
use serde::{Deserialize, Serialize};

/// One nanosecond per instruction, in the 32.32 fixed point of [`Anchor::rate`].
pub const ONE_NS: u64 = 1 << 32;

/// Guest time: the last anchor and where it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Guest nanoseconds at `position`.
    pub time: u64,
    /// Nanoseconds per instruction, 32.32.
    pub rate: u64,
    /// Where the anchor was applied.
    pub position: Position,
}

impl Default for Clock {
    fn default() -> Self {
        Self { time: 0, rate: ONE_NS, position: 0 }
    }
}

impl Clock {
    /// Guest nanoseconds at `p`. Before the anchor's position it is the anchor's time; at the end of the range of u64 it
    /// stays there.
    pub fn now(&self, p: Position) -> u64 {
        let passed = (u128::from(p.saturating_sub(self.position)) * u128::from(self.rate)) >> 32;
        u64::try_from(passed).map_or(u64::MAX, |passed| self.time.saturating_add(passed))
    }

    /// The smallest position, not before the anchor's, at which [`Clock::now`] is at least `deadline`; `u64::MAX` if it never
    /// is. The one place where a time is rounded to a position.
    pub fn position_of(&self, deadline: u64) -> Position {
        let Some(missing) = deadline.checked_sub(self.time).filter(|missing| *missing > 0) else {
            return self.position;
        };
        if self.rate == 0 {
            return Position::MAX;
        }
        // floor(d * rate / 2^32) >= missing  <=>  d * rate >= missing * 2^32
        let distance = (u128::from(missing) << 32).div_ceil(u128::from(self.rate));
        u64::try_from(distance).map_or(Position::MAX, |distance| self.position.saturating_add(distance))
    }

    /// Goes over to `anchor` at position `at`. Guest time never goes back: an anchor that lies before the time already
    /// reached only changes the rate.
    pub fn apply(&mut self, at: Position, anchor: Anchor) {
        *self = Self { time: self.now(at).max(anchor.time), rate: anchor.rate, position: at };
    }
}

/// The timers of the board. Their order here is the order in which they fire when they are due together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerId {
    /// The timer of the local APIC.
    Lapic,
    /// The interval timer.
    Pit,
    /// The real-time clock.
    Rtc,
    /// ACPI's timer.
    Power,
    /// Console bytes are handed out when the guest has written no end of line for a while.
    Console,
}

const TIMERS: [TimerId; 5] = [TimerId::Lapic, TimerId::Pit, TimerId::Rtc, TimerId::Power, TimerId::Console];

/// Deadlines in guest nanoseconds. A cache: each device holds its own deadline in its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timers {
    deadlines: [Option<u64>; TIMERS.len()],
}

impl Timers {
    /// Arms a timer, or disarms it with `None`.
    pub fn set(&mut self, timer: TimerId, deadline: Option<u64>) {
        self.deadlines[timer as usize] = deadline;
    }

    /// The earliest timer in (deadline, device) order.
    pub fn first(&self) -> Option<(u64, TimerId)> {
        TIMERS.iter().filter_map(|timer| Some((self.deadlines[*timer as usize]?, *timer))).min()
    }

    /// The earliest timer if it is due at time `now`.
    pub fn due(&self, now: u64) -> Option<TimerId> {
        self.first().filter(|(deadline, _)| *deadline <= now).map(|(_, timer)| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clocks() -> impl Strategy<Value = Clock> {
        let time = prop_oneof![0..1_u64 << 50, any::<u64>()];
        let rate = prop_oneof![ONE_NS / 4..ONE_NS * 4, any::<u64>(), Just(0)];
        let position = prop_oneof![0..1_u64 << 50, any::<u64>()];
        (time, rate, position).prop_map(|(time, rate, position)| Clock { time, rate, position })
    }

    proptest! {
        #[test]
        fn time_never_goes_back(clock in clocks(), p in any::<u64>(), q in any::<u64>()) {
            prop_assert!(clock.now(p.min(q)) <= clock.now(p.max(q)));
        }

        #[test]
        fn a_deadline_is_reached_at_its_position_and_not_before(clock in clocks(), ahead in any::<u64>(), small in 0..1_u64 << 40) {
            for ahead in [ahead, small] {
                let deadline = clock.time.saturating_add(ahead);
                let p = clock.position_of(deadline);
                prop_assert!(p >= clock.position);
                if p < u64::MAX {
                    prop_assert!(clock.now(p) >= deadline);
                }
                if p > clock.position {
                    prop_assert!(clock.now(p - 1) < deadline);
                }
            }
        }

        #[test]
        fn anchors_never_take_time_back(clock in clocks(), at in any::<u64>(), time in any::<u64>(), rate in any::<u64>()) {
            let at = at.max(clock.position);
            let mut next = clock;
            next.apply(at, Anchor { time, rate });
            prop_assert_eq!(next.now(at), clock.now(at).max(time));
            prop_assert!(next.now(at.saturating_add(1)) >= clock.now(at));
        }
    }

    #[test]
    fn timers_due_together_fire_in_device_order() {
        let mut timers = Timers::default();
        timers.set(TimerId::Console, Some(5));
        timers.set(TimerId::Lapic, Some(5));
        assert_eq!(timers.due(4), None);
        assert_eq!(timers.due(5), Some(TimerId::Lapic));
        timers.set(TimerId::Lapic, Some(6));
        assert_eq!(timers.due(6), Some(TimerId::Console));
        timers.set(TimerId::Console, None);
        assert_eq!(timers.first(), Some((6, TimerId::Lapic)));
    }
}
