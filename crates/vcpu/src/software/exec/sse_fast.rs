//! Fast handlers of the SSE instructions that compilers and C libraries use most: those whose operation the host has as
//! one instruction, with register operands or plain memory operands that the TLB matches.
//!
//! Everything else (an unaligned or missing operand, floating-point modes other than the usual ones) is left to the
//! interpreted form of the same instruction, which every op here carries as its immediate.
//!
//! Floating point runs without loading MXCSR around each operation: while the guest's modes are those of reset (round to
//! nearest, all exceptions masked, no flushing), which are the host's too, only the exception flags have to be carried over.
//! They collect in the host's MXCSR from a moment at which it was cleared; [`Cpu::float_ready`] says that nothing but
//! operations of the guest ran since then.

use std::arch::asm;
use std::arch::x86_64 as host;
use std::arch::x86_64::__m128i;

use iced_x86::Mnemonic;

use super::{interpret, next};
use crate::software::cpu::{Cpu, Fast, Int, address, reg};
use crate::software::flags::{CF, PF, ZF};
use crate::software::op::{Handler, Op};
use crate::software::tlb::{fast_read, fast_write};

/// MXCSR after reset: all exceptions masked, round to nearest, no flags.
const PLAIN: u32 = 0x1F80;
/// The exception flags in MXCSR.
const FLAGS: u32 = 0x3F;

/// A two-operand operation: destination and source to destination.
trait Operation: 'static {
    /// Bytes of a memory operand.
    const BYTES: u64;
    const FLOAT: bool;
    fn run(a: __m128i, b: __m128i) -> __m128i;
}

/// The XMM registers.
///
/// # Safety
/// `cpu` is live.
#[inline(always)]
unsafe fn xmm(cpu: *mut Cpu) -> *mut __m128i {
    // SAFETY: by contract; any 16 bytes are a vector.
    unsafe { (&raw mut (*cpu).xmm).cast() }
}

/// False if the guest's floating-point modes are not the usual ones.
///
/// # Safety
/// `cpu` is live.
#[inline(always)]
unsafe fn begin(cpu: *mut Cpu) -> bool {
    // SAFETY: by contract. The modes loaded are those that Rust code expects.
    unsafe {
        if (*cpu).s.mxcsr & !FLAGS != PLAIN {
            return false;
        }
        if !(*cpu).float_ready {
            (*cpu).float_ready = true;
            asm!("ldmxcsr [{}]", in(reg) &PLAIN, options(nostack, readonly, preserves_flags));
        }
        true
    }
}

/// Carries exception flags over to the guest.
///
/// # Safety
/// `cpu` is live, and [`begin`] was true.
#[inline(always)]
unsafe fn end(cpu: *mut Cpu) {
    // SAFETY: by contract.
    unsafe {
        let mut now = 0_u32;
        asm!("stmxcsr [{}]", in(reg) &raw mut now, options(nostack, preserves_flags));
        (*cpu).s.mxcsr |= now & FLAGS;
    }
}

/// Reads a memory operand of 4, 8 or 16 bytes; 16 must be aligned. `None` leaves it to the interpreted form.
///
/// # Safety
/// `cpu` and `op` are live; `op` has a plain address.
#[inline(always)]
unsafe fn operand(cpu: *mut Cpu, op: *const Op, bytes: u64) -> Option<__m128i> {
    // SAFETY: a matching TLB entry maps the whole operand.
    unsafe {
        let at = address::<Fast>(cpu, op, bytes);
        if bytes == 16 && at & 15 != 0 {
            return None;
        }
        let from = fast_read(cpu, at, bytes)?;
        Some(match bytes {
            16 => host::_mm_loadu_si128(from.as_ptr().cast()),
            8 => host::_mm_cvtsi64_si128(from.cast::<i64>().read_unaligned()),
            _ => host::_mm_cvtsi32_si128(from.cast::<i32>().read_unaligned()),
        })
    }
}

