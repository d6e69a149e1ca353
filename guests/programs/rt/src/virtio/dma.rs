//! Memory that a device and the program may both touch, at the same time even.
//!
//! A buffer in flight is kept alive by the driver, which holds one of its [`Rc`]s until the device is done. So whoever
//! holds the only one has it to itself and may use plain slices; everybody else goes word by word, volatile.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::rc::Rc;
use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

/// Bytes of the words by which shared memory is reached, and the alignment of every buffer.
const WORD: usize = 8;

/// A buffer for a device.
#[derive(Debug)]
pub struct Dma {
    start: NonNull<u8>,
    len: usize,
}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len.max(1), WORD).expect("a buffer of a sane size")
}

impl Dma {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Rc<Self> {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout(len)) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(len)));
        Rc::new(Self { start, len })
    }

    /// Bytes of the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, for its only holder ([`Rc::get_mut`]): no device has it then.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: our own initialised memory; drivers keep an `Rc` while a device has it, so a `&mut` means that no device
        // does.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Reads the word at byte `at`, which is a multiple of eight.
    pub fn read_word(&self, at: usize) -> u64 {
        // SAFETY: `word` checks place and alignment.
        unsafe { self.word(at).read_volatile() }
    }

    /// Writes the word at byte `at`, which is a multiple of eight.
    pub fn write_word(&self, at: usize, value: u64) {
        // SAFETY: `word` checks place and alignment.
        unsafe { self.word(at).write_volatile(value) }
    }

    fn word(&self, at: usize) -> *mut u64 {
        assert!(at.is_multiple_of(WORD) && at + WORD <= self.len, "a word inside the buffer");
        self.start.as_ptr().wrapping_add(at).cast()
    }

    /// Where a part of it lies.
    pub(super) fn part(&self, range: Range<usize>) -> NonNull<[u8]> {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the buffer");
        // SAFETY: inside the allocation, or one past its end for an empty part.
        NonNull::slice_from_raw_parts(unsafe { self.start.add(range.start) }, range.len())
    }
}

impl Drop for Dma {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and nobody holds it any more.
        unsafe { dealloc(self.start.as_ptr(), layout(self.len)) };
    }
}
