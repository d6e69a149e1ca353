//! The real-time clock and its memory (Motorola MC146818), as a PC has it: index port, data port, interrupt line 8.
//!
//! It shows guest time: a date at power-on, and nanoseconds since. Interrupts are those of the chip: periodic, alarm and
//! update-ended, as a level that reading register C releases.

mod calendar;

use serde::{Deserialize, Serialize};

use self::calendar::Moment;

/// Index port; the data port follows it.
pub const PORT: u16 = 0x70;
/// Interrupt line.
pub const IRQ: u8 = 8;
/// Register of the century, for the FADT.
pub const CENTURY: u8 = 0x32;
/// What the clock shows at power-on, in seconds since 1970: the beginning of 2026, until a date is given.
pub const DEFAULT_DATE: u64 = 1_767_225_600;

/// The last second of the year 9999.
const LAST_DATE: u64 = 253_402_300_799;

const NANOS: u64 = 1_000_000_000;
/// An update of the registers is announced this long before.
const UPDATE_NANOS: u64 = 244_000;
const SECOND: u8 = 0;
const MINUTE: u8 = 2;
const HOUR: u8 = 4;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

/// Register A: update in progress; divider bits; divider held in reset (both values).
const UPDATING: u8 = 1 << 7;
const DIVIDER: u8 = 0x70;
const DIVIDER_RUNS: u8 = 0x20;
/// Register B: updates stopped; interrupt enables; binary; 24 hours.
const SET: u8 = 1 << 7;
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const ENDED: u8 = 1 << 4;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const WRITABLE_B: u8 = !(1 << 3);
/// Register C: any enabled interrupt. Register D: memory and time are valid.
const REQUEST: u8 = 1 << 7;
const VALID: u8 = 1 << 7;

/// The clock. The whole of it is state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtc {
    index: u8,
    /// The clock showed `shown` seconds since 1970 at guest nanosecond `since` exactly (which may lie before power-on).
    shown: i64,
    since: i64,
    /// The time while updates are stopped.
    held: Option<Moment>,
    alarm: [u8; 3],
    a: u8,
    b: u8,
    c: u8,
    /// Up to where flags in `c` are computed, in guest nanoseconds.
    seen: u64,
    /// The date was told; until then the clock counts from [`DEFAULT_DATE`].
    dated: bool,
    /// Battery-backed memory: registers 0x0e to 0x7f.
    memory: Vec<u8>,
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            index: 0,
            shown: DEFAULT_DATE as i64,
            since: 0,
            held: None,
            alarm: [0; 3],
            a: DIVIDER_RUNS | 6,
            b: HOURS_24,
            c: 0,
            seen: 0,
            dated: false,
            memory: vec![0; 128],
        }
    }
}

impl Rtc {
    /// True if `port` belongs to the clock.
    pub fn claims(port: u16) -> bool {
        port & !1 == PORT
    }

    /// True if [`Rtc::set_date`] was called.
    pub fn has_date(&self) -> bool {
        self.dated
    }

    /// The calendar shows `seconds` since 1970 now. Beyond the year 9999 it is that year's end.
    pub fn set_date(&mut self, seconds: u64, now: u64) {
        self.update(now);
        self.dated = true;
        self.shown = seconds.min(LAST_DATE) as i64;
        self.since = signed(now);
    }

    /// True if the state can be that of a clock.
    pub fn is_sane(&self) -> bool {
        self.memory.len() == 128
            && usize::from(self.index) < self.memory.len()
            && self.shown.unsigned_abs() < 1 << 40
            && self.since.unsigned_abs() < 1 << 62
            && self.held.is_none_or(Moment::is_sane)
    }

