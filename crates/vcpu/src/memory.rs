//! Guest RAM, and the one door to it.
//!
//! Only the vCPU thread touches guest memory. Writes by devices, virtqueues, loaders and restores go through vm-memory
//! and mark pages in [`PageFlags`], the `Bitmap` of the region; the engine, whose stores bypass vm-memory, marks the same
//! table itself. So one table knows which pages hold cached code and which were written since it was last asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Guest-physical memory whose writes are seen by [`PageFlags`]. RAM starts at address 0; cloning shares it.
pub type GuestRam = GuestMemoryMmap<PageFlags>;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// The page holds code that the engine has cached.
pub const CODE: u8 = 1;
/// The page was written since [`PageFlags::take_dirty`].
pub const DIRTY: u8 = 2;
/// A page with [`CODE`] was written through vm-memory (not by the engine's own stores).
pub const CODE_WRITTEN: u8 = 4;
/// The page was written through vm-memory (by a device, a queue, a loader) since [`PageFlags::take_device_written`].
pub const DEVICE_WRITTEN: u8 = 8;

/// Flags of each page of a region.
///
/// The atomics are there because vm-memory's types are shared; only the vCPU thread uses them, hence `Relaxed`.
#[derive(Debug, Clone)]
pub struct PageFlags {
    shared: Arc<Shared>,
    base: usize,
}

#[derive(Debug)]
struct Shared {
    pages: Box<[AtomicU8]>,
    any_code_written: AtomicBool,
    dirty_generation: AtomicU64,
}

impl PageFlags {
    /// A table for `len` bytes.
    pub fn new(len: usize) -> Self {
        let pages = (0..len.div_ceil(PAGE)).map(|_| AtomicU8::new(0)).collect();
        Self {
            shared: Arc::new(Shared {
                pages,
                any_code_written: AtomicBool::new(false),
                dirty_generation: AtomicU64::new(0),
            }),
            base: 0,
        }
    }

    /// The raw flags, one byte a page, for an engine's fast paths.
    pub fn bytes(&self) -> &[AtomicU8] {
        &self.shared.pages
    }

    /// True, once, if [`CODE_WRITTEN`] was set on any page since the last call.
    pub fn take_any_code_written(&self) -> bool {
        self.shared.any_code_written.load(Ordering::Relaxed)
            && self.shared.any_code_written.swap(false, Ordering::Relaxed)
    }

    /// Changes whenever [`DIRTY`] was cleared, so that an engine that skips marking pages it has marked knows to begin
    /// again.
    pub fn dirty_generation(&self) -> u64 {
        self.shared.dirty_generation.load(Ordering::Relaxed)
    }

    /// Clears [`DIRTY`] everywhere and gives the numbers of the pages that had it, ascending.
    pub fn take_dirty(&self) -> Vec<usize> {
        self.shared.dirty_generation.fetch_add(1, Ordering::Relaxed);
        self.take(DIRTY)
    }

    /// The same for [`DEVICE_WRITTEN`].
    pub fn take_device_written(&self) -> Vec<usize> {
        self.take(DEVICE_WRITTEN)
    }

    fn take(&self, flag: u8) -> Vec<usize> {
        let mut taken = Vec::new();
        for (number, flags) in self.shared.pages.iter().enumerate() {
            if flags.load(Ordering::Relaxed) & flag != 0 {
                flags.fetch_and(!flag, Ordering::Relaxed);
                taken.push(number);
            }
        }
        taken
    }
}

impl<'a> WithBitmapSlice<'a> for PageFlags {
    type S = PageFlags;
}

impl BitmapSlice for PageFlags {}

impl Bitmap for PageFlags {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let start = self.base.saturating_add(offset);
        let end = start.saturating_add(len - 1);
        for number in start / PAGE..=end / PAGE {
            let Some(flags) = self.shared.pages.get(number) else { return };
            let had = flags.fetch_or(DIRTY | DEVICE_WRITTEN, Ordering::Relaxed);
            if had & CODE != 0 {
                flags.fetch_or(CODE_WRITTEN, Ordering::Relaxed);
                self.shared.any_code_written.store(true, Ordering::Relaxed);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = self.base.saturating_add(offset) / PAGE;
        self.shared.pages.get(page).is_some_and(|flags| flags.load(Ordering::Relaxed) & DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { shared: Arc::clone(&self.shared), base: self.base.saturating_add(offset) }
    }
}

impl Default for PageFlags {
    fn default() -> Self {
        Self::new(0)
    }
}

impl NewBitmap for PageFlags {
    fn with_len(len: usize) -> Self {
        Self::new(len)
    }
}

/// RAM of `size` bytes from address 0, zeroed. `size` is at most 3 GiB in this version (the hole for devices is above).
///
/// # Errors
/// The host has no such amount of memory to map, as text.
pub fn allocate(size: usize) -> Result<GuestRam, String> {
    GuestRam::from_ranges(&[(GuestAddress(0), size)]).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn writes_through_vm_memory_mark_pages_and_code() {
        let ram = allocate(4 * PAGE).unwrap();
        let flags = ram.iter().next().unwrap().bitmap();
        flags.bytes()[2].store(CODE, Ordering::Relaxed);
        ram.write_obj(7_u64, GuestAddress(PAGE as u64 + 8)).unwrap();
        assert!(!flags.take_any_code_written());
        ram.write_obj(7_u64, GuestAddress(3 * PAGE as u64 - 4)).unwrap();
        assert!(flags.take_any_code_written());
        assert!(!flags.take_any_code_written());
        assert_eq!(flags.take_dirty(), [1, 2, 3]);
        assert!(flags.take_dirty().is_empty());
        assert_eq!(flags.take_device_written(), [1, 2, 3]);
    }
}
