//! SSE and SSE2: moves, logic and packed integers.

use std::arch::x86_64 as host;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::{register_offset, segment_number};
use super::{load, next, store};
use crate::software::block::Flow;
use crate::software::cpu::{CR0_EM, CR4_OSFXSR, Cpu, Fast, Form, Slow, address};
use crate::software::fault::{Fault, NM};
use crate::software::op::{Handler, Op};
use crate::software::tlb::{fast_read, fast_write, mask};

/// What an SSE instruction does while CR0.EM, CR0.TS or CR4.OSFXSR forbid it.
pub(in crate::software) fn forbidden(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    if c.s.cr0 & CR0_EM != 0 || c.s.cr4 & CR4_OSFXSR == 0 { Err(Fault::ud()) } else { Err(Fault::new(NM)) }
}

impl Cpu {
    pub(in crate::software) fn read128(&mut self, at: u64, aligned: bool) -> Result<u128, Fault> {
        if aligned && at & 15 != 0 {
            return Err(Fault::gp());
        }
        self.check_read(at, 16)?;
        let low = self.read(at, 8)?;
        let upper = self.wrap(at.wrapping_add(8));
        Ok(u128::from(low) | u128::from(self.read(upper, 8)?) << 64)
    }

    pub(in crate::software) fn write128(&mut self, at: u64, aligned: bool, value: u128) -> Result<(), Fault> {
        if aligned && at & 15 != 0 {
            return Err(Fault::gp());
        }
        self.check_write(at, 16)?;
        self.write(at, 8, value as u64)?;
        let upper = self.wrap(at.wrapping_add(8));
        self.write(upper, 8, (value >> 64) as u64)
    }

    fn xmm_number(i: &Instruction, n: u32) -> usize {
        i.op_register(n).number()
    }

    /// Operand `n` of an XMM instruction: a register whole, memory as long as it is. 16 bytes must be aligned.
    pub(super) fn get_xmm(&mut self, i: &Instruction, n: u32) -> Result<u128, Fault> {
        if i.op_kind(n) == OpKind::Register {
            let register = i.op_register(n);
            return Ok(if register.is_xmm() {
                self.xmm[register.number()]
            } else {
                self.register(register).into()
            });
        }
        let at = self.linear(i);
        match i.memory_size().size() {
            16 => self.read128(at, true),
            size => Ok(self.read(at, size)?.into()),
        }
    }
}

/// MOVUPS, MOVAPS and their kind, to a register (reg: number). `ALIGNED` ones fault on unaligned addresses.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn load128<const ALIGNED: bool, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose a valid register.
    unsafe {
        let at = address::<F>(cpu, op, 16);
        let value = if F::SLOW {
            (*cpu).read128(at, ALIGNED).map_err(|fault| (*cpu).fault = fault).ok()
        } else {
            match fast_read(cpu, at, 16) {
                Some(from) if !ALIGNED || at & 15 == 0 => Some(from.cast::<u128>().read_unaligned()),
                _ => None,
            }
        };
        let value = load!(value, F, cpu, op, load128::<ALIGNED, Slow>);
        *(&raw mut (*cpu).xmm).cast::<u128>().add((*op).reg as usize) = value;
        next::<F>(cpu, op)
    }
}

/// The same to memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn store128<const ALIGNED: bool, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as load128.
    unsafe {
        let at = address::<F>(cpu, op, 16);
        let value = *(&raw const (*cpu).xmm).cast::<u128>().add((*op).reg as usize);
        let done = if F::SLOW {
            (*cpu).write128(at, ALIGNED, value).map_err(|fault| (*cpu).fault = fault).is_ok()
        } else {
            match fast_write(cpu, at, 16) {
                Some(to) if !ALIGNED || at & 15 == 0 => {
                    to.cast::<u128>().write_unaligned(value);
                    true
                }
                _ => false,
            }
        };
        store!(done, F, cpu, op, store128::<ALIGNED, Slow>);
        next::<F>(cpu, op)
    }
}

