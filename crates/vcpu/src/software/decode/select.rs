//! Which fast handler an instruction gets, if any.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Builder, EMPTY, Reach, condition, is, is_64, is_nop, operand_size};
use crate::software::cpu::{Based, Fast, Near, Slow};
use crate::software::exec::operand::register_offset;
use crate::software::exec::{alu, bits, branch, general, mov, muldiv, reg_sized, shift, sized};
use crate::software::op::{Handler, Op, ZERO};

/// The fast, slow, based and near instances of a handler for an operand size.
macro_rules! forms {
    ($size:expr, $f:ident $(, $g:ty)*) => {
        [
            sized!($size, false, $f $(, $g)*),
            sized!($size, true, $f $(, $g)*),
            match $size {
                1 => $f::<u8 $(, $g)*, Based> as Handler,
                2 => $f::<u16 $(, $g)*, Based>,
                4 => $f::<u32 $(, $g)*, Based>,
                _ => $f::<u64 $(, $g)*, Based>,
            },
            match $size {
                1 => $f::<u8 $(, $g)*, Near> as Handler,
                2 => $f::<u16 $(, $g)*, Near>,
                4 => $f::<u32 $(, $g)*, Near>,
                _ => $f::<u64 $(, $g)*, Near>,
            },
        ]
    };
}

macro_rules! form {
    ($slow:expr, $f:ident::$g:ident) => {
        if $slow { $f::$g::<Slow> as Handler } else { $f::$g::<Fast> }
    };
}

/// Handlers of a two-operand operation for one operand size: register forms, and memory forms by slowness.
struct AluSet {
    rr: Handler,
    ri: Handler,
    rm: [Handler; 4],
    mr: [Handler; 4],
    mi: [Handler; 4],
}

fn alu_set(mnemonic: Mnemonic, size: usize) -> Option<AluSet> {
    use alu::{mi, mr, ri, rm, rr};
    macro_rules! set {
        ($op:ty) => {{
            type Operation = $op;
            AluSet {
                rr: reg_sized!(size, rr, Operation),
                ri: reg_sized!(size, ri, Operation),
                rm: forms!(size, rm, Operation),
                mr: forms!(size, mr, Operation),
                mi: forms!(size, mi, Operation),
            }
        }};
    }
    Some(match mnemonic {
        Mnemonic::Add => set!(alu::Add),
        Mnemonic::Or => set!(alu::Or),
        Mnemonic::Adc => set!(alu::Adc),
        Mnemonic::Sbb => set!(alu::Sbb),
        Mnemonic::And => set!(alu::And),
        Mnemonic::Sub => set!(alu::Sub),
        Mnemonic::Xor => set!(alu::Xor),
        Mnemonic::Cmp => set!(alu::Cmp),
        Mnemonic::Test => set!(alu::Test),
        _ => return None,
    })
}

fn shift_handlers(mnemonic: Mnemonic, size: usize) -> Option<[Handler; 4]> {
    use shift::{m, r_cl, r_imm};
    macro_rules! set {
        ($op:ty) => {{
            type Operation = $op;
            [
                reg_sized!(size, r_imm, Operation),
                reg_sized!(size, r_cl, Operation),
                sized!(size, false, m, Operation),
                sized!(size, true, m, Operation),
            ]
        }};
    }
    Some(match mnemonic {
        Mnemonic::Rol => set!(shift::Rol),
        Mnemonic::Ror => set!(shift::Ror),
        Mnemonic::Rcl => set!(shift::Rcl),
        Mnemonic::Rcr => set!(shift::Rcr),
        Mnemonic::Shl | Mnemonic::Sal => set!(shift::Shl),
        Mnemonic::Shr => set!(shift::Shr),
        Mnemonic::Sar => set!(shift::Sar),
        _ => return None,
    })
}

pub(super) fn is_register(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register
}

pub(super) fn is_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

