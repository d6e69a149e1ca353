//! Random programs of ordinary instructions that always end: straight lines, branches, nested loops, calls, repeated
//! strings, divisions, indirect jumps, and code that changes itself.
//!
//! R15 and R14 point into the first two data pages and R13 and R12 count loops; no instruction that is drawn changes
//! these or RSP. After an instruction that leaves flags undefined comes one that defines them, so that nothing undefined
//! is ever read.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind,
    Register,
};

use super::case::{self, Case, Mode, Regs};
use super::draw;
use super::forms::{self, Family};
use super::layout::{CODE_LEN, DATA};
use super::rng::Rng;

/// The forms that programs are made of.
pub(crate) fn ordinary() -> Vec<Code> {
    let integer = forms::forms(Family::Integer).into_iter().filter(|code| {
        use Mnemonic as M;
        let name = format!("{:?}", code.mnemonic());
        name.starts_with("Set")
            || name.starts_with("Cmov")
            || matches!(
                code.mnemonic(),
                M::Add
                    | M::Adc
                    | M::Sub
                    | M::Sbb
                    | M::And
                    | M::Or
                    | M::Xor
                    | M::Cmp
                    | M::Test
                    | M::Mov
                    | M::Movzx
                    | M::Movsx
                    | M::Movsxd
                    | M::Lea
                    | M::Inc
                    | M::Dec
                    | M::Neg
                    | M::Not
                    | M::Shl
                    | M::Shr
                    | M::Sar
                    | M::Rol
                    | M::Ror
                    | M::Rcl
                    | M::Rcr
                    | M::Imul
                    | M::Mul
                    | M::Bt
                    | M::Bts
                    | M::Btr
                    | M::Btc
                    | M::Xchg
                    | M::Xadd
                    | M::Cmpxchg
                    | M::Bswap
                    | M::Cbw
                    | M::Cwde
                    | M::Cdqe
                    | M::Cwd
                    | M::Cdq
                    | M::Cqo
                    | M::Lahf
                    | M::Sahf
                    | M::Stc
                    | M::Clc
                    | M::Cmc
                    | M::Popcnt
                    | M::Nop
            )
    });
    let vector = forms::forms(Family::Sse).into_iter().filter(|code| {
        use Mnemonic as M;
        !matches!(
            code.mnemonic(),
            M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Maskmovdqu | M::Ldmxcsr | M::Clflush
        )
    });
    // Twice as many integer forms as vector forms, whatever the table holds.
    let integer: Vec<Code> = integer.collect();
    let vector: Vec<Code> = vector.collect();
    let mut codes = Vec::new();
    while codes.len() < 2 * vector.len() {
        codes.extend(&integer);
    }
    codes.extend(vector);
    codes
}

/// The numbers out of which program `number` of a test is made; `salt` is the test's own.
pub(crate) fn rng(salt: u64, number: u64) -> Rng {
    let mut rng = Rng::new(super::seed() ^ salt << 56 ^ number << 16);
    // Mixing once keeps neighbouring seeds apart.
    Rng::new(rng.next())
}

/// The registers and instructions of a program, for whoever looks into a failure.
pub(crate) fn listing(case: &Case) -> String {
    let mut text = format!("{:x?}\n", case.regs);
    let mut formatter = IntelFormatter::new();
    for instruction in &mut Decoder::with_ip(64, &case.code, case.regs.rip, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        text += &format!("{:x} {line}\n", instruction.ip());
    }
    text
}

/// A program of some `size` instructions (loops run some of them again), with registers and data.
pub(crate) fn random_program(rng: &mut Rng, codes: &[Code], size: usize, window: u64) -> Case {
    program(rng, codes, size, window, true)
}

/// The same without code that changes itself.
pub(crate) fn random_fixed_program(rng: &mut Rng, codes: &[Code], size: usize, window: u64) -> Case {
    program(rng, codes, size, window, false)
}

fn program(rng: &mut Rng, codes: &[Code], size: usize, window: u64, changes_itself: bool) -> Case {
    let start = window + if rng.one_in(2) { 0x40 } else { 0x1000 - 0x40 - rng.below(0x200) };
    let mut writer = Writer { rng, codes, window, start, changes_itself, bytes: Vec::new() };
    writer.sequence(size, 0);
    let bytes = writer.bytes;
    assert!(start - window + bytes.len() as u64 <= CODE_LEN, "program of {} bytes", bytes.len());
    let mut regs = Regs::random(rng, Mode::Long);
    regs.rip = start;
    regs.rflags &= !0x400;
    regs.gpr[4] = window + DATA + 0x2800;
    regs.gpr[15] = window + DATA + 0x800;
    regs.gpr[14] = window + DATA + 0x1800;
    Case { code: bytes, regs, data: case::random_data(rng) }
}

