//! The 8254 timer (Intel 8254 data sheet) with the control port 0x61 of a PC: channel 0 is interrupt line 0, channel 2 the
//! loudspeaker, whose gate and output the port shows. Channel 1 counts and is connected to nothing.
//!
//! Counts are computed from guest time at 1.193182 MHz. Linux calibrates clocks with channel 2 and then switches the
//! chip off.

use serde::{Deserialize, Serialize};

use super::rate::Rate;

/// First of the four ports: counters 0-2 and the control word.
pub const PORT: u16 = 0x40;
/// Gate and output of channel 2.
pub const CONTROL_PORT: u16 = 0x61;

const CONTROL_WORD: u16 = PORT + 3;
const RATE: Rate = Rate::hertz(1_193_182);
/// Port 0x61: gate of channel 2, loudspeaker, refresh toggle, output of channel 2.
const GATE: u8 = 1;
const SPEAKER: u8 = 1 << 1;
const REFRESH: u8 = 1 << 4;
const OUTPUT: u8 = 1 << 5;
/// The refresh bit toggles with this period, in nanoseconds.
const REFRESH_NANOS: u64 = 15_085;

/// Which bytes of a count are read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    #[default]
    Both,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    /// As written; 0 stands for 65536 (10000 in BCD).
    reload: u16,
    /// Guest nanoseconds at which counting began; `None` while no count was written or the gate was never raised.
    start: Option<u64>,
    gate: bool,
    /// The low byte of a count of which the high one is to come.
    low: Option<u8>,
    latched: Option<u16>,
    status: Option<u8>,
    /// The next read gives the high byte.
    high_next: bool,
}

impl Channel {
    fn period(&self) -> u64 {
        match (self.bcd, self.reload) {
            (false, 0) => 0x1_0000,
            (true, 0) => 10_000,
            (false, count) => count.into(),
            (true, count) => {
                (0..4).rev().fold(0, |sum, digit| sum * 10 + u64::from(count >> (4 * digit) & 15))
            }
        }
        .max(1)
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        Some(RATE.ticks(now.saturating_sub(self.start?)))
    }

    fn count(&self, now: u64) -> u16 {
        let (period, modulus) = (self.period(), if self.bcd { 10_000 } else { 0x1_0000 });
        let Some(elapsed) = self.elapsed(now) else { return self.reload };
        let value = match self.mode {
            2 => period - elapsed % period,
            3 => (period - (2 * elapsed) % period) & !1,
            // Without reload the count goes on below zero.
            _ => (period + modulus - elapsed % modulus) % modulus,
        };
        if self.bcd {
            (0..4).fold(0, |bcd, digit| bcd | (value / 10_u64.pow(digit) % 10) << (4 * digit)) as u16
        } else {
            value as u16
        }
    }

    fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else { return self.mode != 0 };
        let period = self.period();
        match self.mode {
            0 | 1 => elapsed >= period,
            2 => elapsed % period != period - 1,
            3 => elapsed % period < period.div_ceil(2),
            _ => elapsed != period,
        }
    }

    /// A mode is set: counting waits for a count.
    fn control(&mut self, word: u8) {
        // Modes 6 and 7 are 2 and 3.
        let mode = word >> 1 & 7;
        self.mode = if mode > 5 { mode - 4 } else { mode };
        self.bcd = word & 1 != 0;
        self.access = match word >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.start = None;
        self.low = None;
        self.latched = None;
        self.status = None;
        self.high_next = false;
    }

    fn latch_count(&mut self, now: u64) {
        self.latched = self.latched.or_else(|| Some(self.count(now)));
    }

    fn latch_status(&mut self, now: u64) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let output = u8::from(self.output(now)) << 7;
        let null = u8::from(self.start.is_none()) << 6;
        self.status.get_or_insert(output | null | access << 4 | self.mode << 1 | u8::from(self.bcd));
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let count = self.latched.unwrap_or_else(|| self.count(now));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.high_next = !self.high_next;
                !self.high_next
            }
        };
        if high || self.access == Access::Low {
            self.latched = None;
        }
        (if high { count >> 8 } else { count }) as u8
    }

    /// True if a whole count was written.
    fn write(&mut self, value: u8, now: u64) -> bool {
        let value = u16::from(value);
        self.reload = match (self.access, self.low.take()) {
            (Access::Low, _) => value,
            (Access::High, _) => value << 8,
            (Access::Both, Some(low)) => value << 8 | u16::from(low),
            (Access::Both, None) => {
                self.low = Some(value as u8);
                return false;
            }
        };
        // Modes 1 and 5 wait for the gate to rise.
        self.start = (!matches!(self.mode, 1 | 5) && self.gate).then_some(now);
        true
    }
}

/// The timer and port 0x61. The whole of it is state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit {
    channels: [Channel; 3],
    speaker: bool,
    /// Guest nanoseconds at which channel 0 interrupts next.
    deadline: Option<u64>,
}

impl Default for Pit {
    fn default() -> Self {
        let mut channels: [Channel; 3] = Default::default();
        channels[0].gate = true;
        channels[1].gate = true;
        Self { channels, speaker: false, deadline: None }
    }
}

impl Pit {
    /// True if `port` belongs to the timer.
    pub fn claims(port: u16) -> bool {
        (PORT..PORT + 4).contains(&port) || port == CONTROL_PORT
    }

