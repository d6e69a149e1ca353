//! x87 arithmetic, comparisons, moves and conversions.
//!
//! An instruction runs on the host's x87 with the guest's whole state loaded: modes, stack and flags. Its exceptions do
//! not trap there even if the guest has unmasked them, because x87 exceptions wait for the next instruction, and the state
//! is taken away before. So stack faults, unmasked responses and condition codes are those of the hardware. What differs
//! between makers, the transcendental functions, is not asked of the host.

use std::arch::{asm, global_asm};

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::float::summarised;
use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::{Fault, MF};
use crate::software::flags::{AF, CF, OF, PF, SF, ZF};
use crate::state::X87;

// All x87 instructions: first the 8 x 64 register forms, then the 8 x 8 memory forms with [rsi], four bytes each, with a
// return behind.
global_asm!(
    ".pushsection .text.ft_vcpu_x87,\"ax\",@progbits",
    ".balign 16",
    "ft_vcpu_x87_instructions:",
    ".set ft_vcpu_x87_n, 0",
    ".rept 512",
    ".byte 0xD8 + (ft_vcpu_x87_n >> 6), 0xC0 + (ft_vcpu_x87_n & 63), 0xC3, 0x90",
    ".set ft_vcpu_x87_n, ft_vcpu_x87_n + 1",
    ".endr",
    ".set ft_vcpu_x87_n, 0",
    ".rept 64",
    ".byte 0xD8 + (ft_vcpu_x87_n >> 3), 0x06 + ((ft_vcpu_x87_n & 7) << 3), 0xC3, 0x90",
    ".set ft_vcpu_x87_n, ft_vcpu_x87_n + 1",
    ".endr",
    ".popsection",
);

/// The memory image of FNSAVE in 64-bit mode.
const IMAGE: usize = 108;

/// Bytes of the largest operand, rounded up.
pub(super) type Buffer = [u8; 16];

/// Arithmetic flags, which FCMOVcc reads and FCOMI writes.
const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

fn to_image(x87: &X87) -> [u8; IMAGE] {
    let mut image = [0; IMAGE];
    image[0..2].copy_from_slice(&x87.control.to_le_bytes());
    image[4..6].copy_from_slice(&x87.status.to_le_bytes());
    // The processor looks only at which ones are empty.
    let tags = (0..8).filter(|n| x87.tag >> n & 1 == 0).fold(0_u16, |tags, n| tags | 3 << (2 * n));
    image[8..10].copy_from_slice(&tags.to_le_bytes());
    for n in 0..8 {
        image[28 + 10 * n..38 + 10 * n].copy_from_slice(&x87.registers[x87.physical(n)]);
    }
    image
}

fn from_image(image: &[u8; IMAGE]) -> X87 {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let mut x87 = X87 { control: word(0), status: word(4), ..X87::default() };
    x87.tag = (0..8).filter(|n| word(8) >> (2 * n) & 3 != 3).fold(0, |tag, n| tag | 1 << n);
    for n in 0..8 {
        x87.registers[x87.physical(n)].copy_from_slice(&image[28 + 10 * n..38 + 10 * n]);
    }
    x87
}

/// Runs instruction `index` of the table on a copy of `x87`.
pub(super) fn run(x87: &X87, index: usize, buffer: &mut Buffer, flags: &mut u64) -> X87 {
    debug_assert!(index < 512 + 64);
    let mut image = to_image(x87);
    let mut all_flags = *flags & ARITHMETIC | 0x202;
    // SAFETY: the index is that of an instruction which touches nothing but the x87, the arithmetic flags and at most 10
    // bytes of the buffer (callers pass no other). FNSAVE leaves the host's x87 as after FNINIT, as the ABI has it between
    // functions, and with it any exception that waited. The asm uses the stack as a call does.
    unsafe {
        asm!(
            "lea {code}, [rip + ft_vcpu_x87_instructions]",
            "lea {code}, [{code} + 4*{index}]",
            "frstor [{image}]",
            "push {flags}",
            "popfq",
            "call {code}",
            "pushfq",
            "pop {flags}",
            "fnsave [{image}]",
            code = out(reg) _,
            index = in(reg) index,
            image = in(reg) image.as_mut_ptr(),
            flags = inout(reg) all_flags,
            in("rsi") buffer.as_mut_ptr(),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    *flags = all_flags & ARITHMETIC;
    from_image(&image)
}

/// True for the instructions of which the table has the code.
pub(in crate::software) fn is_arithmetic(i: &Instruction) -> bool {
    use iced_x86::CpuidFeature::{FPU, FPU287, FPU387};
    let code = i.op_code();
    let opcode = code.op_code();
    let fpu = i.cpuid_features().iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387));
    let first = if opcode > 0xFF { opcode >> 8 } else { opcode };
    fpu && code.op_code_len() <= 2 && (0xD8..=0xDF).contains(&first)
}

