//! Blocks of decoded ops: cached by physical page, offset and mode; linked within a page; dropped when their bytes change.

use std::sync::atomic::Ordering;

use iced_x86::Instruction;

use super::cpu::Cpu;
use super::fault::Fault;
use super::op::Op;
use crate::memory::{CODE, CODE_WRITTEN, PAGE};

/// Entries of the jump cache.
const JUMPS: usize = 16 * 1024;

/// Virtual address to block, for jumps that are not links.
///
/// The block may have been dropped since: then its head says so ([`Cache::drop_block`]), and it is freed only after all
/// stamps have changed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct JumpEntry {
    pub rip: u64,
    /// The stamp of the page's entry in the fetch TLB, and the mode.
    pub key: u64,
    pub head: *const Op,
}

/// An empty jump cache: no entry of the fetch TLB has the stamp 0. It costs nothing before it is used: simulations make many
/// engines.
pub(super) fn jump_cache() -> Box<[JumpEntry]> {
    // SAFETY: zeros are two numbers and a null pointer.
    unsafe { Box::new_zeroed_slice(JUMPS).assume_init() }
}

/// The number of the jump cache entry of an address.
#[inline(always)]
pub(super) fn jump_index(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMPS - 1)
}

/// Where an op comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// Number of the instruction in the block, from 0.
    pub index: u16,
    /// Offset of the instruction from the start of the block's page.
    pub offset: u16,
    /// Offset of what follows the instruction (may be past the page's end), which need not be the next op's.
    pub after: u16,
}

/// What an interpreted instruction does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next instruction.
    Next,
    /// The block ends; platform and mode are looked at again.
    Boundary,
    /// Continues at this address, through the driver.
    Jump(u64),
    /// One chunk of a REP instruction is done, and more remain.
    Repeat,
}

/// The code of an interpreted instruction: one that is rare, or whose own work dwarfs the dispatch.
pub(super) type Interpret = fn(&mut Cpu, &Instruction) -> Result<Flow, Fault>;

/// An interpreted instruction, decoded with the block's page at address 0.
#[derive(Debug)]
pub(super) struct Interpreted {
    pub run: Interpret,
    pub instruction: Instruction,
}

/// A translated run of instructions.
#[derive(Debug)]
pub(super) struct Block {
    pub ops: Box<[Op]>,
    pub side: Vec<Side>,
    /// Kept for the ops that point to them.
    #[expect(dead_code, reason = "ops hold pointers to it")]
    #[expect(clippy::vec_box, reason = "ops hold pointers to the boxes")]
    pub interpreted: Vec<Box<Interpreted>>,
    /// Number of the physical page.
    pub page: u64,
    /// Offset of the first byte in the page.
    pub offset: u16,
    /// Bytes of the instruction, if the block is one alone.
    pub len: u16,
    /// Which granules of 64 bytes of the page its instructions lie in.
    pub granules: u64,
    pub mode: u8,
    /// Instructions.
    pub count: u16,
    /// Not (or no longer) in the cache: must not be linked.
    pub dead: bool,
    /// Jump ops of other blocks (or this one) whose link is this block.
    pub incoming: Vec<*mut Op>,
    /// This block's own jump ops.
    pub jumps: [*mut Op; 2],
}

/// The cached code of one physical page.
#[derive(Debug, Default)]
struct CodePage {
    /// Sorted by key: offset and mode.
    blocks: Vec<(u32, *mut Block)>,
    /// Which granules of 64 bytes hold code of a block.
    granules: u64,
}

fn key(offset: u16, mode: u8) -> u32 {
    u32::from(offset) << 8 | u32::from(mode)
}

/// Entries of the table in front of the pages' lists.
const NEAR: usize = 32 * 1024;

/// Most dropped blocks that wait to be freed.
const MOST_DEAD: usize = 1024;

/// Page, offset and mode as one number, which is not 0.
fn place(page: u64, offset: u16, mode: u8) -> u64 {
    1 << 63 | page << 32 | u64::from(key(offset, mode))
}

