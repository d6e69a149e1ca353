//! The page walk: 4-level paging with 4 KiB, 2 MiB and 1 GiB pages (SDM volume 3, section 4.5), or no paging.

use std::sync::atomic::Ordering;

use super::cpu::{CR0_PG, CR0_WP, CR4_PAE, CR4_SMAP, CR4_SMEP, Cpu, EFER_NXE};
use super::fault::Fault;
use super::tlb::{SUPERVISOR, USER};
use crate::memory::{CODE, DIRTY};

/// Width of physical addresses, as CPUID leaf 0x80000008 says.
pub(super) const PHYSICAL_BITS: u32 = 40;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER_PAGE: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY_BIT: u64 = 1 << 6;
const LARGE_PAGE: u64 = 1 << 7;
const GLOBAL_PAGE: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = ((1 << PHYSICAL_BITS) - 1) & !0xFFF;
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Fetch,
}

/// What a walk found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Translation {
    /// Guest-physical address of the byte.
    pub physical: u64,
    /// Writes are allowed, and the Dirty bit is set.
    pub writable: bool,
    pub global: bool,
    /// 1, 2 or 3 for 4 KiB, 2 MiB or 1 GiB.
    pub level: u32,
}

impl Cpu {
    /// Translates, setting Accessed and Dirty bits.
    pub(super) fn walk(&mut self, address: u64, access: Access, view: usize) -> Result<Translation, Fault> {
        if self.s.cr0 & CR0_PG == 0 {
            return Ok(Translation {
                physical: address & 0xFFFF_FFFF,
                writable: true,
                global: false,
                level: 1,
            });
        }
        let user = view == USER;
        let nx_on = self.s.efer & EFER_NXE != 0;
        let mut tables = [0; 5];
        let mut entries = [0; 5];
        let mut table = self.s.cr3 & FRAME;
        let mut all = u64::MAX;
        let mut no_execute = false;
        let mut level = 4;
        let reserved_top = RESERVED | if nx_on { 0 } else { NO_EXECUTE };
        loop {
            let place = table | (address >> (9 * level) & 0xFF8);
            let entry = self.read_physical(place);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(address, access, user, 0));
            }
            let large = level < 4 && level > 1 && entry & LARGE_PAGE != 0;
            let mut reserved = reserved_top;
            if level == 4 {
                reserved |= LARGE_PAGE;
            } else if large {
                reserved |= ((1 << (3 + 9 * level)) - 1) & !0x1FFF;
            }
            if entry & reserved != 0 {
                return Err(self.page_fault(address, access, user, 0b1001));
            }
            tables[level as usize] = place;
            entries[level as usize] = entry;
            all &= entry;
            no_execute |= entry & NO_EXECUTE != 0;
            if level == 1 || large {
                break;
            }
            table = entry & FRAME;
            level -= 1;
        }
        let user_page = all & USER_PAGE != 0;
        let may_write =
            if user { all & WRITABLE != 0 } else { all & WRITABLE != 0 || self.s.cr0 & CR0_WP == 0 };
        let allowed = match access {
            _ if user && !user_page => false,
            Access::Fetch => !no_execute && (user || !user_page || self.s.cr4 & CR4_SMEP == 0),
            _ if view == SUPERVISOR && user_page && self.s.cr4 & CR4_SMAP != 0 => false,
            Access::Write => may_write,
            Access::Read => true,
        };
        if !allowed {
            return Err(self.page_fault(address, access, user, 1));
        }
        for l in level..=4 {
            let mut entry = entries[l as usize] | ACCESSED;
            if l == level && access == Access::Write {
                entry |= DIRTY_BIT;
            }
            if entry != entries[l as usize] {
                self.write_physical(tables[l as usize], entry);
                entries[l as usize] = entry;
            }
        }
        let leaf = entries[level as usize];
        let offset = (1 << (3 + 9 * level)) - 1;
        Ok(Translation {
            physical: (leaf & FRAME & !offset) | (address & offset),
            writable: may_write && leaf & DIRTY_BIT != 0,
            global: leaf & GLOBAL_PAGE != 0 && self.s.cr4 & super::cpu::CR4_PGE != 0,
            level,
        })
    }

    fn page_fault(&mut self, address: u64, access: Access, user: bool, code: u32) -> Fault {
        let fetch_bit = self.s.efer & EFER_NXE != 0 || self.s.cr4 & CR4_SMEP != 0;
        let access = match access {
            Access::Read => 0,
            Access::Write => 2,
            Access::Fetch => u32::from(fetch_bit) << 4,
        };
        debug_assert!(self.s.cr4 & CR4_PAE != 0);
        Fault::page(address, code | access | u32::from(user) << 2)
    }

    /// Reads 8 aligned bytes of physical memory; all ones where there is no RAM.
    pub(super) fn read_physical(&self, place: u64) -> u64 {
        if place >= self.ram_size {
            return u64::MAX;
        }
        // SAFETY: RAM is a multiple of a page, and the place is aligned.
        unsafe { self.ram_base.add(place as usize).cast::<u64>().read() }
    }

    fn write_physical(&mut self, place: u64, value: u64) {
        if place >= self.ram_size {
            return;
        }
        // SAFETY: as in read_physical; the page has flags.
        unsafe {
            let flags = &*self.page_flags.add((place >> 12) as usize);
            let now = flags.load(Ordering::Relaxed);
            flags.store(now | DIRTY, Ordering::Relaxed);
            if now & CODE != 0 && self.invalidate_code(place, 8) {
                self.exit_request = true;
            }
            self.ram_base.add(place as usize).cast::<u64>().write(value);
        }
    }
}
