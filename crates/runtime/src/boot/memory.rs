//! Where boot data lie, and the pieces that both ways of entering a kernel share.

use std::ffi::CString;
use std::io::Cursor;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Cmdline, Elf, KernelLoader, load_cmdline};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use ft_vcpu::GuestRam;

use super::BootError;

/// The segment descriptors of the 64-bit entry.
pub(super) const DESCRIPTORS: u64 = 0x500;
/// `hvm_start_info` of PVH, with its list of modules behind it.
pub(super) const START_INFO: u64 = 0x6000;
pub(super) const MODULES: u64 = 0x6800;
pub(super) const MEMORY_MAP: u64 = 0x7000;
/// Linux's `boot_params`.
pub(super) const ZERO_PAGE: u64 = 0x8000;
/// Two pages: the top level, and one entry for each of the first 4 GiB.
pub(super) const PAGE_TABLES: u64 = 0x9000;
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line with its final zero, in bytes.
pub(super) const COMMAND_LINE_MAX: usize = 4096;
/// RAM ends here for the memory map where firmware and video memory would be.
const LOW_RAM_END: u64 = 0x9_FC00;
/// The ACPI tables.
pub(super) const ACPI_TABLES: u64 = 0xE_0000;
/// RAM again.
pub(super) const HIGH_RAM: u64 = 0x10_0000;

const PAGE: u64 = 4096;

/// A range of the memory map, of a type that PVH and E820 number alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: u32,
}

const RAM: u32 = 1;
const ACPI: u32 = 3;

/// The memory map of a machine, with or without ACPI tables.
pub(super) fn map(ram_size: u64, has_acpi: bool) -> Vec<Range> {
    let low = Range { start: 0, size: LOW_RAM_END, kind: RAM };
    let acpi = Range { start: ACPI_TABLES, size: HIGH_RAM - ACPI_TABLES, kind: ACPI };
    let high = Range { start: HIGH_RAM, size: ram_size - HIGH_RAM.min(ram_size), kind: RAM };
    let all = [Some(low), has_acpi.then_some(acpi), Some(high)];
    all.into_iter().flatten().collect()
}

/// A range of bytes in the machine's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A kernel in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    pub(super) entry: u64,
    pub(super) pvh_entry: Option<u64>,
    /// First byte behind it, what it clears before it runs included.
    pub(super) end: u64,
}

/// Loads the segments of an ELF kernel.
pub(super) fn load_elf(ram: &GuestRam, elf: &[u8]) -> Result<Loaded, BootError> {
    let loaded = Elf::load(ram, None, &mut Cursor::new(elf), None)
        .map_err(|error| BootError::Elf(error.to_string()))?;
    let entry = loaded.kernel_load.0;
    if entry < HIGH_RAM {
        return Err(BootError::TooLow(entry));
    }
    let pvh_entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Some(entry.0),
        _ => None,
    };
    let used = pvh_entry.unwrap_or(entry);
    if !ram.address_in_range(GuestAddress(used)) {
        return Err(BootError::Elf(format!("its entry point {used:#x} is outside the machine's memory")));
    }
    Ok(Loaded { entry, pvh_entry, end: loaded.kernel_end })
}

/// Writes bytes to the place that the layout has for them.
pub(super) fn write(ram: &GuestRam, at: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.write_slice(bytes, GuestAddress(at)).map_err(|error| BootError::Layout(error.to_string()))
}

/// Writes the command line to its place.
pub(super) fn write_command_line(ram: &GuestRam, text: &str) -> Result<(), BootError> {
    let refuse = |reason: String| BootError::CommandLine(reason);
    let text = CString::new(text).map_err(|error| refuse(error.to_string()))?;
    let text = text.to_str().map_err(|error| refuse(error.to_string()))?;
    let line = Cmdline::try_from(text, COMMAND_LINE_MAX).map_err(|error| refuse(error.to_string()))?;
    load_cmdline(ram, GuestAddress(COMMAND_LINE), &line).map_err(|error| refuse(error.to_string()))
}

/// Puts the initial RAM disk at the end of RAM, ending at `most` at the latest.
pub(super) fn place_initrd(
    ram: &GuestRam,
    ram_size: u64,
    initrd: &[u8],
    kernel_end: u64,
    most: u64,
) -> Result<Option<Placed>, BootError> {
    let size = initrd.len() as u64;
    if size == 0 {
        return Ok(None);
    }
    let too_large = BootError::Initrd { initrd: size, kernel_end, memory: ram_size };
    let end = ram_size.min(most.saturating_add(1));
    let start = match end.checked_sub(size) {
        Some(start) if start & !(PAGE - 1) >= kernel_end => start & !(PAGE - 1),
        _ => return Err(too_large),
    };
    write(ram, start, initrd)?;
    Ok(Some(Placed { start, size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initrd_lies_at_the_end_and_above_the_kernel() {
        let ram = ft_vcpu::memory::allocate(16 << 20).unwrap();
        let initrd = vec![7; 5000];
        let placed = place_initrd(&ram, 16 << 20, &initrd, 0x10_0000, u64::MAX).unwrap().unwrap();
        assert_eq!(placed, Placed { start: (16 << 20) - 8192, size: 5000 });
        assert_eq!(ram.read_obj::<u8>(GuestAddress(placed.start + 4999)).unwrap(), 7);
        let placed = place_initrd(&ram, 16 << 20, &initrd, 0x10_0000, 0x7f_ffff).unwrap().unwrap();
        assert_eq!(placed.start, 0x80_0000 - 8192);
        let refused = place_initrd(&ram, 16 << 20, &initrd, (16 << 20) - 8191, u64::MAX);
        assert!(matches!(refused, Err(BootError::Initrd { initrd: 5000, .. })));
        assert_eq!(place_initrd(&ram, 16 << 20, &[], u64::MAX, 0).unwrap(), None);
    }
}