fn near_index(place: u64) -> usize {
    (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 49) as usize & (NEAR - 1)
}

/// All blocks.
#[derive(Debug)]
pub(super) struct Cache {
    /// Blocks by page, offset and mode as one number, which is 0 where there is none; direct-mapped.
    near: Box<[(u64, *mut Block)]>,
    pages: Vec<Option<Box<CodePage>>>,
    used: Vec<usize>,
    count: usize,
    capacity: usize,
    /// Blocks that may still be running; freed by the driver.
    graveyard: Vec<*mut Block>,
    /// State of the generator that flushes at random, if it does (tests only: nothing the guest sees may change).
    flush_seed: Option<u64>,
}

impl Cache {
    pub(super) fn new(pages: usize, capacity: usize, flush_seed: Option<u64>) -> Self {
        Self {
            // SAFETY: zeros are a number and a null pointer.
            near: unsafe { Box::new_zeroed_slice(NEAR).assume_init() },
            pages: std::iter::repeat_with(|| None).take(pages).collect(),
            used: Vec::new(),
            count: 0,
            capacity: capacity.max(1),
            graveyard: Vec::new(),
            flush_seed: flush_seed.map(|seed| seed | 1),
        }
    }

    /// The block at this place, if it is cached.
    pub(super) fn find(&mut self, page: u64, offset: u16, mode: u8) -> Option<*mut Block> {
        let place = place(page, offset, mode);
        let near = &mut self.near[near_index(place)];
        if near.0 == place {
            return Some(near.1);
        }
        let code = self.pages[page as usize].as_ref()?;
        let at = code.blocks.binary_search_by_key(&key(offset, mode), |b| b.0).ok()?;
        *near = (place, code.blocks[at].1);
        Some(near.1)
    }

    /// True if the cache must be emptied before the next block.
    pub(super) fn must_flush(&mut self) -> bool {
        if let Some(seed) = &mut self.flush_seed {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            if *seed % 64 == 0 {
                return true;
            }
        }
        self.count >= self.capacity
    }

    /// True if so many blocks were dropped that they must be freed.
    #[inline]
    pub(super) fn must_bury(&self) -> bool {
        self.graveyard.len() > MOST_DEAD
    }

    /// Frees blocks that were dropped. Only when no handler runs and no jump leads to them: see [`Cpu::bury`].
    fn bury(&mut self) {
        for block in self.graveyard.drain(..) {
            // SAFETY: blocks in the graveyard come from Box::into_raw, are unlinked, and nothing runs.
            drop(unsafe { Box::from_raw(block) });
        }
    }

    /// Takes a block out of all links and marks it dead. Whoever still comes to its head is sent to look it up: no budget is
    /// as large as it asks for.
    fn drop_block(&mut self, block: *mut Block) {
        // SAFETY: the block is live; so are all blocks it links with, since links are undone before either is freed.
        unsafe {
            (*block).dead = true;
            (*block).ops[0].disp = i32::MAX;
            let place = place((*block).page, (*block).offset, (*block).mode);
            let near = &mut self.near[near_index(place)];
            if near.0 == place {
                *near = (0, std::ptr::null_mut());
            }
            for jump in std::mem::take(&mut (*block).incoming) {
                (*jump).imm = stub_of(jump) as u64;
            }
            for jump in (*block).jumps {
                if !jump.is_null() && (*jump).imm != stub_of(jump) as u64 {
                    let target = (*((*jump).imm as *const Op)).imm as *mut Block;
                    (*target).incoming.retain(|other| *other != jump);
                    (*jump).imm = stub_of(jump) as u64;
                }
            }
        }
        self.count -= 1;
        self.graveyard.push(block);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for code in self.pages.iter_mut().filter_map(Option::take) {
            self.graveyard.extend(code.blocks.iter().map(|b| b.1));
        }
        self.bury();
    }
}

/// The stub of a jump op: what its link is while it has no target.
pub(super) fn stub_of(jump: *mut Op) -> *const Op {
    // SAFETY: a jump op's `disp` is the distance to its stub in the same block.
    unsafe { jump.offset((*jump).disp as isize) }
}

