//! Runs a case in an engine: a long-mode guest made by hand, with the case at CPL 3.
//!
//! The window is mapped at the addresses that the host uses, onto physical pages in another order, so that an access
//! across a page border that ignores the page tables is seen. All exceptions lead to HLT with interrupts off, one stub
//! for each vector; the frame on the kernel's stack has the state at the exception.

use ft_vcpu::memory;
use ft_vcpu::state::{DescriptorTable, Segment};
use ft_vcpu::{CpuState, GuestRam, Kick, Platform, Position, Stop, Vcpu};
use vm_memory::{Bytes, GuestAddress};

use super::case::{Case, Mode, Outcome, Regs, Trap, USER_DATA, USER_FLAGS};
use super::layout::{self, DATA, DATA_LEN};
use super::warm;

const PAGE: u64 = 4096;
const RAM: usize = 0x8_0000;
const CODE_PAGES: [u64; 2] = [0x3_1000, 0x3_0000];
const DATA_PAGES: [u64; 4] = [0x2_3000, 0x2_1000, 0x2_0000, 0x2_2000];
/// Linear address of the kernel's pages.
const KERNEL: u64 = 0x6000_0000;
const KERNEL_PAGES: u64 = 0x1_0000;
const GDT: u64 = 0;
const IDT: u64 = 0x1000;
const TSS: u64 = 0x2000;
const STUBS: u64 = 0x3000;
const STACK_TOP: u64 = 0x5000;
/// The one page here that is the user's: see [`warm`].
const WARM: u64 = 0x5000;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

/// A platform on which nothing ever happens.
pub(crate) struct Quiet;

impl Platform for Quiet {
    fn pio_read(&mut self, _: Position, _: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size))
    }
    fn pio_write(&mut self, _: Position, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: Position, _: u64, size: u8) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(size))
    }
    fn mmio_write(&mut self, _: Position, _: u64, _: u8, _: u64) {}
    fn tsc(&mut self, at: Position) -> u64 {
        at
    }
    fn msr_read(&mut self, _: Position, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Position, _: u32, _: u64) -> bool {
        false
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: u8) {}
    fn next_timer(&self) -> Position {
        Position::MAX
    }
    fn fire_timers(&mut self, _: Position) {}
    fn pending_interrupt(&self) -> Option<u8> {
        None
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        unreachable!("nothing is ever pending")
    }
    fn wants_stop(&self) -> bool {
        false
    }
}

/// An engine in the guest that runs cases.
pub(crate) struct Guest {
    pub(crate) vcpu: Box<dyn Vcpu>,
    ram: GuestRam,
    window: u64,
    template: CpuState,
    /// The engine stops exactly where it is told to.
    pub(crate) counts: bool,
}

