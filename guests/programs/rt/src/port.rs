//! Port I/O, and the two ways out of the machine.

use core::arch::asm;

/// Power-off code of a panic.
pub const CODE_PANIC: u8 = 101;
/// Power-off code of a CPU exception.
pub const CODE_EXCEPTION: u8 = 102;

/// The port that ends the machine with the byte written to it.
const POWER_OFF: u16 = 0xf4;

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: ports of this machine have no effect on memory that Rust knows of.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as in `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Ends the machine with `code`.
pub fn power_off(code: u8) -> ! {
    outb(POWER_OFF, code);
    halt()
}

/// Resets the machine by the keyboard controller.
pub fn reset() -> ! {
    outb(0x64, 0xfe);
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: interrupts stay off, so this never returns in a way that matters.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
