//! Handlers: the code of each kind of op, and how they hand over to each other.
//!
//! In release builds a handler ends in a call of the next one, which the compiler turns into a jump. In debug builds it
//! gives the next op to the driver's loop instead, since nothing guarantees the jump there.

pub(super) mod alu;
pub(super) mod bits;
pub(super) mod branch;
pub(super) mod combined;
pub(super) mod control;
pub(super) mod descriptor;
pub(super) mod float;
pub(super) mod general;
pub(super) mod io;
pub(super) mod legacy;
pub(super) mod mmx;
pub(super) mod mov;
pub(super) mod muldiv;
pub(super) mod operand;
pub(super) mod paired;
pub(super) mod shift;
pub(super) mod shortcut;
pub(super) mod sse;
pub(super) mod sse_fast;
pub(super) mod sse_float;
pub(super) mod sse_later;
pub(super) mod sse_search;
mod sse_strings;
pub(super) mod stack;
pub(super) mod string;
pub(super) mod system;
pub(super) mod transfer;
mod wide;
pub(super) mod x87;
mod x87_functions;
pub(super) mod x87_transcendental;
pub(super) mod xstate;

use super::block::{Block, Flow, Interpreted, jump_index};
use super::cpu::{Cpu, Exit, Form, Slow};
use super::op::Op;

/// Picks the instance of a handler for an operand size and form.
macro_rules! sized {
    ($size:expr, $slow:expr, $f:ident $(, $g:ty)*) => {
        match ($size, $slow) {
            (1, false) => $f::<u8 $(, $g)*, $crate::software::cpu::Fast> as $crate::software::op::Handler,
            (2, false) => $f::<u16 $(, $g)*, $crate::software::cpu::Fast>,
            (4, false) => $f::<u32 $(, $g)*, $crate::software::cpu::Fast>,
            (_, false) => $f::<u64 $(, $g)*, $crate::software::cpu::Fast>,
            (1, true) => $f::<u8 $(, $g)*, $crate::software::cpu::Slow>,
            (2, true) => $f::<u16 $(, $g)*, $crate::software::cpu::Slow>,
            (4, true) => $f::<u32 $(, $g)*, $crate::software::cpu::Slow>,
            (_, true) => $f::<u64 $(, $g)*, $crate::software::cpu::Slow>,
        }
    };
}

/// Picks the instance of a handler without memory operand for an operand size.
macro_rules! reg_sized {
    ($size:expr, $f:ident $(, $g:ty)*) => {
        match $size {
            1 => $f::<u8 $(, $g)*> as $crate::software::op::Handler,
            2 => $f::<u16 $(, $g)*>,
            4 => $f::<u32 $(, $g)*>,
            _ => $f::<u64 $(, $g)*>,
        }
    };
}

/// Unwraps a memory read, or leaves: a fast form to the slow one, the slow one to its fault.
macro_rules! load {
    ($value:expr, $f:ty, $cpu:ident, $op:ident, $slow:expr) => {
        match $value {
            Some(value) => value,
            None if <$f as $crate::software::cpu::Form>::SLOW => {
                return $crate::software::exec::leave_fault($cpu, $op);
            }
            None => return $slow($cpu, $op),
        }
    };
}

/// Leaves likewise if a memory write did not happen.
macro_rules! store {
    ($done:expr, $f:ty, $cpu:ident, $op:ident, $slow:expr) => {
        if !$done {
            if <$f as $crate::software::cpu::Form>::SLOW {
                return $crate::software::exec::leave_fault($cpu, $op);
            }
            return $slow($cpu, $op);
        }
    };
}

pub(super) use {load, reg_sized, sized, store};

/// Goes on with `op`.
///
/// # Safety
/// `op` is a live op of the running block, or the head of a live block of this page and mode.
#[inline(always)]
pub(super) unsafe fn go(cpu: *mut Cpu, op: *const Op) -> *const Op {
    if cfg!(debug_assertions) {
        op
    } else {
        // SAFETY: by contract.
        unsafe { ((*op).run)(cpu, op) }
    }
}

/// Goes on with the op after `op`.
///
/// # Safety
/// `op` is the running op and not the last of its block.
#[inline(always)]
pub(super) unsafe fn next<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: by contract.
    unsafe {
        if F::SLOW && (*cpu).exit_request {
            return boundary(cpu, op);
        }
        go(cpu, op.add(1))
    }
}

/// Goes where the jump op `jump` leads.
///
/// # Safety
/// `jump` is a jump op of the running block.
#[inline(always)]
pub(super) unsafe fn follow(cpu: *mut Cpu, jump: *const Op) -> *const Op {
    // SAFETY: a link is always the head of the stub or of a live block.
    unsafe { head(cpu, (*jump).imm as *const Op) }
}

