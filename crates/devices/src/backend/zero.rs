//! Makes a part of a file read as zeroes, by the cheapest way that the host has for it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IO(0x12, 127)` of linux/fs.h.
const BLKZEROOUT: libc::c_ulong = 0x127f;
/// Most bytes written at once where the host has no better way.
const CHUNK: u64 = 1 << 20;

/// Zeroes without writing them; false if the host has no way to, and they have to be written ([`in_chunks`]).
///
/// None of the ways used here may leave the old content: a discard as block devices know it (BLKDISCARD) may, and is not used.
pub(super) fn cheaply(file: &File, offset: u64, len: u64, unmap: bool, block: bool) -> io::Result<bool> {
    let (Ok(from), Ok(size)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if len == 0 {
        return Ok(true);
    }
    let modes = [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE];
    for mode in &modes[usize::from(!unmap)..] {
        // SAFETY: the descriptor is open during the call; the rest are integers.
        let call =
            || unsafe { libc::fallocate(file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, from, size) };
        if succeeded(call)? {
            return Ok(true);
        }
    }
    let range = [offset, len];
    // SAFETY: the descriptor is open during the call, and the request reads two 64-bit numbers, which outlive it.
    let call = || unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT, range.as_ptr()) };
    Ok(block && succeeded(call)?)
}

/// False if the host does not know the operation, or not for this file or alignment: another way will do.
fn succeeded(mut call: impl FnMut() -> libc::c_int) -> io::Result<bool> {
    loop {
        if call() == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV | libc::ENOTTY) => {
                return Ok(false);
            }
            _ => return Err(error),
        }
    }
}

/// Writes zeroes with `write`, a bounded number of bytes at a time.
pub(super) fn in_chunks(
    mut offset: u64,
    len: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let zeroes = vec![0; len.min(CHUNK) as usize];
    let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    while offset < end {
        let size = (end - offset).min(CHUNK);
        write(&zeroes[..size as usize], offset)?;
        offset += size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_range_once() {
        for (offset, len) in [(0, 0), (512, 512), (1024, CHUNK), (512, 3 * CHUNK + 512)] {
            let mut next = offset;
            in_chunks(offset, len, |data, at| {
                assert_eq!(at, next);
                assert!(!data.is_empty() && data.len() as u64 <= CHUNK);
                assert!(data.iter().all(|byte| *byte == 0));
                next += data.len() as u64;
                Ok(())
            })
            .unwrap();
            assert_eq!(next, offset + len);
        }
        assert!(in_chunks(u64::MAX, 2, |_, _| Ok(())).is_err());
    }
}