pub(super) fn is_immediate(i: &Instruction, n: u32) -> bool {
    matches!(
        i.op_kind(n),
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

pub(super) fn offset(i: &Instruction, n: u32) -> u8 {
    register_offset(i.op_register(n))
}

/// True for a CMP or TEST that can be fused with a Jcc behind it.
pub(super) fn may_fuse(i: &Instruction) -> bool {
    is(i, &[Mnemonic::Cmp, Mnemonic::Test]) && is_register(i, 0) && (is_register(i, 1) || is_immediate(i, 1))
}

/// The fused op.
pub(super) fn fused(compare: &Instruction, jcc: &Instruction) -> (Handler, Op) {
    let immediate = is_immediate(compare, 1);
    let subtract = compare.mnemonic() == Mnemonic::Cmp;
    let handler = alu::fused_handler(operand_size(compare, 0), immediate, subtract, condition(jcc));
    let mut op = Op { base: offset(compare, 0), ..EMPTY };
    if immediate {
        op.imm = compare.immediate(1);
    } else {
        op.reg = offset(compare, 1);
    }
    (handler, op)
}

impl Builder {
    /// Adds the instruction as a fast op, if there is one for it.
    pub(super) fn select(&mut self, i: &Instruction) -> bool {
        self.select_alu(i)
            || self.select_move(i)
            || self.select_extend(i)
            || self.select_multiply(i)
            || self.select_branch(i)
            || self.select_stack(i)
            || self.select_bits(i)
            || self.select_sse(i)
    }

    /// Adds an op with a memory operand. The handlers are the fast, the slow and perhaps the [`Based`] and the [`Near`] one.
    pub(super) fn put_memory<const N: usize>(
        &mut self,
        i: &Instruction,
        handlers: [Handler; N],
        reg: u8,
        imm: u64,
    ) -> bool {
        let Some((op, reach)) = self.address(i) else { return false };
        let run = match reach {
            Reach::Fast if N > 3 && op.index == ZERO => handlers[3],
            Reach::Fast => handlers[0],
            Reach::Based if N > 2 => handlers[2],
            _ => handlers[1],
        };
        self.put(Op { run, reg, imm, ..op });
        true
    }

    fn select_alu(&mut self, i: &Instruction) -> bool {
        if i.op_count() == 0 {
            return false;
        }
        let size = operand_size(i, 0);
        if let Some(set) = alu_set(i.mnemonic(), size) {
            if is_register(i, 0) && is_register(i, 1) {
                self.put(Op { run: set.rr, base: offset(i, 0), reg: offset(i, 1), ..EMPTY });
            } else if is_register(i, 0) && is_immediate(i, 1) {
                self.put(Op { run: set.ri, base: offset(i, 0), imm: i.immediate(1), ..EMPTY });
            } else if is_register(i, 0) {
                return self.put_memory(i, set.rm, offset(i, 0), 0);
            } else if is_register(i, 1) {
                return self.put_memory(i, set.mr, offset(i, 1), 0);
            } else {
                return self.put_memory(i, set.mi, EMPTY.reg, i.immediate(1));
            }
            return true;
        }
        if let Some([imm, cl, fast, slow]) = shift_handlers(i.mnemonic(), size) {
            let by_cl = is_register(i, 1);
            let most = if size == 8 { 63 } else { 31 };
            let count = if by_cl { 256 } else { i.immediate(1) & most };
            if !is_register(i, 0) {
                return self.put_memory(i, [fast, slow], EMPTY.reg, count);
            }
            let base = offset(i, 0);
            let run = match count {
                256 => cl,
                // Nothing changes but the upper half of a 32-bit register.
                0 => reg_sized!(size, mov_same),
                _ => imm,
            };
            self.put(Op { run, base, reg: base, imm: count, ..EMPTY });
            return true;
        }
        use alu::{unary_m, unary_r};
        macro_rules! unary {
            ($op:ty) => {{
                type Operation = $op;
                if is_register(i, 0) {
                    self.put(Op { run: reg_sized!(size, unary_r, Operation), base: offset(i, 0), ..EMPTY });
                    true
                } else {
                    let handlers = forms!(size, unary_m, Operation);
                    self.put_memory(i, handlers, EMPTY.reg, 0)
                }
            }};
        }
        match i.mnemonic() {
            Mnemonic::Inc => unary!(alu::Inc),
            Mnemonic::Dec => unary!(alu::Dec),
            Mnemonic::Neg => unary!(alu::Neg),
            Mnemonic::Not => unary!(alu::Not),
            _ => false,
        }
    }

    fn select_move(&mut self, i: &Instruction) -> bool {
        use mov::{lea, mi, mr, ri, rm, rr, xchg_mr, xchg_rr};
        match i.mnemonic() {
            _ if is_nop(i.code()) => self.put(Op { run: mov::nop, ..EMPTY }),
            Mnemonic::Pause
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchw
            | Mnemonic::Endbr64
            | Mnemonic::Rdsspd
            | Mnemonic::Rdsspq
            | Mnemonic::Endbr32 => self.put(Op { run: mov::nop, ..EMPTY }),
            Mnemonic::Mov => {
                let size = operand_size(i, 0);
                if (0..2).any(|n| is_register(i, n) && !i.op_register(n).is_gpr()) {
                    return false;
                }
                if is_register(i, 0) && is_register(i, 1) {
                    self.put(Op {
                        run: reg_sized!(size, rr),
                        base: offset(i, 0),
                        reg: offset(i, 1),
                        ..EMPTY
                    });
                } else if is_register(i, 0) && is_immediate(i, 1) {
                    self.put(Op {
                        run: reg_sized!(size, ri),
                        base: offset(i, 0),
                        imm: i.immediate(1),
                        ..EMPTY
                    });
                } else if is_register(i, 0) {
                    let handlers = forms!(size, rm);
                    return self.put_memory(i, handlers, offset(i, 0), 0);
                } else if is_register(i, 1) {
                    let handlers = forms!(size, mr);
                    return self.put_memory(i, handlers, offset(i, 1), 0);
                } else {
                    let handlers = forms!(size, mi);
                    return self.put_memory(i, handlers, EMPTY.reg, i.immediate(1));
                }
            }
            Mnemonic::Lea => {
                let Some((op, _)) = self.address(i) else { return false };
                let size = operand_size(i, 0);
                let plain = op.scale & !3 == 0;
                let run = if plain { sized!(size, false, lea) } else { sized!(size, true, lea) };
                self.put(Op { run, reg: offset(i, 0), ..op });
            }
            Mnemonic::Xchg => {
                let size = operand_size(i, 0);
                if is_register(i, 0) && is_register(i, 1) {
                    let (base, reg) = (offset(i, 0), offset(i, 1));
                    self.put(Op { run: reg_sized!(size, xchg_rr), base, reg, ..EMPTY });
                } else {
                    let register = if is_register(i, 0) { offset(i, 0) } else { offset(i, 1) };
                    let handlers = forms!(size, xchg_mr);
                    return self.put_memory(i, handlers, register, 0);
                }
            }
            _ => return false,
        }
        true
    }

    fn select_extend(&mut self, i: &Instruction) -> bool {
        use mov::{extend_rm, extend_rr};
        let (to, from, sign, a, b) = match i.mnemonic() {
            Mnemonic::Movzx => (operand_size(i, 0), operand_size(i, 1), false, offset(i, 0), 0),
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                (operand_size(i, 0), operand_size(i, 1), true, offset(i, 0), 0)
            }
            Mnemonic::Cbw => (2, 1, true, 0, 1),
            Mnemonic::Cwde => (4, 2, true, 0, 1),
            Mnemonic::Cdqe => (8, 4, true, 0, 1),
            _ => return false,
        };
        macro_rules! pick {
            ($d:ty, $s:ty) => {
                if sign {
                    (
                        extend_rr::<$d, $s, true> as Handler,
                        [
                            extend_rm::<$d, $s, true, Fast> as Handler,
                            extend_rm::<$d, $s, true, Slow>,
                            extend_rm::<$d, $s, true, Based>,
                            extend_rm::<$d, $s, true, Near>,
                        ],
                    )
                } else {
                    (
                        extend_rr::<$d, $s, false> as Handler,
                        [
                            extend_rm::<$d, $s, false, Fast> as Handler,
                            extend_rm::<$d, $s, false, Slow>,
                            extend_rm::<$d, $s, false, Based>,
                            extend_rm::<$d, $s, false, Near>,
                        ],
                    )
                }
            };
        }
        let (rr, rm) = match (to, from) {
            (2, 1) => pick!(u16, u8),
            (4, 1) => pick!(u32, u8),
            (8, 1) => pick!(u64, u8),
            (2, 2) => pick!(u16, u16),
            (4, 2) => pick!(u32, u16),
            (8, 2) => pick!(u64, u16),
            (4, 4) => pick!(u32, u32),
            (8, 4) => pick!(u64, u32),
            (2, 4) => pick!(u16, u32),
            _ => return false,
        };
        if b == 1 || is_register(i, 1) {
            let reg = if b == 1 { 0 } else { offset(i, 1) };
            self.put(Op { run: rr, base: a, reg, ..EMPTY });
            return true;
        }
        self.put_memory(i, rm, a, 0)
    }

    fn select_multiply(&mut self, i: &Instruction) -> bool {
        use muldiv::{imul_rm, imul_rmi, imul_rr, imul_rri};
        if i.mnemonic() == Mnemonic::Mul && is_register(i, 0) && i.op0_register().is_gpr64() {
            self.put(Op { run: muldiv::mul64, reg: offset(i, 0), ..EMPTY });
            return true;
        }
        if i.mnemonic() != Mnemonic::Imul || i.op_count() == 1 {
            return false;
        }
        let size = operand_size(i, 0);
        let base = offset(i, 0);
        if i.op_count() == 2 {
            if is_register(i, 1) {
                self.put(Op { run: reg_sized!(size, imul_rr), base, reg: offset(i, 1), ..EMPTY });
                return true;
            }
            return self.put_memory(i, [sized!(size, false, imul_rm), sized!(size, true, imul_rm)], base, 0);
        }
        let imm = i.immediate(2);
        if is_register(i, 1) {
            self.put(Op { run: reg_sized!(size, imul_rri), base, reg: offset(i, 1), imm, ..EMPTY });
            return true;
        }
        // The destination is not among the address fields here: it is `reg`, and the source is memory.
        self.put_memory(i, [sized!(size, false, imul_rmi), sized!(size, true, imul_rmi)], base, imm)
    }

    fn select_branch(&mut self, i: &Instruction) -> bool {
        let near = matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32);
        let after = (self.count + 1, i.next_ip() as u16);
        if i.is_jcc_short_or_near() && near {
            self.put(Op { run: branch::jcc_handler(condition(i)), ..EMPTY });
            self.jump(self.target(i), after.0, after.1);
            self.jump(i.next_ip(), after.0, after.1);
            return true;
        }
        let setcc = i.op_count() == 1 && i.condition_code() != iced_x86::ConditionCode::None;
        if setcc && operand_size_is_byte(i) {
            if is_register(i, 0) {
                self.put(Op { run: branch::setcc_handler(condition(i), None), base: offset(i, 0), ..EMPTY });
                return true;
            }
            let handlers = [false, true].map(|slow| branch::setcc_handler(condition(i), Some(slow)));
            return self.put_memory(i, handlers, EMPTY.reg, 0);
        }
        if is_cmov(i) {
            let size = operand_size(i, 0);
            if is_register(i, 1) {
                let run = branch::cmov_handler(condition(i), size, None);
                self.put(Op { run, base: offset(i, 0), reg: offset(i, 1), ..EMPTY });
                return true;
            }
            let handlers = [false, true].map(|slow| branch::cmov_handler(condition(i), size, Some(slow)));
            return self.put_memory(i, handlers, offset(i, 0), 0);
        }
        if i.mnemonic() == Mnemonic::Jmp && near {
            self.jump(self.target(i), self.count, i.ip() as u16);
            return true;
        }
        if !is_64(i) {
            return false;
        }
        match i.mnemonic() {
            Mnemonic::Call if i.op0_kind() == OpKind::NearBranch64 => {
                self.put(Op { run: branch::call::<Fast>, disp: i.next_ip() as i32, ..EMPTY });
                self.jump(self.target(i), after.0, after.1);
            }
            Mnemonic::Call if is_register(i, 0) && i.op0_register().is_gpr64() => {
                self.put(Op { run: branch::call_r::<Fast>, reg: offset(i, 0), imm: i.next_ip(), ..EMPTY });
            }
            Mnemonic::Call if is_memory(i, 0) && operand_size(i, 0) == 8 => {
                let handlers = [form!(false, branch::call_m), form!(true, branch::call_m)];
                return self.put_memory(i, handlers, EMPTY.reg, i.next_ip());
            }
            Mnemonic::Jmp if is_register(i, 0) && i.op0_register().is_gpr64() => {
                self.put(Op { run: branch::jump_r, reg: offset(i, 0), ..EMPTY });
            }
            Mnemonic::Jmp if is_memory(i, 0) && operand_size(i, 0) == 8 => {
                let handlers = [form!(false, branch::jump_m), form!(true, branch::jump_m)];
                return self.put_memory(i, handlers, EMPTY.reg, 0);
            }
            Mnemonic::Ret if matches!(i.code(), iced_x86::Code::Retnq | iced_x86::Code::Retnq_imm16) => {
                let more = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
                self.put(Op { run: branch::ret::<Fast>, imm: more, ..EMPTY });
            }
            _ => return false,
        }
        true
    }

    /// CDQ, CQO, BT and bit scans of registers, CMPXCHG of plain memory.
    fn select_bits(&mut self, i: &Instruction) -> bool {
        let size = match i.mnemonic() {
            Mnemonic::Cdq => 4,
            Mnemonic::Cqo => 8,
            Mnemonic::Bt
            | Mnemonic::Cmpxchg
            | Mnemonic::Bsf
            | Mnemonic::Tzcnt
            | Mnemonic::Bsr
            | Mnemonic::Lzcnt => operand_size(i, 0),
            _ => return false,
        };
        match i.mnemonic() {
            Mnemonic::Bt if !is_register(i, 0) || size == 2 => return false,
            Mnemonic::Bt if is_register(i, 1) => {
                self.put(Op {
                    run: reg_sized!(size, bit_rr),
                    base: offset(i, 0),
                    reg: offset(i, 1),
                    ..EMPTY
                });
            }
            Mnemonic::Bt => {
                let imm = i.immediate(1);
                self.put(Op { run: reg_sized!(size, bit_ri), base: offset(i, 0), imm, ..EMPTY });
            }
            Mnemonic::Bsf | Mnemonic::Tzcnt | Mnemonic::Bsr | Mnemonic::Lzcnt => {
                if !is_register(i, 1) {
                    return false;
                }
                let forward = matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Tzcnt);
                let run: Handler = match (size, forward) {
                    (2, true) => scan_rr::<u16, true>,
                    (4, true) => scan_rr::<u32, true>,
                    (_, true) => scan_rr::<u64, true>,
                    (2, false) => scan_rr::<u16, false>,
                    (4, false) => scan_rr::<u32, false>,
                    (_, false) => scan_rr::<u64, false>,
                };
                self.put(Op { run, base: offset(i, 0), reg: offset(i, 1), ..EMPTY });
            }
            Mnemonic::Cmpxchg if is_register(i, 0) => return false,
            Mnemonic::Cmpxchg => {
                let run = reg_sized!(size, compare_exchange_m);
                return self.put_backed_memory(i, run, offset(i, 1));
            }
            _ => self.put(Op { run: reg_sized!(size, sign_to_d), ..EMPTY }),
        }
        true
    }

    fn select_stack(&mut self, i: &Instruction) -> bool {
        if !is_64(i) || i.stack_pointer_increment().unsigned_abs() != 8 {
            // LEAVE changes RSP by an unknown amount.
            if i.code() == iced_x86::Code::Leaveq {
                self.put(Op { run: branch::leave::<Fast>, ..EMPTY });
                return true;
            }
            return false;
        }
        match i.mnemonic() {
            Mnemonic::Push if is_register(i, 0) && i.op0_register().is_gpr64() => {
                self.put(Op { run: branch::push_r::<Fast>, reg: offset(i, 0), ..EMPTY });
            }
            Mnemonic::Push if is_immediate(i, 0) => {
                self.put(Op { run: branch::push_i::<Fast>, imm: i.immediate(0), ..EMPTY });
            }
            Mnemonic::Pop if is_register(i, 0) && i.op0_register().is_gpr64() => {
                self.put(Op { run: branch::pop_r::<Fast>, reg: offset(i, 0), ..EMPTY });
            }
            _ => return false,
        }
        true
    }
}

use bits::{bit_ri, bit_rr, scan_rr};
use general::compare_exchange_m;
use mov::{rr as mov_same, sign_to_d};

fn operand_size_is_byte(i: &Instruction) -> bool {
    i.op0_kind() != OpKind::NearBranch64
        && i.op0_kind() != OpKind::NearBranch32
        && i.op0_kind() != OpKind::NearBranch16
        && operand_size(i, 0) == 1
}

fn is_cmov(i: &Instruction) -> bool {
    use Mnemonic::*;
    is(
        i,
        &[
            Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp,
            Cmovns, Cmovo, Cmovp, Cmovs,
        ],
    )
}
