//! The processor's one pinned block of state, and the small pieces that every handler is made of.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU8;

use super::block::{Block, Cache, JumpEntry};
use super::fault::Fault;
use super::flags::{AC, Lazy};
use super::op::{ADDRESS32, LINEAR32, Op, SEGMENT_SHIFT};
use super::tlb::{self, Entry, FetchEntry};
use crate::memory::PageFlags;
use crate::state::CpuState;
use crate::{GuestRam, Platform};

/// Why a chain of handlers came back to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// `rip` is set; its block has to be found.
    Lookup,
    /// `rip` is set; its block is longer than the budget.
    Budget,
    /// `fault` is set; `rip` is that of the instruction.
    Fault,
    /// `rip` is set; the platform and the mode must be looked at again.
    Boundary,
}

pub(super) const RSP: usize = 4;
pub(super) const CS: usize = 1;
pub(super) const SS: usize = 2;

pub(super) const CR0_PE: u64 = 1;
pub(super) const CR0_MP: u64 = 1 << 1;
pub(super) const CR0_EM: u64 = 1 << 2;
pub(super) const CR0_TS: u64 = 1 << 3;
pub(super) const CR0_NE: u64 = 1 << 5;
pub(super) const CR0_WP: u64 = 1 << 16;
pub(super) const CR0_AM: u64 = 1 << 18;
pub(super) const CR0_PG: u64 = 1 << 31;
pub(super) const CR4_PAE: u64 = 1 << 5;
pub(super) const CR4_PGE: u64 = 1 << 7;
pub(super) const CR4_OSFXSR: u64 = 1 << 9;
pub(super) const CR4_UMIP: u64 = 1 << 11;
pub(super) const CR4_FSGSBASE: u64 = 1 << 16;
pub(super) const CR4_PCIDE: u64 = 1 << 17;
pub(super) const CR4_OSXSAVE: u64 = 1 << 18;
pub(super) const CR4_SMEP: u64 = 1 << 20;
pub(super) const CR4_SMAP: u64 = 1 << 21;
pub(super) const EFER_SCE: u64 = 1;
pub(super) const EFER_LME: u64 = 1 << 8;
pub(super) const EFER_LMA: u64 = 1 << 10;
pub(super) const EFER_NXE: u64 = 1 << 11;

/// Mode bit 0 is set at privilege level 3. Mode bits 1-2: code size, 0 = 16, 1 = 32, 2 = 64 bits.
pub(super) const MODE_SIZE_SHIFT: u8 = 1;

/// Mode bit: SSE instructions fault.
pub(super) const MODE_SSE_OFF: u8 = 8;

/// The processor. Handlers reach the first fields by small offsets from one register; the rest is for slow paths.
#[repr(C)]
pub(super) struct Cpu {
    /// 16 registers, zero, the running page's virtual address, that plus 4096, spare.
    pub gpr: [u64; 20],
    pub flags: Lazy,
    /// Instructions that may still start before `limit`; the running block's are already taken off.
    pub budget: i64,
    /// The data TLB of the current view.
    pub tlb: *mut Entry,
    /// Head of the running block.
    pub head: *const Op,
    pub jump: *mut JumpEntry,
    /// A slow path wants the block to end after this instruction.
    pub exit_request: bool,
    /// Set by slow forms only.
    pub op: *const Op,
    pub xmm: [u128; 16],
    /// What each entry of the fetch TLB is known by: a number that was given to no other filling of any entry, times 16; or
    /// [`tlb::UNFILLED`]. A jump target that was found while the entry of its page had a stamp is still good while it has it.
    pub stamps: [u64; tlb::FETCH_ENTRIES],

    pub rip: u64,
    /// Where the running instruction ends; set for interpreted instructions only.
    pub next_rip: u64,
    /// The position at which `budget` is 0.
    pub limit: u64,
    pub exit: Exit,
    pub fault: Fault,
    /// Vector for a non-canonical address: 13, or 12 for the stack.
    pub address_vector: u8,
    /// RFLAGS without the arithmetic flags.
    pub system_flags: u64,
    /// Everything that no fast path needs. Its general registers, RIP, RFLAGS, XMM and position are stale while running.
    pub s: CpuState,
    pub mode: u8,
    /// Which of the three data TLBs is `tlb`.
    pub view: usize,
    /// The last stamp that was given.
    pub stamp: u64,
    pub tlbs: Box<[Entry]>,
    pub any_large: bool,
    pub fetch: Box<[FetchEntry]>,
    pub jumps: Box<[JumpEntry]>,
    pub ram_base: *mut u8,
    pub ram_size: u64,
    pub page_flags: *const AtomicU8,
    pub ram: GuestRam,
    pub flag_table: PageFlags,
    pub platform: Option<*mut (dyn Platform + 'static)>,
    pub cache: Cache,
    /// What the engine met and lacks, to be told.
    pub unimplemented: Vec<String>,
    /// All that was ever told, without positions.
    pub noted: BTreeSet<String>,
    /// What accesses are looked at for: see [`super::debug`].
    pub watch: u8,
    /// Code breakpoints are armed.
    pub stepping: bool,
    /// Data and port breakpoints that the running instruction has hit, as bits of DR6.
    pub hits: u64,
    /// The instruction is a REP that goes on.
    pub repeating: bool,
    /// The host's MXCSR has nothing in it but what operations of the guest have left since it was last cleared.
    pub float_ready: bool,
    /// The instruction cleared TF in a way that no single-step trap follows.
    pub no_step: bool,
    /// A data TLB that never matches.
    pub blind: Box<[Entry]>,
    /// [`crate::memory::PageFlags::dirty_generation`] as the write tags know it.
    pub dirty_generation: u64,
}

impl Cpu {
    /// Privilege level.
    #[inline(always)]
    pub(super) fn cpl(&self) -> u8 {
        (self.s.segments[SS].attributes >> 5) as u8 & 3
    }

