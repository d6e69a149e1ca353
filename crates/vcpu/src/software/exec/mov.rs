//! Moves, extensions, LEA, exchanges with memory.

use super::{load, next, store};
use crate::software::cpu::{Cpu, Fast, Form, Int, Slow, address, offset_only, reg};
use crate::software::op::Op;
use crate::software::tlb::{load, modify_load, modify_store, store};

/// Register (base) from register.
pub(in crate::software) unsafe extern "C" fn rr<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe {
        reg::<T>(cpu, (*op).reg).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// Register from immediate.
pub(in crate::software) unsafe extern "C" fn ri<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        T::from64((*op).imm).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// Register from memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn rm<T: Int, F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let value = load!(load::<F, T>(cpu, address::<F>(cpu, op, T::SIZE)), F, cpu, op, rm::<T, Slow>);
        value.write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// Memory from register.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn mr<T: Int, F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        store!(store::<F, T>(cpu, at, reg(cpu, (*op).reg)), F, cpu, op, mr::<T, Slow>);
        next::<F>(cpu, op)
    }
}

/// Memory from immediate.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn mi<T: Int, F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        store!(store::<F, T>(cpu, at, T::from64((*op).imm)), F, cpu, op, mi::<T, Slow>);
        next::<F>(cpu, op)
    }
}

/// CDQ and CQO: the sign of the accumulator, all over RDX.
pub(in crate::software) unsafe extern "C" fn sign_to_d<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let sign = (reg::<T>(cpu, 0).sext() as i64 >> 63) as u64;
        T::from64(sign).write(cpu, 2 * 8);
        next::<Fast>(cpu, op)
    }
}

/// `D` from `S` with zeros or the sign.
#[inline(always)]
fn extend<D: Int, S: Int, const SIGN: bool>(value: S) -> D {
    D::from64(if SIGN { value.sext() } else { value.zext() })
}

/// MOVZX, MOVSX, MOVSXD and the like between registers.
pub(in crate::software) unsafe extern "C" fn extend_rr<D: Int, S: Int, const SIGN: bool>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        extend::<D, S, SIGN>(reg(cpu, (*op).reg)).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

/// MOVZX, MOVSX, MOVSXD from memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn extend_rm<D: Int, S: Int, const SIGN: bool, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, S::SIZE);
        let value = load!(load::<F, S>(cpu, at), F, cpu, op, extend_rm::<D, S, SIGN, Slow>);
        extend::<D, S, SIGN>(value).write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// LEA.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn lea<T: Int, F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let value = if F::SLOW { offset_only(cpu, op) } else { address::<Fast>(cpu, op, 1) };
        T::from64(value).write(cpu, (*op).reg);
        next::<Fast>(cpu, op)
    }
}

/// XCHG of registers.
pub(in crate::software) unsafe extern "C" fn xchg_rr<T: Int>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let (a, b) = (reg::<T>(cpu, (*op).base), reg::<T>(cpu, (*op).reg));
        b.write(cpu, (*op).base);
        a.write(cpu, (*op).reg);
        next::<Fast>(cpu, op)
    }
}

/// XCHG with memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn xchg_mr<T: Int, F: Form>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as rr.
    unsafe {
        let at = address::<F>(cpu, op, T::SIZE);
        let (old, host) = load!(modify_load::<F, T>(cpu, at), F, cpu, op, xchg_mr::<T, Slow>);
        modify_store::<F, T>(cpu, at, host, reg(cpu, (*op).reg));
        old.write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// Does nothing.
pub(in crate::software) unsafe extern "C" fn nop(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as rr.
    unsafe { next::<Fast>(cpu, op) }
}
