//! Runs a case on the host CPU.
//!
//! Entering and leaving are both done by signals, because a signal frame holds every register of a thread and the kernel
//! loads it without needing one: an INT3 of ours traps, the handler keeps the thread's frame and puts the case into it;
//! the code runs and ends in INT3 or a fault, the handler takes the result and puts the kept frame back. So RSP, the flags
//! and the x87 can hold anything, and a fault is an ordinary result.
//!
//! The handler finds its [`Run`] at the base of the signal stack of its thread: it must not use thread-local storage,
//! because the case may have changed the FS base.

use std::arch::asm;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Once;

use ft_vcpu::state::X87;

use super::case::{Case, Mode, Outcome, Regs, Trap, USER_DATA, USER_FLAGS};
use super::layout::{self, CODE_LEN, DATA, DATA_LEN, READ_ONLY_LEN, WINDOW};

const SIGNAL_STACK: usize = 256 * 1024;
const MAGIC: u64 = 0x6675_6C6C_2073_7461;
/// Order of the general registers in a signal frame, by their number in the encoding.
const FRAME_GPR: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const FRAME_RIP: usize = 16;
const FRAME_FLAGS: usize = 17;
/// Selectors: CS, GS, FS, SS, 16 bits each from the lowest.
const FRAME_SELECTORS: usize = 18;
const FRAME_ERROR: usize = 19;
const FRAME_TRAP: usize = 20;
const FRAME_CR2: usize = 22;
/// Of the process's own descriptors, one for each window from this one on. The first is left out because cases ask for it.
const FIRST_DESCRIPTOR: u32 = 8;
/// The part of an FXSAVE image that the processor defines.
const FXSAVE: usize = 416;
const SIGNALS: [i32; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Outside,
    Entering,
    Inside,
}

/// What the handler and [`Native::run`] hand each other; stands at the base of the signal stack.
#[repr(C)]
struct Run {
    magic: u64,
    phase: Phase,
    /// The case has FS and GS bases, or loads selectors there: FS is the C library's again only when we say so.
    has_bases: bool,
    fs_base: u64,
    gs_base: u64,
    host_fs: u64,
    host_gregs: [i64; 23],
    host_fxsave: [u8; FXSAVE],
    gpr: [u64; 16],
    rip: u64,
    flags: u64,
    fxsave: [u8; FXSAVE],
    trap: u64,
    error: u64,
    cr2: u64,
    /// CS.
    code: u16,
    /// The descriptor that GS may be loaded with.
    descriptor: u32,
    /// ES, DS, FS, GS.
    selectors: [u16; 4],
}

/// A window of memory in which the thread that made it can run cases.
pub(crate) struct Native {
    window: u64,
    run: *mut Run,
    old_stack: libc::stack_t,
    /// Where code of the last case stands.
    used: Option<(usize, usize)>,
    /// The signal stack belongs to one thread.
    not_send: PhantomData<*mut ()>,
}