/// Register (base) and register (reg), both by number.
unsafe extern "C" fn rr<O: Operation>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid registers.
    unsafe {
        if O::FLOAT && !begin(cpu) {
            return interpret(cpu, op);
        }
        let (a, b) = (xmm(cpu).add((*op).base as usize), xmm(cpu).add((*op).reg as usize));
        *a = O::run(*a, *b);
        if O::FLOAT {
            end(cpu);
        }
        next::<Fast>(cpu, op)
    }
}

/// Register (reg) and memory.
unsafe extern "C" fn rm<O: Operation>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        if O::FLOAT && !begin(cpu) {
            return interpret(cpu, op);
        }
        let Some(b) = operand(cpu, op, O::BYTES) else { return interpret(cpu, op) };
        let a = xmm(cpu).add((*op).reg as usize);
        *a = O::run(*a, b);
        if O::FLOAT {
            end(cpu);
        }
        next::<Fast>(cpu, op)
    }
}

/// Register (base) and an immediate count (`disp`): shifts.
unsafe extern "C" fn ri<O: Operation>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let a = xmm(cpu).add((*op).base as usize);
        *a = O::run(*a, host::_mm_cvtsi32_si128((*op).disp));
        next::<Fast>(cpu, op)
    }
}

macro_rules! operations {
    ($($name:ident $text:literal $bytes:literal $float:literal,)*) => {
        $(
            struct $name;
            impl Operation for $name {
                const BYTES: u64 = $bytes;
                const FLOAT: bool = $float;
                #[inline(always)]
                fn run(mut a: __m128i, b: __m128i) -> __m128i {
                    // SAFETY: the instruction is part of every host that we run on (x86-64-v2) and touches its two
                    // registers and the flags of MXCSR only.
                    unsafe {
                        asm!(
                            concat!($text, " {a}, {b}"), a = inout(xmm_reg) a, b = in(xmm_reg) b,
                            options(nomem, nostack, preserves_flags),
                        );
                    }
                    a
                }
            }
        )*

        /// The handlers of an operation: with a register, with memory, with an immediate (for shifts).
        pub(in crate::software) fn operation(mnemonic: Mnemonic) -> Option<[Handler; 3]> {
            Some(match mnemonic {
                $(Mnemonic::$name => [rr::<$name>, rm::<$name>, ri::<$name>],)*
                _ => return None,
            })
        }
    };
}

