//! A memory access and a step beside it, or two accesses, as one op. It lies in front of the accesses' own ops: where the TLB
//! does not match, it hands over to the op of that access, with everything before it done and nothing after.

use super::combined::{Kind, Run, Step, packed, run_packed, step};
use super::go;
use crate::software::cpu::{Cpu, Int, Near, address, reg};
use crate::software::exec::alu::{Add, Alu};
use crate::software::op::{Handler, Op};
use crate::software::tlb::{fast_read, fast_write};

/// What an access does, and its size in bits. The address is a register and a displacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::software) enum AccessKind {
    Load32,
    Load64,
    /// MOVZX from 8 bits.
    Zero8,
    Store8,
    Store32,
    Store64,
    /// ADD of memory to a register.
    Add32,
    Add64,
}

/// An access: offsets of the base and of the other operand in [`Cpu`].
#[derive(Debug, Clone, Copy)]
pub(in crate::software) struct Access {
    pub kind: AccessKind,
    pub base: u8,
    pub reg: u8,
    pub disp: i32,
}

trait Touch: 'static {
    /// False, and nothing done, if the TLB does not match.
    ///
    /// # Safety
    /// `cpu` is live; the offsets are those of registers of the access's size.
    unsafe fn touch(cpu: *mut Cpu, address: u64, register: u8) -> bool;
}

struct Load<T>(std::marker::PhantomData<T>);
impl<T: Int> Touch for Load<T> {
    #[inline(always)]
    unsafe fn touch(cpu: *mut Cpu, address: u64, register: u8) -> bool {
        // SAFETY: by contract; a matching TLB entry maps the whole operand.
        unsafe {
            let Some(host) = fast_read(cpu, address, T::SIZE) else { return false };
            // Bytes are zero-extended, and 32 bits clear the upper half.
            host.cast::<T>().read_unaligned().zext().write(cpu, register);
            true
        }
    }
}

struct Store<T>(std::marker::PhantomData<T>);
impl<T: Int> Touch for Store<T> {
    #[inline(always)]
    unsafe fn touch(cpu: *mut Cpu, address: u64, register: u8) -> bool {
        // SAFETY: as Load.
        unsafe {
            let Some(host) = fast_write(cpu, address, T::SIZE) else { return false };
            host.cast::<T>().write_unaligned(reg::<T>(cpu, register));
            true
        }
    }
}

struct AddMemory<T>(std::marker::PhantomData<T>);
impl<T: Int> Touch for AddMemory<T> {
    #[inline(always)]
    unsafe fn touch(cpu: *mut Cpu, address: u64, register: u8) -> bool {
        // SAFETY: as Load.
        unsafe {
            let Some(host) = fast_read(cpu, address, T::SIZE) else { return false };
            let b = host.cast::<T>().read_unaligned();
            Add::run::<T>(&mut (*cpu).flags, reg(cpu, register), b).write(cpu, register);
            true
        }
    }
}

/// The access that an op's address fields and `reg` tell of.
#[inline(always)]
unsafe fn touch<A: Touch>(cpu: *mut Cpu, op: *const Op) -> bool {
    // SAFETY: handlers are called with the live Cpu and op; the decoder chose valid offsets.
    unsafe { A::touch(cpu, address::<Near>(cpu, op, 1), (*op).reg) }
}

/// A step (in `imm`), and the access whose op follows.
unsafe extern "C" fn step_access<X: Run, A: Touch, const LIVE: bool>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as touch.
    unsafe {
        run_packed::<X, LIVE>(cpu, (*op).imm);
        if touch::<A>(cpu, op) { go(cpu, op.add(2)) } else { go(cpu, op.add(1)) }
    }
}

/// An access, and a step (in `imm`); the ops of both follow.
unsafe extern "C" fn access_step<X: Run, A: Touch, const LIVE: bool>(
    cpu: *mut Cpu,
    op: *const Op,
) -> *const Op {
    // SAFETY: as touch.
    unsafe {
        if !touch::<A>(cpu, op) {
            return go(cpu, op.add(1));
        }
        run_packed::<X, LIVE>(cpu, (*op).imm);
        go(cpu, op.add(3))
    }
}

