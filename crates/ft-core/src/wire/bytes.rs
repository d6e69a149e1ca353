//! Integers and byte strings on the wire: LEB128 in its shortest form, little-endian fixed fields.

use super::WireError;

/// Appends encoded values.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn fixed64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn fixed128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn var(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A difference of two counters, small in either direction.
    pub(super) fn difference(&mut self, from: u64, to: u64) {
        let difference = to.wrapping_sub(from) as i64;
        self.var(((difference << 1) ^ (difference >> 63)) as u64);
    }

    pub(super) fn string(&mut self, bytes: &[u8]) {
        self.var(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Takes encoded values off the front.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Malformed("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        Ok(self.take::<1>()?[0])
    }

    pub(super) fn flag(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Malformed("flag")),
        }
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(super) fn fixed128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.take()?))
    }

    pub(super) fn var(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if shift == 63 && part > 1 {
                return Err(WireError::Malformed("integer too large"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireError::Malformed("integer not in shortest form"));
                }
                return Ok(value);
            }
        }
        Err(WireError::Malformed("integer too long"))
    }

    pub(super) fn difference(&mut self, from: u64) -> Result<u64, WireError> {
        let zigzag = self.var()?;
        Ok(from.wrapping_add((zigzag >> 1) ^ (zigzag & 1).wrapping_neg()))
    }

    /// A length that cannot be more than what follows.
    pub(super) fn length(&mut self) -> Result<usize, WireError> {
        let length = usize::try_from(self.var()?).map_err(|_| WireError::Malformed("length"))?;
        if length > self.0.len() {
            return Err(WireError::Malformed("length"));
        }
        Ok(length)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.length()?;
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Malformed("bytes left over")) }
    }
}
