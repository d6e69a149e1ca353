//! Interrupts: the IDT, the local APIC, the I/O APIC, and [`wait`], the only place where interrupts are on.
//!
//! Device interrupts only end a HLT. Their handlers acknowledge the virtio device (virtio 1.2, 4.2.2: InterruptStatus
//! to InterruptACK), because its line is level-triggered and stays up until then, and signal end of interrupt.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::{port, println};

const LAPIC: usize = 0xfee0_0000;
const IOAPIC: usize = 0xfec0_0000;
/// First device vector; device `i` has `DEVICE_VECTOR + i`.
const DEVICE_VECTOR: u8 = 0x30;
/// How many devices can have an interrupt.
pub const MAX_DEVICES: usize = 8;
const TIMER_VECTOR: u8 = 0x40;
const SPURIOUS_VECTOR: u8 = 0xff;

/// Local APIC registers (SDM volume 3, table 11-1).
pub(crate) mod lapic {
    pub(crate) const TPR: usize = 0x80;
    pub(crate) const SPURIOUS: usize = 0xf0;
    pub(crate) const LVT_TIMER: usize = 0x320;
    pub(crate) const LVT_LINT0: usize = 0x350;
    pub(crate) const LVT_LINT1: usize = 0x360;
    pub(crate) const TIMER_INITIAL: usize = 0x380;
    pub(crate) const TIMER_CURRENT: usize = 0x390;
    pub(crate) const TIMER_DIVIDE: usize = 0x3e0;
}

global_asm!(
    r#"
    .text
    # Exceptions: make the frame uniform (an error code in every one), then report and stop.
    .altmacro
    .macro exception n
exception_\n:
    .if (\n == 8) || (\n == 10) || (\n == 11) || (\n == 12) || (\n == 13) || (\n == 14) || (\n == 17) || (\n == 21)
    .else
    push 0
    .endif
    push \n
    jmp exception_common
    .endm
    .set n, 0
    .rept 32
    exception %n
    .set n, n + 1
    .endr
exception_common:
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    and rsp, -16
    call guest_exception
    ud2

    .macro device n
device_\n:
    push rax
    push rcx
    mov rcx, [interrupt_devices + 8 * \n]
    mov eax, [rcx + 0x60]
    mov [rcx + 0x64], eax
    jmp interrupt_end
    .endm
    .set n, 0
    .rept 8
    device %n
    .set n, n + 1
    .endr
interrupt_timer:
    push rax
    push rcx
interrupt_end:
    mov byte ptr [interrupt_came], 1
    mov ecx, 0xfee000b0
    xor eax, eax
    mov [rcx], eax
    pop rcx
    pop rax
    iretq
interrupt_spurious:
    iretq

    .section .rodata
    .balign 8
interrupt_table:
    .macro exception_address n
    .quad exception_\n
    .endm
    .macro device_address n
    .quad device_\n
    .endm
    .set n, 0
    .rept 32
    exception_address %n
    .set n, n + 1
    .endr
    .set n, 0
    .rept 8
    device_address %n
    .set n, n + 1
    .endr
    .quad interrupt_timer, interrupt_spurious
    .noaltmacro
    .text
"#
);

unsafe extern "C" {
    /// 32 exceptions, 8 devices, timer, spurious.
    static interrupt_table: [u64; 32 + MAX_DEVICES + 2];
}

/// Register bases of the devices, read by the handlers.
// SAFETY: the only symbol of this name; the handlers read it as an array of 64-bit addresses.
#[unsafe(no_mangle)]
static interrupt_devices: Shared<[usize; MAX_DEVICES]> = Shared(UnsafeCell::new([0; MAX_DEVICES]));

/// Set by the handlers.
// SAFETY: the only symbol of this name; the handlers write its byte.
#[unsafe(no_mangle)]
static interrupt_came: Shared<bool> = Shared(UnsafeCell::new(false));

static IDT: Shared<[[u64; 2]; 256]> = Shared(UnsafeCell::new([[0; 2]; 256]));

/// Memory that only the one CPU with interrupts off writes.
#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: one CPU; written only with interrupts off.
unsafe impl<T> Sync for Shared<T> {}