impl Native {
    /// Maps the window at `window` and takes the signals of faults.
    pub(crate) fn new(window: u64) -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(install_handlers);
        map(window, WINDOW, libc::PROT_NONE, libc::MAP_FIXED_NOREPLACE);
        map(window, CODE_LEN, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_FIXED);
        map(window + DATA, DATA_LEN + READ_ONLY_LEN, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED);
        let page = layout::read_only_page();
        // SAFETY: the pages were just mapped, and nobody else knows them.
        unsafe {
            ptr::write_bytes(window as *mut u8, 0xCC, CODE_LEN as usize);
            ptr::copy_nonoverlapping(page.as_ptr(), (window + DATA + DATA_LEN) as *mut u8, page.len());
            let start = (window + DATA + DATA_LEN) as *mut c_void;
            assert_eq!(libc::mprotect(start, READ_ONLY_LEN as usize, libc::PROT_READ), 0);
        }
        let stack = map(0, SIGNAL_STACK as u64, libc::PROT_READ | libc::PROT_WRITE, 0);
        let run = stack.cast::<Run>();
        let new_stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: SIGNAL_STACK };
        let mut old_stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: `stack` is a fresh mapping, large enough and aligned for a `Run` at its base; all-zero bytes are a
        // valid `Run`; the kernel is given a stack that lives until `drop`.
        unsafe {
            (*run).magic = MAGIC;
            (*run).descriptor = FIRST_DESCRIPTOR + layout::number(window) as u32;
            assert_eq!(libc::sigaltstack(&new_stack, &mut old_stack), 0);
        }
        Self { window, run, old_stack, used: None, not_send: PhantomData }
    }

    /// Runs until INT3 or a fault.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        self.run_from(case, case.regs.rip)
    }

    /// The same, but starts at `entry` instead of the start of the code.
    pub(crate) fn run_from(&mut self, case: &Case, entry: u64) -> Outcome {
        let start = (case.regs.rip - self.window) as usize;
        assert!(start + case.code.len() <= CODE_LEN as usize, "code outside its pages");
        // SAFETY: all within the window of `self`, which only this thread uses. `run` is shared with the handler, which
        // runs on this thread and only within the `asm!`, a barrier for the compiler. The `asm!` comes back with every
        // register as it was: the handler restores the frame it found.
        unsafe {
            if let Some((start, len)) = self.used.replace((start, case.code.len())) {
                ptr::write_bytes((self.window as *mut u8).add(start), 0xCC, len);
            }
            let code = (self.window as *mut u8).add(start);
            ptr::copy_nonoverlapping(case.code.as_ptr(), code, case.code.len());
            let data = (self.window + DATA) as *mut u8;
            ptr::copy_nonoverlapping(case.data.as_ptr(), data, DATA_LEN as usize);

            let run = &mut *self.run;
            run.gpr = case.regs.gpr;
            run.rip = entry;
            run.flags = case.regs.rflags & USER_FLAGS;
            run.fxsave = to_fxsave(&case.regs);
            (run.fs_base, run.gs_base) = (case.regs.fs_base, case.regs.gs_base);
            run.has_bases = (run.fs_base, run.gs_base) != (0, 0) || case.regs.loads_selectors;
            run.code = case.regs.mode.selector();
            run.phase = Phase::Entering;
            // NT, AC and ID are not among the flags that a signal frame loads; a case may have left them set. The same
            // with DS and ES, which 64-bit code does not need.
            asm!("push 2", "popfq", "mov ds, {data:e}", "mov es, {data:e}", "int3", data = in(reg) u32::from(USER_DATA));
            assert!((*self.run).phase == Phase::Outside);
        }
        // SAFETY: as above; the handler is done.
        let run = unsafe { &*self.run };
        let mut regs = case.regs.clone();
        regs.gpr = run.gpr;
        regs.rip = run.rip;
        regs.rflags = run.flags & USER_FLAGS;
        regs.mode = if run.code == Mode::Compat.selector() { Mode::Compat } else { Mode::Long };
        regs.selectors = run.selectors;
        from_fxsave(&run.fxsave, &mut regs);
        let trap = if run.trap == 3 {
            regs.rip -= 1;
            None
        } else {
            let address = if run.trap == 14 { run.cr2 } else { 0 };
            Some(Trap { vector: run.trap as u8, error: run.error as u32, address })
        };
        Outcome { regs, trap }
    }

    /// The writable data pages.
    pub(crate) fn data(&self) -> &[u8] {
        // SAFETY: mapped in `new`, and changed by nobody while `self` is borrowed.
        unsafe { std::slice::from_raw_parts((self.window + DATA) as *const u8, DATA_LEN as usize) }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: gives back what `new` took; nothing runs on the signal stack outside `run`.
        unsafe {
            if self.old_stack.ss_size != 0 {
                libc::sigaltstack(&self.old_stack, ptr::null_mut());
            } else {
                let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
                libc::sigaltstack(&none, ptr::null_mut());
            }
            libc::munmap(self.run.cast(), SIGNAL_STACK);
            libc::munmap(self.window as *mut c_void, WINDOW as usize);
        }
    }
}

