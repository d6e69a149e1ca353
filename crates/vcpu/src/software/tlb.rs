//! The data and fetch TLBs, and every access to guest memory.
//!
//! The TLBs are guest-visible (through Accessed and Dirty bits), so their contents are a function of the guest's history
//! alone: fixed geometry, direct-mapped, filled and dropped by architectural events only. Host-side matters (cached code,
//! dirty tracking) are low bits of a tag that make the fast comparison fail and nothing else.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::cpu::{Cpu, Form, Int};
use super::fault::Fault;
use super::paging::{Access, Translation};
use crate::memory::{CODE, DIRTY};

/// Entries of each of the data TLBs.
pub(super) const ENTRIES: usize = 512;
/// Entries of the fetch TLB.
pub(super) const FETCH_ENTRIES: usize = 1024;
/// The stamp of an entry of the fetch TLB that holds nothing; no mode is part of it.
pub(super) const UNFILLED: u64 = u64::MAX - 15;
/// Views of memory: one data TLB each.
pub(super) const USER: usize = 0;
pub(super) const SUPERVISOR: usize = 1;
/// Supervisor with SMAP on and AC set: may touch user pages.
pub(super) const SUPERVISOR_AC: usize = 2;

/// Never equal to a page address, nor to one with slow bits.
const NONE: u64 = 0xFFF;
/// Tag bit: not RAM.
const MMIO: u64 = 1;
/// Write tag bit: the page is not yet marked dirty.
const CLEAN: u64 = 2;
/// Write tag bit: the page holds cached code.
const CODE_PAGE: u64 = 4;
/// Bits of `physical`.
const GLOBAL: u64 = 1;
const LARGE: u64 = 2;
const HUGE: u64 = 4;
const PAGE_MASK: u64 = !0xFFF;

/// An entry of a data TLB.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Page address if readable, with slow bits.
    pub read: u64,
    /// Page address if writable and Dirty is set in the page table, with slow bits.
    pub write: u64,
    /// Guest-physical page address, with GLOBAL, LARGE and HUGE.
    pub physical: u64,
    /// Host address minus virtual address.
    pub addend: u64,
}

impl Entry {
    pub(super) const EMPTY: Self = Self { read: NONE, write: NONE, physical: 0, addend: 0 };
}

/// An entry of the fetch TLB.
#[derive(Debug, Clone, Copy)]
pub(super) struct FetchEntry {
    /// Page address, with 1 for privilege level 3.
    tag: u64,
    /// As in [`Entry`].
    physical: u64,
}

impl FetchEntry {
    pub(super) const EMPTY: Self = Self { tag: NONE, physical: 0 };
}

/// The host address of `[address, address + size)` if the fast comparison holds.
///
/// # Safety
/// `cpu` is live.
#[inline(always)]
pub(super) unsafe fn fast_read(cpu: *mut Cpu, address: u64, size: u64) -> Option<NonNull<u8>> {
    // SAFETY: the index is below ENTRIES; a match is RAM of the host, which is not at null.
    unsafe {
        let entry = (*cpu).tlb.add((address >> 12) as usize & (ENTRIES - 1));
        if address.wrapping_add(size - 1) & PAGE_MASK == (*entry).read {
            Some(NonNull::new_unchecked(address.wrapping_add((*entry).addend) as *mut u8))
        } else {
            None
        }
    }
}

/// As [`fast_read`], for writing.
///
/// # Safety
/// `cpu` is live.
#[inline(always)]
pub(super) unsafe fn fast_write(cpu: *mut Cpu, address: u64, size: u64) -> Option<NonNull<u8>> {
    // SAFETY: the index is below ENTRIES; a match is RAM of the host, which is not at null.
    unsafe {
        let entry = (*cpu).tlb.add((address >> 12) as usize & (ENTRIES - 1));
        if address.wrapping_add(size - 1) & PAGE_MASK == (*entry).write {
            Some(NonNull::new_unchecked(address.wrapping_add((*entry).addend) as *mut u8))
        } else {
            None
        }
    }
}

