//! Which instructions with memory operands get a shortcut in front of their ops.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::select::{is_immediate, is_memory, is_register, offset};
use super::{Builder, EMPTY, Reach, condition, operand_size};
use crate::software::exec::shortcut::{MOST_REGISTERS, Other, compare_handler, pop_handler, push_handler};
use crate::software::op::{Op, ZERO};

impl Builder {
    /// Adds a shortcut and the ops of the instructions from `n` on that it is for; how many they are.
    pub(super) fn shortcut(&mut self, list: &[Instruction], n: usize) -> usize {
        let taken = self.compare_shortcut(list, n);
        let taken = if taken == 0 { self.stack_shortcut(list, n) } else { taken };
        let before = self.ops.len();
        for number in n..n + taken {
            self.at(list, number);
            self.translate(&list[number]);
        }
        debug_assert!(taken == 0 || self.ops.len() >= before + taken, "each has an op");
        taken
    }

    /// CMP or TEST with memory, and Jcc.
    fn compare_shortcut(&mut self, list: &[Instruction], n: usize) -> usize {
        let i = &list[n];
        let subtract = i.mnemonic() == Mnemonic::Cmp;
        let Some(jcc) = list.get(n + 1) else { return 0 };
        if !(subtract || i.mnemonic() == Mnemonic::Test)
            || !jcc.is_jcc_short_or_near()
            || jcc.op0_kind() != OpKind::NearBranch64
        {
            return 0;
        }
        let (other, reg, imm) = if is_memory(i, 0) && is_immediate(i, 1) {
            (Other::Immediate, EMPTY.reg, i.immediate(1))
        } else if is_memory(i, 0) && is_register(i, 1) {
            (Other::SecondRegister, offset(i, 1), 0)
        } else if is_register(i, 0) && is_memory(i, 1) {
            (Other::FirstRegister, offset(i, 0), 0)
        } else {
            return 0;
        };
        let Some((op, Reach::Fast)) = self.address(i) else { return 0 };
        let indexed = op.index != ZERO;
        let Some(run) = compare_handler(operand_size(i, 0), subtract, other, indexed, condition(jcc)) else {
            return 0;
        };
        self.put(Op { run, reg, imm, ..op });
        2
    }

    /// A run of PUSH or of POP, the latter perhaps up to a RET.
    fn stack_shortcut(&mut self, list: &[Instruction], n: usize) -> usize {
        if !self.long64() {
            return 0;
        }
        let code = list[n].code();
        if code != Code::Push_r64 && code != Code::Pop_r64 {
            return 0;
        }
        let mut registers = 0;
        let mut count = 0;
        for i in list[n..].iter().take(MOST_REGISTERS) {
            // What becomes of RSP then is another matter.
            if i.code() != code || i.op0_register() == Register::RSP {
                break;
            }
            registers |= u64::from(offset(i, 0)) << (8 * count);
            count += 1;
        }
        let returns = code == Code::Pop_r64 && list.get(n + count).is_some_and(|i| i.code() == Code::Retnq);
        let run = if code == Code::Push_r64 { push_handler(count) } else { pop_handler(count, returns) };
        let Some(run) = run else { return 0 };
        self.put(Op { run, imm: registers, ..EMPTY });
        count + usize::from(returns)
    }
}
