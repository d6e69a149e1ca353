//! Loads a kernel the PVH way: ELF segments, command line, memory map and `hvm_start_info` (Xen's `docs/misc/pvh`).

use std::ffi::CString;
use std::io::Cursor;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info};
use linux_loader::loader::{Cmdline, Elf, KernelLoader, load_cmdline};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use ft_vcpu::{CpuState, GuestRam};

/// Where the boot data lie, below every kernel.
const START_INFO: u64 = 0x6000;
const MEMORY_MAP: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line with its final zero, in bytes.
const COMMAND_LINE_MAX: usize = 4096;

const START_MAGIC: u32 = 0x336E_C578;
const TYPE_RAM: u32 = 1;
/// RAM ends here for the memory map where firmware and video memory would be.
const LOW_RAM_END: u64 = 0x9_FC00;
const HIGH_RAM: u64 = 0x10_0000;

/// Why a kernel cannot be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// Not an ELF file for this machine, or it does not fit into RAM.
    #[error("the kernel is not a loadable x86-64 ELF image ({0}); a kernel with a PVH entry point is needed")]
    Elf(String),
    /// An ELF file without a PVH note.
    #[error(
        "the kernel has no PVH entry point (ELF note Xen/0x12); build it with one (Linux: CONFIG_PVH=y, and the \
         uncompressed vmlinux)"
    )]
    NoPvhEntry,
    /// The kernel would overwrite the boot data.
    #[error(
        "the kernel wants to be loaded at {0:#x}, where boot data lie; it must be linked at 1 MiB or above"
    )]
    TooLow(u64),
    /// Too long or not text.
    #[error("the kernel command line cannot be used: {0}")]
    CommandLine(String),
    /// RAM too small.
    #[error("boot data do not fit into the machine's memory: {0}")]
    Layout(String),
}

/// Loads `kernel` into `ram` and gives the CPU state in which it begins.
///
/// # Errors
/// See [`BootError`].
pub fn load(ram: &GuestRam, ram_size: u64, kernel: &[u8], command_line: &str) -> Result<CpuState, BootError> {
    let loaded = Elf::load(ram, None, &mut Cursor::new(kernel), None)
        .map_err(|error| BootError::Elf(error.to_string()))?;
    if loaded.kernel_load.0 < HIGH_RAM {
        return Err(BootError::TooLow(loaded.kernel_load.0));
    }
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };

    let text = CString::new(command_line).map_err(|error| BootError::CommandLine(error.to_string()))?;
    let text = text.to_str().map_err(|error| BootError::CommandLine(error.to_string()))?;
    let line = Cmdline::try_from(text, COMMAND_LINE_MAX)
        .map_err(|error| BootError::CommandLine(error.to_string()))?;
    load_cmdline(ram, GuestAddress(COMMAND_LINE), &line)
        .map_err(|error| BootError::CommandLine(error.to_string()))?;

    let memory_map = [
        hvm_memmap_table_entry { addr: 0, size: LOW_RAM_END, type_: TYPE_RAM, reserved: 0 },
        hvm_memmap_table_entry {
            addr: HIGH_RAM,
            size: ram_size - HIGH_RAM.min(ram_size),
            type_: TYPE_RAM,
            reserved: 0,
        },
    ];
    let start_info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: memory_map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO));
    params.set_sections(&memory_map, GuestAddress(MEMORY_MAP));
    PvhBootConfigurator::write_bootparams(&params, ram)
        .map_err(|error| BootError::Layout(error.to_string()))?;

    if !ram.address_in_range(entry) {
        return Err(BootError::Elf(format!(
            "its entry point {:#x} is outside the machine's memory",
            entry.0
        )));
    }
    Ok(CpuState::reset_pvh(entry.0, START_INFO))
}