/// Between registers (base, reg: numbers).
pub(in crate::software) unsafe extern "C" fn move128(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as load128.
    unsafe {
        let xmm = (&raw mut (*cpu).xmm).cast::<u128>();
        *xmm.add((*op).base as usize) = *xmm.add((*op).reg as usize);
        next::<Fast>(cpu, op)
    }
}

/// The handler of a 16-byte load or store.
pub(in crate::software) fn move_handler(is_store: bool, aligned: bool, slow: bool) -> Handler {
    match (is_store, aligned, slow) {
        (false, false, false) => load128::<false, Fast>,
        (false, false, true) => load128::<false, Slow>,
        (false, true, false) => load128::<true, Fast>,
        (false, true, true) => load128::<true, Slow>,
        (true, false, false) => store128::<false, Fast>,
        (true, false, true) => store128::<false, Slow>,
        (true, true, false) => store128::<true, Fast>,
        (true, true, true) => store128::<true, Slow>,
    }
}

/// MASKMOVDQU: bytes of the first register whose byte in the second has its top bit set, to DS:RDI.
pub(in crate::software) fn masked_store(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let (value, select) = (c.xmm[Cpu::xmm_number(i, 1)], c.xmm[Cpu::xmm_number(i, 2)]);
    c.store_bytes(i, 16, value, select)
}

impl Cpu {
    /// Stores the bytes of `value` that `select` picks by its top bits to the implicit operand at RDI.
    pub(super) fn store_bytes(
        &mut self,
        i: &Instruction,
        count: u64,
        value: u128,
        select: u128,
    ) -> Result<Flow, Fault> {
        self.address_vector = 13;
        let wide = match i.op0_kind() {
            OpKind::MemorySegDI => 0xFFFF,
            OpKind::MemorySegEDI => 0xFFFF_FFFF,
            _ => u64::MAX,
        };
        let start = self.in_segment(segment_number(i.memory_segment()), self.gpr[7] & wide, count);
        // As on silicon, all bytes must be writable, whichever are picked.
        self.check_write(start, count as usize)?;
        for n in (0..count).filter(|n| select >> (8 * n + 7) & 1 == 1) {
            let at = self.wrap(start.wrapping_add(n));
            self.write(at, 1, (value >> (8 * n)) as u64 & 0xFF)?;
        }
        Ok(Flow::Next)
    }
}

/// Moves of parts: MOVD, MOVQ, MOVSS, MOVSD, MOVLPS, MOVHPS and their kind, MOVNTI, MOVMSKPS, PMOVMSKB, MASKMOVDQU.
pub(in crate::software) fn move_part(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use Mnemonic::*;
    let low64 = u128::from(u64::MAX);
    let to_register = i.op0_kind() == OpKind::Register;
    let both = to_register && i.op1_kind() == OpKind::Register;
    match i.mnemonic() {
        Movmskps | Movmskpd | Pmovmskb => {
            let value = c.xmm[Cpu::xmm_number(i, 1)];
            let (width, count) = match i.mnemonic() {
                Movmskps => (32, 4),
                Movmskpd => (64, 2),
                _ => (8, 16),
            };
            let bits = (0..count).fold(0, |bits, n| bits | (value >> (width * (n + 1) - 1) & 1) << n);
            c.set_at(register_offset(i.op0_register()), 4, bits as u64);
            return Ok(Flow::Next);
        }
        Movnti => {
            let value = c.get(i, 1)?;
            c.set(i, 0, value)?;
            return Ok(Flow::Next);
        }
        _ => {}
    }
    if !to_register {
        let value = c.xmm[Cpu::xmm_number(i, 1)];
        let value = if matches!(i.mnemonic(), Movhps | Movhpd) { value >> 64 } else { value };
        let at = c.linear(i);
        let size = i.memory_size().size();
        c.write(at, size, value as u64 & mask(size))?;
        return Ok(Flow::Next);
    }
    if !i.op0_register().is_xmm() {
        let value = c.xmm[Cpu::xmm_number(i, 1)] as u64;
        c.set_register(i.op0_register(), value);
        return Ok(Flow::Next);
    }
    let value = c.get_xmm(i, 1)?;
    let old = c.xmm[Cpu::xmm_number(i, 0)];
    let new = match i.mnemonic() {
        Movss if both => old & !0xFFFF_FFFF | value & 0xFFFF_FFFF,
        Movsd if both => old & !low64 | value & low64,
        Movhlps => old & !low64 | value >> 64,
        Movlps | Movlpd => old & !low64 | value & low64,
        Movlhps | Movhps | Movhpd => old & low64 | value << 64,
        Movd => value & 0xFFFF_FFFF,
        Movss => value & 0xFFFF_FFFF,
        _ => value & low64,
    };
    c.xmm[Cpu::xmm_number(i, 0)] = new;
    Ok(Flow::Next)
}