/// Two accesses, the second in `imm`; the ops of both follow.
unsafe extern "C" fn two_accesses<A: Touch, B: Touch>(cpu: *mut Cpu, op: *const Op) -> *const Op {
    // SAFETY: as touch.
    unsafe {
        if !touch::<A>(cpu, op) {
            return go(cpu, op.add(1));
        }
        let second = (*op).imm;
        let at = reg::<u64>(cpu, second as u8).wrapping_add(i64::from((second >> 32) as i32) as u64);
        if B::touch(cpu, at, (second >> 8) as u8) { go(cpu, op.add(3)) } else { go(cpu, op.add(2)) }
    }
}

macro_rules! with_access {
    ($kind:expr, $f:ident $(, $more:tt)*) => {
        match $kind {
            AccessKind::Load32 => $f!(Load<u32> $(, $more)*),
            AccessKind::Load64 => $f!(Load<u64> $(, $more)*),
            AccessKind::Zero8 => $f!(Load<u8> $(, $more)*),
            AccessKind::Store8 => $f!(Store<u8> $(, $more)*),
            AccessKind::Store32 => $f!(Store<u32> $(, $more)*),
            AccessKind::Store64 => $f!(Store<u64> $(, $more)*),
            AccessKind::Add32 => $f!(AddMemory<u32> $(, $more)*),
            AccessKind::Add64 => $f!(AddMemory<u64> $(, $more)*),
        }
    };
}

/// The handler of an access with a step before or after it, for the kinds of steps that are often there.
fn beside(kind: Kind, live: bool, access: AccessKind, step_first: bool) -> Option<Handler> {
    fn of<X: Run>(live: bool, access: AccessKind, step_first: bool) -> Handler {
        macro_rules! pick {
            ($a:ty) => {
                match (step_first, live) {
                    (true, true) => step_access::<X, $a, true> as Handler,
                    (true, false) => step_access::<X, $a, false>,
                    (false, true) => access_step::<X, $a, true>,
                    (false, false) => access_step::<X, $a, false>,
                }
            };
        }
        with_access!(access, pick)
    }
    macro_rules! table {
        ($($kind:ident)*) => {
            match kind {
                $(Kind::$kind => of::<step::$kind>,)*
                _ => return None,
            }
        };
    }
    let of = table!(
        Move32 Move64 Constant32 Add32 Add64 Sub64 And32 Xor32 AddImm32 AddImm64 AndImm32 Zero8
        Sign32
    );
    Some(of(live, access, step_first))
}

fn op_of(access: &Access, run: Handler, imm: u64, empty: Op) -> Op {
    Op { run, base: access.base, reg: access.reg, disp: access.disp, imm, ..empty }
}

/// The op of a step and an access behind it, or in front of it, if there is one.
pub(in crate::software) fn beside_op(
    step: &Step,
    live: bool,
    access: &Access,
    step_first: bool,
    empty: Op,
) -> Option<Op> {
    let run = beside(step.kind, live, access.kind, step_first)?;
    Some(op_of(access, run, packed(step), empty))
}

/// The op of two accesses.
pub(in crate::software) fn two_accesses_op(first: &Access, second: &Access, empty: Op) -> Op {
    fn with<A: Touch>(second: AccessKind) -> Handler {
        macro_rules! pick {
            ($b:ty) => {
                two_accesses::<A, $b> as Handler
            };
        }
        with_access!(second, pick)
    }
    macro_rules! pick {
        ($a:ty) => {
            with::<$a>(second.kind)
        };
    }
    let run = with_access!(first.kind, pick);
    let imm = u64::from(second.base) | u64::from(second.reg) << 8 | u64::from(second.disp as u32) << 32;
    op_of(first, run, imm, empty)
}
