//! The allocator: power-of-two blocks on one free list per size.
//!
//! Allocation and release are a push or a pop, some ten instructions: what a server does per request. Released
//! blocks are not merged with their buddies at once but all together, when an allocation finds nothing large
//! enough; a bitmap set aside at the start makes that pass linear.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{null_mut, with_exposed_provenance_mut};

/// Smallest block: 16 bytes, room for the list's link.
const MIN_ORDER: usize = 4;
/// Largest block: 1 GiB.
const MAX_ORDER: usize = 30;

struct Heap {
    /// First free block of each order; 0 ends a list. A free block's first word links to the next.
    lists: [usize; MAX_ORDER + 1],
    /// Where the blocks begin.
    base: usize,
    /// Bytes given to blocks.
    size: usize,
    /// The bitmap for merging: one bit for each smallest block.
    bitmap: usize,
}

struct Global(UnsafeCell<Heap>);

// SAFETY: one CPU, and interrupt handlers do not allocate.
unsafe impl Sync for Global {}

#[global_allocator]
static GLOBAL: Global =
    Global(UnsafeCell::new(Heap { lists: [0; MAX_ORDER + 1], base: 0, size: 0, bitmap: 0 }));

/// Bytes that the heap has in all.
pub fn heap_size() -> usize {
    // SAFETY: single-threaded; nothing else holds a reference across this call.
    unsafe { (*GLOBAL.0.get()).size }
}

/// Gives the allocator its memory.
///
/// # Safety
/// `start..end` must be RAM that nothing else uses, and this must be called once, before the first allocation.
pub(crate) unsafe fn init(start: usize, end: usize) {
    // SAFETY: single-threaded, see above.
    let heap = unsafe { &mut *GLOBAL.0.get() };
    let start = start.next_multiple_of(4096);
    let bitmap_bytes = (end - start) >> (MIN_ORDER + 3);
    heap.bitmap = start;
    heap.base = (start + bitmap_bytes).next_multiple_of(4096);
    heap.size = (end & !4095) - heap.base;
    let (mut at, end) = (heap.base, heap.base + heap.size);
    while at < end {
        let order = (at.trailing_zeros() as usize).min((end - at).ilog2() as usize).min(MAX_ORDER);
        // SAFETY: the block is inside the memory that the caller gave us.
        unsafe { heap.push(order, at) };
        at += 1 << order;
    }
}

fn order_of(layout: &Layout) -> usize {
    let size = layout.size().max(layout.align()).max(1 << MIN_ORDER);
    (usize::BITS - (size - 1).leading_zeros()) as usize
}

/// Reads a block's link.
///
/// # Safety
/// `block` must be a free block of this heap.
unsafe fn link(block: usize) -> usize {
    // SAFETY: the first word of a free block belongs to the allocator.
    unsafe { *with_exposed_provenance_mut::<usize>(block) }
}

impl Heap {
    /// # Safety
    /// `block` must be a block of `order` that is free and on no list.
    unsafe fn push(&mut self, order: usize, block: usize) {
        // SAFETY: the first word of a free block belongs to the allocator.
        unsafe { *with_exposed_provenance_mut::<usize>(block) = self.lists[order] };
        self.lists[order] = block;
    }

    fn pop(&mut self, order: usize) -> Option<usize> {
        let block = self.lists[order];
        if block == 0 {
            return None;
        }
        // SAFETY: blocks on the lists are free.
        self.lists[order] = unsafe { link(block) };
        Some(block)
    }

    fn take(&mut self, order: usize) -> Option<usize> {
        if let Some(block) = self.pop(order) {
            return Some(block);
        }
        self.split(order).or_else(|| {
            self.merge();
            self.pop(order).or_else(|| self.split(order))
        })
    }

    /// Cuts the smallest sufficient larger block.
    #[cold]
    fn split(&mut self, order: usize) -> Option<usize> {
        let from = (order + 1..=MAX_ORDER).find(|&larger| self.lists[larger] != 0)?;
        let block = self.pop(from)?;
        for half in (order..from).rev() {
            // SAFETY: the upper half of a block that is ours.
            unsafe { self.push(half, block + (1 << half)) };
        }
        Some(block)
    }

    /// Merges free buddies, from the smallest order up.
    #[cold]
    fn merge(&mut self) {
        for order in MIN_ORDER..MAX_ORDER {
            let first = self.base >> order;
            let bits = (self.size >> order) + 2;
            let bytes = bits.div_ceil(8).min(self.size >> (MIN_ORDER + 3));
            // SAFETY: the bitmap was set aside for one bit per smallest block; `bytes` is within it.
            let map = unsafe {
                core::slice::from_raw_parts_mut(with_exposed_provenance_mut::<u8>(self.bitmap), bytes)
            };
            map.fill(0);
            let mut block = core::mem::take(&mut self.lists[order]);
            let list = block;
            while block != 0 {
                let bit = (block >> order) - first;
                if let Some(byte) = map.get_mut(bit / 8) {
                    *byte |= 1 << (bit % 8);
                }
                // SAFETY: `block` is on the list of free blocks.
                block = unsafe { link(block) };
            }
            let is_free = |block: usize| {
                let bit = (block >> order).wrapping_sub(first);
                map.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
            };
            block = list;
            while block != 0 {
                // SAFETY: as above; read before the block goes to another list.
                let next = unsafe { link(block) };
                let buddy = block ^ (1 << order);
                // SAFETY: each block goes to exactly one list: its own order's, or the next for a pair's lower half.
                unsafe {
                    if !(is_free(block) && is_free(buddy)) {
                        self.push(order, block);
                    } else if block < buddy {
                        self.push(order + 1, block);
                    }
                }
                block = next;
            }
        }
    }
}

// SAFETY: blocks are disjoint, as large as asked for and aligned to their own size.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let order = order_of(&layout);
        if order > MAX_ORDER {
            return null_mut();
        }
        // SAFETY: single-threaded.
        let heap = unsafe { &mut *self.0.get() };
        heap.take(order).map_or(null_mut(), with_exposed_provenance_mut)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: single-threaded; the caller gives back a block of this order.
        unsafe { (*self.0.get()).push(order_of(&layout), block.expose_provenance()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps `new_size` valid for this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if order_of(&new) == order_of(&layout) {
            return block;
        }
        // SAFETY: passed on from the caller.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks hold that many bytes and are different.
            unsafe {
                core::ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}
