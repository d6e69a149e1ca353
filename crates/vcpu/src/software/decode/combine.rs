//! Which instructions become steps, which steps become one op, and whose flags nobody can see.

use iced_x86::{Instruction, Mnemonic};

use super::select::{is_immediate, is_memory, is_register, offset};
use super::{Builder, EMPTY, List, Reach, is_nop, operand_size};
use crate::software::exec::combined::{Kind, Step, four_moves_op, one_op, two_op};
use crate::software::exec::paired::{Access, AccessKind, beside_op, two_accesses_op};
use crate::software::op::ZERO;

/// What an instruction has to do with the arithmetic flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// May leave the block, or is not known: the flags must be right before and after it.
    Opaque,
    Reads,
    /// Replaces all six.
    Writes,
    /// Neither; or replaces some.
    Neutral,
}

fn effect(i: &Instruction) -> Effect {
    use Mnemonic::*;
    if is_nop(i.code()) {
        return Effect::Neutral;
    }
    let register = |n: u32| is_register(i, n) && i.op_register(n).is_gpr();
    let plain = match i.op_count() {
        1 => register(0),
        2 => register(0) && (register(1) || is_immediate(i, 1)),
        3 => register(0) && register(1) && is_immediate(i, 2),
        _ => false,
    };
    if !plain {
        return Effect::Opaque;
    }
    match i.mnemonic() {
        Mov | Movzx | Movsx | Movsxd | Not | Xchg | Bswap | Inc | Dec => Effect::Neutral,
        Rol | Ror if is_immediate(i, 1) => Effect::Neutral,
        Shl | Sal | Shr | Sar if is_immediate(i, 1) => {
            let most = if operand_size(i, 0) == 8 { 63 } else { 31 };
            if i.immediate(1) & most == 0 { Effect::Neutral } else { Effect::Writes }
        }
        Add | Sub | And | Or | Xor | Cmp | Test | Neg => Effect::Writes,
        Imul if i.op_count() > 1 => Effect::Writes,
        Adc | Sbb | Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno
        | Setnp | Setns | Seto | Setp | Sets | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge
        | Cmovl | Cmovle | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs => Effect::Reads,
        _ => Effect::Opaque,
    }
}

/// One bit per instruction: the flags after it are replaced before anything can see them. Between it and the instruction
/// that replaces them there are none but such as neither fault nor leave nor read flags, and a block runs as a whole or not
/// at all: whoever stops in between runs its instructions alone.
pub(super) fn unseen_flags(list: &List) -> u64 {
    let mut unseen = 0;
    let mut after = false;
    for (n, i) in list.instructions.iter().enumerate().rev() {
        unseen |= u64::from(after) << n;
        after = match effect(i) {
            _ if list.is_followed(n) => after,
            Effect::Opaque | Effect::Reads => false,
            Effect::Writes => true,
            Effect::Neutral => after,
        };
    }
    unseen
}

/// A step and how it may be used.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    step: Step,
    /// It replaces flags, all or some.
    flags: bool,
    /// Its flags differ from the instruction's: only where they are not seen.
    unseen_only: bool,
    /// Its first operand is its destination, so that a move before it can be taken in.
    two_operand: bool,
}

macro_rules! kind {
    ($wide:expr, $narrow:ident, $other:ident) => {
        if $wide { Kind::$other } else { Kind::$narrow }
    };
}