impl Guest {
    /// A guest whose engine is made by `engine` and whose window is at `window`.
    pub(crate) fn new(window: u64, engine: impl FnOnce(GuestRam) -> Box<dyn Vcpu>) -> Self {
        let ram = memory::allocate(RAM).expect("guest RAM");
        let put = |address: u64, value: u64| ram.write_obj(value, GuestAddress(address)).unwrap();
        let table = WRITE | USER | PRESENT;
        let index = |address: u64, level: u32| 8 * (address >> (12 + 9 * level) & 511);
        // One top, one directory pointer table; a directory and a table each for the window and for the kernel.
        put(0x1000, 0x2000 | table);
        for (address, directory, pages) in [(window, 0x3000, 0x4000), (KERNEL, 0x5000, 0x6000)] {
            assert_eq!(index(address, 3), 0);
            put(0x2000 + index(address, 2), directory | table);
            put(directory + index(address, 1), pages | table);
        }
        for (number, physical) in (0..).zip(CODE_PAGES) {
            put(0x4000 + index(window + number * PAGE, 0), physical | table);
            ram.write_slice(&[0xCC; PAGE as usize], GuestAddress(physical)).unwrap();
        }
        for (number, physical) in (0..).zip(DATA_PAGES) {
            let rights = if number < DATA_LEN / PAGE { table } else { USER | PRESENT };
            put(0x4000 + index(window + DATA + number * PAGE, 0), physical | rights | NO_EXECUTE);
        }
        ram.write_slice(&layout::read_only_page(), GuestAddress(DATA_PAGES[3])).unwrap();
        for number in 0..5 {
            let address = KERNEL + number * PAGE;
            put(0x6000 + index(address, 0), (KERNEL_PAGES + number * PAGE) | WRITE | PRESENT);
        }
        put(0x6000 + index(KERNEL + WARM, 0), (KERNEL_PAGES + WARM) | table);

        let kernel = KERNEL_PAGES;
        // The selectors of Linux, so that reading one gives what the host gives.
        let descriptors = [
            (2, 0x00AF_9B00_0000_FFFF),
            (3, 0x00CF_9300_0000_FFFF),
            (4, 0x00CF_FB00_0000_FFFF),
            (5, 0x00CF_F300_0000_FFFF),
            (6, 0x00AF_FB00_0000_FFFF),
            (8, 0x67 | ((KERNEL + TSS) & 0xFF_FFFF) << 16 | 0x8B << 40 | ((KERNEL + TSS) >> 24 & 0xFF) << 56),
            (9, (KERNEL + TSS) >> 32),
        ];
        for (number, descriptor) in descriptors {
            put(kernel + GDT + 8 * number, descriptor);
        }
        for vector in 0..256 {
            let target = KERNEL + STUBS + 16 * vector;
            let kind = if vector == 3 { 0xEE } else { 0x8E };
            let low = (target & 0xFFFF) | 0x10 << 16 | kind << 40 | (target >> 16 & 0xFFFF) << 48;
            put(kernel + IDT + 16 * vector, low);
            put(kernel + IDT + 16 * vector + 8, target >> 32);
            ram.write_obj(0xF4_u8, GuestAddress(kernel + STUBS + 16 * vector)).unwrap();
        }
        ram.write_obj(KERNEL + STACK_TOP, GuestAddress(kernel + TSS + 4)).unwrap();
        // No I/O permission bitmap: it would begin behind the segment's limit.
        ram.write_obj(0x68_u16, GuestAddress(kernel + TSS + 0x66)).unwrap();

        let mut template = CpuState::reset_pvh(0, 0);
        let null = Segment::default();
        let data = Segment { selector: USER_DATA, base: 0, limit: u32::MAX, attributes: 0xC0F3 };
        let code = Segment { selector: 0x33, base: 0, limit: u32::MAX, attributes: 0xA0FB };
        template.segments = [data, code, data, data, null, null];
        template.tr = Segment { selector: 0x40, base: KERNEL + TSS, limit: 0x67, attributes: 0x8B };
        template.gdtr = DescriptorTable { base: KERNEL + GDT, limit: 0x7F };
        template.idtr = DescriptorTable { base: KERNEL + IDT, limit: 0xFFF };
        template.cr0 = 0x8005_0033;
        template.cr3 = 0x1000;
        template.cr4 = 0x4_0620;
        template.xcr0 = 3;
        template.efer = 0xD01;
        let vcpu = engine(ram.clone());
        Self { vcpu, ram, window, template, counts: true }
    }

    /// The guest's kernel does not use XSAVE: the KVM engine hides it.
    pub(crate) fn without_xsave(mut self) -> Self {
        self.template.cr4 &= !(1 << 18);
        self.template.xcr0 = 1;
        self
    }