/// Reads an operand; `None` sends a fast form to the slow one, and the slow one to its fault.
///
/// # Safety
/// `cpu` is live; the slow form has set `op`.
#[inline(always)]
pub(super) unsafe fn load<F: Form, T: Int>(cpu: *mut Cpu, address: u64) -> Option<T> {
    // SAFETY: a matching TLB entry maps the whole operand.
    unsafe {
        if F::SLOW {
            return match (*cpu).read(address, T::SIZE as usize) {
                Ok(value) => Some(T::from64(value)),
                Err(fault) => {
                    (*cpu).fault = fault;
                    None
                }
            };
        }
        fast_read(cpu, address, T::SIZE).map(|host| host.cast::<T>().read_unaligned())
    }
}

/// Writes an operand; false as `None` of [`load`].
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn store<F: Form, T: Int>(cpu: *mut Cpu, address: u64, value: T) -> bool {
    // SAFETY: a matching TLB entry maps the whole operand.
    unsafe {
        if F::SLOW {
            return match (*cpu).write(address, T::SIZE as usize, value.zext()) {
                Ok(()) => true,
                Err(fault) => {
                    (*cpu).fault = fault;
                    false
                }
            };
        }
        let Some(host) = fast_write(cpu, address, T::SIZE) else { return false };
        host.cast::<T>().write_unaligned(value);
        true
    }
}

/// Reads an operand that will be written by [`modify_store`]; any fault happens here.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn modify_load<F: Form, T: Int>(cpu: *mut Cpu, address: u64) -> Option<(T, *mut T)> {
    // SAFETY: a matching TLB entry maps the whole operand.
    unsafe {
        if F::SLOW {
            let c = &mut *cpu;
            let value =
                c.check_write(address, T::SIZE as usize).and_then(|()| c.read(address, T::SIZE as usize));
            return match value {
                Ok(value) => Some((T::from64(value), std::ptr::null_mut())),
                Err(fault) => {
                    c.fault = fault;
                    None
                }
            };
        }
        let host = fast_write(cpu, address, T::SIZE)?.cast::<T>();
        Some((host.read_unaligned(), host.as_ptr()))
    }
}

/// Writes what [`modify_load`] read.
///
/// # Safety
/// `host` is from [`modify_load`] of the same address.
#[inline(always)]
pub(super) unsafe fn modify_store<F: Form, T: Int>(cpu: *mut Cpu, address: u64, host: *mut T, value: T) {
    // SAFETY: by contract.
    unsafe {
        if F::SLOW {
            let written = (*cpu).write(address, T::SIZE as usize, value.zext());
            debug_assert!(written.is_ok(), "checked by modify_load");
        } else {
            host.write_unaligned(value);
        }
    }
}

/// Where an access within one page goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// RAM, at this host address.
    Ram(*mut u8),
    /// A guest-physical address that is not RAM.
    Mmio(u64),
}

/// True if the upper bits of a 64-bit address are all like bit 47.
pub(super) fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

impl Cpu {
    pub(super) fn canonical(&self, address: u64, size: u64) -> Result<(), Fault> {
        let last = address.wrapping_add(size - 1);
        if is_canonical(address) && is_canonical(last) {
            Ok(())
        } else {
            Err(Fault::with_code(self.address_vector, 0))
        }
    }