impl Builder {
    fn candidate(&self, i: &Instruction) -> Option<Candidate> {
        use Mnemonic::*;
        if i.op_count() == 0 || i.has_lock_prefix() || !is_register(i, 0) || !i.op0_register().is_gpr() {
            return None;
        }
        let size = operand_size(i, 0);
        if size < 4 {
            return None;
        }
        let wide = size == 8;
        let to = offset(i, 0);
        let step = |kind, a, b, imm| Step { kind, to, a, b, imm };
        let silent = |step| Candidate { step, flags: false, unseen_only: false, two_operand: false };
        let register = i.op_count() > 1 && is_register(i, 1) && i.op_register(1).is_gpr();
        let immediate = i.op_count() == 2 && is_immediate(i, 1);
        let short = |value: u64| -> Option<i32> {
            if wide { i32::try_from(value as i64).ok() } else { Some(value as u32 as i32) }
        };
        let two = |step| Candidate { step, flags: true, unseen_only: false, two_operand: true };
        Some(match i.mnemonic() {
            Mov if register => silent(step(kind!(wide, Move32, Move64), offset(i, 1), ZERO, 0)),
            Mov if immediate => {
                silent(step(kind!(wide, Constant32, Constant64), ZERO, ZERO, short(i.immediate(1))?))
            }
            Movzx if register && i.op1_register().is_gpr8() => {
                silent(step(Kind::Zero8, offset(i, 1), ZERO, 0))
            }
            Movzx if register && i.op1_register().is_gpr16() => {
                silent(step(Kind::Zero16, offset(i, 1), ZERO, 0))
            }
            Movsxd if register && wide && i.op1_register().is_gpr32() => {
                silent(step(Kind::Sign32, offset(i, 1), ZERO, 0))
            }
            Lea => {
                let (op, _) = self.address(i)?;
                if op.scale != 0 {
                    return None;
                }
                if op.index == ZERO {
                    silent(step(kind!(wide, AddImm32, AddImm64), op.base, ZERO, op.disp))
                } else if op.disp == 0 {
                    silent(step(kind!(wide, Add32, Add64), op.base, op.index, 0))
                } else {
                    return None;
                }
            }
            Xor if register && i.op0_register() == i.op1_register() => {
                let step = step(kind!(wide, Constant32, Constant64), ZERO, ZERO, 0);
                Candidate { step, flags: true, unseen_only: false, two_operand: false }
            }
            Add if register => two(step(kind!(wide, Add32, Add64), to, offset(i, 1), 0)),
            Sub if register => two(step(kind!(wide, Sub32, Sub64), to, offset(i, 1), 0)),
            And if register => two(step(kind!(wide, And32, And64), to, offset(i, 1), 0)),
            Or if register => two(step(kind!(wide, Or32, Or64), to, offset(i, 1), 0)),
            Xor if register => two(step(kind!(wide, Xor32, Xor64), to, offset(i, 1), 0)),
            Add if immediate => two(step(kind!(wide, AddImm32, AddImm64), to, ZERO, short(i.immediate(1))?)),
            And if immediate => two(step(kind!(wide, AndImm32, AndImm64), to, ZERO, short(i.immediate(1))?)),
            Or if immediate => two(step(kind!(wide, OrImm32, OrImm64), to, ZERO, short(i.immediate(1))?)),
            Xor if immediate => two(step(kind!(wide, XorImm32, XorImm64), to, ZERO, short(i.immediate(1))?)),
            Not => {
                let step = step(kind!(wide, XorImm32, XorImm64), to, ZERO, -1);
                Candidate { step, flags: false, unseen_only: false, two_operand: true }
            }
            Bswap => {
                let step = step(kind!(wide, Swap32, Swap64), to, ZERO, 0);
                Candidate { step, flags: false, unseen_only: false, two_operand: true }
            }
            Sub | Inc | Dec if immediate || i.op_count() == 1 => {
                let amount = match i.mnemonic() {
                    Inc => 1,
                    Dec => -1,
                    _ => short(i.immediate(1))?.checked_neg()?,
                };
                let step = step(kind!(wide, AddImm32, AddImm64), to, ZERO, amount);
                Candidate { step, flags: true, unseen_only: true, two_operand: true }
            }
            Shl | Sal | Shr | Sar | Rol | Ror if immediate => {
                let count = i.immediate(1) as u8 & if wide { 63 } else { 31 };
                if count == 0 {
                    return None;
                }
                let kind = match i.mnemonic() {
                    Shr => kind!(wide, Shr32, Shr64),
                    Sar => kind!(wide, Sar32, Sar64),
                    Rol => kind!(wide, Rol32, Rol64),
                    Ror => kind!(wide, Ror32, Ror64),
                    _ => kind!(wide, Shl32, Shl64),
                };
                two(step(kind, to, count, 0))
            }
            Imul if register && i.op_count() == 2 => {
                two(step(kind!(wide, Mul32, Mul64), to, offset(i, 1), 0))
            }
            _ => return None,
        })
    }