/// Goes to an address, through the jump cache.
///
/// # Safety
/// The running block is done.
#[inline(always)]
pub(super) unsafe fn jump_to(cpu: *mut Cpu, rip: u64) -> *const Op {
    // SAFETY: the index is below JUMPS; a matching entry holds a block that is not freed.
    unsafe {
        let c = &mut *cpu;
        let entry = &*c.jump.add(jump_index(rip));
        let key = c.stamps[Cpu::fetch_index(rip)] | u64::from(c.mode);
        if entry.rip == rip && entry.key == key {
            return enter_page(cpu, rip, entry.head);
        }
        c.rip = rip;
        c.exit = Exit::Lookup;
        std::ptr::null()
    }
}

/// Goes to a head on the page of `rip`.
///
/// # Safety
/// The running block is done; the head is of a block at `rip`, for this mode, that is not freed.
#[inline(always)]
unsafe fn enter_page(cpu: *mut Cpu, rip: u64, op: *const Op) -> *const Op {
    // SAFETY: by contract.
    unsafe {
        let page = rip & !0xFFF;
        (*cpu).gpr[17] = page;
        (*cpu).gpr[18] = page.wrapping_add(4096);
        head(cpu, op)
    }
}

/// Ends the chain at `rip` after the last instruction of the block, for the platform to be looked at.
///
/// # Safety
/// The running block is done.
#[cold]
pub(super) unsafe fn leave_to(cpu: *mut Cpu, rip: u64) -> *const Op {
    // SAFETY: by contract.
    let c = unsafe { &mut *cpu };
    c.rip = rip;
    c.exit = Exit::Boundary;
    std::ptr::null()
}

/// [`jump_to`], or [`leave_to`] if a slow form asked for it.
///
/// # Safety
/// As [`jump_to`].
#[inline(always)]
pub(super) unsafe fn finish<F: Form>(cpu: *mut Cpu, rip: u64) -> *const Op {
    // SAFETY: by contract.
    unsafe { if F::SLOW && (*cpu).exit_request { leave_to(cpu, rip) } else { jump_to(cpu, rip) } }
}

/// The running block.
///
/// # Safety
/// A block is running.
unsafe fn running<'a>(cpu: *const Cpu) -> &'a Block {
    // SAFETY: a head's immediate is its block, which is kept at least until the driver is back.
    unsafe { &*((*(*cpu).head).imm as *const Block) }
}

/// Leaves with a fault at `op`; what follows it in the block did not start.
///
/// # Safety
/// `op` is the running op; `fault` is set.
#[cold]
#[inline(never)]
pub(super) unsafe extern "C" fn leave_fault(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: by contract.
    unsafe {
        let block = running(cpu);
        let c = &mut *cpu;
        let side = block.side[op.offset_from(c.head) as usize];
        c.budget += i64::from(block.count - side.index - 1);
        c.rip = c.gpr[17].wrapping_add(u64::from(side.offset));
        c.exit = Exit::Fault;
    }
    std::ptr::null()
}

/// Leaves after `op`, for the platform to be looked at.
///
/// # Safety
/// `op` is the running op, and of one instruction.
#[cold]
#[inline(never)]
pub(super) unsafe extern "C" fn boundary(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: by contract.
    unsafe {
        let block = running(cpu);
        let c = &mut *cpu;
        let side = block.side[op.offset_from(c.head) as usize];
        c.budget += i64::from(block.count - side.index - 1);
        c.rip = c.wrap_rip(c.gpr[17].wrapping_add(u64::from(side.after)));
        c.exit = Exit::Boundary;
    }
    std::ptr::null()
}

/// Op 0 of a block: pays for all of its instructions. `disp` is their number, `imm` the block. Jumps do its work themselves,
/// so that each goes to the block's first instruction by an indirect jump of its own.
#[inline(always)]
pub(super) unsafe extern "C" fn head(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op.
    unsafe {
        let c = &mut *cpu;
        let left = c.budget - i64::from((*op).disp);
        if left < 0 {
            return short_of_budget(cpu, op);
        }
        c.budget = left;
        c.head = op;
        go(cpu, op.add(1))
    }
}

#[cold]
#[inline(never)]
unsafe extern "C" fn short_of_budget(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as head.
    unsafe {
        let c = &mut *cpu;
        let block = &*((*op).imm as *const Block);
        c.rip = c.gpr[17].wrapping_add(u64::from(block.offset));
        // A dropped block asks for more than there ever is.
        c.exit = if block.dead && (*op).disp == i32::MAX { Exit::Lookup } else { Exit::Budget };
    }
    std::ptr::null()
}