    /// Reads a port. The index cannot be read back.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        self.update(now);
        if port == PORT {
            return 0xff;
        }
        match self.index {
            SECOND => self.encode(self.moment(now).second),
            MINUTE => self.encode(self.moment(now).minute),
            HOUR => self.encode_hour(self.moment(now).hour),
            6 => self.encode(self.moment(now).weekday() + 1),
            7 => self.encode(self.moment(now).day),
            8 => self.encode(self.moment(now).month),
            9 => self.encode((self.moment(now).year % 100) as u8),
            CENTURY => self.encode((self.moment(now).year / 100) as u8),
            1 | 3 | 5 => self.alarm[usize::from(self.index / 2)],
            REGISTER_A => self.a | if self.is_updating(now) { UPDATING } else { 0 },
            REGISTER_B => self.b,
            REGISTER_C => std::mem::take(&mut self.c),
            REGISTER_D => VALID,
            index => self.memory[usize::from(index)],
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        self.update(now);
        if port == PORT {
            // Bit 7 masks NMI elsewhere.
            self.index = value & 0x7f;
            return;
        }
        match self.index {
            SECOND | MINUTE | HOUR | 6..=9 | CENTURY => {
                let mut moment = self.moment(now);
                match self.index {
                    SECOND => moment.second = self.decode(value) % 60,
                    MINUTE => moment.minute = self.decode(value) % 60,
                    HOUR => moment.hour = self.decode_hour(value),
                    7 => moment.day = self.decode(value).clamp(1, 31),
                    8 => moment.month = self.decode(value).clamp(1, 12),
                    9 => moment.year = moment.year / 100 * 100 + u16::from(self.decode(value) % 100),
                    CENTURY => moment.year = u16::from(self.decode(value) % 100) * 100 + moment.year % 100,
                    // The day of the week follows from the date.
                    _ => {}
                }
                if self.held.is_some() {
                    self.held = Some(moment);
                } else {
                    self.shown += moment.seconds() - self.seconds(now);
                }
            }
            1 | 3 | 5 => self.alarm[usize::from(self.index / 2)] = value,
            REGISTER_A => {
                let ran = self.a & DIVIDER == DIVIDER_RUNS;
                self.a = value & !UPDATING;
                if !ran && self.a & DIVIDER == DIVIDER_RUNS {
                    // Released, the divider is half a second before its first update.
                    self.shown = self.seconds(now);
                    self.since = signed(now).saturating_sub(NANOS as i64 / 2);
                }
            }
            REGISTER_B => {
                let stops = value & SET != 0;
                if stops && self.held.is_none() {
                    self.held = Some(self.moment(now));
                } else if !stops && let Some(moment) = self.held.take() {
                    self.shown += moment.seconds() - self.seconds(now);
                }
                // Stopping updates also switches the update-ended interrupt off.
                self.b = value & WRITABLE_B & if stops { !ENDED } else { 0xff };
                self.raise();
            }
            REGISTER_C | REGISTER_D => {}
            index => self.memory[usize::from(index)] = value,
        }
    }

    /// True while interrupt line 8 is asserted.
    pub fn line(&self) -> bool {
        self.c & REQUEST != 0
    }

    /// Guest nanoseconds of the next event that interrupts. None while the line is asserted: it cannot rise twice.
    pub fn deadline(&self) -> Option<u64> {
        if self.line() {
            return None;
        }
        let updates = self.held.is_none();
        let periodic = self.period().filter(|_| self.b & PERIODIC != 0).map(|period| {
            let next = self.seen / period + 1;
            next.saturating_mul(period)
        });
        let ended = (updates && self.b & ENDED != 0).then(|| self.start_of(self.seconds(self.seen) + 1));
        let alarm = (updates && self.b & ALARM != 0)
            .then(|| self.next_alarm(self.seconds(self.seen)))
            .flatten()
            .map(|second| self.start_of(second));
        [periodic, ended, alarm].into_iter().flatten().min()
    }

    /// Brings the flags of register C up to `now`.
    pub fn update(&mut self, now: u64) {
        if now <= self.seen {
            return;
        }
        if self.period().is_some_and(|period| now / period != self.seen / period) {
            self.c |= PERIODIC;
        }
        let (before, after) = (self.seconds(self.seen), self.seconds(now));
        if self.held.is_none() && before != after {
            self.c |= ENDED;
            if self.next_alarm(before).is_some_and(|second| second <= after) {
                self.c |= ALARM;
            }
        }
        self.seen = now;
        self.raise();
    }

