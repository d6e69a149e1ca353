//! Decoding: from bytes to a block of ops.

mod combine;
mod interpreted;
mod select;
mod select_sse;
mod shortcut;

use iced_x86::{
    Code, CodeSize, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind,
    Register,
};

use super::block::{Block, Interpret, Interpreted, Side, granules};
use super::cpu::{Cpu, MODE_SIZE_SHIFT};
use super::exec::operand::{register_offset, segment_number};
use super::exec::{self, branch};
use super::op::{ADDRESS32, Handler, LINEAR32, Op, PAGE_BASE, PAGE_END, SEGMENT_SHIFT, ZERO};
use crate::memory::PAGE;

/// Most instructions of a block.
const MOST: usize = 64;

/// Longest instruction.
pub(super) const LONGEST: usize = 15;

/// Where the ops of a block are put together.
struct Builder {
    ops: Vec<Op>,
    side: Vec<Side>,
    #[expect(clippy::vec_box, reason = "ops hold pointers to the boxes while the vector grows")]
    interpreted: Vec<Box<Interpreted>>,
    /// Indices of the jump ops, and targets as distances from the page.
    jumps: Vec<(usize, u64)>,
    mode: u8,
    /// Instructions so far, the one in work excluded.
    count: u16,
    /// Offsets of the instruction in work and of what follows it.
    offset: u16,
    after: u16,
}

/// What kind of address a memory operand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// 64-bit registers, no segment base.
    Fast,
    /// Anything.
    Slow,
    /// As fast, with the base of FS or GS.
    Based,
}

const EMPTY: Op = Op { run: exec::head, disp: 0, base: ZERO, index: ZERO, scale: 0, reg: ZERO, imm: 0 };

impl Builder {
    fn new(mode: u8, offset: u16) -> Self {
        Self {
            ops: vec![EMPTY],
            side: vec![Side { index: 0, offset, after: offset }],
            interpreted: Vec::new(),
            jumps: Vec::new(),
            mode,
            count: 0,
            offset,
            after: offset,
        }
    }

    /// Makes a block of the instructions; `None` of none.
    fn build(mut self, list: &List, page: u64, offset: u16, single: bool) -> Option<Box<Block>> {
        let instructions = &list.instructions;
        let last = instructions.last()?;
        let unseen = combine::unseen_flags(list);
        let mut n = 0;
        while n < instructions.len() {
            self.at(instructions, n);
            let taken = if single || list.is_followed(n) { 0 } else { self.several(instructions, n, unseen) };
            if taken == 0 && !list.is_followed(n) {
                self.translate(&instructions[n]);
            }
            n += taken.max(1);
        }
        self.count = n as u16;
        self.after = last.next_ip() as u16;
        if !ends_block(last) {
            self.jump(self.after.into(), self.count, self.after);
        }
        let mut bits = 0;
        for i in instructions {
            bits |= granules(i.ip(), i.len() as u64);
        }
        Some(self.finish(page, offset, last.next_ip() as u16 - last.ip() as u16, bits))
    }

    /// Makes `n` the instruction in work.
    fn at(&mut self, list: &[Instruction], n: usize) {
        self.count = n as u16;
        self.offset = list[n].ip() as u16;
        self.after = list[n].next_ip() as u16;
    }

    fn long64(&self) -> bool {
        self.mode >> MODE_SIZE_SHIFT & 3 == 2
    }

    fn put(&mut self, op: Op) {
        self.side.push(Side { index: self.count, offset: self.offset, after: self.after });
        self.ops.push(op);
    }

    /// A jump op to a target; it belongs to the boundary before instruction `index` at `offset`.
    fn jump(&mut self, target: u64, index: u16, offset: u16) {
        self.jumps.push((self.ops.len(), target));
        self.side.push(Side { index, offset, after: offset });
        self.ops.push(Op { run: branch::jump, ..EMPTY });
    }

    fn interpret(&mut self, run: Interpret, instruction: &Instruction) {
        self.put_interpreted(run, instruction, Op { run: exec::interpret, ..EMPTY });
    }

    /// Adds an op with an interpreted form as its immediate.
    fn put_interpreted(&mut self, run: Interpret, instruction: &Instruction, op: Op) {
        let boxed = Box::new(Interpreted { run, instruction: *instruction });
        let imm = &raw const *boxed as u64;
        self.interpreted.push(boxed);
        self.put(Op { imm, ..op });
    }

