//! Bytes as all their hexadecimal digits, in lower case: JSON readers elsewhere may take a large number for a float.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};

/// `N` bytes, written as 2 x `N` digits.
#[derive(Clone, Copy)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

/// A number, highest digit first.
pub(crate) type Hex64 = Hex<8>;
/// A number, highest digit first.
pub(crate) type Hex128 = Hex<16>;

impl From<u64> for Hex64 {
    fn from(number: u64) -> Self {
        Self(number.to_be_bytes())
    }
}

impl From<Hex64> for u64 {
    fn from(hex: Hex64) -> Self {
        Self::from_be_bytes(hex.0)
    }
}

impl From<u128> for Hex128 {
    fn from(number: u128) -> Self {
        Self(number.to_be_bytes())
    }
}

impl From<Hex128> for u128 {
    fn from(hex: Hex128) -> Self {
        Self::from_be_bytes(hex.0)
    }
}

/// Reads exactly 2 x `N` digits.
pub(crate) fn read<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(bytes)
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> serde::Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> serde::Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits<const N: usize>;
        impl<const N: usize> Visitor<'_> for Digits<N> {
            type Value = Hex<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} hexadecimal digits", 2 * N)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Hex<N>, E> {
                read(text).map(Hex).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_digits_and_no_others() {
        assert_eq!(Hex::from(0xabcd_u64).to_string(), "000000000000abcd");
        assert_eq!(read("000000000000abcd").map(|bytes| u64::from(Hex(bytes))), Some(0xabcd));
        for bad in
            ["", "abcd", "000000000000ABCD", "+00000000000abcd", "0000000000000abcd", "00000000000000é"]
        {
            assert_eq!(read::<8>(bad), None, "{bad}");
        }
    }
}