impl Cpu {
    /// Adds a block to the cache.
    pub(super) fn insert_block(&mut self, mut block: Box<Block>) -> *mut Block {
        block.dead = false;
        let (page, offset, bits, mode) = (block.page, block.offset, block.granules, block.mode);
        let raw = Box::into_raw(block);
        let cache = &mut self.cache;
        let code = cache.pages[page as usize].get_or_insert_with(|| {
            cache.used.push(page as usize);
            Box::default()
        });
        let fresh = code.blocks.is_empty();
        match code.blocks.binary_search_by_key(&key(offset, mode), |b| b.0) {
            Ok(_) => unreachable!("a block is inserted only after it was not found"),
            Err(at) => code.blocks.insert(at, (key(offset, mode), raw)),
        }
        code.granules |= bits;
        cache.count += 1;
        if fresh {
            // SAFETY: code is fetched from RAM only, and each page of it has flags.
            unsafe { &*self.page_flags.add(page as usize) }.fetch_or(CODE, Ordering::Relaxed);
            self.protect_code(page << 12);
        }
        raw
    }

    /// Drops the blocks that overlap a range within one page; true if there were any.
    #[cold]
    pub(super) fn invalidate_code(&mut self, physical: u64, len: u64) -> bool {
        let page = (physical >> 12) as usize;
        let start = physical & 0xFFF;
        let touched = granules(start, len);
        let Some(mut code) = self.cache.pages[page].take() else { return false };
        let mut any = false;
        if code.granules & touched != 0 {
            let (mut left, mut kept) = (0, Vec::with_capacity(code.blocks.len()));
            for (key, raw) in std::mem::take(&mut code.blocks) {
                // SAFETY: cached blocks are live.
                let bits = unsafe { (*raw).granules };
                if bits & touched != 0 {
                    self.cache.drop_block(raw);
                    any = true;
                } else {
                    left |= bits;
                    kept.push((key, raw));
                }
            }
            code.granules = left;
            code.blocks = kept;
            if code.blocks.is_empty() {
                // SAFETY: the page is in RAM.
                let flags = unsafe { &*self.page_flags.add(page) };
                flags.fetch_and(!(CODE | CODE_WRITTEN), Ordering::Relaxed);
            }
        }
        self.cache.pages[page] = Some(code);
        any
    }

    /// Drops all blocks.
    pub(super) fn flush_blocks(&mut self) {
        for page in std::mem::take(&mut self.cache.used) {
            if let Some(code) = self.cache.pages[page].take() {
                for (_, raw) in code.blocks {
                    self.cache.drop_block(raw);
                }
                // SAFETY: the page is in RAM.
                let flags = unsafe { &*self.page_flags.add(page) };
                flags.fetch_and(!(CODE | CODE_WRITTEN), Ordering::Relaxed);
            }
        }
    }

    /// Frees blocks that were dropped. Only for the driver, when no handler runs.
    pub(super) fn bury(&mut self) {
        self.forget_jumps();
        self.cache.bury();
    }

    /// Drops the blocks of pages that were written through vm-memory.
    pub(super) fn drain_code_written(&mut self) {
        if !self.flag_table.take_any_code_written() {
            return;
        }
        for number in 0..self.cache.used.len() {
            let page = self.cache.used[number];
            // SAFETY: the page is in RAM.
            let flags = unsafe { &*self.page_flags.add(page) };
            if flags.load(Ordering::Relaxed) & CODE_WRITTEN != 0 {
                flags.fetch_and(!CODE_WRITTEN, Ordering::Relaxed);
                self.invalidate_code((page * PAGE) as u64, PAGE as u64);
            }
        }
    }
}

/// The granules of 64 bytes that a range of bytes within a page touches, as bits.
pub(super) fn granules(start: u64, len: u64) -> u64 {
    let first = start / 64;
    let last = ((start + len.max(1) - 1) / 64).min(63);
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}
