//! A disk in memory: for tests of what works on media.

use std::io;
use std::sync::{PoisonError, RwLock};

use super::medium::Medium;

/// Bytes that nobody else sees and that end with the process.
#[derive(Debug, Default)]
pub struct MemoryMedium {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryMedium {
    /// A disk that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// A copy of all it holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, offset: u64, len: u64, change: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let to = usize::try_from(offset.saturating_add(len)).map_err(|_| io::ErrorKind::InvalidInput)?;
        change(bytes.get_mut(from..to).ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }
}

impl Medium for MemoryMedium {
    fn len(&self) -> u64 {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).ok();
        let found = from.and_then(|from| bytes.get(from..)?.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset, data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.change(offset, len, |bytes| bytes.fill(0))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