    /// True in 64-bit mode proper (not compatibility mode).
    #[inline(always)]
    pub(super) fn long64(&self) -> bool {
        self.mode >> MODE_SIZE_SHIFT & 3 == 2
    }

    pub(super) fn long_mode(&self) -> bool {
        self.s.efer & EFER_LMA != 0
    }

    /// The platform; there is one whenever instructions run.
    pub(super) fn platform(&mut self) -> &mut dyn Platform {
        let platform = self.platform.expect("instructions run only inside run()");
        self.float_ready = false;
        // SAFETY: run() sets the pointer from a live exclusive borrow and clears it before it returns.
        unsafe { &mut *platform }
    }

    /// The position after the running instruction (its own start counted). For slow forms, which set `op`; the driver
    /// sets it to null while it delivers events.
    pub(super) fn position_now(&self) -> u64 {
        if self.op.is_null() {
            return self.limit.wrapping_sub(self.budget as u64);
        }
        // SAFETY: `head` and `op` belong to the running block, which is kept until the driver is back.
        let (block, index) = unsafe {
            let block = &*((*self.head).imm as *const Block);
            (block, self.op.offset_from(self.head) as usize)
        };
        let unstarted = i64::from(block.count) - i64::from(block.side[index].index) - 1;
        self.limit.wrapping_sub((self.budget + unstarted) as u64)
    }

    /// Recomputes what follows from CS, SS, CR0, CR4, EFER, the debug registers and AC: mode, memory view.
    pub(super) fn update_mode(&mut self) {
        let cs = self.s.segments[CS].attributes;
        let size = if self.long_mode() && cs & 0x2000 != 0 { 2 } else { u8::from(cs & 0x4000 != 0) };
        let user = self.cpl() == 3;
        let sse_off = self.s.cr0 & (CR0_EM | CR0_TS) != 0 || self.s.cr4 & CR4_OSFXSR == 0;
        self.mode = u8::from(sse_off) << 3 | size << MODE_SIZE_SHIFT | u8::from(user);
        self.view = if user {
            tlb::USER
        } else if self.s.cr4 & CR4_SMAP != 0 && self.system_flags & AC != 0 {
            tlb::SUPERVISOR_AC
        } else {
            tlb::SUPERVISOR
        };
        self.update_watch();
        self.tlb = if self.watch == 0 {
            &raw mut self.tlbs[self.view * tlb::ENTRIES]
        } else {
            self.blind.as_mut_ptr()
        };
    }

    /// Forgets where jumps lead, because blocks go.
    pub(super) fn forget_jumps(&mut self) {
        for entry in 0..tlb::FETCH_ENTRIES {
            if self.stamps[entry] != tlb::UNFILLED {
                self.stamps[entry] = self.next_stamp();
            }
        }
    }

    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp += 16;
        self.stamp
    }
}

/// An operand type.
pub(super) trait Int:
    Copy
    + Eq
    + Ord
    + std::ops::BitAnd<Output = Self>
    + std::ops::BitOr<Output = Self>
    + std::ops::BitXor<Output = Self>
    + std::ops::Not<Output = Self>
    + std::ops::Shl<u32, Output = Self>
    + std::ops::Shr<u32, Output = Self>
    + 'static
{
    const BITS: u32;
    const SIZE: u64;
    const ZERO: Self;
    fn from64(value: u64) -> Self;
    fn zext(self) -> u64;
    fn sext(self) -> u64;
    fn wadd(self, other: Self) -> Self;
    fn wsub(self, other: Self) -> Self;
    fn rol(self, n: u32) -> Self;
    fn ror(self, n: u32) -> Self;
    fn sar(self, n: u32) -> Self;
    /// Writes a register: 32-bit writes clear the upper half.
    ///
    /// # Safety
    /// `offset` is that of a register of this size.
    unsafe fn write(self, cpu: *mut Cpu, offset: u8);
}