fn map(address: u64, len: u64, protection: i32, flags: i32) -> *mut c_void {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: either a fresh mapping (FIXED_NOREPLACE, or an address of the kernel's choice) or inside our window.
    let got = unsafe { libc::mmap(address as *mut c_void, len as usize, protection, flags, -1, 0) };
    assert!(got != libc::MAP_FAILED, "mmap at {address:#x}: {}", std::io::Error::last_os_error());
    got
}

fn install_handlers() {
    // SAFETY: the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        for signal in SIGNALS {
            assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
        }
    }
}

extern "C" fn handle(signal: i32, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over a signal frame; the base of a signal stack is readable, whoever made it, and ours
    // starts with a `Run`, which only this thread uses. Nothing here uses thread-local storage before FS is back.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let run = context.uc_stack.ss_sp.cast::<Run>();
        if run.is_null() || (*run).magic != MAGIC || (*run).phase == Phase::Outside {
            not_ours(signal);
            return;
        }
        let run = &mut *run;
        if run.phase == Phase::Inside {
            run.selectors = selectors();
            if run.has_bases {
                arch_prctl(ARCH_SET_FS, run.host_fs);
                arch_prctl(ARCH_SET_GS, 0);
            }
        }
        let gregs = &mut context.uc_mcontext.gregs;
        let fxsave = context.uc_mcontext.fpregs.cast::<u8>();
        if run.phase == Phase::Entering {
            run.host_gregs = *gregs;
            ptr::copy_nonoverlapping(fxsave, run.host_fxsave.as_mut_ptr(), FXSAVE);
            for (number, slot) in FRAME_GPR.into_iter().enumerate() {
                gregs[slot] = run.gpr[number] as i64;
            }
            gregs[FRAME_RIP] = run.rip as i64;
            gregs[FRAME_FLAGS] = (run.flags | 0x202) as i64;
            ptr::copy_nonoverlapping(run.fxsave.as_ptr(), fxsave, FXSAVE);
            gregs[FRAME_SELECTORS] = gregs[FRAME_SELECTORS] & !0xFFFF | i64::from(run.code);
            run.phase = Phase::Inside;
            if run.has_bases {
                run.host_fs = get_fs();
                if run.code == Mode::Compat.selector() {
                    // FS stays: a base without a descriptor is of no use to 32-bit code.
                    if run.gs_base != 0 {
                        load_segment(run.descriptor, run.gs_base as u32);
                    }
                } else {
                    arch_prctl(ARCH_SET_GS, run.gs_base);
                    arch_prctl(ARCH_SET_FS, run.fs_base);
                }
            }
        } else {
            for (number, slot) in FRAME_GPR.into_iter().enumerate() {
                run.gpr[number] = gregs[slot] as u64;
            }
            run.rip = gregs[FRAME_RIP] as u64;
            run.flags = gregs[FRAME_FLAGS] as u64;
            run.code = gregs[FRAME_SELECTORS] as u16;
            run.trap = gregs[FRAME_TRAP] as u64;
            run.error = gregs[FRAME_ERROR] as u64;
            run.cr2 = gregs[FRAME_CR2] as u64;
            ptr::copy_nonoverlapping(fxsave, run.fxsave.as_mut_ptr(), FXSAVE);
            *gregs = run.host_gregs;
            ptr::copy_nonoverlapping(run.host_fxsave.as_ptr(), fxsave, FXSAVE);
            run.phase = Phase::Outside;
        }
        // x87 and SSE are "in use", whatever they were when the frame was made; otherwise the kernel loads zeroes.
        if ptr::read_unaligned(fxsave.add(464).cast::<u32>()) == 0x4650_5853 {
            let in_use = fxsave.add(512).cast::<u64>();
            ptr::write_unaligned(in_use, ptr::read_unaligned(in_use) | 3);
        }
    }
}

