//! Which fast handler an SSE instruction gets, if any.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Builder, EMPTY, Reach, interpreted, operand_size};
use crate::software::cpu::MODE_SSE_OFF;
use crate::software::exec::operand::register_offset;
use crate::software::exec::{sse, sse_fast, sse_search};
use crate::software::op::{Handler, Op};

impl Builder {
    /// Adds an SSE instruction as a fast op, if there is one for it.
    pub(super) fn select_sse(&mut self, i: &Instruction) -> bool {
        if self.mode & MODE_SSE_OFF != 0 {
            return false;
        }
        self.select_whole_move(i)
            || self.select_vector(i)
            || self.select_conversion(i)
            || self.select_part(i)
            || self.select_search(i)
    }

    fn select_whole_move(&mut self, i: &Instruction) -> bool {
        use Mnemonic::{Lddqu, Movapd, Movaps, Movdqa, Movdqu, Movntdq, Movntpd, Movntps, Movupd, Movups};
        let aligned = match i.mnemonic() {
            Movups | Movupd | Movdqu | Lddqu => false,
            Movaps | Movapd | Movdqa | Movntdq | Movntps | Movntpd => true,
            _ => return false,
        };
        if is_xmm(i, 0) && is_xmm(i, 1) {
            self.put(Op { run: sse::move128, base: number(i, 0), reg: number(i, 1), ..EMPTY });
            return true;
        }
        let is_store = i.op0_kind() == OpKind::Memory;
        let handlers = [false, true].map(|slow| sse::move_handler(is_store, aligned, slow));
        self.put_memory(i, handlers, number(i, if is_store { 1 } else { 0 }), 0)
    }

    /// Adds an op that can fall back to its interpreted form.
    fn put_backed(&mut self, i: &Instruction, op: Op) -> bool {
        self.put_interpreted(interpreted::select(i, self.mode), i, op);
        true
    }

    /// The same with a memory operand, if its address is a plain one.
    pub(super) fn put_backed_memory(&mut self, i: &Instruction, run: Handler, reg: u8) -> bool {
        let Some((op, Reach::Fast)) = self.address(i) else { return false };
        self.put_backed(i, Op { run, reg, ..op })
    }

    fn select_search(&mut self, i: &Instruction) -> bool {
        if i.mnemonic() != Mnemonic::Pcmpistri {
            return false;
        }
        let [registers, memory] = sse_search::handlers(i.immediate8());
        if is_xmm(i, 1) {
            self.put(Op { run: registers, base: number(i, 0), reg: number(i, 1), ..EMPTY });
            return true;
        }
        self.put_backed_memory(i, memory, number(i, 0))
    }

    fn select_vector(&mut self, i: &Instruction) -> bool {
        if i.op_count() != 2 || !is_xmm(i, 0) {
            return false;
        }
        let handlers = match (sse_fast::operation(i.mnemonic()), sse_fast::comparison(i.mnemonic())) {
            (Some(handlers), _) => handlers,
            (_, Some([rr, rm])) => [rr, rm, rr],
            _ => return false,
        };
        if is_xmm(i, 1) {
            let op = Op { run: handlers[0], base: number(i, 0), reg: number(i, 1), ..EMPTY };
            return self.put_backed(i, op);
        }
        if i.op1_kind() == OpKind::Memory {
            return self.put_backed_memory(i, handlers[1], number(i, 0));
        }
        if i.op1_kind() != OpKind::Immediate8 {
            return false;
        }
        let disp = i32::from(i.immediate8());
        self.put(Op { run: handlers[2], base: number(i, 0), disp, ..EMPTY });
        true
    }

    fn select_conversion(&mut self, i: &Instruction) -> bool {
        if i.op_count() != 2 || i.op0_kind() != OpKind::Register || i.op1_kind() != OpKind::Register {
            return false;
        }
        let (to, from) = (i.op0_register(), i.op1_register());
        if to.is_gpr() && from.is_xmm() {
            let Some(run) = sse_fast::conversion_to_general(i.mnemonic(), to.size()) else { return false };
            return self.put_backed(i, Op { run, base: number(i, 1), reg: register_offset(to), ..EMPTY });
        }
        if to.is_xmm() && from.is_gpr() {
            let Some(run) = sse_fast::conversion_from_general(i.mnemonic(), from.size()) else {
                return false;
            };
            return self.put_backed(i, Op { run, base: number(i, 0), reg: register_offset(from), ..EMPTY });
        }
        false
    }

