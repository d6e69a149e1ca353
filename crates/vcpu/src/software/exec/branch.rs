//! Jumps, calls and returns of 64-bit mode; Jcc, SETcc and CMOVcc of any mode.

use super::alu::{conditions, two_jumps};
use super::{finish, follow, leave_to, load, next, store};
use crate::software::cpu::{Cpu, Fast, Form, Int, RSP, Slow, address, reg};
use crate::software::flags::condition;
use crate::software::op::{Handler, Op};
use crate::software::tlb::{load, store};

/// JMP: `imm` is the link, `disp` the distance to the stub.
pub(in crate::software) unsafe extern "C" fn jump(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: handlers are called with the live Cpu and op.
    unsafe { follow(cpu, op) }
}

/// Jcc: two jump ops follow, for taken and not.
unsafe extern "C" fn jcc<const C: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        if condition::<C>(&(*cpu).flags) {
            two_jumps();
            follow(cpu, op.add(1))
        } else {
            follow(cpu, op.add(2))
        }
    }
}

macro_rules! bare_conditions {
    ($f:ident) => {
        [
            $f::<0>, $f::<1>, $f::<2>, $f::<3>, $f::<4>, $f::<5>, $f::<6>, $f::<7>, $f::<8>, $f::<9>,
            $f::<10>, $f::<11>, $f::<12>, $f::<13>, $f::<14>, $f::<15>,
        ]
    };
}

/// The handler of a Jcc.
pub(in crate::software) fn jcc_handler(condition: u8) -> Handler {
    let table: [Handler; 16] = bare_conditions!(jcc);
    table[condition as usize & 15]
}

unsafe extern "C" fn setcc_r<const C: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        u8::from(condition::<C>(&(*cpu).flags)).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

#[inline(never)]
unsafe extern "C" fn setcc_m<F: Form, const C: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let at = address::<F>(cpu, op, 1);
        let value = u8::from(condition::<C>(&(*cpu).flags));
        store!(store::<F, u8>(cpu, at, value), F, cpu, op, setcc_m::<Slow, C>);
        next::<F>(cpu, op)
    }
}

/// The handler of a SETcc to a register (base), or to memory in a form.
pub(in crate::software) fn setcc_handler(condition: u8, memory: Option<bool>) -> Handler {
    let table: [Handler; 16] = match memory {
        None => bare_conditions!(setcc_r),
        Some(false) => conditions!(setcc_m, Fast),
        Some(true) => conditions!(setcc_m, Slow),
    };
    table[condition as usize & 15]
}

unsafe extern "C" fn cmov_rr<T: Int, const C: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let from = if condition::<C>(&(*cpu).flags) { (*op).reg } else { (*op).base };
        reg::<T>(cpu, from).write(cpu, (*op).base);
        next::<Fast>(cpu, op)
    }
}

#[inline(never)]
unsafe extern "C" fn cmov_rm<T: Int, F: Form, const C: u8>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let value =
            load!(load::<F, T>(cpu, address::<F>(cpu, op, T::SIZE)), F, cpu, op, cmov_rm::<T, Slow, C>);
        let value = if condition::<C>(&(*cpu).flags) { value } else { reg::<T>(cpu, (*op).reg) };
        value.write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// The handler of a CMOVcc from a register (base <- reg), or from memory in a form (to reg).
pub(in crate::software) fn cmov_handler(condition: u8, size: usize, memory: Option<bool>) -> Handler {
    fn table<T: Int>(memory: Option<bool>) -> [Handler; 16] {
        match memory {
            None => conditions!(cmov_rr, T),
            Some(false) => conditions!(cmov_rm, T, Fast),
            Some(true) => conditions!(cmov_rm, T, Slow),
        }
    }
    let table = match size {
        2 => table::<u16>(memory),
        4 => table::<u32>(memory),
        _ => table::<u64>(memory),
    };
    table[condition as usize & 15]
}