    /// Finds (filling the TLB) the place of an access that stays within one page, in the given view.
    pub(super) fn place(&mut self, view: usize, address: u64, write: bool) -> Result<Place, Fault> {
        let index = view * ENTRIES + ((address >> 12) as usize & (ENTRIES - 1));
        let page = address & PAGE_MASK;
        let entry = self.tlbs[index];
        let tag = if write { entry.write } else { entry.read };
        if tag & PAGE_MASK != page || tag & 0xFFF == NONE {
            self.fill(view, index, address, write)?;
        }
        let entry = &mut self.tlbs[index];
        let tag = if write { entry.write } else { entry.read };
        let physical = entry.physical & PAGE_MASK;
        if tag & MMIO != 0 {
            return Ok(Place::Mmio(physical | (address & 0xFFF)));
        }
        if write && tag & (CLEAN | CODE_PAGE) != 0 {
            // SAFETY: a place in RAM has flags.
            let flags = unsafe { &*self.page_flags.add((physical >> 12) as usize) };
            let now = flags.load(Ordering::Relaxed) | DIRTY;
            flags.store(now, Ordering::Relaxed);
            entry.write &= !CLEAN;
            if now & CODE == 0 {
                entry.write &= !CODE_PAGE;
            }
        }
        Ok(Place::Ram(address.wrapping_add(entry.addend) as *mut u8))
    }

    fn fill(&mut self, view: usize, index: usize, address: u64, write: bool) -> Result<(), Fault> {
        let access = if write { Access::Write } else { Access::Read };
        let t: Translation = self.walk(address, access, view)?;
        let page = address & PAGE_MASK;
        let physical = t.physical & PAGE_MASK;
        let size = match t.level {
            1 => 0,
            2 => LARGE,
            _ => HUGE,
        };
        self.any_large |= size != 0;
        let ram = physical < self.ram_size;
        let slow = if ram { self.write_bits(physical) } else { MMIO };
        self.tlbs[index] = Entry {
            read: page | if ram { 0 } else { MMIO },
            write: if t.writable { page | slow } else { NONE },
            physical: physical | size | if t.global { GLOBAL } else { 0 },
            addend: (self.ram_base as u64).wrapping_add(physical).wrapping_sub(page),
        };
        Ok(())
    }

    /// The slow bits of a write tag for a page of RAM.
    fn write_bits(&self, physical: u64) -> u64 {
        // SAFETY: the page is in RAM.
        let flags = unsafe { &*self.page_flags.add((physical >> 12) as usize) }.load(Ordering::Relaxed);
        (if flags & DIRTY == 0 { CLEAN } else { 0 }) | (if flags & CODE != 0 { CODE_PAGE } else { 0 })
    }

    /// Sets again the slow bits of all write tags from the page flags.
    pub(super) fn rearm_write_tags(&mut self) {
        for index in 0..self.tlbs.len() {
            let entry = self.tlbs[index];
            if entry.write & 0xFFF != NONE && entry.write & MMIO == 0 {
                self.tlbs[index].write =
                    entry.write & PAGE_MASK | self.write_bits(entry.physical & PAGE_MASK);
            }
        }
    }

    /// Makes stores to a page of RAM slow, because it now holds cached code.
    pub(super) fn protect_code(&mut self, physical: u64) {
        for entry in &mut self.tlbs {
            if entry.physical & PAGE_MASK == physical && entry.write & 0xFFF != NONE {
                entry.write |= CODE_PAGE;
            }
        }
    }

    /// Reads 1-8 bytes in the current view.
    pub(super) fn read(&mut self, address: u64, size: usize) -> Result<u64, Fault> {
        if self.watch != 0 {
            self.canonical(address, size as u64)?;
            self.watch_access(address, size, false)?;
        }
        self.read_view(self.view, address, size)
    }