/// Where the instruction is in the table.
fn index_of(i: &Instruction) -> usize {
    let code = i.op_code();
    let opcode = code.op_code() as usize;
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        let group = code.group_index().max(0) as usize;
        return 512 + ((opcode - 0xD8) << 3 | group);
    }
    debug_assert!(opcode > 0xFF);
    // The number of the register that is not ST(0) by nature; the opcode is that of ST(0).
    let st = (0..i.op_count()).map(|n| i.op_register(n)).filter(|register| register.is_st());
    let number = st.map(|register| register.number()).max().unwrap_or(0);
    (((opcode >> 8) & 7) << 6 | opcode & 63) + number
}

impl Cpu {
    /// What every x87 instruction that waits checks first: it exists, it may be used, and no exception is pending.
    pub(super) fn x87_waits(&self) -> Result<(), Fault> {
        self.x87_allowed()?;
        if self.s.x87.status & 0x80 != 0 { Err(Fault::new(MF)) } else { Ok(()) }
    }

    /// Takes a new x87 state; condition codes that the architecture leaves undefined stay as they were.
    pub(super) fn commit_x87(&mut self, i: &Instruction, mut x87: X87) {
        let undefined = i.rflags_undefined();
        let codes = [
            (RflagsBits::C0, 0x100),
            (RflagsBits::C1, 0x200),
            (RflagsBits::C2, 0x400),
            (RflagsBits::C3, 0x4000),
        ];
        let keep =
            codes.iter().filter(|(bit, _)| undefined & bit != 0).fold(0, |keep, (_, code)| keep | code);
        x87.status = x87.status & !keep | self.s.x87.status & keep;
        x87.status = summarised(x87.status, x87.control);
        self.s.x87 = x87;
    }