operations! {
    Pxor "pxor" 16 false, Por "por" 16 false, Pand "pand" 16 false, Pandn "pandn" 16 false,
    Xorps "xorps" 16 false, Xorpd "xorpd" 16 false, Andps "andps" 16 false, Andpd "andpd" 16 false,
    Andnps "andnps" 16 false, Andnpd "andnpd" 16 false, Orps "orps" 16 false, Orpd "orpd" 16 false,
    Paddb "paddb" 16 false, Paddw "paddw" 16 false, Paddd "paddd" 16 false, Paddq "paddq" 16 false,
    Psubb "psubb" 16 false, Psubw "psubw" 16 false, Psubd "psubd" 16 false, Psubq "psubq" 16 false,
    Psubusb "psubusb" 16 false, Paddusb "paddusb" 16 false, Pavgb "pavgb" 16 false, Psadbw "psadbw" 16 false,
    Pcmpeqb "pcmpeqb" 16 false, Pcmpeqw "pcmpeqw" 16 false, Pcmpeqd "pcmpeqd" 16 false,
    Pcmpgtb "pcmpgtb" 16 false, Pcmpgtw "pcmpgtw" 16 false, Pcmpgtd "pcmpgtd" 16 false,
    Pminub "pminub" 16 false, Pmaxub "pmaxub" 16 false, Pminsw "pminsw" 16 false, Pmaxsw "pmaxsw" 16 false,
    Pmullw "pmullw" 16 false, Pmulhw "pmulhw" 16 false, Pmulhuw "pmulhuw" 16 false, Pmuludq "pmuludq" 16 false,
    Pmaddwd "pmaddwd" 16 false, Pshufb "pshufb" 16 false, Pmulld "pmulld" 16 false,
    Punpcklbw "punpcklbw" 16 false, Punpcklwd "punpcklwd" 16 false, Punpckldq "punpckldq" 16 false,
    Punpcklqdq "punpcklqdq" 16 false, Punpckhbw "punpckhbw" 16 false, Punpckhwd "punpckhwd" 16 false,
    Punpckhdq "punpckhdq" 16 false, Punpckhqdq "punpckhqdq" 16 false, Unpcklps "unpcklps" 16 false,
    Unpcklpd "unpcklpd" 16 false, Unpckhps "unpckhps" 16 false, Unpckhpd "unpckhpd" 16 false,
    Packuswb "packuswb" 16 false, Packsswb "packsswb" 16 false, Packssdw "packssdw" 16 false,
    Psllw "psllw" 16 false, Pslld "pslld" 16 false, Psllq "psllq" 16 false, Psrlw "psrlw" 16 false,
    Psrld "psrld" 16 false, Psrlq "psrlq" 16 false, Psraw "psraw" 16 false, Psrad "psrad" 16 false,
    Addsd "addsd" 8 true, Subsd "subsd" 8 true, Mulsd "mulsd" 8 true, Divsd "divsd" 8 true, Sqrtsd "sqrtsd" 8 true,
    Minsd "minsd" 8 true, Maxsd "maxsd" 8 true, Addss "addss" 4 true, Subss "subss" 4 true, Mulss "mulss" 4 true,
    Divss "divss" 4 true, Sqrtss "sqrtss" 4 true, Minss "minss" 4 true, Maxss "maxss" 4 true,
    Cvtsd2ss "cvtsd2ss" 8 true, Cvtss2sd "cvtss2sd" 4 true, Addpd "addpd" 16 true, Subpd "subpd" 16 true,
    Mulpd "mulpd" 16 true, Divpd "divpd" 16 true, Addps "addps" 16 true, Subps "subps" 16 true,
    Mulps "mulps" 16 true, Divps "divps" 16 true, Cvtdq2ps "cvtdq2ps" 16 true, Cvttps2dq "cvttps2dq" 16 true,
}

/// COMISD and its kind: `$name` is a module with the handlers for registers (base, reg) and memory (reg).
macro_rules! comparisons {
    ($($name:ident $text:literal $bytes:literal,)*) => {
        $(
            #[allow(non_snake_case, reason = "named for the instruction")]
            mod $name {
                use super::*;

                #[inline(always)]
                unsafe fn compare(cpu: *mut Cpu, a: __m128i, b: __m128i) {
                    let ah: u16;
                    // SAFETY: as `run`; the flags are an output.
                    unsafe {
                        asm!(concat!($text, " {a}, {b}"), "lahf", a = in(xmm_reg) a, b = in(xmm_reg) b, out("ax") ah,
                            options(nomem, nostack));
                        (*cpu).flags.set_bits(u64::from(ah >> 8) & (CF | PF | ZF));
                        end(cpu);
                    }
                }

                pub(super) unsafe extern "C" fn rr(cpu: *mut Cpu, op: *const Op) -> *const Op {
                    // SAFETY: as the other handlers.
                    unsafe {
                        if !begin(cpu) {
                            return interpret(cpu, op);
                        }
                        compare(cpu, *xmm(cpu).add((*op).base as usize), *xmm(cpu).add((*op).reg as usize));
                        next::<Fast>(cpu, op)
                    }
                }

                pub(super) unsafe extern "C" fn rm(cpu: *mut Cpu, op: *const Op) -> *const Op {
                    // SAFETY: as the other handlers.
                    unsafe {
                        if !begin(cpu) {
                            return interpret(cpu, op);
                        }
                        let Some(b) = operand(cpu, op, $bytes) else { return interpret(cpu, op) };
                        compare(cpu, *xmm(cpu).add((*op).reg as usize), b);
                        next::<Fast>(cpu, op)
                    }
                }
            }
        )*

        /// The handlers of a comparison that sets flags: with a register, with memory.
        pub(in crate::software) fn comparison(mnemonic: Mnemonic) -> Option<[Handler; 2]> {
            Some(match mnemonic {
                $(Mnemonic::$name => [$name::rr, $name::rm],)*
                _ => return None,
            })
        }
    };
}