    /// Reads 1-8 bytes.
    pub(super) fn read_view(&mut self, view: usize, address: u64, size: usize) -> Result<u64, Fault> {
        self.canonical(address, size as u64)?;
        let in_page = 4096 - (address as usize & 0xFFF);
        if size > in_page {
            // Both pages first, so that a fault leaves no device access behind.
            self.place(view, address, false)?;
            self.place(view, self.wrap(address.wrapping_add(in_page as u64)), false)?;
            let low = self.read_view(view, address, in_page)?;
            let high =
                self.read_view(view, self.wrap(address.wrapping_add(in_page as u64)), size - in_page)?;
            return Ok(low | high << (in_page * 8));
        }
        match self.place(view, address, false)? {
            Place::Ram(host) => {
                let mut bytes = [0; 8];
                // SAFETY: the access stays within one mapped page.
                unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), size) };
                Ok(u64::from_le_bytes(bytes))
            }
            Place::Mmio(physical) => {
                let at = self.position_now();
                self.exit_request = true;
                let mut value = 0;
                for (offset, part) in parts(size) {
                    let read = self.platform().mmio_read(at, physical + offset as u64, part as u8);
                    value |= (read & mask(part)) << (offset * 8);
                }
                Ok(value)
            }
        }
    }

    /// Writes 1-8 bytes in the current view.
    pub(super) fn write(&mut self, address: u64, size: usize, value: u64) -> Result<(), Fault> {
        if self.watch != 0 {
            self.canonical(address, size as u64)?;
            self.watch_access(address, size, true)?;
        }
        self.write_view(self.view, address, size, value)
    }

    /// Writes 1-8 bytes.
    pub(super) fn write_view(
        &mut self,
        view: usize,
        address: u64,
        size: usize,
        value: u64,
    ) -> Result<(), Fault> {
        self.canonical(address, size as u64)?;
        let in_page = 4096 - (address as usize & 0xFFF);
        if size > in_page {
            let next = self.wrap(address.wrapping_add(in_page as u64));
            self.place(view, address, true)?;
            self.place(view, next, true)?;
            self.write_view(view, address, in_page, value & mask(in_page))?;
            return self.write_view(view, next, size - in_page, value >> (in_page * 8));
        }
        match self.place(view, address, true)? {
            Place::Ram(host) => {
                self.code_store(host, size);
                // SAFETY: the access stays within one mapped page.
                unsafe { std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), host, size) };
            }
            Place::Mmio(physical) => {
                let at = self.position_now();
                self.exit_request = true;
                for (offset, part) in parts(size) {
                    let piece = value >> (offset * 8) & mask(part);
                    self.platform().mmio_write(at, physical + offset as u64, part as u8, piece);
                }
            }
        }
        Ok(())
    }

    /// Drops cached code that a store of `size` bytes at a host address in RAM overwrites.
    #[inline]
    pub(super) fn code_store(&mut self, host: *mut u8, size: usize) {
        let physical = (host as u64).wrapping_sub(self.ram_base as u64);
        // SAFETY: the address is in RAM.
        let flags = unsafe { &*self.page_flags.add((physical >> 12) as usize) }.load(Ordering::Relaxed);
        if flags & CODE != 0 && self.invalidate_code(physical, size as u64) {
            self.exit_request = true;
        }
    }

    /// Faults as a write of `size` bytes would, without writing.
    pub(super) fn check_write(&mut self, address: u64, size: usize) -> Result<(), Fault> {
        if self.watch != 0 {
            self.canonical(address, size as u64)?;
            self.check_alignment(address, size)?;
        }
        self.check_write_view(self.view, address, size)
    }

    /// [`Cpu::check_write`] in a given view.
    pub(super) fn check_write_view(&mut self, view: usize, address: u64, size: usize) -> Result<(), Fault> {
        self.canonical(address, size as u64)?;
        self.place(view, address, true)?;
        let last = self.wrap(address.wrapping_add(size as u64 - 1));
        if (address ^ last) & PAGE_MASK != 0 {
            self.place(view, last & PAGE_MASK, true)?;
        }
        Ok(())
    }

    /// Faults as a read of `size` bytes would, without reading.
    pub(super) fn check_read(&mut self, address: u64, size: usize) -> Result<(), Fault> {
        self.canonical(address, size as u64)?;
        self.check_alignment(address, size)?;
        self.place(self.view, address, false)?;
        let last = self.wrap(address.wrapping_add(size as u64 - 1));
        if (address ^ last) & PAGE_MASK != 0 {
            self.place(self.view, last & PAGE_MASK, false)?;
        }
        Ok(())
    }

    /// Linear addresses wrap at 4 GiB outside 64-bit mode.
    pub(super) fn wrap(&self, address: u64) -> u64 {
        if self.long_mode() { address } else { address & 0xFFFF_FFFF }
    }

    /// The number of the fetch TLB entry of an address.
    #[inline(always)]
    pub(super) fn fetch_index(rip: u64) -> usize {
        (rip >> 12) as usize & (FETCH_ENTRIES - 1)
    }

    /// The guest-physical address of `rip`'s page for fetching, filling the fetch TLB.
    pub(super) fn fetch_page(&mut self, rip: u64) -> Result<u64, Fault> {
        let user = self.view == USER;
        let tag = rip & PAGE_MASK | u64::from(user);
        let index = Self::fetch_index(rip);
        if self.fetch[index].tag != tag {
            if !is_canonical(rip) {
                return Err(Fault::with_code(13, 0));
            }
            let t = self.walk(rip, Access::Fetch, self.view)?;
            let size = if t.level == 1 {
                0
            } else if t.level == 2 {
                LARGE
            } else {
                HUGE
            };
            self.any_large |= size != 0;
            self.stamps[index] = self.next_stamp();
            let physical = t.physical & PAGE_MASK | size | if t.global { GLOBAL } else { 0 };
            self.fetch[index] = FetchEntry { tag, physical };
        }
        Ok(self.fetch[index].physical & PAGE_MASK)
    }

    /// Drops all translations, or all but global ones.
    pub(super) fn flush_tlbs(&mut self, keep_global: bool) {
        for entry in &mut self.tlbs {
            if !keep_global || entry.physical & GLOBAL == 0 {
                *entry = Entry::EMPTY;
            }
        }
        for (entry, stamp) in self.fetch.iter_mut().zip(&mut self.stamps) {
            if !keep_global || entry.physical & GLOBAL == 0 {
                *entry = FetchEntry::EMPTY;
                *stamp = UNFILLED;
            }
        }
        if !keep_global {
            self.any_large = false;
        }
    }

    /// Drops the translations of one address, in all views, with the whole large page it may lie in.
    pub(super) fn invalidate_page(&mut self, address: u64) {
        let covers = |tag: u64, physical: u64| {
            let bits = if physical & HUGE != 0 {
                30
            } else if physical & LARGE != 0 {
                21
            } else {
                12
            };
            tag & 0xFFF != NONE && (tag ^ address) >> bits == 0
        };
        let any_large = self.any_large;
        let page = (address >> 12) as usize;
        for view in 0..3 {
            let entries = &mut self.tlbs[view * ENTRIES..(view + 1) * ENTRIES];
            let range = if any_large { 0..ENTRIES } else { page & (ENTRIES - 1)..(page & (ENTRIES - 1)) + 1 };
            for entry in &mut entries[range] {
                if covers(entry.read, entry.physical) {
                    *entry = Entry::EMPTY;
                }
            }
        }
        let at = page & (FETCH_ENTRIES - 1);
        let range = if any_large { 0..FETCH_ENTRIES } else { at..at + 1 };
        for (entry, stamp) in self.fetch[range.clone()].iter_mut().zip(&mut self.stamps[range]) {
            if covers(entry.tag, entry.physical) {
                *entry = FetchEntry::EMPTY;
                *stamp = UNFILLED;
            }
        }
    }
}

/// Splits an odd size into accesses of 1, 2, 4 or 8 bytes: (offset, size).
fn parts(size: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let left = size - offset;
        if left == 0 {
            return None;
        }
        let part = 1 << left.ilog2();
        let this = (offset, part);
        offset += part;
        Some(this)
    })
}

/// The low `size` bytes.
pub(super) fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}