/// Pushes 64 bits.
///
/// # Safety
/// As every handler; the slow form has set `op`.
#[inline(always)]
unsafe fn push<F: Form>(cpu: *mut Cpu, op: *const Op, value: u64) -> bool {
    // SAFETY: by contract.
    unsafe {
        if F::SLOW {
            (*cpu).op = op;
            (*cpu).address_vector = 12;
        }
        let at = (*cpu).gpr[RSP].wrapping_sub(8);
        if !store::<F, u64>(cpu, at, value) {
            return false;
        }
        (*cpu).gpr[RSP] = at;
        true
    }
}

/// CALL of a fixed target: a jump op and its stub follow. `disp` is the return address's offset from the page.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn call<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let back = (*cpu).gpr[17].wrapping_add((*op).disp as i64 as u64);
        store!(push::<F>(cpu, op, back), F, cpu, op, call::<Slow>);
        if F::SLOW && (*cpu).exit_request {
            // Behind the jump op is the stub, which begins with a head.
            return leave_to(cpu, (*cpu).gpr[17].wrapping_add((*op.add(3)).imm));
        }
        follow(cpu, op.add(1))
    }
}

/// CALL of a register (reg).
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn call_r<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let target = reg::<u64>(cpu, (*op).reg);
        let back = (*cpu).gpr[17].wrapping_add((*op).imm);
        store!(push::<F>(cpu, op, back), F, cpu, op, call_r::<Slow>);
        finish::<F>(cpu, target)
    }
}

/// CALL through memory. `imm` is the return address's offset.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn call_m<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let target = load!(load::<F, u64>(cpu, address::<F>(cpu, op, 8)), F, cpu, op, call_m::<Slow>);
        let back = (*cpu).gpr[17].wrapping_add((*op).imm);
        store!(push::<F>(cpu, op, back), F, cpu, op, call_m::<Slow>);
        finish::<F>(cpu, target)
    }
}

/// JMP to a register (reg).
pub(in crate::software) unsafe extern "C" fn jump_r(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe { finish::<Fast>(cpu, reg::<u64>(cpu, (*op).reg)) }
}

/// JMP through memory.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn jump_m<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        let target = load!(load::<F, u64>(cpu, address::<F>(cpu, op, 8)), F, cpu, op, jump_m::<Slow>);
        finish::<F>(cpu, target)
    }
}

/// RET; `imm` more bytes leave the stack.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn ret<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        if F::SLOW {
            (*cpu).op = op;
            (*cpu).address_vector = 12;
        }
        let stack = (*cpu).gpr[RSP];
        let target = load!(load::<F, u64>(cpu, stack), F, cpu, op, ret::<Slow>);
        (*cpu).gpr[RSP] = stack.wrapping_add(8).wrapping_add((*op).imm);
        finish::<F>(cpu, target)
    }
}

/// PUSH of a 64-bit register (reg).
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn push_r<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        store!(push::<F>(cpu, op, reg(cpu, (*op).reg)), F, cpu, op, push_r::<Slow>);
        next::<F>(cpu, op)
    }
}

/// PUSH of an immediate, 64 bits.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn push_i<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        store!(push::<F>(cpu, op, (*op).imm), F, cpu, op, push_i::<Slow>);
        next::<F>(cpu, op)
    }
}

/// POP of a 64-bit register (reg).
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn pop_r<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        if F::SLOW {
            (*cpu).op = op;
            (*cpu).address_vector = 12;
        }
        let stack = (*cpu).gpr[RSP];
        let value = load!(load::<F, u64>(cpu, stack), F, cpu, op, pop_r::<Slow>);
        (*cpu).gpr[RSP] = stack.wrapping_add(8);
        value.write(cpu, (*op).reg);
        next::<F>(cpu, op)
    }
}

/// LEAVE of 64 bits.
#[inline(never)]
pub(in crate::software) unsafe extern "C" fn leave<F: Form>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as jump.
    unsafe {
        if F::SLOW {
            (*cpu).op = op;
            (*cpu).address_vector = 12;
        }
        let frame = (*cpu).gpr[5];
        let value = load!(load::<F, u64>(cpu, frame), F, cpu, op, leave::<Slow>);
        (*cpu).gpr[RSP] = frame.wrapping_add(8);
        (*cpu).gpr[5] = value;
        next::<F>(cpu, op)
    }
}