macro_rules! int {
    ($t:ty, $s:ty, $w:ty) => {
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            const SIZE: u64 = size_of::<$t>() as u64;
            const ZERO: Self = 0;
            #[inline(always)]
            fn from64(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn zext(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $s as i64 as u64
            }
            #[inline(always)]
            fn wadd(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn wsub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn rol(self, n: u32) -> Self {
                self.rotate_left(n)
            }
            #[inline(always)]
            fn ror(self, n: u32) -> Self {
                self.rotate_right(n)
            }
            #[inline(always)]
            fn sar(self, n: u32) -> Self {
                ((self as $s) >> n.min(<$t>::BITS - 1)) as $t
            }
            #[inline(always)]
            unsafe fn write(self, cpu: *mut Cpu, offset: u8) {
                // SAFETY: the offset lies within the register file at the start of Cpu.
                unsafe { cpu.cast::<u8>().add(offset as usize).cast::<$w>().write_unaligned(self as $w) };
            }
        }
    };
}
int!(u8, i8, u8);
int!(u16, i16, u16);
int!(u32, i32, u64);
int!(u64, i64, u64);

/// Reads a register.
///
/// # Safety
/// `offset` is that of a register of this size.
#[inline(always)]
pub(super) unsafe fn reg<T: Int>(cpu: *const Cpu, offset: u8) -> T {
    // SAFETY: the offset lies within the register file at the start of Cpu.
    unsafe { cpu.cast::<u8>().add(offset as usize).cast::<T>().read_unaligned() }
}

/// Which form of a handler: the fast one has flat addresses and leaves to the slow one whenever the TLB entry does not
/// simply match, and so has the based one after adding the base of FS or GS; the slow one can do everything.
pub(super) trait Form: 'static {
    const SLOW: bool;
    const BASED: bool = false;
    /// There may be an index register.
    const INDEXED: bool = true;
}
#[derive(Debug)]
pub(super) struct Fast;
#[derive(Debug)]
pub(super) struct Slow;
#[derive(Debug)]
pub(super) struct Based;
impl Form for Based {
    const SLOW: bool = false;
    const BASED: bool = true;
}
impl Form for Fast {
    const SLOW: bool = false;
}
/// As the fast one, without an index register.
#[derive(Debug)]
pub(super) struct Near;
impl Form for Near {
    const SLOW: bool = false;
    const INDEXED: bool = false;
}
impl Form for Slow {
    const SLOW: bool = true;
}

/// The linear address of an op's memory operand of `size` bytes. Beyond its segment's limit it is one that faults.
///
/// # Safety
/// `cpu` and `op` are live; `op` has an address.
#[inline(always)]
pub(super) unsafe fn address<F: Form>(cpu: *mut Cpu, op: *const Op, size: u64) -> u64 {
    // SAFETY: by contract.
    unsafe {
        if F::SLOW {
            return address_slow(cpu, op, size);
        }
        let o = &*op;
        if !F::INDEXED {
            return reg::<u64>(cpu, o.base).wrapping_add(o.disp as i64 as u64);
        }
        let shift = if F::BASED { o.scale & 3 } else { o.scale & 63 };
        let flat = reg::<u64>(cpu, o.base)
            .wrapping_add(reg::<u64>(cpu, o.index) << shift)
            .wrapping_add(o.disp as i64 as u64);
        if F::BASED {
            // FS or GS: the decoder makes no others.
            let segment = if o.scale >> SEGMENT_SHIFT & 7 == 5 { 4 } else { 5 };
            return flat.wrapping_add((*cpu).s.segments[segment].base);
        }
        flat
    }
}

/// [`address`] in all its forms.
///
/// # Safety
/// As [`address`].
#[inline(never)]
pub(super) unsafe extern "C" fn address_slow(cpu: *mut Cpu, op: *const Op, size: u64) -> u64 {
    // SAFETY: by contract.
    unsafe {
        let o = &*op;
        let c = &mut *cpu;
        c.op = op;
        let stack = o.base == (RSP * 8) as u8 || o.base == 5 * 8;
        let mut value = offset_only(cpu, op);
        let segment = (o.scale >> SEGMENT_SHIFT) & 7;
        if o.scale & LINEAR32 != 0 {
            return c.in_segment(segment as usize - 1, value, size);
        }
        c.address_vector = if stack && segment == 0 { 12 } else { 13 };
        if segment != 0 {
            value = value.wrapping_add(c.s.segments[segment as usize - 1].base);
        }
        value
    }
}

/// The offset of an op's memory operand within its segment, as LEA gives it.
///
/// # Safety
/// As [`address`].
#[inline(always)]
pub(super) unsafe fn offset_only(cpu: *mut Cpu, op: *const Op) -> u64 {
    // SAFETY: by contract.
    unsafe {
        let o = &*op;
        let value = reg::<u64>(cpu, o.base)
            .wrapping_add(reg::<u64>(cpu, o.index) << (o.scale & 3))
            .wrapping_add(o.disp as i64 as u64);
        if o.scale & ADDRESS32 != 0 { value & 0xFFFF_FFFF } else { value }
    }
}