    fn read_bytes(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.check_alignment(at, alignment(bytes.len()))?;
        self.check_read(at, bytes.len())?;
        for (n, chunk) in (0..).zip(bytes.chunks_mut(2)) {
            let from = self.wrap(at.wrapping_add(2 * n));
            chunk.copy_from_slice(&self.read(from, chunk.len())?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    fn write_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.check_alignment(at, alignment(bytes.len()))?;
        self.check_write(at, bytes.len())?;
        for (n, chunk) in (0..).zip(bytes.chunks(2)) {
            let to = self.wrap(at.wrapping_add(2 * n));
            let value = u64::from(chunk[0]) | u64::from(*chunk.get(1).unwrap_or(&0)) << 8;
            self.write(to, chunk.len(), value)?;
        }
        Ok(())
    }
}

/// What an x87 operand must be aligned to where that is checked (SDM volume 3, table 6-7).
fn alignment(len: usize) -> usize {
    match len {
        10 => 8,
        28 | 108 => 4,
        14 | 94 => 2,
        len => len,
    }
}

/// Instructions without a memory operand.
pub(in crate::software) fn on_registers(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_waits()?;
    let mut flags = c.flags.bits();
    let x87 = run(&c.s.x87, index_of(i), &mut [0; 16], &mut flags);
    c.commit_x87(i, x87);
    if matches!(i.mnemonic(), Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip) {
        c.flags.set_bits(flags);
    }
    Ok(Flow::Next)
}

/// Instructions that read a memory operand.
pub(in crate::software) fn from_memory(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_waits()?;
    let mut buffer = [0; 16];
    let at = c.linear(i);
    c.read_bytes(at, &mut buffer[..i.memory_size().size().min(10)])?;
    let x87 = run(&c.s.x87, index_of(i), &mut buffer, &mut 0);
    c.commit_x87(i, x87);
    Ok(Flow::Next)
}

/// Instructions that write a memory operand.
pub(in crate::software) fn to_memory(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_waits()?;
    let size = i.memory_size().size().min(10);
    let (mut first, mut second) = ([0_u8; 16], [0xFF_u8; 16]);
    let x87 = run(&c.s.x87, index_of(i), &mut first, &mut 0);
    let at = c.linear(i);
    c.check_write(at, size)?;
    // An unmasked exception may mean that nothing was stored: then two runs do not agree on what was.
    let pending = x87.status & 0x80 != 0;
    if pending {
        run(&c.s.x87, index_of(i), &mut second, &mut 0);
    }
    if !pending || first[..size] == second[..size] {
        c.write_bytes(at, &first[..size])?;
    }
    c.commit_x87(i, x87);
    Ok(Flow::Next)
}

/// FNENI, FNDISI, FNSETPM: nothing since the 80387.
pub(in crate::software) fn obsolete(c: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    c.x87_allowed()?;
    Ok(Flow::Next)
}

/// The tag word, as FNSTENV has it: 0 valid, 1 zero, 2 special, 3 empty.
fn full_tags(x87: &X87) -> u16 {
    (0..8).fold(0, |tags, n| {
        let register = &x87.registers[n];
        let exponent = u16::from_le_bytes([register[8], register[9]]) & 0x7FFF;
        let significand = u64::from_le_bytes(std::array::from_fn(|byte| register[byte]));
        let tag = match (exponent, significand) {
            _ if x87.tag >> n & 1 == 0 => 3,
            (0, 0) => 1,
            (0 | 0x7FFF, _) => 2,
            (_, significand) => {
                if significand >> 63 == 1 {
                    0
                } else {
                    2
                }
            }
        };
        tags | tag << (2 * n)
    })
}

/// FNSTENV, FNSAVE. The pointers to the last instruction and operand are always 0.
pub(in crate::software) fn store_environment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_allowed()?;
    let x87 = c.s.x87;
    let size = i.memory_size().size();
    let save = i.mnemonic() == Mnemonic::Fnsave;
    let wide = matches!(size, 28 | 108);
    let mut image = Vec::with_capacity(108);
    for word in [x87.control, x87.status, full_tags(&x87)] {
        image.extend(word.to_le_bytes());
        if wide {
            image.extend([0xFF; 2]);
        }
    }
    image.resize(if wide { 28 } else { 14 }, 0);
    if wide {
        image[26..28].fill(0xFF);
    }
    if save {
        for n in 0..8 {
            image.extend(x87.registers[x87.physical(n)]);
        }
    }
    let at = c.linear(i);
    c.write_bytes(at, &image)?;
    if save {
        c.s.x87 = X87 { control: 0x37F, status: 0, tag: 0, ..x87 };
    } else {
        c.s.x87.control |= 0x3F;
        c.s.x87.status = summarised(x87.status, c.s.x87.control);
    }
    Ok(Flow::Next)
}

/// FLDENV, FRSTOR.
pub(in crate::software) fn load_environment(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    c.x87_waits()?;
    let size = i.memory_size().size().min(108);
    let mut image = [0; 108];
    let at = c.linear(i);
    c.read_bytes(at, &mut image[..size])?;
    let wide = matches!(size, 28 | 108);
    let word = |n: usize| {
        let at = n * if wide { 4 } else { 2 };
        u16::from_le_bytes([image[at], image[at + 1]])
    };
    let mut x87 = c.s.x87;
    x87.control = word(0) & 0x1F3F | 0x40;
    x87.status = summarised(word(1), x87.control);
    x87.tag = (0..8).filter(|n| word(2) >> (2 * n) & 3 != 3).fold(0, |tag, n| tag | 1 << n);
    if i.mnemonic() == Mnemonic::Frstor {
        let start = if wide { 28 } else { 14 };
        for n in 0..8 {
            x87.registers[x87.physical(n)].copy_from_slice(&image[start + 10 * n..start + 10 * n + 10]);
        }
    }
    c.s.x87 = x87;
    Ok(Flow::Next)
}
