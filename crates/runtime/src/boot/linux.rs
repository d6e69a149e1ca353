//! Enters Linux by its 64-bit boot protocol (`Documentation/arch/x86/boot.rst`): long mode, identity-mapped page tables, RSI
//! = address of `boot_params`.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::GuestAddress;

use ft_vcpu::{CpuState, GuestRam};

use super::BootError;
use super::image::{BOOT_FLAG, BzImage, HEADER_MAGIC};
use super::memory::{self, COMMAND_LINE, DESCRIPTORS, HIGH_RAM, Loaded, PAGE_TABLES, Placed, ZERO_PAGE};

/// The 64-bit entry point of a bzImage, from where it is loaded.
const ENTRY: u64 = 0x200;
/// A boot loader without a number of its own.
const LOADER_OTHER: u8 = 0xff;
const PROTOCOL: u16 = 0x020f;
/// `loadflags`: loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;

/// Present, writable; for a leaf also large.
const TABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Null, unused, 64-bit code, data: what the protocol asks for at selectors 0x10 and 0x18.
const SEGMENTS: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

/// Loads a bzImage that unpacks itself.
pub(super) fn load(ram: &GuestRam, ram_size: u64, image: &BzImage<'_>) -> Result<Loaded, BootError> {
    let header = &image.header;
    let start = header.pref_address;
    if start < HIGH_RAM {
        return Err(BootError::TooLow(start));
    }
    let size = u64::from(header.init_size).max(image.kernel.len() as u64);
    let end = start.checked_add(size).filter(|end| *end <= ram_size).ok_or_else(|| {
        BootError::Layout(format!(
            "the kernel needs {size} bytes from {start:#x} on, and the machine has {ram_size} bytes of memory"
        ))
    })?;
    memory::write(ram, start, image.kernel)?;
    Ok(Loaded { entry: start + ENTRY, pvh_entry: None, end })
}

/// Writes `boot_params` for a kernel that is in memory, and gives the CPU state in which it begins. A kernel that was unpacked
/// here has no setup header; it gets one that says what a loader says.
pub(super) fn start(
    ram: &GuestRam,
    ram_size: u64,
    entry: u64,
    header: Option<&setup_header>,
    initrd: Option<Placed>,
    rsdp: u64,
) -> Result<CpuState, BootError> {
    let unpacked = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x20_0000,
        ..Default::default()
    };
    let initrd = initrd.unwrap_or_default();
    let mut params = boot_params { acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr = *header.unwrap_or(&unpacked);
    params.hdr.type_of_loader = LOADER_OTHER;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    params.hdr.ramdisk_image = initrd.start as u32;
    params.hdr.ramdisk_size = initrd.size as u32;
    let map = memory::map(ram_size, rsdp != 0);
    params.e820_entries = map.len() as u8;
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind };
    }
    params.e820_table = table;
    let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, ram)
        .map_err(|error| BootError::Layout(error.to_string()))?;

    let mut tables = vec![0_u64; 1024];
    tables[0] = (PAGE_TABLES + 4096) | TABLE;
    for gibibyte in 0..4 {
        tables[512 + gibibyte] = (gibibyte as u64) << 30 | LARGE | TABLE;
    }
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    memory::write(ram, PAGE_TABLES, &bytes(&tables))?;
    memory::write(ram, DESCRIPTORS, &bytes(&SEGMENTS))?;
    Ok(CpuState::reset_linux(entry, ZERO_PAGE, PAGE_TABLES, DESCRIPTORS))
}

#[cfg(test)]
mod tests {
    use vm_memory::{ByteValued, Bytes};

    use super::*;

    #[test]
    fn boot_parameters_say_where_everything_is() {
        let ram = ft_vcpu::memory::allocate(16 << 20).unwrap();
        let initrd = Placed { start: 0xf0_0000, size: 0x1234 };
        let state = start(&ram, 16 << 20, 0x100_0000, None, Some(initrd), 0xe_0000).unwrap();
        assert_eq!((state.rip, state.gpr[6]), (0x100_0000, ZERO_PAGE));
        let mut params = boot_params::default();
        ram.read_slice(params.as_mut_slice(), GuestAddress(ZERO_PAGE)).unwrap();
        let header = params.hdr;
        assert_eq!({ header.ramdisk_image }, 0xf0_0000);
        assert_eq!({ header.ramdisk_size }, 0x1234);
        assert_eq!({ header.cmd_line_ptr }, COMMAND_LINE as u32);
        assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
        assert_eq!(params.e820_entries, 3);
        let last = params.e820_table[2];
        assert_eq!(({ last.addr }, { last.size }, { last.r#type }), (0x10_0000, 15 << 20, 1));
        // The second gibibyte is mapped to itself by a large page.
        let entry: u64 = ram.read_obj(GuestAddress(PAGE_TABLES + 4096 + 8)).unwrap();
        assert_eq!(entry, (1 << 30) | LARGE | TABLE);
    }
}