    fn select_part(&mut self, i: &Instruction) -> bool {
        use Mnemonic::{
            Movd, Movhlps, Movhpd, Movhps, Movlhps, Movlpd, Movlps, Movq, Movsd, Movss, Pmovmskb, Pshufd,
            Pslldq, Psrldq,
        };
        use sse_fast::{load_half, load_part, move_part, store_part};
        let name = i.mnemonic();
        let is_memory = |n: u32| i.op_kind(n) == OpKind::Memory;
        if matches!(name, Pslldq | Psrldq) && is_xmm(i, 0) {
            let left = name == Pslldq;
            let run: Handler =
                if left { sse_fast::shift_bytes::<true> } else { sse_fast::shift_bytes::<false> };
            self.put(Op { run, base: number(i, 0), disp: i32::from(i.immediate8().min(16)), ..EMPTY });
            return true;
        }
        if name == Pshufd && is_xmm(i, 1) {
            let (base, reg) = (number(i, 0), number(i, 1));
            self.put(Op { run: sse_fast::shuffle_32, base, reg, disp: i.immediate8().into(), ..EMPTY });
            return true;
        }
        if i.op_count() != 2 || !(0..2).any(|n| is_xmm(i, n)) {
            return false;
        }
        if is_memory(1) {
            let run: Handler = match (name, operand_size(i, 1)) {
                (Movd | Movss, 4) => load_part::<4>,
                (Movd | Movq | Movsd, 8) => load_part::<8>,
                (Movlps | Movlpd, _) => load_half::<0>,
                (Movhps | Movhpd, _) => load_half::<1>,
                _ => return false,
            };
            return self.put_backed_memory(i, run, number(i, 0));
        }
        if is_memory(0) {
            let run: Handler = match (name, operand_size(i, 0)) {
                (Movd | Movss, 4) => store_part::<4, 0>,
                (Movd | Movq | Movsd | Movlps | Movlpd, 8) => store_part::<8, 0>,
                (Movhps | Movhpd, _) => store_part::<8, 1>,
                _ => return false,
            };
            return self.put_backed_memory(i, run, number(i, 1));
        }
        let (to, from) = (i.op0_register(), i.op1_register());
        if !(to.is_xmm() || to.is_gpr()) || !(from.is_xmm() || from.is_gpr()) {
            return false;
        }
        let (run, base, reg): (Handler, _, _) = match (name, to.is_xmm(), from.is_xmm()) {
            (Movd | Movq, true, false) if from.size() == 4 => {
                (move_part::<{ sse_fast::FROM_32 }>, number(i, 0), register_offset(from))
            }
            (Movd | Movq, true, false) => {
                (move_part::<{ sse_fast::FROM_64 }>, number(i, 0), register_offset(from))
            }
            (Movd | Movq, false, true) if to.size() == 4 => {
                (move_part::<{ sse_fast::TO_32 }>, number(i, 1), register_offset(to))
            }
            (Movd | Movq, false, true) => {
                (move_part::<{ sse_fast::TO_64 }>, number(i, 1), register_offset(to))
            }
            (Pmovmskb, false, true) => (move_part::<{ sse_fast::MASK }>, number(i, 1), register_offset(to)),
            (Movq, true, true) => (move_part::<{ sse_fast::LOW_CLEARING }>, number(i, 0), number(i, 1)),
            (Movsd, true, true) => (move_part::<{ sse_fast::LOW_64 }>, number(i, 0), number(i, 1)),
            (Movss, true, true) => (move_part::<{ sse_fast::LOW_32 }>, number(i, 0), number(i, 1)),
            (Movhlps, true, true) => (move_part::<{ sse_fast::HIGH_TO_LOW }>, number(i, 0), number(i, 1)),
            (Movlhps, true, true) => (move_part::<{ sse_fast::LOW_TO_HIGH }>, number(i, 0), number(i, 1)),
            _ => return false,
        };
        self.put(Op { run, base, reg, ..EMPTY });
        true
    }
}

fn is_xmm(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm()
}

fn number(i: &Instruction, n: u32) -> u8 {
    i.op_register(n).number() as u8
}