    /// The address fields of an op, and which form of a handler can do it.
    fn address(&self, i: &Instruction) -> Option<(Op, Reach)> {
        let mut op = EMPTY;
        let long = self.long64();
        let mut slow = !long;
        if !long {
            op.scale |= LINEAR32;
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let mut displacement = i.memory_displacement64() as i64;
        let mut narrow = i.memory_displ_size() == 4 && base == Register::None && index == Register::None;
        match base {
            Register::None => {}
            Register::EIP => {
                op.base = PAGE_BASE;
                narrow = true;
            }
            Register::RIP => {
                op.base = PAGE_BASE;
                if i32::try_from(displacement).is_err() {
                    op.base = PAGE_END;
                    displacement -= 4096;
                }
            }
            _ if base.is_gpr64() => op.base = register_offset(base),
            _ if base.is_gpr32() => {
                op.base = register_offset(base);
                narrow = true;
            }
            _ => return None,
        }
        if index != Register::None {
            if !(index.is_gpr64() || index.is_gpr32()) {
                return None;
            }
            op.index = register_offset(index);
            op.scale |= i.memory_index_scale().trailing_zeros() as u8;
            narrow |= index.is_gpr32();
        }
        if narrow {
            op.scale |= ADDRESS32;
            slow = true;
            displacement = displacement as i32 as i64;
        }
        op.disp = i32::try_from(displacement).ok()?;
        let segment = segment_number(i.memory_segment());
        let based = long && segment >= 4;
        if !long || based {
            op.scale |= (segment as u8 + 1) << SEGMENT_SHIFT;
        }
        let reach = match (slow, based) {
            (true, _) => Reach::Slow,
            (_, true) => Reach::Based,
            _ => Reach::Fast,
        };
        Some((op, reach))
    }
}

/// Decodes a block that starts at `offset` of a page. `None` if not even one instruction fits into it.
pub(super) fn block(cpu: &Cpu, page: u64, offset: u16, bytes: &[u8; PAGE]) -> Option<Box<Block>> {
    let mut decoder = decoder(cpu.mode, bytes, 0);
    let mut list = List::new(MOST);
    let place = |decoder: &mut Decoder<'_>, at: u64| {
        decoder.set_ip(at);
        decoder.set_position(at as usize).is_ok()
    };
    let mut next = place(&mut decoder, offset.into()).then(|| next_instruction(&mut decoder)).flatten();
    while let Some(instruction) = next {
        list.push(instruction);
        if list.instructions.len() == MOST {
            break;
        }
        next = if ends_block(&instruction) {
            // A jump within the page is no end: what it leads to follows.
            let target = jump_target(&instruction).filter(|target| *target < PAGE as u64);
            let follows = target.filter(|target| place(&mut decoder, *target));
            let after = follows.and_then(|_| next_instruction(&mut decoder));
            if after.is_none() {
                break;
            }
            list.followed |= 1 << (list.instructions.len() - 1);
            after
        } else {
            next_instruction(&mut decoder)
        };
    }
    Builder::new(cpu.mode, offset).build(&list, page, offset, false)
}

/// Decodes one instruction at `offset` of a page whose bytes from there on are `bytes` (cut at the page's end, or if it
/// straddles, beyond). `None` if it does not fit.
pub(super) fn single(cpu: &Cpu, page: u64, offset: u16, bytes: &[u8]) -> Option<Box<Block>> {
    let mut list = List::new(1);
    list.push(next_instruction(&mut decoder(cpu.mode, bytes, offset.into()))?);
    Builder::new(cpu.mode, offset).build(&list, page, offset, true)
}

/// The instructions of a block.
struct List {
    instructions: Vec<Instruction>,
    /// One bit per instruction: it is a jump, and the next one is its target.
    followed: u64,
}

impl List {
    fn new(most: usize) -> Self {
        Self { instructions: Vec::with_capacity(most), followed: 0 }
    }

    fn push(&mut self, instruction: Instruction) {
        self.instructions.push(instruction);
    }

    fn is_followed(&self, n: usize) -> bool {
        self.followed >> n & 1 != 0
    }
}

fn decoder(mode: u8, bytes: &[u8], ip: u64) -> Decoder<'_> {
    let bitness = match mode >> MODE_SIZE_SHIFT & 3 {
        2 => 64,
        1 => 32,
        _ => 16,
    };
    Decoder::with_ip(bitness, bytes, ip, DecoderOptions::NONE)
}

/// Where a JMP of a fixed target leads, as a distance from the page.
fn jump_target(i: &Instruction) -> Option<u64> {
    (i.mnemonic() == Mnemonic::Jmp && i.op0_kind() == OpKind::NearBranch64).then(|| i.near_branch64())
}

