//! Sizes and times as they are written in a config: always with a unit.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes, written `"64 MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A span of time in nanoseconds, written `"20 ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: &[(&str, u64)] =
    &[("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

/// What a size looks like, for messages and for the schema.
pub(crate) const SIZE_FORM: &str = "a whole number and a unit: B, KiB, MiB or GiB, such as \"64 MiB\"";
/// What a time looks like.
pub(crate) const TIME_FORM: &str = "a whole number and a unit: ns, us, ms, s or min, such as \"20 ms\"";
pub(crate) const SIZE_PATTERN: &str = "^[0-9]+ ?(B|KiB|MiB|GiB)$";
pub(crate) const TIME_PATTERN: &str = "^[0-9]+ ?(ns|us|ms|s|min)$";

/// Digits, at most one space, a unit of the list. The error says what is wrong with *this* text.
fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err("it does not begin with a whole number".into());
    }
    let unit = rest.strip_prefix(' ').unwrap_or(rest);
    if unit.is_empty() {
        return Err("the unit is missing".into());
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{}` is not a unit that is known here", unit.escape_debug()));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| "the number is too large".to_owned())
}

fn write_in(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (name, factor) = units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .unwrap_or(&units[units.len() - 1]);
    write!(f, "{} {name}", value / factor)
}

impl Size {
    /// A number of mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
    /// Reads `"64 MiB"`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text, SIZE_UNITS).map(Self)
    }
}

impl Time {
    /// A number of milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(count * 1_000_000)
    }
    /// The number of nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }
    /// The same as a `std` duration.
    pub const fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
    /// Reads `"20 ms"`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text, TIME_UNITS).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in(f, self.0, SIZE_UNITS)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in(f, self.0, TIME_UNITS)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_back() {
        for text in ["64 MiB", "1 GiB", "1 B", "3 KiB", "0 B"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
        for text in ["20 ms", "1 min", "30 s", "7 ns", "0 ns"] {
            assert_eq!(Time::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Size::parse("64MiB"), Ok(Size::mib(64)));
        assert_eq!(Time::parse("90s"), Ok(Time(90_000_000_000)));
    }

    #[test]
    fn refused() {
        for text in
            ["", "64", "MiB", "64  MiB", "64 mib", "64 MB", "-1 MiB", "1.5 GiB", "64 MiB ", "17179869184 GiB"]
        {
            assert!(Size::parse(text).is_err(), "{text}");
        }
        for text in ["20", "20 sec", "1 h", "99999999999999999999 ns", "400000000000 min"] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
    }
}
