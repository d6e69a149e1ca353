//! What holds the bytes of a disk: a file, or a layer around one.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// Bytes that can be read and written at any offset, from any number of threads. The caller keeps overlapping requests apart
/// ([`super::schedule`]) and every request inside [`Medium::len`].
///
/// A layer (faults, a quarantine) is a medium around another: what is above never knows which are in use.
pub trait Medium: Send + Sync + Debug {
    /// Bytes, a whole number of sectors.
    fn len(&self) -> u64;

    /// True if it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The host's. What is in the buffer then is of no use.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The host's. Any part may have been written then.
    fn write(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes `len` bytes at `offset` read as zeroes, and gives them back to the host if `unmap`.
    ///
    /// # Errors
    /// The host's. Any part may be zero then.
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// True if nothing was ever written to these bytes, or they were zeroed since, so that they need not be read. False where
    /// that is not known.
    fn is_hole(&self, _offset: u64, _len: u64) -> bool {
        false
    }

    /// Makes every write that has ended durable.
    ///
    /// # Errors
    /// The host's: what was written may be lost.
    fn flush(&self) -> io::Result<()>;
}

/// So that a caller keeps a handle of what it gives away.
impl<T: Medium + ?Sized> Medium for Arc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read(buffer, offset)
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        (**self).write(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        (**self).zero(offset, len, unmap)
    }

    fn is_hole(&self, offset: u64, len: u64) -> bool {
        (**self).is_hole(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
}
