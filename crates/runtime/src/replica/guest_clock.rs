//! From host time to clock anchors (ENGINE: time is a function of position between two anchors).
//!
//! Where positions are exits, which say nothing of how long the guest ran, time stands still between two anchors.
//!
//! Guest time follows the host's monotonic clock since power-on, less what was cut out of long pauses. An anchor never
//! takes guest time back: where the guest is ahead, its rate is lowered until host time has caught up.

use ft_core::Nanos;
use ft_core::input::Anchor;
use ft_devices::clock::ONE_NS;
use ft_policies::Clock;

/// Between two anchors under load.
pub(super) const ANCHOR_INTERVAL: Nanos = 4_000_000;
/// The most that guest time is moved forward in one step; the rest of a longer pause is cut out.
const MAX_STEP: i128 = 1_000_000_000;
/// Longest time for which a halted guest on the host's clock is not told that time goes on.
const LONG_IDLE: Nanos = 500_000_000;
/// Nanoseconds per instruction before anything was measured.
const FIRST_GUESS: f64 = 5.0;
/// An anchor is as good as new for so long.
const RECENT: Nanos = 20_000;
/// Fewer instructions than this say nothing about speed.
const MEASURABLE: u64 = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct GuestClock {
    kind: Clock,
    /// Positions are exits.
    exits: bool,
    /// Process time at guest time 0.
    origin: i128,
    per_instruction: f64,
    last: Nanos,
    last_position: u64,
    idle: Nanos,
    /// Guest nanoseconds cut out of long pauses.
    pub(super) paused: u64,
}

impl GuestClock {
    pub(super) fn new(kind: Clock, exits: bool) -> Self {
        Self {
            kind,
            exits,
            origin: 0,
            per_instruction: FIRST_GUESS,
            last: 0,
            last_position: 0,
            idle: 0,
            paused: 0,
        }
    }

    /// The machine is live from `now` on; its guest time `guest` was reached at `then`.
    pub(super) fn begin(&mut self, now: Nanos, then: Nanos, guest: u64, position: u64) {
        self.origin = i128::from(then) - i128::from(guest);
        (self.last, self.last_position, self.idle) = (now, position, 0);
    }

    pub(super) fn is_virtual(&self) -> bool {
        self.kind == Clock::Virtual
    }

    /// Instructions in about `time` nanoseconds.
    pub(super) fn instructions(&self, time: Nanos) -> u64 {
        ((time as f64 / self.per_instruction) as u64).clamp(4096, 1 << 22)
    }

