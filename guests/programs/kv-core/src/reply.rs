//! Writing replies (RESP2).

use alloc::vec::Vec;

use crate::number::{MAX_DIGITS, format};

pub(crate) const OK: &[u8] = b"+OK\r\n";
pub(crate) const NIL: &[u8] = b"$-1\r\n";

fn line(out: &mut Vec<u8>, kind: u8, value: i64) {
    let mut buffer = [0; MAX_DIGITS];
    let digits = format(value, &mut buffer);
    out.reserve(digits.len() + 3);
    out.push(kind);
    out.extend_from_slice(digits);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    line(out, b':', value);
}

pub(crate) fn array(out: &mut Vec<u8>, length: usize) {
    line(out, b'*', length as i64);
}

pub(crate) fn bulk(out: &mut Vec<u8>, value: &[u8]) {
    line(out, b'$', value.len() as i64);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// An error reply: `parts` in a row, with line ends made spaces.
pub(crate) fn error(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'-');
    for part in parts {
        out.extend(part.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    }
    out.extend_from_slice(b"\r\n");
}