macro_rules! binary {
    ($m:expr, $a:expr, $b:expr; $($($name:ident)|+ => $f:ident),* $(,)?) => {
        // SAFETY: SSE2 is part of every x86-64 host.
        unsafe {
            let a = std::mem::transmute::<u128, host::__m128i>($a);
            let b = std::mem::transmute::<u128, host::__m128i>($b);
            let result = match $m {
                $($(Mnemonic::$name)|+ => host::$f(a, b),)*
                _ => return None,
            };
            Some(std::mem::transmute::<host::__m128i, u128>(result))
        }
    };
}

/// The result of a packed operation, if it is one of ours. `a` is the destination.
pub(super) fn packed(mnemonic: Mnemonic, a: u128, b: u128) -> Option<u128> {
    binary! { mnemonic, a, b;
        Pxor | Xorps | Xorpd => _mm_xor_si128,
        Pand | Andps | Andpd => _mm_and_si128,
        Por | Orps | Orpd => _mm_or_si128,
        Pandn | Andnps | Andnpd => _mm_andnot_si128,
        Paddb => _mm_add_epi8, Paddw => _mm_add_epi16, Paddd => _mm_add_epi32, Paddq => _mm_add_epi64,
        Psubb => _mm_sub_epi8, Psubw => _mm_sub_epi16, Psubd => _mm_sub_epi32, Psubq => _mm_sub_epi64,
        Paddsb => _mm_adds_epi8, Paddsw => _mm_adds_epi16, Paddusb => _mm_adds_epu8, Paddusw => _mm_adds_epu16,
        Psubsb => _mm_subs_epi8, Psubsw => _mm_subs_epi16, Psubusb => _mm_subs_epu8, Psubusw => _mm_subs_epu16,
        Pcmpeqb => _mm_cmpeq_epi8, Pcmpeqw => _mm_cmpeq_epi16, Pcmpeqd => _mm_cmpeq_epi32,
        Pcmpgtb => _mm_cmpgt_epi8, Pcmpgtw => _mm_cmpgt_epi16, Pcmpgtd => _mm_cmpgt_epi32,
        Pmullw => _mm_mullo_epi16, Pmulhw => _mm_mulhi_epi16, Pmulhuw => _mm_mulhi_epu16,
        Pmuludq => _mm_mul_epu32, Pmaddwd => _mm_madd_epi16, Psadbw => _mm_sad_epu8,
        Pavgb => _mm_avg_epu8, Pavgw => _mm_avg_epu16,
        Pminub => _mm_min_epu8, Pmaxub => _mm_max_epu8, Pminsw => _mm_min_epi16, Pmaxsw => _mm_max_epi16,
        Punpcklbw => _mm_unpacklo_epi8, Punpcklwd => _mm_unpacklo_epi16,
        Punpckldq | Unpcklps => _mm_unpacklo_epi32, Punpcklqdq | Unpcklpd => _mm_unpacklo_epi64,
        Punpckhbw => _mm_unpackhi_epi8, Punpckhwd => _mm_unpackhi_epi16,
        Punpckhdq | Unpckhps => _mm_unpackhi_epi32, Punpckhqdq | Unpckhpd => _mm_unpackhi_epi64,
        Packsswb => _mm_packs_epi16, Packssdw => _mm_packs_epi32, Packuswb => _mm_packus_epi16,
        Psllw => _mm_sll_epi16, Pslld => _mm_sll_epi32, Psllq => _mm_sll_epi64,
        Psrlw => _mm_srl_epi16, Psrld => _mm_srl_epi32, Psrlq => _mm_srl_epi64,
        Psraw => _mm_sra_epi16, Psrad => _mm_sra_epi32,
    }
}