    /// Loads memory and registers; returns the position at which the case starts.
    pub(crate) fn load(&mut self, case: &Case) -> Position {
        self.write_code(0, &[0xCC; layout::CODE_LEN as usize]);
        self.write_code(case.regs.rip - self.window, &case.code);
        for (chunk, physical) in case.data.chunks(PAGE as usize).zip(DATA_PAGES) {
            self.ram.write_slice(chunk, GuestAddress(physical)).unwrap();
        }
        let mut state = self.template.clone();
        state.position = 1000;
        state.gpr = case.regs.gpr;
        state.rip = case.regs.rip;
        state.rflags = case.regs.rflags & USER_FLAGS | 0x202;
        state.xmm = case.regs.xmm;
        state.mxcsr = case.regs.mxcsr;
        state.x87 = case.regs.x87;
        state.segments[4].base = case.regs.fs_base;
        state.segments[5].base = case.regs.gs_base;
        if case.regs.mode == Mode::Compat {
            state.segments[1].selector = Mode::Compat.selector();
            state.segments[1].attributes = 0xC0FB;
            if case.regs.gs_base != 0 {
                let data = state.segments[3];
                state.segments[5] = Segment { selector: 0x47, base: case.regs.gs_base, ..data };
            }
        }
        self.vcpu.restore(&state);
        state.position
    }

    /// As [`Guest::load`], but the engine's TLB knows the data.
    ///
    /// # Errors
    /// The engine did not come to the start of the case.
    fn load_warm(&mut self, case: &Case) -> Result<Position, String> {
        let start = self.load(case);
        let (code, count) = warm::code(&case.regs, self.window, KERNEL + WARM);
        self.ram.write_slice(&code, GuestAddress(KERNEL_PAGES + WARM)).unwrap();
        let mut state = self.vcpu.state();
        state.rip = KERNEL + WARM;
        self.vcpu.restore(&state);
        let position = start + count;
        let stop = self.vcpu.run(position, &Kick::new(), &mut Quiet);
        let state = self.vcpu.state();
        if stop != Stop::Reached || state.rip != case.regs.rip || state.gpr != case.regs.gpr {
            return Err(format!("not at the start of the case: {stop:?} {state:x?}"));
        }
        Ok(position)
    }

    /// Runs the one instruction of a case, which counts one position, or one for each chunk if it is repeated.
    ///
    /// # Errors
    /// The engine did something that no instruction can lead to.
    pub(crate) fn run_one(&mut self, case: &Case) -> Result<Outcome, String> {
        // Three of four times with what it needs in the TLB. (KVM, which is an engine here too, does not count.)
        let warm = self.counts && case.regs.gpr.iter().fold(case.regs.rip, |sum, value| sum ^ value) & 3 != 0;
        let start = if warm { self.load_warm(case)? } else { self.load(case) };
        let kick = Kick::new();
        let mut position = start;
        // A chunk for each page, or for each element where 32-bit addresses meet a segment with a base.
        let most = 0x3100;
        loop {
            position += 1;
            let stop = self.vcpu.run(position, &kick, &mut Quiet);
            if stop != Stop::Reached {
                return Err(format!("run stopped with {stop:?}"));
            }
            let state = self.vcpu.state();
            if state.position != position || self.vcpu.position() != position {
                return Err(format!("stands at {} instead of {position}", state.position));
            }
            if state.rip != case.regs.rip {
                return self.outcome(&state);
            }
            if position - start > most {
                return Err(format!("{most} positions and not done"));
            }
        }
    }