/// True for the last instruction of a block.
fn ends_block(i: &Instruction) -> bool {
    i.flow_control() != FlowControl::Next || interpreted::ends_block(i)
}

fn next_instruction(decoder: &mut Decoder<'_>) -> Option<Instruction> {
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    if instruction.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes {
        None
    } else {
        Some(instruction)
    }
}

impl Builder {
    /// Adds one instruction.
    fn translate(&mut self, i: &Instruction) {
        if self.select(i) {
            return;
        }
        let run = interpreted::select(i, self.mode);
        self.interpret(run, i);
        // What follows an interpreted instruction is the next op; after a branch that is never reached.
        if ends_block(i) {
            self.jump(i.next_ip(), self.count + 1, i.next_ip() as u16);
        }
    }

    /// Adds the instructions from `n` on as one op, if there is one for several of them; how many they were.
    fn several(&mut self, list: &[Instruction], n: usize, unseen: u64) -> usize {
        // CMP or TEST with the Jcc behind it.
        if select::may_fuse(&list[n])
            && let Some(jcc) = list.get(n + 1)
            && jcc.is_jcc_short_or_near()
            && matches!(jcc.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
        {
            self.fuse(&list[n], jcc);
            return 2;
        }
        let taken = self.shortcut(list, n);
        if taken == 0 { self.combine(list, n, unseen) } else { taken }
    }

    fn fuse(&mut self, compare: &Instruction, jcc: &Instruction) {
        let (handler, op) = select::fused(compare, jcc);
        self.put(Op { run: handler, ..op });
        let (index, offset) = (self.count + 1, jcc.ip() as u16);
        self.jump(self.target(jcc), index, offset);
        self.jump(jcc.next_ip(), index, offset);
    }

    /// A direct branch's target as a distance from the page.
    fn target(&self, i: &Instruction) -> u64 {
        if i.op0_kind() == OpKind::NearBranch32 {
            i.near_branch32() as i32 as i64 as u64
        } else {
            i.near_branch64()
        }
    }

    fn finish(mut self, page: u64, offset: u16, len: u16, granules: u64) -> Box<Block> {
        let far: Handler = if self.long64() { exec::far } else { exec::far32 };
        let mut stubs = [0; 2];
        for (number, (at, target)) in self.jumps.iter().enumerate() {
            let stub = self.ops.len();
            let distance = (stub - at) as i32;
            self.ops[*at].disp = distance;
            self.ops.push(EMPTY);
            if *target < PAGE as u64 {
                self.ops.push(Op { run: exec::resolve, disp: -distance - 1, imm: *target, ..EMPTY });
            } else {
                // And where it leads: nowhere yet.
                self.ops.extend([Op { run: far, imm: *target, ..EMPTY }, EMPTY, EMPTY, EMPTY]);
            }
            self.side
                .resize(self.ops.len(), Side { index: self.count, offset: self.after, after: self.after });
            stubs[number] = stub;
        }
        let mut block = Box::new(Block {
            ops: self.ops.into_boxed_slice(),
            side: self.side,
            interpreted: self.interpreted,
            page,
            offset,
            len,
            granules,
            mode: self.mode,
            count: self.count,
            dead: true,
            incoming: Vec::new(),
            jumps: [std::ptr::null_mut(); 2],
        });
        let pointer = &raw const *block as u64;
        block.ops[0].disp = i32::from(self.count);
        block.ops[0].imm = pointer;
        let ops = block.ops.as_mut_ptr();
        for (number, (at, _)) in self.jumps.iter().enumerate() {
            let stub = stubs[number];
            block.ops[stub].imm = pointer;
            block.ops[*at].imm = ops.wrapping_add(stub) as u64;
            block.jumps[number] = ops.wrapping_add(*at);
        }
        block
    }
}

/// Bytes of an operand's register or memory.
fn operand_size(i: &Instruction, n: u32) -> usize {
    exec::operand::size_of_operand(i, n)
}

/// True for code that was decoded for 64-bit mode.
fn is_64(i: &Instruction) -> bool {
    i.code_size() == CodeSize::Code64
}

/// The condition number of Jcc, SETcc and CMOVcc: the low bits of their opcodes.
pub(super) fn condition(i: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match i.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

/// True for `Code`s and mnemonics that the selectors look at by name.
fn is(i: &Instruction, mnemonics: &[Mnemonic]) -> bool {
    mnemonics.contains(&i.mnemonic())
}

/// NOP, in the encodings where it is a plain one, and hints that this processor does not know.
fn is_nop(code: Code) -> bool {
    code.mnemonic() == Mnemonic::Reservednop
        || matches!(
            code,
            Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64
        )
}