    fn raise(&mut self) {
        let flags = self.c & (PERIODIC | ALARM | ENDED);
        self.c = flags | if flags & self.b != 0 { REQUEST } else { 0 };
    }

    /// Seconds since 1970 that a running clock shows at `now`.
    fn seconds(&self, now: u64) -> i64 {
        self.shown.saturating_add(signed(now).saturating_sub(self.since).div_euclid(NANOS as i64))
    }

    /// The guest nanosecond at which a running clock begins to show `second`.
    fn start_of(&self, second: i64) -> u64 {
        let nanos = (second - self.shown).saturating_mul(NANOS as i64).saturating_add(self.since);
        u64::try_from(nanos).unwrap_or(0)
    }

    fn moment(&self, now: u64) -> Moment {
        self.held.unwrap_or_else(|| Moment::from_seconds(self.seconds(now)))
    }

    fn is_updating(&self, now: u64) -> bool {
        let phase = signed(now).saturating_sub(self.since).rem_euclid(NANOS as i64) as u64;
        self.held.is_none() && self.a & DIVIDER == DIVIDER_RUNS && phase >= NANOS - UPDATE_NANOS
    }

    /// Nanoseconds between periodic events, if the rate is not 0.
    fn period(&self) -> Option<u64> {
        let rate = match self.a & 15 {
            0 => return None,
            // With the 32768 Hz divider the two slowest values are two fast ones.
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        Some(NANOS * (1 << (rate - 1)) / 32_768)
    }

    /// The first second after `after` at which the alarm goes off.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let matches = |alarm: u8, value: u8| alarm >= 0xc0 || alarm == value;
        let mut second = after + 1;
        // Each step goes to the next hour, minute or second: at most a day's hours, an hour's minutes, a minute's seconds.
        for _ in 0..24 + 60 + 60 + 3 {
            let moment = Moment::from_seconds(second);
            if !matches(self.alarm[2], self.encode_hour(moment.hour)) {
                second += 3600 - second.rem_euclid(3600);
            } else if !matches(self.alarm[1], self.encode(moment.minute)) {
                second += 60 - second.rem_euclid(60);
            } else if !matches(self.alarm[0], self.encode(moment.second)) {
                second += 1;
            } else {
                return Some(second);
            }
        }
        None
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { value / 10 * 16 + value % 10 }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { (value >> 4).wrapping_mul(10).wrapping_add(value & 15) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let afternoon = u8::from(hour >= 12) << 7;
        self.encode((hour + 11) % 12 + 1) | afternoon
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.decode(value) % 24;
        }
        self.decode(value & 0x7f) % 12 + 12 * (value >> 7)
    }
}