    /// Turns a state, in user code or at the stub of an exception, into what the host would report.
    ///
    /// # Errors
    /// The frame of an exception is not as the architecture has it.
    pub(crate) fn outcome(&self, state: &CpuState) -> Result<Outcome, String> {
        let mut regs = Regs {
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags & USER_FLAGS,
            xmm: state.xmm,
            mxcsr: state.mxcsr,
            x87: state.x87,
            fs_base: state.segments[4].base,
            gs_base: state.segments[5].base,
            mode: Mode::Long,
            selectors: [0, 3, 4, 5].map(|number| state.segments[number].selector),
            loads_selectors: false,
        };
        let stubs = KERNEL + STUBS..KERNEL + STUBS + PAGE;
        if !stubs.contains(&state.rip) {
            let mode = mode_of(state.segments[1].selector.into());
            if mode.is_none() || state.segments[2].selector != 0x2B {
                return Err(format!("left user mode: rip {:#x}, segments {:x?}", state.rip, state.segments));
            }
            if state.rflags & 0x200 == 0 || state.rflags & 0x3000 != 0 || state.rflags & 2 == 0 {
                return Err(format!("system flags changed: {:#x}", state.rflags));
            }
            regs.mode = mode.unwrap_or_default();
            return Ok(Outcome { regs, trap: None });
        }
        let vector = ((state.rip - stubs.start) / 16) as u8;
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        let words = if has_error { 6 } else { 5 };
        let bottom = KERNEL + STACK_TOP - 8 * words;
        if state.gpr[4] != bottom {
            return Err(format!("#{vector}: rsp {:#x} instead of {bottom:#x}", state.gpr[4]));
        }
        let word = |number: u64| -> u64 {
            self.ram.read_obj(GuestAddress(KERNEL_PAGES + STACK_TOP - 8 * (5 - number))).unwrap()
        };
        let (cs, ss) = (word(1), word(4));
        let Some(mode) = mode_of(cs).filter(|_| ss == 0x2B) else {
            return Err(format!("#{vector}: cs {cs:#x}, ss {ss:#x} on the stack"));
        };
        regs.mode = mode;
        if state.segments[1].selector != 0x10 || state.segments[2].selector != 0 {
            return Err(format!("#{vector}: handler runs with {:x?}", state.segments));
        }
        regs.rip = word(0);
        regs.rflags = word(2) & USER_FLAGS;
        regs.gpr[4] = word(3);
        if word(2) & 0x3202 != 0x202 {
            return Err(format!("#{vector}: flags {:#x} on the stack", word(2)));
        }
        let error = if has_error {
            self.ram.read_obj::<u64>(GuestAddress(KERNEL_PAGES + STACK_TOP - 48)).unwrap() as u32
        } else {
            0
        };
        if vector == 3 {
            regs.rip -= 1;
            return Ok(Outcome { regs, trap: None });
        }
        let address = if vector == 14 { state.cr2 } else { 0 };
        Ok(Outcome { regs, trap: Some(Trap { vector, error, address }) })
    }

    /// The writable data pages.
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut bytes = vec![0; DATA_LEN as usize];
        for (chunk, physical) in bytes.chunks_mut(PAGE as usize).zip(DATA_PAGES) {
            self.ram.read_slice(chunk, GuestAddress(physical)).unwrap();
        }
        bytes
    }

    /// The code as it stands now: a program may have changed itself.
    pub(crate) fn code(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; layout::CODE_LEN as usize];
        for (chunk, physical) in bytes.chunks_mut(PAGE as usize).zip(CODE_PAGES) {
            self.ram.read_slice(chunk, GuestAddress(physical)).unwrap();
        }
        let start = (address - self.window) as usize;
        bytes[start..start + len].to_vec()
    }

    fn write_code(&self, offset: u64, bytes: &[u8]) {
        for (number, byte_run) in split_at_page(offset, bytes) {
            let physical = CODE_PAGES[(number / PAGE) as usize] + number % PAGE;
            self.ram.write_slice(byte_run, GuestAddress(physical)).unwrap();
        }
    }
}

/// The mode of user code by its selector.
fn mode_of(selector: u64) -> Option<Mode> {
    [Mode::Long, Mode::Compat].into_iter().find(|mode| u64::from(mode.selector()) == selector)
}

/// The parts of `bytes` at `offset` that lie in the first and in the second page.
fn split_at_page(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let border = (PAGE.saturating_sub(offset) as usize).min(bytes.len());
    let (first, second) = bytes.split_at(border);
    [(offset, first), (offset.max(PAGE), second)].into_iter().filter(|(_, part)| !part.is_empty())
}