comparisons! {
    Comisd "comisd" 8, Ucomisd "ucomisd" 8, Comiss "comiss" 4, Ucomiss "ucomiss" 4,
}

/// Conversions to a general register (reg: offset) from a register (base: number).
macro_rules! to_general {
    ($($name:ident $text:literal,)*) => {
        $(
            #[allow(non_snake_case, reason = "named for the instruction")]
            unsafe extern "C" fn $name<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
                // SAFETY: as the other handlers.
                unsafe {
                    if !begin(cpu) {
                        return interpret(cpu, op);
                    }
                    let b = *xmm(cpu).add((*op).base as usize);
                    let r: u64;
                    if T::BITS == 64 {
                        asm!(concat!($text, " {r}, {b}"), r = out(reg) r, b = in(xmm_reg) b,
                            options(nomem, nostack, preserves_flags));
                    } else {
                        asm!(concat!($text, " {r:e}, {b}"), r = out(reg) r, b = in(xmm_reg) b,
                            options(nomem, nostack, preserves_flags));
                    }
                    end(cpu);
                    T::from64(r).write(cpu, (*op).reg);
                    next::<Fast>(cpu, op)
                }
            }
        )*

        /// The handler of a conversion to a general register of 4 or 8 bytes.
        pub(in crate::software) fn conversion_to_general(mnemonic: Mnemonic, size: usize) -> Option<Handler> {
            Some(match (mnemonic, size) {
                $(
                    (Mnemonic::$name, 4) => $name::<u32>,
                    (Mnemonic::$name, _) => $name::<u64>,
                )*
                _ => return None,
            })
        }
    };
}

to_general! {
    Cvttsd2si "cvttsd2si", Cvtsd2si "cvtsd2si", Cvttss2si "cvttss2si", Cvtss2si "cvtss2si",
}

/// Conversions from a general register (reg: offset) to a register (base: number).
macro_rules! from_general {
    ($($name:ident $text:literal,)*) => {
        $(
            #[allow(non_snake_case, reason = "named for the instruction")]
            unsafe extern "C" fn $name<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
                // SAFETY: as the other handlers.
                unsafe {
                    if !begin(cpu) {
                        return interpret(cpu, op);
                    }
                    let to = xmm(cpu).add((*op).base as usize);
                    let mut a = *to;
                    let b = reg::<u64>(cpu, (*op).reg);
                    if T::BITS == 64 {
                        asm!(concat!($text, " {a}, {b}"), a = inout(xmm_reg) a, b = in(reg) b,
                            options(nomem, nostack, preserves_flags));
                    } else {
                        asm!(concat!($text, " {a}, {b:e}"), a = inout(xmm_reg) a, b = in(reg) b,
                            options(nomem, nostack, preserves_flags));
                    }
                    *to = a;
                    end(cpu);
                    next::<Fast>(cpu, op)
                }
            }
        )*

        /// The handler of a conversion from a general register of 4 or 8 bytes.
        pub(in crate::software) fn conversion_from_general(mnemonic: Mnemonic, size: usize) -> Option<Handler> {
            Some(match (mnemonic, size) {
                $(
                    (Mnemonic::$name, 4) => $name::<u32>,
                    (Mnemonic::$name, _) => $name::<u64>,
                )*
                _ => return None,
            })
        }
    };
}

from_general! { Cvtsi2sd "cvtsi2sd", Cvtsi2ss "cvtsi2ss", }

/// Register (reg: number) from 4 or 8 bytes of memory, the rest zero.
pub(in crate::software) unsafe extern "C" fn load_part<const BYTES: u64>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let Some(value) = operand(cpu, op, BYTES) else { return interpret(cpu, op) };
        *xmm(cpu).add((*op).reg as usize) = value;
        next::<Fast>(cpu, op)
    }
}