/// True if [`packed_operation`] knows the instruction.
pub(in crate::software) fn is_packed(i: &Instruction) -> bool {
    let xmm = i.op_count() == 2 && i.op0_kind() == OpKind::Register && i.op0_register().is_xmm();
    xmm && (packed(i.mnemonic(), 0, 0).is_some())
}

/// Packed integer operations and logic: destination, and register, memory or (shifts) immediate.
pub(in crate::software) fn packed_operation(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    let b = match i.op1_kind() {
        OpKind::Register | OpKind::Memory => c.get_xmm(i, 1)?,
        _ => u128::from(i.immediate8()),
    };
    let number = Cpu::xmm_number(i, 0);
    match packed(i.mnemonic(), c.xmm[number], b) {
        Some(result) => {
            c.xmm[number] = result;
            Ok(Flow::Next)
        }
        None => Err(Fault::ud()),
    }
}

/// Shuffles with an immediate, byte shifts of the whole register, PINSRW, PEXTRW.
pub(in crate::software) fn shuffle(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use Mnemonic::*;
    let control = usize::from(i.immediate8());
    if i.mnemonic() == Pextrw {
        let word = c.xmm[Cpu::xmm_number(i, 1)] >> (16 * (control & 7)) & 0xFFFF;
        c.set(i, 0, word as u64)?;
        return Ok(Flow::Next);
    }
    let number = Cpu::xmm_number(i, 0);
    let a = c.xmm[number];
    if matches!(i.mnemonic(), Pslldq | Psrldq) {
        let bits = 8 * control as u32;
        let result = if i.mnemonic() == Pslldq { a.checked_shl(bits) } else { a.checked_shr(bits) };
        c.xmm[number] = if control > 15 { 0 } else { result.unwrap_or(0) };
        return Ok(Flow::Next);
    }
    let b = c.get_xmm(i, 1)?;
    let dword = |value: u128, n: usize| value >> (32 * n) & 0xFFFF_FFFF;
    let word = |value: u128, n: usize| value >> (16 * n) & 0xFFFF;
    let low64 = u128::from(u64::MAX);
    c.xmm[number] = match i.mnemonic() {
        Pshufd => (0..4).fold(0, |r, n| r | dword(b, control >> (2 * n) & 3) << (32 * n)),
        Pshuflw => (0..4).fold(b & !low64, |r, n| r | word(b, control >> (2 * n) & 3) << (16 * n)),
        Pshufhw => (0..4).fold(b & low64, |r, n| r | word(b, 4 + (control >> (2 * n) & 3)) << (16 * (4 + n))),
        Shufps => (0..4).fold(0, |r, n| {
            let from = if n < 2 { a } else { b };
            r | dword(from, control >> (2 * n) & 3) << (32 * n)
        }),
        Shufpd => (a >> (64 * (control & 1)) & low64) | (b >> (64 * (control >> 1 & 1))) << 64,
        _ => {
            let shift = 16 * (control & 7);
            a & !(0xFFFF << shift) | (b & 0xFFFF) << shift
        }
    };
    Ok(Flow::Next)
}

/// 16-byte moves with an address that the fast handlers do not take.
pub(in crate::software) fn move_whole(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use Mnemonic::{Lddqu, Movdqu, Movupd, Movups};
    let aligned = !matches!(i.mnemonic(), Movups | Movupd | Movdqu | Lddqu);
    let at = c.linear(i);
    if i.op0_kind() == OpKind::Register {
        c.xmm[Cpu::xmm_number(i, 0)] = c.read128(at, aligned)?;
    } else {
        c.write128(at, aligned, c.xmm[Cpu::xmm_number(i, 1)])?;
    }
    Ok(Flow::Next)
}
