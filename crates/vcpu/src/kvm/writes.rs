//! Guest memory as KVM knows it, and what the guest wrote there.
//!
//! KVM's log has the guest's own writes only; what devices write is in [`PageFlags`] already. So the log is brought into that
//! table, and whoever asks the table has both.

use std::sync::atomic::Ordering;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Error as Errno, VmFd};

use super::{Lack, asked, patiently};
use crate::GuestRam;
use crate::memory::{DIRTY, PageFlags};

/// The one slot of memory, and the VM that has it.
pub(super) struct Slot {
    vm: VmFd,
    base: u64,
    size: u64,
    flags: PageFlags,
    logging: bool,
    /// Keeps the memory mapped for as long as KVM uses it.
    _ram: GuestRam,
}

impl Slot {
    pub(super) fn new(vm: VmFd, ram: GuestRam, base: u64, size: u64, flags: PageFlags) -> Result<Self, Lack> {
        let this = Self { vm, base, size, flags, logging: false, _ram: ram };
        asked("KVM_SET_USER_MEMORY_REGION", this.set(0))?;
        Ok(this)
    }

    pub(super) fn vm(&self) -> &VmFd {
        &self.vm
    }

    fn set(&self, flags: u32) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags,
            guest_phys_addr: 0,
            memory_size: self.size,
            userspace_addr: self.base,
        };
        // SAFETY: the region is mapped at `base`, and `_ram` keeps it so for as long as the VM lives.
        patiently(|| unsafe { self.vm.set_user_memory_region(region) })
    }

    /// Begins or ends KVM's log.
    pub(super) fn log_writes(&mut self, on: bool) -> Result<(), Errno> {
        self.set(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })?;
        self.logging = on;
        Ok(())
    }

    /// Marks the pages that the guest wrote since the last call.
    pub(super) fn gather_writes(&mut self) -> Result<(), Errno> {
        if !self.logging {
            return Ok(());
        }
        let words = self.vm.get_dirty_log(0, self.size as usize)?;
        let pages = self.flags.bytes();
        for (word, bits) in words.into_iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                let page = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                if let Some(flags) = pages.get(page) {
                    flags.fetch_or(DIRTY, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}
