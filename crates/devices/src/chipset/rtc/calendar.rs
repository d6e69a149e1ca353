//! Dates of the Gregorian calendar and seconds since 1970, by the well-known arithmetic on years that begin in March.

use serde::{Deserialize, Serialize};

/// A second by its date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    pub(super) year: u16,
    pub(super) month: u8,
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const DAY: i64 = 86_400;
/// Days from 1 March of the year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const CYCLE: i64 = 146_097;

impl Moment {
    /// The date of a second since 1970. Years outside 0-9999 are taken modulo 10000: the clock has four digits.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY) + EPOCH;
        let time = seconds.rem_euclid(DAY);
        let (cycle, day) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let march = (5 * day_of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = cycle * 400 + year + i64::from(month <= 2);
        Self {
            year: year.rem_euclid(10_000) as u16,
            month: month as u8,
            day: (day_of_year - (153 * march + 2) / 5 + 1) as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds since 1970. A day that the month does not have is one of the next month.
    pub(super) fn seconds(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
        let march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * march + 2) / 5 + day - 1;
        let day = year * 365 + year / 4 - year / 100 + day_of_year;
        let time = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        (cycle * CYCLE + day - EPOCH) * DAY + time
    }

    /// 0 is Sunday.
    pub(super) fn weekday(self) -> u8 {
        // 1 January 1970 was a Thursday.
        (self.seconds().div_euclid(DAY) + 4).rem_euclid(7) as u8
    }

    /// True if it is a date and a time of day.
    pub(super) fn is_sane(self) -> bool {
        self.year < 10_000
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        let moment = Moment { year: 2024, month: 2, day: 29, hour: 23, minute: 59, second: 59 };
        assert_eq!(moment.seconds(), 1_709_251_199);
        assert_eq!(Moment::from_seconds(1_709_251_199), moment);
        assert_eq!(moment.weekday(), 4);
        let epoch = Moment { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        assert_eq!(Moment::from_seconds(0), epoch);
        assert_eq!(Moment::from_seconds(4_107_542_400).year, 2100);
        assert_eq!(Moment { day: 31, month: 2, year: 2023, ..epoch }.seconds(), {
            Moment { day: 3, month: 3, year: 2023, ..epoch }.seconds()
        });
    }

    proptest! {
        #[test]
        fn dates_and_seconds_agree(seconds in -60_000_000_000_i64..250_000_000_000) {
            let moment = Moment::from_seconds(seconds);
            prop_assert!(moment.is_sane());
            prop_assert_eq!(moment.seconds(), seconds);
        }
    }
}
