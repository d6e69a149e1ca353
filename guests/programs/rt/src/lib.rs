//! What a guest program needs below its `main`.
//!
//! The programs run in ring 0 with nothing underneath: this crate enters long mode, sets up memory, interrupts and
//! the console, and drives the virtio devices. Three rules hold throughout, because the programs also run under
//! engines whose unit of progress is the exit to the host:
//!
//! - no wait spins on memory: a loop that waits has a HLT or a port read in it;
//! - nothing reads a counter or asks for randomness (no RDTSC, RDRAND, CPUID dispatch, XSAVE, AVX, x87);
//! - device registers are reached by plain MOV of at most 8 bytes, and page tables have A and D set from the start.
//!
//! Interrupts are off except inside [`irq::wait`], so no Rust code is ever interrupted and handlers are a few
//! instructions of assembly that touch no vector register.
#![no_std]

extern crate alloc;

pub mod boot;
pub mod console;
mod heap;
pub mod irq;
mod mem;
pub mod port;
pub mod time;
pub mod virtio;

pub use boot::BootInfo;
pub use heap::heap_size;

/// Names the function that the runtime calls: `fn(&BootInfo) -> u8`, whose result is the power-off code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: the only symbol of this name in the program; `rt` declares it with this very signature.
        #[unsafe(no_mangle)]
        extern "Rust" fn guest_main(boot: &$crate::BootInfo) -> u8 {
            let main: fn(&$crate::BootInfo) -> u8 = $main;
            main(boot)
        }
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("panic: {info}");
    port::power_off(port::CODE_PANIC)
}
