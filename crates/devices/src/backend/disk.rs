//! A disk as the guest's requests see it: carries them out on a [`Medium`].

use std::path::{Path, PathBuf};

use ft_core::input::{DiskDone, DiskStatus};
use ft_core::output::{DiskOp, DiskRequest, SECTOR};

use super::file::{DiskError, DiskOptions, FileMedium};
use super::medium::Medium;

/// A disk with everything that stands between the guest's requests and its file.
#[derive(Debug)]
pub struct DiskBackend {
    medium: Box<dyn Medium>,
    path: PathBuf,
}

impl DiskBackend {
    /// A disk on `medium`; `path` is its name in messages.
    pub fn new(medium: Box<dyn Medium>, path: &Path) -> Self {
        Self { medium, path: path.to_owned() }
    }

    /// A disk on a file and nothing between.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        Ok(Self::new(Box::new(FileMedium::open(options)?), &options.path))
    }

    /// Size in bytes, as the guest sees it.
    pub fn len(&self) -> u64 {
        self.medium.len()
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.medium.is_empty()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Carries out a request and waits for its end. A failure of the host is an I/O error to the guest and a line in the log.
    pub fn execute(&self, request: &DiskRequest) -> DiskDone {
        let result = match &request.op {
            DiskOp::Read { sector, len } => self.read(*sector, *len),
            DiskOp::Write { sector, data } => self.write(*sector, data).map(|()| Vec::new()),
            DiskOp::Flush => self.medium.flush().map(|()| Vec::new()),
            DiskOp::Discard { sector, count } => self.zero(*sector, *count, true).map(|()| Vec::new()),
            DiskOp::WriteZeroes { sector, count, unmap } => {
                self.zero(*sector, *count, *unmap).map(|()| Vec::new())
            }
        };
        let (status, data) = match result {
            Ok(data) => (DiskStatus::Ok, data),
            Err(error) => {
                let (disk, number) = (request.disk, request.request);
                tracing::warn!(disk, request = number, path = %self.path.display(), %error, "a disk request failed");
                (DiskStatus::IoError, Vec::new())
            }
        };
        DiskDone { disk: request.disk, request: request.request, status, data }
    }

    fn read(&self, sector: u64, len: u32) -> std::io::Result<Vec<u8>> {
        let offset = self.offset(sector, u64::from(len))?;
        let mut data = vec![0; len as usize];
        self.medium.read(&mut data, offset)?;
        Ok(data)
    }

    fn write(&self, sector: u64, data: &[u8]) -> std::io::Result<()> {
        let offset = self.offset(sector, data.len() as u64)?;
        self.medium.write(data, offset)
    }

    fn zero(&self, sector: u64, count: u32, unmap: bool) -> std::io::Result<()> {
        let len = u64::from(count) * SECTOR;
        let offset = self.offset(sector, len)?;
        self.medium.zero(offset, len, unmap)
    }

    /// Offset of a request that lies inside the disk: a file must never grow.
    fn offset(&self, sector: u64, len: u64) -> std::io::Result<u64> {
        let offset = sector.checked_mul(SECTOR);
        let inside =
            offset.and_then(|offset| offset.checked_add(len)).is_some_and(|end| end <= self.medium.len());
        offset.filter(|_| inside).ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
    }
}
