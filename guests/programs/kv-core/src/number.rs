//! Decimal numbers as Redis reads and writes them.

/// Longest text of an `i64`.
pub(crate) const MAX_DIGITS: usize = 20;

/// Reads an integer the way Redis' `string2ll` does: no sign but a minus, no leading zeros, no spaces.
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0_u64;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit); // 19 digits fit
    }
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// Writes `value` to the end of `buffer` and returns that part.
pub(crate) fn format(value: i64, buffer: &mut [u8; MAX_DIGITS]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut at = MAX_DIGITS;
    loop {
        at -= 1;
        // Most numbers are small: 32-bit divisions are cheaper.
        if let Ok(small) = u32::try_from(rest) {
            buffer[at] = b'0' + (small % 10) as u8;
            rest = u64::from(small / 10);
        } else {
            buffer[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}