    /// True if the guest under load should have an anchor now.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        !self.is_virtual() && now >= self.last + ANCHOR_INTERVAL
    }

    /// True if the last anchor is so recent, and at this position, that another would say nothing.
    pub(super) fn is_fresh(&self, now: Nanos, position: u64) -> bool {
        position == self.last_position && self.is_recent(now)
    }

    /// True if the last anchor is so recent that a guest need not be told the time again.
    pub(super) fn is_recent(&self, now: Nanos) -> bool {
        now < self.last + RECENT
    }

    /// The vCPU had nothing to do for that long.
    pub(super) fn idled(&mut self, time: Nanos) {
        self.idle += time;
    }

    /// Host time until which a halted guest that now has guest time `guest` waits, if no input comes: then it is told the time.
    pub(super) fn waits_until(&self, deadline: Option<u64>, now: Nanos, guest: u64) -> Nanos {
        match (self.kind, deadline) {
            (Clock::Virtual, Some(deadline)) => now.saturating_add(deadline.saturating_sub(guest)),
            // Only an input ends that, and how long it was counts from its beginning.
            (Clock::Virtual, None) => Nanos::MAX,
            (Clock::Host, Some(deadline)) => {
                let due = (i128::from(deadline) + self.origin).max(0);
                u64::try_from(due).unwrap_or(Nanos::MAX).min(now + LONG_IDLE)
            }
            (Clock::Host, None) => now + LONG_IDLE,
        }
    }

    /// An anchor for a machine that stands at `position` with guest time `guest`.
    pub(super) fn anchor(&mut self, now: Nanos, guest: u64, position: u64) -> Anchor {
        let mut host = i128::from(now) - self.origin;
        let step = host - i128::from(guest);
        if step > MAX_STEP {
            let cut = step - MAX_STEP;
            self.origin += cut;
            host -= cut;
            self.paused = self.paused.saturating_add(u64::try_from(cut).unwrap_or(u64::MAX));
        }
        if self.exits {
            (self.last, self.last_position, self.idle) = (now, position, 0);
            return Anchor { time: guest.max(u64::try_from(host.max(0)).unwrap_or(u64::MAX)), rate: 0 };
        }
        self.measure(now, position);
        let ahead = (i128::from(guest) - host).max(0) as f64;
        let factor = (1.0 - ahead / ANCHOR_INTERVAL as f64).clamp(0.5, 2.0);
        let rate = (self.per_instruction * factor * ONE_NS as f64).clamp(1.0, 1e15) as u64;
        Anchor { time: guest.max(u64::try_from(host.max(0)).unwrap_or(u64::MAX)), rate }
    }

    /// An anchor of a machine whose time is its position: `guest` is what it jumps to.
    pub(super) fn virtual_anchor(&mut self, now: Nanos, guest: u64, position: u64) -> Anchor {
        (self.last, self.last_position, self.idle) = (now, position, 0);
        Anchor { time: guest, rate: ONE_NS }
    }

    fn measure(&mut self, now: Nanos, position: u64) {
        let busy = now.saturating_sub(self.last).saturating_sub(self.idle);
        let instructions = position.saturating_sub(self.last_position);
        if instructions >= MEASURABLE && busy > 0 && busy < MAX_STEP as u64 {
            let measured = (busy as f64 / instructions as f64).clamp(0.05, 10_000.0);
            // A thread that the host did not run for a while looks slow, and the anchor has made up for that already. So speed
            // is believed at once, and slowness only by and by: guest time rather lags, and is moved forward, than runs ahead.
            let believed = measured.min(self.per_instruction * 1.2);
            let weight = if measured < self.per_instruction { 0.5 } else { 0.1 };
            self.per_instruction += (believed - self.per_instruction) * weight;
        }
        (self.last, self.last_position, self.idle) = (now, position, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_halted_guest_follows_the_host() {
        let mut clock = GuestClock::new(Clock::Host, false);
        clock.begin(1000 * MS, 1000 * MS, 0, 0);
        assert_eq!(clock.anchor(1300 * MS, 0, 0).time, 300 * MS);
        assert_eq!(clock.waits_until(Some(350 * MS), 1300 * MS, 300 * MS), 1350 * MS);
        assert_eq!(clock.waits_until(Some(9000 * MS), 1300 * MS, 300 * MS), 1800 * MS);
        assert_eq!(clock.waits_until(None, 1300 * MS, 300 * MS), 1800 * MS);
    }

    #[test]
    fn on_the_virtual_clock_a_halted_guest_waits_for_its_deadline_or_an_input() {
        let mut clock = GuestClock::new(Clock::Virtual, false);
        clock.begin(1000 * MS, 1000 * MS, 5 * MS, 0);
        assert_eq!(clock.waits_until(Some(8005 * MS), 2000 * MS, 5 * MS), 10_000 * MS);
        assert_eq!(clock.waits_until(None, 2000 * MS, 5 * MS), Nanos::MAX);
    }

    #[test]
    fn guest_time_never_goes_back_and_slows_down_when_ahead() {
        let mut clock = GuestClock::new(Clock::Host, false);
        clock.begin(1000 * MS, 1000 * MS, 0, 0);
        let straight = clock.anchor(1004 * MS, 4 * MS, 800_000);
        let ahead = clock.anchor(1008 * MS, 9 * MS, 1_600_000);
        assert_eq!((straight.time, ahead.time), (4 * MS, 9 * MS));
        assert!(ahead.rate < straight.rate && ahead.rate >= straight.rate / 2, "{ahead:?} {straight:?}");
    }

    #[test]
    fn time_stands_still_between_anchors_where_positions_are_exits() {
        let mut clock = GuestClock::new(Clock::Host, true);
        clock.begin(1000 * MS, 1000 * MS, 0, 0);
        assert_eq!(clock.anchor(1004 * MS, 0, 50), Anchor { time: 4 * MS, rate: 0 });
        assert!(clock.is_recent(1004 * MS + RECENT - 1) && !clock.is_recent(1004 * MS + RECENT));
        assert!(clock.is_fresh(1004 * MS, 50) && !clock.is_fresh(1004 * MS, 51));
        assert_eq!(clock.anchor(1005 * MS, 4 * MS, 51), Anchor { time: 5 * MS, rate: 0 });
    }

    #[test]
    fn a_long_pause_is_cut_out() {
        let mut clock = GuestClock::new(Clock::Host, false);
        clock.begin(1000 * MS, 1000 * MS, 0, 0);
        assert_eq!(clock.anchor(11_000 * MS, 0, 0).time, 1000 * MS);
        assert_eq!(clock.paused, 9000 * MS);
        assert_eq!(clock.anchor(11_010 * MS, 1000 * MS, 0).time, 1010 * MS);
    }

    #[test]
    fn a_thread_that_is_preempted_now_and_then_does_not_run_ahead() {
        let mut clock = GuestClock::new(Clock::Host, false);
        clock.begin(0, 0, 0, 0);
        let (mut now, mut position, mut guest, mut rate) = (0, 0u64, 0u64, 5.0);
        let mut most = 0;
        for step in 0..2000 {
            // 2 ns per instruction, and every tenth interval the host runs something else for 40 ms.
            now += if step % 10 == 9 { 44 * MS } else { 4 * MS };
            position += 2_000_000;
            guest += (2_000_000.0 * rate) as u64;
            let anchor = clock.anchor(now, guest, position);
            (guest, rate) = (anchor.time, anchor.rate as f64 / ONE_NS as f64);
            if step > 100 {
                most = most.max(guest.saturating_sub(now));
            }
        }
        assert!(most < 10 * MS, "{most} ns ahead");
    }

    #[test]
    fn the_rate_is_what_was_measured() {
        let mut clock = GuestClock::new(Clock::Host, false);
        clock.begin(0, 0, 0, 0);
        let mut anchor = Anchor { time: 0, rate: 0 };
        for step in 1..100 {
            anchor = clock.anchor(step * 4 * MS, step * 4 * MS, step * 2_000_000);
        }
        let rate = anchor.rate as f64 / ONE_NS as f64;
        assert!((1.99..2.01).contains(&rate), "{rate} ns per instruction");
    }
}
