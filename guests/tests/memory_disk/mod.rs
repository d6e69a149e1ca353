//! A disk in memory that remembers the order of writes, so that a crash can be tried after any of them.

#![allow(dead_code, reason = "not every user needs all of it")]

use std::convert::Infallible;

use kv_core::{Disk, SECTOR};

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDisk {
    pub(crate) bytes: Vec<u8>,
    /// Every sector written since the start, in order: its number and new content.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
}

impl MemoryDisk {
    /// A blank disk.
    pub(crate) fn new(sectors: usize) -> Self {
        Self { bytes: vec![0; sectors * SECTOR], writes: Vec::new() }
    }
}

impl Disk for MemoryDisk {
    type Error = Infallible;

    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR) as u64
    }

    fn read(&mut self, sector: u64, length: usize) -> Result<Vec<u8>, Infallible> {
        Ok(self.bytes[sector as usize * SECTOR..][..length].to_vec())
    }

    fn write(&mut self, sector: u64, data: Vec<u8>) -> Result<Vec<u8>, Infallible> {
        assert!(data.len().is_multiple_of(SECTOR), "whole sectors");
        self.bytes[sector as usize * SECTOR..][..data.len()].copy_from_slice(&data);
        for (index, content) in data.chunks(SECTOR).enumerate() {
            self.writes.push((sector + index as u64, content.to_vec()));
        }
        Ok(data)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
