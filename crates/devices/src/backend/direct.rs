//! Direct I/O: past the host's page cache, so that another host sees a write as soon as it is complete.
//!
//! The host wants buffers aligned; the guest's data are where they are, so most requests go through an aligned copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use ft_core::output::SECTOR;

/// Alignment of buffers where the host does not tell.
const USUAL: usize = 4096;

/// Why a file cannot be used so.
#[derive(Debug)]
pub(super) enum Unfit {
    /// There is no direct I/O on it.
    Unknown,
    /// Only in blocks of so many bytes, more than a sector.
    Coarse(u32),
    /// The host could not be asked.
    Io(io::Error),
}

/// What direct I/O on a file needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Direct {
    /// Alignment of buffers, a power of two.
    memory: usize,
}

impl Direct {
    /// Asks the host, and tries. `file` is open with `O_DIRECT` and has `len` bytes, whole sectors.
    pub(super) fn probe(file: &File, len: u64) -> Result<Self, Unfit> {
        let mut direct = Self { memory: USUAL };
        if let Some((memory, granularity)) = alignment(file).map_err(Unfit::Io)? {
            if memory == 0 {
                return Err(Unfit::Unknown);
            }
            if u64::from(granularity) > SECTOR {
                return Err(Unfit::Coarse(granularity));
            }
            direct.memory = (memory as usize).next_power_of_two();
        }
        // Kernels before 6.1, and some file systems, do not tell. A sector at an odd place does.
        if len >= 2 * SECTOR {
            let result = direct.read(file, &mut [0; SECTOR as usize], SECTOR);
            result.map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => Unfit::Coarse(USUAL as u32),
                _ => Unfit::Io(error),
            })?;
        }
        Ok(direct)
    }

    /// Fills `buffer`. Offset and length are whole sectors.
    pub(super) fn read(self, file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let done = if self.is_aligned(buffer) {
                again(|| file.read_at(buffer, offset))?
            } else {
                let mut bounce = Bounce::new(buffer.len(), self.memory);
                let done = again(|| file.read_at(bounce.bytes(), offset))?;
                buffer[..done].copy_from_slice(&bounce.bytes()[..done]);
                done
            };
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[done..];
            offset += done as u64;
        }
        Ok(())
    }

    /// Writes all of `data`. Offset and length are whole sectors.
    pub(super) fn write(self, file: &File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let done = if self.is_aligned(data) {
                again(|| file.write_at(data, offset))?
            } else {
                let mut bounce = Bounce::new(data.len(), self.memory);
                bounce.bytes().copy_from_slice(data);
                again(|| file.write_at(bounce.bytes(), offset))?
            };
            if done == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[done..];
            offset += done as u64;
        }
        Ok(())
    }

    fn is_aligned(self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.memory)
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Alignment that direct I/O on `file` needs, of buffers and of offsets; zeroes if there is none on it; `None` if the host does
/// not tell.
fn alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: statx is plain integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open during the call, the path is a C string, and `stat` is a statx to write to.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut stat)
    };
    if result == 0 {
        let told = stat.stx_mask & libc::STATX_DIOALIGN != 0;
        return Ok(told.then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Kernels before 4.11.
        Some(libc::ENOSYS | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

/// Memory of which a part is aligned.
struct Bounce {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Bounce {
    fn new(len: usize, alignment: usize) -> Self {
        let memory = vec![0; len + alignment];
        let from = memory.as_ptr().addr().wrapping_neg() % alignment;
        Self { memory, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounce_buffer_is_aligned_and_long_enough() {
        for alignment in [1, 4, 512, 4096] {
            for len in [1, 512, 5000] {
                let mut bounce = Bounce::new(len, alignment);
                assert_eq!(bounce.bytes().len(), len);
                assert!(bounce.bytes().as_ptr().addr().is_multiple_of(alignment));
            }
        }
    }
}
