//! The serial console: a 16550 at 0x3f8, polled.

use core::fmt;

use crate::port::{inb, outb};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
/// Transmitter holding register empty.
const THR_EMPTY: u8 = 0x20;

/// Where [`println!`](crate::println) writes.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    while inb(LINE_STATUS) & THR_EMPTY == 0 {}
    outb(DATA, byte);
}

/// Prints to the serial console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => {{
        let _ = core::fmt::Write::write_fmt(&mut $crate::console::Serial, format_args!($($arg)*));
    }};
}

/// Prints a line to the serial console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", format_args!($($arg)*)) };
}
