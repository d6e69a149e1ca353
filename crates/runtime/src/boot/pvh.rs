//! Enters a kernel the PVH way: memory map and `hvm_start_info` (Xen's `docs/misc/pvh`).

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::GuestAddress;

use ft_vcpu::{CpuState, GuestRam};

use super::BootError;
use super::memory::{self, COMMAND_LINE, MEMORY_MAP, MODULES, Placed, START_INFO};

const START_MAGIC: u32 = 0x336E_C578;

/// Writes the start information of a kernel that is in memory, and gives the CPU state in which it begins.
pub(super) fn start(
    ram: &GuestRam,
    ram_size: u64,
    entry: u64,
    initrd: Option<Placed>,
    rsdp: u64,
) -> Result<CpuState, BootError> {
    let entries: Vec<_> = memory::map(ram_size, rsdp != 0)
        .into_iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .into_iter()
        .map(|initrd| hvm_modlist_entry { paddr: initrd.start, size: initrd.size, ..Default::default() })
        .collect();
    let start_info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO));
    params.set_sections(&entries, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram)
        .map_err(|error| BootError::Layout(error.to_string()))?;
    Ok(CpuState::reset_pvh(entry, START_INFO))
}
