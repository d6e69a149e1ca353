//! Shortcuts: one op for several instructions that access memory, in front of the ops of those instructions. If the TLB
//! matches, it does the work of all; if not, it has done nothing, and its followers do it one by one.

use super::alu::{compare_and_branch, conditions};
use super::{go, jump_to};
use crate::software::cpu::{Cpu, Fast, Form, Int, Near, RSP, address, reg};
use crate::software::op::{Handler, Op};
use crate::software::tlb::{fast_read, fast_write};

/// Which operand of a comparison is memory, and what the other one is.
const IMMEDIATE: u8 = 0;
const SECOND: u8 = 1;
const FIRST: u8 = 2;

/// CMP or TEST with memory, and Jcc. The ops of the two instructions follow, and the jump ops for taken and not.
unsafe extern "C" fn compare<T: Int, F: Form, const SUBTRACT: bool, const MEMORY: u8, const C: u8>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; a matching TLB entry maps the whole operand.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        let Some(host) = fast_read(cpu, at, T::SIZE) else { return go(cpu, op.add(1)) };
        let memory = host.cast::<T>().read_unaligned();
        let (a, b) = match MEMORY {
            IMMEDIATE => (memory, T::from64((*op).imm)),
            SECOND => (reg(cpu, (*op).reg), memory),
            _ => (memory, reg(cpu, (*op).reg)),
        };
        compare_and_branch::<T, SUBTRACT, C>(cpu, a, b, op.add(3))
    }
}

/// The other operand of a comparison with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::software) enum Other {
    /// The second one is an immediate.
    Immediate,
    /// The first one is a register.
    FirstRegister,
    /// The second one is a register.
    SecondRegister,
}

/// The handler of a comparison with memory and a Jcc: `subtract` for CMP, else TEST.
pub(in crate::software) fn compare_handler(
    size: usize,
    subtract: bool,
    other: Other,
    indexed: bool,
    condition: u8,
) -> Option<Handler> {
    fn table<T: Int, F: Form>(subtract: bool, other: Other) -> Option<[Handler; 16]> {
        // `conditions` takes types and constants alike, and puts the condition last.
        Some(match (subtract, other) {
            (true, Other::Immediate) => conditions!(compare, T, F, true, IMMEDIATE),
            (true, Other::FirstRegister) => conditions!(compare, T, F, true, SECOND),
            (true, Other::SecondRegister) => conditions!(compare, T, F, true, FIRST),
            (false, Other::Immediate) => conditions!(compare, T, F, false, IMMEDIATE),
            _ => return None,
        })
    }
    let table = match (size, indexed) {
        (1, false) => table::<u8, Near>(subtract, other),
        (4, false) => table::<u32, Near>(subtract, other),
        (8, false) => table::<u64, Near>(subtract, other),
        (1, true) => table::<u8, Fast>(subtract, other),
        (4, true) => table::<u32, Fast>(subtract, other),
        (8, true) => table::<u64, Fast>(subtract, other),
        _ => None,
    }?;
    Some(table[usize::from(condition & 15)])
}

/// PUSH of N registers: their offsets are the bytes of `imm`.
unsafe extern "C" fn push<const N: usize>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as compare.
    unsafe {
        let bottom = (*cpu).gpr[RSP].wrapping_sub(8 * N as u64);
        let Some(host) = fast_write(cpu, bottom, 8 * N as u64) else { return go(cpu, op.add(1)) };
        let registers = (*op).imm;
        for n in 0..N {
            let value = reg::<u64>(cpu, (registers >> (8 * n)) as u8);
            host.cast::<u64>().add(N - 1 - n).write_unaligned(value);
        }
        (*cpu).gpr[RSP] = bottom;
        go(cpu, op.add(1 + N))
    }
}

/// POP of N registers, as [`push`], and with `RETURN` RET.
unsafe extern "C" fn pop<const N: usize, const RETURN: bool>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as compare.
    unsafe {
        let size = 8 * (N + usize::from(RETURN)) as u64;
        let stack = (*cpu).gpr[RSP];
        let Some(host) = fast_read(cpu, stack, size) else { return go(cpu, op.add(1)) };
        let host = host.cast::<u64>();
        let registers = (*op).imm;
        for n in 0..N {
            host.add(n).read_unaligned().write(cpu, (registers >> (8 * n)) as u8);
        }
        (*cpu).gpr[RSP] = stack.wrapping_add(size);
        if RETURN {
            return jump_to(cpu, host.add(N).read_unaligned());
        }
        go(cpu, op.add(1 + N))
    }
}

/// Most registers of a push or pop.
pub(in crate::software) const MOST_REGISTERS: usize = 6;

/// The handler that pushes so many registers.
pub(in crate::software) fn push_handler(count: usize) -> Option<Handler> {
    [
        None,
        None,
        Some(push::<2> as Handler),
        Some(push::<3>),
        Some(push::<4>),
        Some(push::<5>),
        Some(push::<6>),
    ]
    .get(count)
    .copied()
    .flatten()
}

/// The handler that pops so many registers, and perhaps returns.
pub(in crate::software) fn pop_handler(count: usize, returns: bool) -> Option<Handler> {
    Some(match (count, returns) {
        (2, false) => pop::<2, false>,
        (3, false) => pop::<3, false>,
        (4, false) => pop::<4, false>,
        (5, false) => pop::<5, false>,
        (6, false) => pop::<6, false>,
        (1, true) => pop::<1, true>,
        (2, true) => pop::<2, true>,
        (3, true) => pop::<3, true>,
        (4, true) => pop::<4, true>,
        (5, true) => pop::<5, true>,
        (6, true) => pop::<6, true>,
        _ => return None,
    })
}