/// Guest nanoseconds on the scale of those before power-on too.
fn signed(now: u64) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(PORT, index, now);
        rtc.read(PORT + 1, now)
    }

    fn put(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(PORT, index, now);
        rtc.write(PORT + 1, value, now);
    }

    fn date(rtc: &mut Rtc, now: u64) -> [u8; 7] {
        [CENTURY, 9, 8, 7, 4, 2, 0].map(|index| get(rtc, index, now))
    }

    #[test]
    fn it_shows_guest_time_in_bcd() {
        let mut rtc = Rtc::default();
        assert_eq!(date(&mut rtc, 0), [0x20, 0x26, 0x01, 0x01, 0, 0, 0]);
        assert_eq!(get(&mut rtc, 6, 0), 5, "2026 begins on a Thursday");
        let later = ((31 + 27) * 86_400 + 23 * 3600 + 59 * 60 + 59) * NANOS;
        assert_eq!(date(&mut rtc, later), [0x20, 0x26, 0x02, 0x28, 0x23, 0x59, 0x59]);
        assert_eq!(date(&mut rtc, later + NANOS), [0x20, 0x26, 0x03, 0x01, 0, 0, 0]);
    }

    #[test]
    fn it_can_be_set() {
        let mut rtc = Rtc::default();
        let now = 1_300_000_000;
        put(&mut rtc, REGISTER_B, SET | HOURS_24 | BINARY, now);
        for (index, value) in [(9, 24), (8, 2), (7, 29), (4, 12), (2, 34), (0, 56)] {
            put(&mut rtc, index, value, now);
        }
        put(&mut rtc, REGISTER_B, HOURS_24 | BINARY, now);
        assert_eq!(date(&mut rtc, now), [20, 24, 2, 29, 12, 34, 56]);
        // The phase of the seconds stays.
        assert_eq!(get(&mut rtc, 0, 2 * NANOS - 1), 56);
        assert_eq!(get(&mut rtc, 0, 2 * NANOS), 57);
        put(&mut rtc, REGISTER_B, BINARY, now);
        assert_eq!(get(&mut rtc, 4, now), 0x80 | 12);
    }

    #[test]
    fn it_is_told_the_date() {
        let mut rtc = Rtc::default();
        assert!(!rtc.has_date());
        rtc.set_date(1_709_251_199, 5);
        assert!(rtc.has_date());
        assert_eq!(date(&mut rtc, NANOS + 4), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x59]);
        assert_eq!(date(&mut rtc, NANOS + 5), [0x20, 0x24, 0x03, 0x01, 0, 0, 0]);
        rtc.set_date(u64::MAX, 5);
        assert_eq!(date(&mut rtc, 5), [0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]);
        assert!(rtc.is_sane());
        rtc.index = 128;
        assert!(!rtc.is_sane(), "there is no such register");
    }

    #[test]
    fn updates_are_announced() {
        let mut rtc = Rtc::default();
        assert_eq!(get(&mut rtc, REGISTER_A, NANOS - UPDATE_NANOS - 1) & UPDATING, 0);
        assert_eq!(get(&mut rtc, REGISTER_A, NANOS - 1) & UPDATING, UPDATING);
        assert_eq!(get(&mut rtc, REGISTER_A, NANOS) & UPDATING, 0);
    }

    #[test]
    fn the_alarm_interrupts_at_its_second() {
        let mut rtc = Rtc::default();
        for (index, value) in [(1, 0x30), (3, 0x02), (5, 0xff)] {
            put(&mut rtc, index, value, 0);
        }
        assert_eq!(rtc.deadline(), None);
        put(&mut rtc, REGISTER_B, HOURS_24 | ALARM, 0);
        assert_eq!(rtc.deadline(), Some(150 * NANOS));
        rtc.update(150 * NANOS - 1);
        assert!(!rtc.line());
        rtc.update(150 * NANOS);
        assert!(rtc.line());
        assert_eq!(get(&mut rtc, REGISTER_C, 150 * NANOS) & (REQUEST | ALARM), REQUEST | ALARM);
        assert!(!rtc.line());
        assert_eq!(rtc.deadline(), Some((150 + 3600) * NANOS));
    }

    #[test]
    fn the_end_of_an_update_interrupts_every_second() {
        let mut rtc = Rtc::default();
        put(&mut rtc, REGISTER_B, HOURS_24 | ENDED, 100);
        assert_eq!(rtc.deadline(), Some(NANOS));
        rtc.update(NANOS);
        assert!(rtc.line());
        get(&mut rtc, REGISTER_C, NANOS);
        assert_eq!(rtc.deadline(), Some(2 * NANOS));
    }

    #[test]
    fn the_periodic_interrupt_has_its_rate() {
        let mut rtc = Rtc::default();
        put(&mut rtc, REGISTER_A, DIVIDER_RUNS | 6, 0);
        put(&mut rtc, REGISTER_B, HOURS_24 | PERIODIC, 0);
        // 1024 Hz.
        assert_eq!(rtc.deadline(), Some(976_562));
        rtc.update(976_562);
        assert_eq!(get(&mut rtc, REGISTER_C, 976_562), REQUEST | PERIODIC);
    }

    #[test]
    fn memory_keeps_what_is_written() {
        let mut rtc = Rtc::default();
        put(&mut rtc, 0x40, 0xab, 0);
        assert_eq!(get(&mut rtc, 0xc0, 0), 0xab, "bit 7 of the index is not part of it");
    }
}
