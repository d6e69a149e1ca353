//! From the PVH entry point to `guest_main`.
//!
//! PVH (Xen's `docs/misc/pvh.pandoc`) enters in 32-bit protected mode without paging, EBX holding the physical
//! address of `hvm_start_info`. We build an identity map of the first 4 GiB with 2 MiB pages, turn on SSE (Rust code
//! uses it for moves) and long mode, and call [`start`].

use alloc::string::String;

use crate::{heap, irq, println};

core::arch::global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              # name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

    .section .boot32, "ax", @progbits
    .code32
    .globl _start
_start:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %edi             # kept until the call below
    # Entry flags: present, writable, accessed (0x23); for pages also dirty and PS (0xe3). With A and D preset no
    # engine ever has to write to the tables.
    movl $boot_pdpt + 0x23, boot_pml4
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $12, %eax
    addl $boot_pd + 0x23, %eax
    movl %eax, boot_pdpt(,%ecx,8)
    incl %ecx
    cmpl $4, %ecx
    jne 1b
    xorl %ecx, %ecx
2:  movl %ecx, %eax
    shll $21, %eax
    orl $0xe3, %eax
    movl %eax, boot_pd(,%ecx,8)
    incl %ecx
    cmpl $2048, %ecx
    jne 2b
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0x620, %eax           # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx      # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80010033, %eax      # PG, WP, NE, ET, MP, PE; EM and TS clear
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $boot64

    .text
    .code64
boot64:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $boot_stack_top, %esp
    xorl %ebp, %ebp
    movl %edi, %edi
    call guest_start
    ud2

    .section .rodata
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: 64-bit code
    .quad 0x00cf93000000ffff    # 0x10: data
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt
    .long 0

    .section .bss
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_stack: .skip 256 * 1024
boot_stack_top:
    .text
    "#,
    options(att_syntax)
);

/// What the loader told us.
#[derive(Debug)]
pub struct BootInfo {
    /// The kernel command line.
    pub cmdline: String,
}

impl BootInfo {
    /// The value of the last `name=value` on the command line.
    pub fn option<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.options(name).last()
    }

    /// The values of every `name=value` on the command line, in order.
    pub fn options<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.cmdline
            .split_ascii_whitespace()
            .filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// `hvm_start_info` of Xen's `public/arch-x86/hvm/start_info.h`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`.
#[repr(C)]
struct MemoryRange {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const START_MAGIC: u32 = 0x336e_c578;
const KIND_RAM: u32 = 1;
/// The identity map ends here.
const MAPPED: u64 = 1 << 32;

unsafe extern "Rust" {
    fn guest_main(boot: &BootInfo) -> u8;
}

unsafe extern "C" {
    static __image_end: u8;
}

/// The first Rust code to run; called once, from the assembly above.
#[unsafe(no_mangle)]
extern "C" fn guest_start(start_info: u64) -> ! {
    irq::init();
    // SAFETY: PVH hands over the address of this structure; memory below 4 GiB is identity-mapped and nothing has
    // been written outside the image yet.
    let info = unsafe { &*(start_info as *const StartInfo) };
    assert!(info.magic == START_MAGIC && info.version >= 1, "no PVH start info");
    // SAFETY: as above; the table has `memmap_entries` entries.
    let map = unsafe {
        core::slice::from_raw_parts(info.memmap_paddr as *const MemoryRange, info.memmap_entries as usize)
    };
    let image_end = &raw const __image_end as u64;
    let ram = map.iter().find(|range| {
        range.kind == KIND_RAM && range.addr <= image_end && image_end < range.addr + range.size
    });
    let end = ram.map(|range| (range.addr + range.size).min(MAPPED)).expect("the image lies in no RAM range");
    // The loader may have put its tables behind the image: what we still need is copied after the heap is set up,
    // so the heap starts behind those that are there.
    let cmdline = info.cmdline_paddr;
    let tables = [start_info, info.memmap_paddr, cmdline];
    let above = tables.iter().filter(|&&at| at >= image_end && at < end).max();
    let start = above.map_or(image_end, |at| at + 0x1000);
    // SAFETY: `start..end` is RAM that belongs to nothing else, and this runs once.
    unsafe { heap::init(start as usize, end as usize) };
    let mut text = String::new();
    if cmdline != 0 {
        // SAFETY: a NUL-terminated string by the PVH convention.
        let bytes = unsafe { core::ffi::CStr::from_ptr(cmdline as *const core::ffi::c_char) };
        text.push_str(bytes.to_str().unwrap_or_default());
    }
    let boot = BootInfo { cmdline: text };
    // SAFETY: the program defines it with the `entry!` macro, which gives it this signature.
    let code = unsafe { guest_main(&boot) };
    if code != 0 {
        println!("exit code {code}");
    }
    crate::port::power_off(code)
}