/// The stub of a jump within the page: links it if the target is cached. `imm` is the target's offset, `disp` the
/// distance to the jump op. Before it lies a head that costs nothing, so that a jump need not know whether it has a target.
pub(super) unsafe extern "C" fn resolve(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: the block is running; blocks found in the cache are live.
    unsafe {
        let block = running(cpu);
        let c = &mut *cpu;
        if !block.dead
            && let Some(target) = c.cache.find(block.page, (*op).imm as u16, block.mode)
        {
            let jump = op.offset((*op).disp as isize).cast_mut();
            let head = (*target).ops.as_ptr();
            (*jump).imm = head as u64;
            (*target).incoming.push(jump);
            return self::head(cpu, head);
        }
        c.rip = c.gpr[17].wrapping_add((*op).imm);
        c.exit = Exit::Lookup;
    }
    std::ptr::null()
}

/// The stub of a jump to another page, in 64-bit mode. `imm` is the target's distance from this page. The three ops behind it
/// remember in their immediates where it led last: the stamp of the target's page, the target, and the head. The block, whose
/// page may be mapped more than once, fixes the mode alone, and the stamp tells only that the page's entry in the fetch TLB is
/// the one of then, which may be of another page with the same entry.
pub(super) unsafe extern "C" fn far(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as resolve; a head that is remembered under a stamp is of a block that is not freed while there is such a stamp.
    unsafe {
        let rip = (*cpu).gpr[17].wrapping_add((*op).imm);
        let stamp = (&(*cpu).stamps)[Cpu::fetch_index(rip)];
        if stamp == (*op.add(1)).imm && rip == (*op.add(2)).imm {
            return enter_page(cpu, rip, (*op.add(3)).imm as *const Op);
        }
        far_away(cpu, op)
    }
}

/// [`far`] to where it did not lead last.
#[cold]
#[inline(never)]
unsafe extern "C" fn far_away(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as far; the ops belong to the running block, which is written by nobody else.
    unsafe {
        let c = &mut *cpu;
        let rip = c.gpr[17].wrapping_add((*op).imm);
        let entry = c.jumps[jump_index(rip)];
        let stamp = c.stamps[Cpu::fetch_index(rip)];
        if entry.rip == rip && entry.key == stamp | u64::from(c.mode) {
            let memory = op.cast_mut();
            (*memory.add(1)).imm = stamp;
            (*memory.add(2)).imm = rip;
            (*memory.add(3)).imm = entry.head as u64;
        }
        jump_to(cpu, rip)
    }
}

/// As [`far`], with EIP wrapping at 32 bits.
pub(super) unsafe extern "C" fn far32(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as resolve.
    unsafe { jump_to(cpu, (*cpu).gpr[17].wrapping_add((*op).imm) & 0xFFFF_FFFF) }
}

/// An instruction that is interpreted from its decoded form. `imm` is the [`Interpreted`].
pub(super) unsafe extern "C" fn interpret(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: the immediate belongs to the running block.
    unsafe {
        let interpreted = &*((*op).imm as *const Interpreted);
        let c = &mut *cpu;
        c.op = op;
        let instruction = &interpreted.instruction;
        c.rip = c.gpr[17].wrapping_add(instruction.ip());
        c.next_rip = c.wrap_rip(c.gpr[17].wrapping_add(instruction.next_ip()));
        // Not what an earlier instruction left: it is no part of the architectural state.
        c.address_vector = 13;
        match (interpreted.run)(c, instruction) {
            Ok(Flow::Next) => next::<Slow>(cpu, op),
            Ok(Flow::Boundary) => boundary(cpu, op),
            Ok(flow) => {
                let block = running(cpu);
                let side = block.side[op.offset_from(c.head) as usize];
                c.budget += i64::from(block.count - side.index - 1);
                if let Flow::Jump(rip) = flow {
                    c.rip = rip;
                    c.exit = Exit::Boundary;
                } else {
                    c.repeating = true;
                    c.exit = if c.exit_request { Exit::Boundary } else { Exit::Lookup };
                }
                std::ptr::null()
            }
            Err(fault) => {
                c.fault = fault;
                leave_fault(cpu, op)
            }
        }
    }
}

impl Cpu {
    /// EIP is 32 bits wide outside 64-bit mode.
    pub(super) fn wrap_rip(&self, rip: u64) -> u64 {
        if self.long64() { rip } else { rip & 0xFFFF_FFFF }
    }
}