struct Writer<'a> {
    rng: &'a mut Rng,
    codes: &'a [Code],
    window: u64,
    start: u64,
    changes_itself: bool,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn sequence(&mut self, size: usize, depth: u32) {
        let mut left = size;
        while left > 0 {
            let inner = left.min(3 + self.rng.below(12) as usize);
            let structured = depth < 2 && inner > 2 && self.rng.one_in(6);
            if !structured {
                match self.rng.below(24) {
                    0 => self.string(),
                    1 => self.division(),
                    2 if self.changes_itself => self.patch_ahead(),
                    _ => self.plain(),
                }
                left -= 1;
                continue;
            }
            left -= inner;
            match self.rng.below(5) {
                0 => self.skip(inner - 1, depth),
                1 | 2 => self.counted(inner - 1, depth),
                3 => self.call(inner - 1, depth),
                _ => self.push_pop(inner - 1, depth),
            }
        }
    }

    fn here(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Defines all flags.
    fn define_flags(&mut self) {
        // cmp r/m32, r32 of two of the eight old registers.
        let operands = 0xC0 | self.rng.below(64) as u8;
        self.emit(&[0x39, operands]);
    }

    fn plain(&mut self) {
        loop {
            let code = self.rng.pick(self.codes);
            let Some(mut instruction) = draw::draw(self.rng, Mode::Long, code, self.here(), self.window)
            else {
                continue;
            };
            let mut preface: &[u8] = &[];
            self.tame(&mut instruction, &mut preface);
            let mut encoder = Encoder::new(64);
            if encoder.encode(&instruction, self.here() + preface.len() as u64).is_err() {
                continue;
            }
            self.emit(preface);
            self.emit(&encoder.take_buffer());
            // A turn through the carry by a multiple of all bits, which ends where it began, still leaves OF undefined.
            let turns = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr)
                && instruction.op1_kind() == OpKind::Immediate8
                && instruction.immediate8() & 31 > 1;
            if instruction.rflags_undefined() != 0 || turns {
                self.define_flags();
            }
            return;
        }
    }

    /// Keeps `instruction` off the registers with a role, and its memory operand in the first two data pages.
    fn tame(&mut self, instruction: &mut Instruction, preface: &mut &'static [u8]) {
        for operand in 0..instruction.op_count() {
            match instruction.op_kind(operand) {
                OpKind::Register => {
                    let register = instruction.op_register(operand);
                    if !register.is_gpr() || ![4, 12, 13, 14, 15].contains(&register.full_register().number())
                    {
                        continue;
                    }
                    let number = self.rng.pick(&[0, 1, 2, 3, 8, 9, 10, 11]);
                    let first = match register.size() {
                        1 if number >= 8 => Register::R8L - 8,
                        1 => Register::AL,
                        2 => Register::AX,
                        4 => Register::EAX,
                        _ => Register::RAX,
                    };
                    instruction.set_op_register(operand, first + number);
                }
                OpKind::Memory => {
                    instruction.set_segment_prefix(Register::None);
                    instruction.set_memory_base(self.rng.pick(&[Register::R15, Register::R14]));
                    instruction.set_memory_index(Register::None);
                    instruction.set_memory_index_scale(1);
                    instruction.set_memory_displ_size(8);
                    let mut displacement = self.rng.below(0xFF0);
                    if self.rng.one_in(4) {
                        // and r11d, 0xff: an index.
                        *preface = &[0x41, 0x81, 0xE3, 0xFF, 0, 0, 0];
                        instruction.set_memory_index(Register::R11);
                        instruction.set_memory_index_scale(self.rng.pick(&[1, 2, 4, 8]));
                        displacement = self.rng.below(0x7E8);
                    }
                    let vector = forms::family(instruction.code()) != Some(Family::Integer);
                    if instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg || vector {
                        // Aligned: no locked access across cache lines, no #GP.
                        displacement &= !15;
                        instruction.set_memory_index(Register::None);
                        *preface = &[];
                    }
                    if matches!(
                        instruction.mnemonic(),
                        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                    ) && instruction.op1_kind() == OpKind::Register
                    {
                        // A bit offset of 11 bits, in a register of its own.
                        *preface = &[0x41, 0x81, 0xE2, 0xFF, 0x07, 0, 0];
                        let first = match instruction.op1_register().size() {
                            2 => Register::AX,
                            4 => Register::EAX,
                            _ => Register::RAX,
                        };
                        instruction.set_op_register(1, first + 10);
                        instruction.set_memory_index(Register::None);
                        displacement = self.rng.below(0xE00);
                    }
                    instruction.set_memory_displacement64(displacement.wrapping_sub(0x800));
                }
                _ => {}
            }
        }
    }

    /// MOVS, STOS, CMPS or SCAS, repeated some times over both pages.
    fn string(&mut self) {
        let count = self.rng.pick(&[0, 1, 5, 17, 64, 200]) as u32;
        let opcode = self.rng.pick(&[0xA4, 0xA5, 0xAA, 0xAB, 0xA6, 0xA7, 0xAE, 0xAF, 0xAC]);
        let prefix = self.rng.pick(&[0xF3, 0xF3, 0xF2]);
        let prefix = if matches!(opcode, 0xA6 | 0xA7 | 0xAE | 0xAF) { prefix } else { 0xF3 };
        let [from, to] = [0; 2].map(|_: u32| (self.rng.below(0x1000) as i32 - 0x600).to_le_bytes());
        self.emit(&[0xFC, 0xB9]);
        self.emit(&count.to_le_bytes());
        // lea rsi, [r15+from]; lea rdi, [r15+to]
        self.emit(&[0x49, 0x8D, 0xB7]);
        self.emit(&from);
        self.emit(&[0x49, 0x8D, 0xBF]);
        self.emit(&to);
        self.emit(&[prefix]);
        if self.rng.one_in(2) {
            self.emit(&[0x48]);
        }
        self.emit(&[opcode]);
    }

    fn division(&mut self) {
        // xor edx, edx; or r8, 1; div r8
        self.emit(&[0x31, 0xD2, 0x49, 0x83, 0xC8, 0x01]);
        let wide = self.rng.one_in(2);
        self.emit(if wide { &[0x49, 0xF7, 0xF0] } else { &[0x41, 0xF7, 0xF0] });
        self.define_flags();
    }

    /// Stores into the immediate of an instruction some way ahead.
    fn patch_ahead(&mut self) {
        // mov byte ptr [rip+distance], value
        let at = self.bytes.len();
        let value = self.rng.next() as u8;
        self.emit(&[0xC6, 0x05, 0, 0, 0, 0, value]);
        let after = self.bytes.len();
        for _ in 0..self.rng.below(4) {
            self.plain();
        }
        // add eax, imm32: its second byte.
        let distance = (self.bytes.len() + 2 - after) as u32;
        self.bytes[at + 2..at + 6].copy_from_slice(&distance.to_le_bytes());
        self.emit(&[0x05, 1, 2, 3, 4]);
    }

    fn skip(&mut self, size: usize, depth: u32) {
        let condition = self.rng.below(16) as u8;
        self.emit(&[0x0F, 0x80 | condition, 0, 0, 0, 0]);
        let after = self.bytes.len();
        self.sequence(size, depth + 1);
        self.link(after);
    }

    /// Makes the 32-bit displacement that ends at `after` lead here.
    fn link(&mut self, after: usize) {
        let distance = (self.bytes.len() - after) as u32;
        self.bytes[after - 4..after].copy_from_slice(&distance.to_le_bytes());
    }

    fn counted(&mut self, size: usize, depth: u32) {
        let counter = if depth == 0 { 5 } else { 4 };
        // mov r13d or r12d, n
        self.emit(&[0x41, 0xB8 | counter]);
        let times = 1 + self.rng.below(if depth == 0 { 40 } else { 12 }) as u32;
        self.emit(&times.to_le_bytes());
        let top = self.bytes.len();
        let patched = self.rng.one_in(3) && self.changes_itself;
        if patched {
            // add eax, imm32, changed at the end of each round.
            self.emit(&[0x05, 1, 0, 0, 0]);
        }
        self.sequence(size, depth + 1);
        if patched {
            // add byte ptr [rip+distance], 3
            let distance = (top as i32 + 1 - (self.bytes.len() as i32 + 7)).to_le_bytes();
            self.emit(&[0x80, 0x05]);
            self.emit(&distance);
            self.emit(&[3]);
        }
        // dec r13 or r12; jnz top
        self.emit(&[0x49, 0xFF, 0xC8 | counter]);
        let distance = top as i32 - (self.bytes.len() as i32 + 2);
        match i8::try_from(distance) {
            Ok(short) if self.rng.one_in(2) => self.emit(&[0x75, short as u8]),
            _ => {
                let distance = (distance - 4).to_le_bytes();
                self.emit(&[0x0F, 0x85]);
                self.emit(&distance);
            }
        }
    }

    /// A procedure in the way, called twice: directly and through a register.
    fn call(&mut self, size: usize, depth: u32) {
        // jmp over
        self.emit(&[0xE9, 0, 0, 0, 0]);
        let over = self.bytes.len();
        self.sequence(size, depth + 1);
        self.emit(&[0xC3]);
        self.link(over);
        let distance = (over as i32 - (self.bytes.len() as i32 + 5)).to_le_bytes();
        self.emit(&[0xE8]);
        self.emit(&distance);
        // lea r9, [rip+distance]; call r9
        let distance = (over as i32 - (self.bytes.len() as i32 + 7)).to_le_bytes();
        self.emit(&[0x4C, 0x8D, 0x0D]);
        self.emit(&distance);
        self.emit(&[0x41, 0xFF, 0xD1]);
    }

    fn push_pop(&mut self, size: usize, depth: u32) {
        let (first, second) = (self.rng.pick(&[0_u8, 1, 2, 3]), self.rng.pick(&[0_u8, 1, 2, 3]));
        self.emit(&[0x50 | first, 0x9C, 0x41, 0x50 | second]);
        self.sequence(size, depth + 1);
        // pop r64; popf; pop r64
        self.emit(&[0x41, 0x58 | second, 0x9D, 0x58 | first]);
    }
}