/// A fault outside of a case: let it kill the process as usual.
fn not_ours(signal: i32) {
    // SAFETY: resets to the default action.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;

/// The system call itself: the C library's wrapper may touch `errno`, which lives behind FS.
///
/// # Safety
/// With [`ARCH_SET_FS`], nothing may use thread-local storage until FS is back.
unsafe fn arch_prctl(code: u64, address: u64) -> i64 {
    let result: i64;
    // SAFETY: the kernel's calling convention; the caller answers for what is set.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_arch_prctl => result, in("rdi") code, in("rsi") address,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// ES, DS, FS, GS.
fn selectors() -> [u16; 4] {
    let [es, ds, fs, gs]: [u32; 4];
    // SAFETY: reads registers only.
    unsafe {
        asm!("mov {0:e}, es", "mov {1:e}, ds", "mov {2:e}, fs", "mov {3:e}, gs", out(reg) es, out(reg) ds, out(reg) fs,
            out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [es as u16, ds as u16, fs as u16, gs as u16]
}

/// Makes a descriptor of the process one of flat data at `base`, and loads GS with it.
fn load_segment(number: u32, base: u32) {
    // `struct user_desc`: number, base, limit; 32-bit data, limit in pages, usable.
    let description = [number, base, 0xF_FFFF, 0b101_0001];
    const WRITE: u64 = 0x11;
    // SAFETY: the kernel reads the structure; the descriptor is this window's own; 64-bit code here does not use GS.
    unsafe {
        let result: i64;
        asm!("syscall", inlateout("rax") libc::SYS_modify_ldt => result, in("rdi") WRITE,
            in("rsi") description.as_ptr(), in("rdx") size_of_val(&description), lateout("rcx") _, lateout("r11") _,
            options(nostack));
        if result == 0 {
            asm!("mov gs, {0:e}", in(reg) number << 3 | 7, options(nomem, nostack, preserves_flags));
        }
    }
}

fn get_fs() -> u64 {
    let mut base = 0_u64;
    // SAFETY: the kernel writes the base to `base`.
    unsafe {
        arch_prctl(ARCH_GET_FS, (&raw mut base) as u64);
    }
    base
}

fn to_fxsave(regs: &Regs) -> [u8; FXSAVE] {
    let mut image = [0; FXSAVE];
    image[0..2].copy_from_slice(&regs.x87.control.to_le_bytes());
    image[2..4].copy_from_slice(&regs.x87.status.to_le_bytes());
    image[4] = regs.x87.tag;
    image[24..28].copy_from_slice(&regs.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&0xFFFF_u32.to_le_bytes());
    let top = usize::from(regs.x87.status >> 11 & 7);
    for st in 0..8 {
        image[32 + 16 * st..][..10].copy_from_slice(&regs.x87.registers[(top + st) % 8]);
    }
    for (number, (low, high)) in regs.xmm.into_iter().enumerate() {
        image[160 + 16 * number..][..8].copy_from_slice(&low.to_le_bytes());
        image[168 + 16 * number..][..8].copy_from_slice(&high.to_le_bytes());
    }
    image
}

fn from_fxsave(image: &[u8; FXSAVE], regs: &mut Regs) {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let long = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    regs.x87 = X87 { control: word(0), status: word(2), tag: image[4], ..X87::default() };
    let top = usize::from(regs.x87.status >> 11 & 7);
    for st in 0..8 {
        regs.x87.registers[(top + st) % 8].copy_from_slice(&image[32 + 16 * st..][..10]);
    }
    regs.mxcsr = long(24) as u32;
    for (number, register) in regs.xmm.iter_mut().enumerate() {
        *register = (long(160 + 16 * number), long(168 + 16 * number));
    }
}