/// A half of a register (reg: number) from 8 bytes of memory.
pub(in crate::software) unsafe extern "C" fn load_half<const HIGH: usize>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr; HIGH is 0 or 1.
    unsafe {
        let at = address::<Fast>(cpu, op, 8);
        let Some(from) = fast_read(cpu, at, 8) else { return interpret(cpu, op) };
        let half = xmm(cpu).add((*op).reg as usize).cast::<u64>().add(HIGH);
        *half = from.cast::<u64>().read_unaligned();
        next::<Fast>(cpu, op)
    }
}

/// Memory from the 4 or 8 low bytes of a register (reg: number), or (with `HIGH`) its upper half.
pub(in crate::software) unsafe extern "C" fn store_part<const BYTES: u64, const HIGH: usize>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr; HIGH is 0 or 1.
    unsafe {
        let at = address::<Fast>(cpu, op, BYTES);
        let Some(to) = fast_write(cpu, at, BYTES) else { return interpret(cpu, op) };
        let value = *xmm(cpu).add((*op).reg as usize).cast::<u64>().add(HIGH);
        if BYTES == 8 {
            to.cast::<u64>().write_unaligned(value);
        } else {
            to.cast::<u32>().write_unaligned(value as u32);
        }
        next::<Fast>(cpu, op)
    }
}

/// MOVQ, MOVD between a register (base: number) and a general one (reg: offset), or within XMM.
pub(in crate::software) unsafe extern "C" fn move_part<const KIND: u8>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let x = xmm(cpu).add((*op).base as usize).cast::<u64>();
        let other = (*op).reg;
        let from = xmm(cpu).add(other as usize & 15).cast::<u64>();
        match KIND {
            FROM_32 => (*x, *x.add(1)) = (reg::<u32>(cpu, other).into(), 0),
            FROM_64 => (*x, *x.add(1)) = (reg::<u64>(cpu, other), 0),
            TO_32 => (*x as u32).write(cpu, other),
            TO_64 => (*x).write(cpu, other),
            LOW_CLEARING => (*x, *x.add(1)) = (*from, 0),
            LOW_64 => *x = *from,
            LOW_32 => *x.cast::<u32>() = *from.cast::<u32>(),
            HIGH_TO_LOW => *x = *from.add(1),
            LOW_TO_HIGH => *x.add(1) = *from,
            _ => {
                let bits = host::_mm_movemask_epi8(*x.cast::<__m128i>());
                (bits as u32).write(cpu, other);
            }
        }
        next::<Fast>(cpu, op)
    }
}

/// The kinds of [`move_part`]: from and to general registers, between XMM registers, and PMOVMSKB.
pub(in crate::software) const FROM_32: u8 = 0;
pub(in crate::software) const FROM_64: u8 = 1;
pub(in crate::software) const TO_32: u8 = 2;
pub(in crate::software) const TO_64: u8 = 3;
pub(in crate::software) const LOW_CLEARING: u8 = 4;
pub(in crate::software) const LOW_64: u8 = 5;
pub(in crate::software) const LOW_32: u8 = 6;
pub(in crate::software) const HIGH_TO_LOW: u8 = 7;
pub(in crate::software) const LOW_TO_HIGH: u8 = 8;
pub(in crate::software) const MASK: u8 = 9;

/// PSHUFD of a register (reg) to a register (base) by `disp`.
pub(in crate::software) unsafe extern "C" fn shuffle_32(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr; indices are masked.
    unsafe {
        let from = *xmm(cpu).add((*op).reg as usize).cast::<[u32; 4]>();
        let control = (*op).disp as usize;
        *xmm(cpu).add((*op).base as usize).cast::<[u32; 4]>() =
            std::array::from_fn(|n| from[control >> (2 * n) & 3]);
        next::<Fast>(cpu, op)
    }
}

/// PSLLDQ or PSRLDQ of a register (base) by `disp` bytes, at most 16.
pub(in crate::software) unsafe extern "C" fn shift_bytes<const LEFT: bool>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let x = &mut (*cpu).xmm[(*op).base as usize & 15];
        let bits = 8 * (*op).disp as u32;
        let result = if LEFT { x.checked_shl(bits) } else { x.checked_shr(bits) };
        *x = result.unwrap_or(0);
        next::<Fast>(cpu, op)
    }
}