    /// Reads a port.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            CONTROL_PORT => {
                let channel = &self.channels[2];
                let refresh = now / REFRESH_NANOS % 2 == 1;
                let bits = [
                    (channel.gate, GATE),
                    (self.speaker, SPEAKER),
                    (refresh, REFRESH),
                    (channel.output(now), OUTPUT),
                ];
                bits.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
            }
            CONTROL_WORD => 0xff,
            _ => self.channels[usize::from(port - PORT) % 3].read(now),
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            CONTROL_PORT => {
                self.speaker = value & SPEAKER != 0;
                let channel = &mut self.channels[2];
                let (before, gate) = (channel.gate, value & GATE != 0);
                channel.gate = gate;
                if gate && !before {
                    channel.start = Some(now);
                }
            }
            CONTROL_WORD if value >> 6 == 3 => {
                for (number, channel) in self.channels.iter_mut().enumerate() {
                    if value & 2 << number == 0 {
                        continue;
                    }
                    if value & 0x20 == 0 {
                        channel.latch_count(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            CONTROL_WORD => {
                let number = usize::from(value >> 6);
                let channel = &mut self.channels[number];
                if value & 0x30 == 0 {
                    channel.latch_count(now);
                    return;
                }
                channel.control(value);
                if number == 0 {
                    self.deadline = None;
                }
            }
            _ => {
                let number = usize::from(port - PORT) % 3;
                let channel = &mut self.channels[number];
                if channel.write(value, now) && number == 0 {
                    self.deadline =
                        channel.start.map(|start| start.saturating_add(RATE.nanos(channel.period())));
                }
            }
        }
    }

    /// Guest nanoseconds at which line 0 pulses next.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// True if line 0 pulses, being due at `now`. Several missed ticks are one.
    pub fn fire(&mut self, now: u64) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return false;
        }
        let channel = &self.channels[0];
        self.deadline = channel.start.filter(|_| channel.is_periodic()).map(|start| {
            let period = channel.period();
            let passed = RATE.ticks(now.saturating_sub(start)) / period;
            start.saturating_add(RATE.nanos((passed + 1).saturating_mul(period)))
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn channel_0_ticks_at_its_rate() {
        let mut pit = Pit::default();
        // Mode 2, both bytes, 11932: about 100 Hz.
        pit.write(CONTROL_WORD, 0x34, 0);
        assert_eq!(pit.deadline(), None);
        pit.write(PORT, 0x9c, 0);
        pit.write(PORT, 0x2e, 0);
        assert_eq!(pit.deadline(), Some(10_000_151));
        assert!(!pit.fire(10_000_150));
        assert!(pit.fire(10_000_151));
        assert_eq!(pit.deadline(), Some(20_000_302));
        // Ticks that were missed are one, and the next is at its own time.
        assert!(pit.fire(55 * MILLISECOND));
        assert_eq!(pit.deadline(), Some(RATE.nanos(6 * 11_932)));
    }

    #[test]
    fn counts_run_down_and_can_be_latched() {
        let mut pit = Pit::default();
        pit.write(CONTROL_WORD, 0x34, 0);
        pit.write(PORT, 0, 0);
        pit.write(PORT, 0, 0);
        // 1193 ticks in the first millisecond.
        pit.write(CONTROL_WORD, 0x00, MILLISECOND);
        let low = pit.read(PORT, 2 * MILLISECOND);
        let high = pit.read(PORT, 3 * MILLISECOND);
        assert_eq!(u16::from_le_bytes([low, high]), 0_u16.wrapping_sub(1193));
        let low = pit.read(PORT, 2 * MILLISECOND);
        let high = pit.read(PORT, 2 * MILLISECOND);
        assert_eq!(u16::from_le_bytes([low, high]), 0_u16.wrapping_sub(2386));
    }

    #[test]
    fn channel_2_shows_its_output_as_a_calibration_wants_it() {
        let mut pit = Pit::default();
        // Gate up, loudspeaker off; mode 0; 50 ms.
        pit.write(CONTROL_PORT, 1, 0);
        pit.write(CONTROL_WORD, 0xb0, 0);
        assert_eq!(pit.read(CONTROL_PORT, 0) & OUTPUT, 0);
        let count = 59_659_u16.to_le_bytes();
        pit.write(PORT + 2, count[0], 0);
        pit.write(PORT + 2, count[1], 0);
        assert_eq!(pit.read(CONTROL_PORT, 49 * MILLISECOND) & OUTPUT, 0);
        assert_eq!(pit.read(CONTROL_PORT, 51 * MILLISECOND) & OUTPUT, OUTPUT);
        assert_eq!(pit.deadline(), None, "channel 2 interrupts nobody");
    }

    #[test]
    fn one_shot_modes_fire_once() {
        let mut pit = Pit::default();
        pit.write(CONTROL_WORD, 0x38, 0);
        pit.write(PORT, 0xe8, 0);
        pit.write(PORT, 0x03, 0);
        assert!(pit.fire(pit.deadline().unwrap()));
        assert_eq!(pit.deadline(), None);
    }

    #[test]
    fn read_back_gives_the_status() {
        let mut pit = Pit::default();
        pit.write(CONTROL_WORD, 0x36, 0);
        pit.write(PORT, 0, 0);
        pit.write(PORT, 0x10, 0);
        pit.write(CONTROL_WORD, 0xe2, 0);
        assert_eq!(pit.read(PORT, 0), 0x80 | 0x36);
    }

    #[test]
    fn bcd_counts_are_decimal() {
        let mut pit = Pit::default();
        pit.write(CONTROL_WORD, 0x35, 0);
        pit.write(PORT, 0x00, 0);
        pit.write(PORT, 0x10, 0);
        assert_eq!(pit.deadline(), Some(RATE.nanos(1000)));
        let at = RATE.nanos(1);
        assert_eq!((pit.read(PORT, at), pit.read(PORT, at)), (0x99, 0x09));
    }
}
