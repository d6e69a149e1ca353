//! Puts a kernel, its initial RAM disk and what a firmware would have left into the machine's memory.
//!
//! A kernel is an ELF file or Linux's bzImage. What is packed inside a bzImage is unpacked here ([`image`]): in the guest it
//! would take far longer. An ELF image with a PVH note is entered that way ([`pvh`]); others by Linux's 64-bit boot
//! protocol ([`linux`]). The ACPI tables are in [`acpi`], where everything lies in [`memory`].

mod acpi;
mod image;
mod linux;
mod memory;
mod pvh;

use ft_devices::BoardSpec;
use ft_vcpu::{CpuState, GuestRam};
use thiserror::Error;

use self::image::Image;

/// Why a kernel cannot be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// Neither of the two kinds of file.
    #[error(
        "the kernel is neither a 64-bit x86 ELF file nor a Linux bzImage (vmlinuz); give it as its distribution packages it"
    )]
    Unknown,
    /// A bzImage that is damaged, or too old.
    #[error("the kernel's bzImage cannot be used: {0}")]
    BzImage(String),
    /// What a bzImage holds cannot be unpacked.
    #[error("the kernel inside the bzImage cannot be unpacked ({format}): {reason}")]
    Unpack {
        /// How it is packed.
        format: &'static str,
        /// From the decompressor.
        reason: String,
    },
    /// Not an ELF file for this machine, or it does not fit into RAM.
    #[error("the kernel is not a loadable x86-64 ELF image, or does not fit into the machine's memory ({0})")]
    Elf(String),
    /// The kernel would overwrite the boot data.
    #[error(
        "the kernel wants to be loaded at {0:#x}, where boot data lie; it must be linked at 1 MiB or above"
    )]
    TooLow(u64),
    /// Too long or not text.
    #[error("the kernel command line cannot be used: {0}")]
    CommandLine(String),
    /// RAM too small for the initial RAM disk.
    #[error(
        "the initial RAM disk of {initrd} bytes does not fit above the kernel, which ends at {kernel_end:#x}; the machine \
         has {memory} bytes of memory: give it more"
    )]
    Initrd {
        /// Size of the initial RAM disk.
        initrd: u64,
        /// End of the kernel.
        kernel_end: u64,
        /// Size of RAM.
        memory: u64,
    },
    /// RAM too small.
    #[error("boot data do not fit into the machine's memory: {0}")]
    Layout(String),
}

/// What is booted, and on which machine.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// An ELF file or a bzImage.
    pub kernel: &'a [u8],
    /// The initial RAM disk; empty for none.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The devices that ACPI tables declare; without them there are none.
    pub acpi: Option<&'a BoardSpec>,
}

/// Loads `payload` into `ram` and gives the CPU state in which the kernel begins.
///
/// # Errors
/// See [`BootError`].
pub fn load(ram: &GuestRam, ram_size: u64, payload: &Payload<'_>) -> Result<CpuState, BootError> {
    let rsdp = payload.acpi.map(|spec| acpi::write(ram, spec)).transpose()?.unwrap_or(0);
    memory::write_command_line(ram, payload.command_line)?;
    match image::read(payload.kernel)? {
        Image::Elf(elf) => {
            let kernel = memory::load_elf(ram, &elf)?;
            let initrd = memory::place_initrd(ram, ram_size, payload.initrd, kernel.end, u64::MAX)?;
            match kernel.pvh_entry {
                Some(entry) => pvh::start(ram, ram_size, entry, initrd, rsdp),
                None => linux::start(ram, ram_size, kernel.entry, None, initrd, rsdp),
            }
        }
        Image::BzImage(image) => {
            let kernel = linux::load(ram, ram_size, &image)?;
            let most = u64::from(image.header.initrd_addr_max);
            let initrd = memory::place_initrd(ram, ram_size, payload.initrd, kernel.end, most)?;
            linux::start(ram, ram_size, kernel.entry, Some(&image.header), initrd, rsdp)
        }
    }
}