    /// The step that the instructions from `n` on begin with: how many they are, and whether its flags are seen.
    fn unit(&self, list: &[Instruction], n: usize, unseen: u64) -> Option<(Step, usize, bool)> {
        let first = self.candidate(list.get(n)?)?;
        let moves = match first.step.kind {
            Kind::Move64 => Some(true),
            Kind::Move32 => Some(false),
            _ => None,
        };
        // A move, and work on what was moved.
        if let Some(wide_move) = moves
            && let Some(next) = list.get(n + 1)
            && let Some(second) = self.candidate(next)
            && second.two_operand
            && second.step.to == first.step.to
            && (wide_move || operand_size(next, 0) == 4)
        {
            let live = second.flags && unseen >> (n + 1) & 1 == 0;
            if !(live && second.unseen_only) {
                // Of a count it is no register's offset.
                let same = next.op_count() == 2 && is_register(next, 1) && second.step.b == first.step.to;
                let b = if same { first.step.a } else { second.step.b };
                return Some((Step { a: first.step.a, b, ..second.step }, 2, live));
            }
        }
        let live = first.flags && unseen >> n & 1 == 0;
        (!(live && first.unseen_only)).then_some((first.step, 1, live))
    }

    /// The instruction as an access, if it is one that can stand beside others.
    fn access(&self, i: &Instruction) -> Option<Access> {
        use Mnemonic::{Add, Mov, Movzx};
        if i.op_count() != 2 || i.has_lock_prefix() {
            return None;
        }
        let store = is_memory(i, 0);
        let register = if store { 1 } else { 0 };
        if !is_register(i, register) || !is_memory(i, 1 - register) || !i.op_register(register).is_gpr() {
            return None;
        }
        let kind = match (i.mnemonic(), store, operand_size(i, 0), operand_size(i, 1)) {
            (Mov, false, 4, _) => AccessKind::Load32,
            (Mov, false, 8, _) => AccessKind::Load64,
            (Movzx, false, 4 | 8, 1) => AccessKind::Zero8,
            (Mov, true, 1, _) => AccessKind::Store8,
            (Mov, true, 4, _) => AccessKind::Store32,
            (Mov, true, 8, _) => AccessKind::Store64,
            (Add, false, 4, _) => AccessKind::Add32,
            (Add, false, 8, _) => AccessKind::Add64,
            _ => return None,
        };
        let (op, Reach::Fast) = self.address(i)? else { return None };
        (op.index == ZERO).then_some(Access { kind, base: op.base, reg: offset(i, register), disp: op.disp })
    }

    /// Adds the instructions from `n` on as steps and accesses, if they are such and few ops do for many; how many they were.
    pub(super) fn combine(&mut self, list: &[Instruction], n: usize, unseen: u64) -> usize {
        if let Some(access) = self.access(&list[n]) {
            return self.combine_access(list, n, unseen, &access);
        }
        let Some((first, taken, live)) = self.unit(list, n, unseen) else { return 0 };
        let alone = |n| self.unit(list, n, unseen).filter(|unit| unit.1 == 1).map(|unit| unit.0);
        if taken == 1
            && let (Some(second), Some(third), Some(fourth)) = (alone(n + 1), alone(n + 2), alone(n + 3))
            && let Some(op) = four_moves_op(&[first, second, third, fourth], EMPTY)
        {
            self.put(op);
            return 4;
        }
        if !live
            && let Some((second, more, live)) = self.unit(list, n + taken, unseen)
            && let Some(op) = two_op(&first, &second, live, EMPTY)
        {
            self.put(op);
            return taken + more;
        }
        if let Some(next) = list.get(n + taken)
            && let Some(access) = self.access(next)
            && let Some(op) = beside_op(&first, live, &access, true, EMPTY)
        {
            self.put(op);
            self.at(list, n + taken);
            self.translate(next);
            return taken + 1;
        }
        self.put(one_op(&first, live, EMPTY));
        taken
    }

    /// Adds an access with what comes after it, if that is a step or another one.
    fn combine_access(&mut self, list: &[Instruction], n: usize, unseen: u64, access: &Access) -> usize {
        if let Some((step, taken, live)) = self.unit(list, n + 1, unseen)
            && let Some(op) = beside_op(&step, live, access, false, EMPTY)
        {
            self.put(op);
            self.translate(&list[n]);
            self.at(list, n + 1);
            self.put(one_op(&step, live, EMPTY));
            return 1 + taken;
        }
        if let Some(next) = list.get(n + 1)
            && let Some(second) = self.access(next)
        {
            self.put(two_accesses_op(access, &second, EMPTY));
            self.translate(&list[n]);
            self.at(list, n + 1);
            self.translate(next);
            return 2;
        }
        0
    }
}
