//! PCMPISTRI by the host's own instruction: C libraries search strings with it. Its result is fixed to the last flag, so the
//! host's is the guest's. One handler for each control byte, since the instruction has it as an immediate.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use super::{interpret, next};
use crate::software::cpu::{Cpu, Fast, address};
use crate::software::flags::{CF, OF, SF, ZF};
use crate::software::op::{Handler, Op};
use crate::software::tlb::fast_read;

/// # Safety
/// `cpu` is live, and the host has SSE4.2, which ft-vm requires.
#[inline(always)]
unsafe fn search<const CONTROL: u8>(cpu: *mut Cpu, a: __m128i, b: __m128i) {
    let (index, carry, zero, sign, overflow): (u32, u8, u8, u8, u8);
    // SAFETY: the instruction changes ECX and flags alone.
    unsafe {
        asm!(
            "pcmpistri {a}, {b}, {control}",
            "setc {carry}",
            "setz {zero}",
            "sets {sign}",
            "seto {overflow}",
            a = in(xmm_reg) a,
            b = in(xmm_reg) b,
            control = const CONTROL,
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            sign = out(reg_byte) sign,
            overflow = out(reg_byte) overflow,
            out("ecx") index,
            options(pure, nomem, nostack)
        );
    }
    // SAFETY: by contract.
    let c = unsafe { &mut *cpu };
    c.gpr[1] = index.into();
    let flag = |set: u8, bit: u64| u64::from(set) * bit;
    c.flags.set_bits(flag(carry, CF) | flag(zero, ZF) | flag(sign, SF) | flag(overflow, OF));
}

/// The XMM register of a number.
#[inline(always)]
unsafe fn xmm(cpu: *const Cpu, number: u8) -> __m128i {
    // SAFETY: the decoder chose a valid number; any 16 bytes are a vector.
    unsafe { (&raw const (*cpu).xmm).cast::<__m128i>().add(number.into()).read() }
}

/// Registers (base and reg, by number).
unsafe extern "C" fn registers<const CONTROL: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op.
    unsafe {
        search::<CONTROL>(cpu, xmm(cpu, (*op).base), xmm(cpu, (*op).reg));
        next::<Fast>(cpu, op)
    }
}

/// Register (reg) and memory, which need not be aligned. `imm` is the interpreted form, for all else.
unsafe extern "C" fn memory<const CONTROL: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as registers; a matching TLB entry maps the whole operand.
    unsafe {
        let at = address::<Fast>(cpu, op, 16);
        let Some(from) = fast_read(cpu, at, 16) else { return interpret(cpu, op) };
        search::<CONTROL>(cpu, xmm(cpu, (*op).reg), from.cast::<__m128i>().read_unaligned());
        next::<Fast>(cpu, op)
    }
}

macro_rules! controls {
    ($f:ident: $($high:literal)*) => {
        [$(
            $f::<{ $high }>, $f::<{ $high + 1 }>, $f::<{ $high + 2 }>, $f::<{ $high + 3 }>,
            $f::<{ $high + 4 }>, $f::<{ $high + 5 }>, $f::<{ $high + 6 }>, $f::<{ $high + 7 }>,
            $f::<{ $high + 8 }>, $f::<{ $high + 9 }>, $f::<{ $high + 10 }>, $f::<{ $high + 11 }>,
            $f::<{ $high + 12 }>, $f::<{ $high + 13 }>, $f::<{ $high + 14 }>, $f::<{ $high + 15 }>,
        )*]
    };
}

/// The handlers for a control byte, whose top bit means nothing: with a register, with memory.
pub(in crate::software) fn handlers(control: u8) -> [Handler; 2] {
    const REGISTERS: [Handler; 128] = controls!(registers: 0 16 32 48 64 80 96 112);
    const MEMORY: [Handler; 128] = controls!(memory: 0 16 32 48 64 80 96 112);
    let control = usize::from(control & 0x7F);
    [REGISTERS[control], MEMORY[control]]
}