pub(crate) fn lapic_read(register: usize) -> u32 {
    // SAFETY: a local APIC register; identity-mapped.
    unsafe { ((LAPIC + register) as *const u32).read_volatile() }
}

pub(crate) fn lapic_write(register: usize, value: u32) {
    // SAFETY: a local APIC register; identity-mapped.
    unsafe { ((LAPIC + register) as *mut u32).write_volatile(value) }
}

fn ioapic_write(index: u32, value: u32) {
    // SAFETY: IOREGSEL and IOWIN of the I/O APIC; identity-mapped.
    unsafe {
        (IOAPIC as *mut u32).write_volatile(index);
        ((IOAPIC + 0x10) as *mut u32).write_volatile(value);
    }
}

/// Loads the IDT and sets up the local APIC.
pub(crate) fn init() {
    let set = |vector: usize, handler: u64| {
        // Present, ring 0, 64-bit interrupt gate, code segment 8.
        let low = (handler & 0xffff) | (8 << 16) | (0x8e00 << 32) | ((handler >> 16 & 0xffff) << 48);
        // SAFETY: runs once, before interrupts; `vector` is below 256.
        unsafe { (*IDT.0.get())[vector] = [low, handler >> 32] };
    };
    // SAFETY: a constant table in the image.
    let handlers = unsafe { &interrupt_table };
    for (vector, &handler) in handlers[..32].iter().enumerate() {
        set(vector, handler);
    }
    for device in 0..MAX_DEVICES {
        set(DEVICE_VECTOR as usize + device, handlers[32 + device]);
    }
    set(TIMER_VECTOR as usize, handlers[32 + MAX_DEVICES]);
    set(SPURIOUS_VECTOR as usize, handlers[33 + MAX_DEVICES]);
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(256 * 16 - 1, IDT.0.get() as u64);
    // SAFETY: the table is static and its entries point to handlers above.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };

    // The legacy controllers, where there are any, stay silent.
    port::outb(0x21, 0xff);
    port::outb(0xa1, 0xff);
    const MASKED: u32 = 1 << 16;
    lapic_write(lapic::SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    lapic_write(lapic::TPR, 0);
    lapic_write(lapic::LVT_LINT0, MASKED);
    lapic_write(lapic::LVT_LINT1, MASKED);
    lapic_write(lapic::LVT_TIMER, u32::from(TIMER_VECTOR)); // one-shot
}

/// Routes I/O APIC pin `gsi` to the handler of device number `device`, whose virtio registers are at `base`.
///
/// Level-triggered, active high: a virtio-mmio device holds its line while InterruptStatus is not zero.
pub(crate) fn route(device: usize, base: usize, gsi: u32) {
    assert!(device < MAX_DEVICES, "too many devices");
    const LEVEL: u32 = 1 << 15;
    // SAFETY: interrupts are off.
    unsafe { (*interrupt_devices.0.get())[device] = base };
    ioapic_write(0x11 + 2 * gsi, 0);
    ioapic_write(0x10 + 2 * gsi, LEVEL | (u32::from(DEVICE_VECTOR) + device as u32));
}

/// Halts until an interrupt; one that is already pending ends it at once.
///
/// The caller must have enabled the notifications that it waits for *before* it last looked whether there is
/// anything to do.
pub fn wait() {
    // What is pending is taken behind a POPF, which enables interrupts without holding them off for one instruction as STI does:
    // processors that QEMU emulates for KVM forget that where they are interrupted themselves (VMRUN loads no interrupt shadow).
    // SAFETY: handlers keep all registers, and use the stack, which the absent `nostack` allows, as the program here does. They
    // write `interrupt_came` only within the two programs, so that nobody else refers to it.
    unsafe {
        *interrupt_came.0.get() = false;
        asm!("pushfq", "or dword ptr [rsp], 0x200", "popfq", "cli");
        if *interrupt_came.0.get() {
            return;
        }
        // STI takes effect after the HLT has begun, so no wake-up is lost.
        asm!("sti", "hlt", "cli");
    }
}

/// Reports a CPU exception and powers off.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(vector: u64, error: u64, rip: u64, cr2: u64) -> ! {
    println!("exception {vector} error {error:#x} at {rip:#x}, cr2 {cr2:#x}");
    port::power_off(port::CODE_EXCEPTION)
}
