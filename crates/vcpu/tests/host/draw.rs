//! Random instructions of a form.

use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

use super::case::Mode;
use super::layout::{CODE_LEN, DATA, DATA_LEN};
use super::rng::Rng;

/// A random instruction of `code` at `ip`, in the window at `window`: its bytes, or `None` if what was drawn cannot be
/// encoded.
pub(crate) fn random_instruction(
    rng: &mut Rng,
    mode: Mode,
    code: Code,
    ip: u64,
    window: u64,
) -> Option<Vec<u8>> {
    let mut prefixes = Vec::new();
    if mode == Mode::Long && rng.one_in(10) {
        prefixes = ignored_prefixes(rng, code);
    }
    let ip = ip + prefixes.len() as u64;
    let instruction = draw(rng, mode, code, ip, window)?;
    let mut encoder = Encoder::new(mode.bits());
    encoder.encode(&instruction, ip).ok()?;
    let mut bytes = prefixes;
    bytes.extend(encoder.take_buffer());
    (bytes.len() <= 15).then_some(bytes)
}

/// Prefixes without effect: segments that 64-bit mode ignores, and a REX that is not the last prefix.
fn ignored_prefixes(rng: &mut Rng, code: Code) -> Vec<u8> {
    let mut bytes = Vec::new();
    if code.mnemonic() == Mnemonic::Jmp || code.mnemonic() == Mnemonic::Call {
        return bytes;
    }
    if rng.one_in(3) {
        bytes.push(0x40 | rng.below(16) as u8);
    }
    for _ in 0..1 + rng.below(2) {
        bytes.push(rng.pick(&[0x26, 0x2E, 0x36, 0x3E]));
    }
    bytes
}

/// The instruction itself.
pub(crate) fn draw(rng: &mut Rng, mode: Mode, code: Code, ip: u64, window: u64) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let description = code.op_code();
    let narrow = rng.one_in(8);
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for operand in 0..description.op_count() {
        let kind = description.op_kind(operand);
        let mut set = |register: Register| {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        };
        let any16 = rng.below(mode.registers()) as u32;
        let any8 = rng.below(8) as u32;
        let memory = rng.below(2) == 0;
        match kind {
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
                if memory =>
            {
                draw_memory(rng, mode, &mut instruction, operand, narrow, window);
            }
            K::mem => draw_memory(rng, mode, &mut instruction, operand, narrow, window),
            K::r8_or_mem | K::r8_reg | K::r8_opcode => {
                set(Register::AL + rng.below(if mode == Mode::Long { 20 } else { 8 }) as u32);
            }
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => set(Register::AX + any16),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode => set(Register::EAX + any16),
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode => set(Register::RAX + any16),
            K::mm_or_mem | K::mm_reg | K::mm_rm => set(Register::MM0 + any8),
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => set(Register::XMM0 + any16),
            K::seg_reg => set(Register::ES + rng.below(6) as u32),
            K::cr_reg => {
                let all = [Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8];
                set(rng.pick(&all[..if mode == Mode::Long { 5 } else { 4 }]));
            }
            K::dr_reg => set(rng.pick(&[Register::DR0, Register::DR3, Register::DR6, Register::DR7])),
            K::es => set(Register::ES),
            K::cs => set(Register::CS),
            K::ss => set(Register::SS),
            K::ds => set(Register::DS),
            K::fs => set(Register::FS),
            K::gs => set(Register::GS),
            K::al => set(Register::AL),
            K::cl => set(Register::CL),
            K::ax => set(Register::AX),
            K::dx => set(Register::DX),
            K::eax => set(Register::EAX),
            K::rax => set(Register::RAX),
            K::st0 => set(Register::ST0),
            K::sti_opcode => set(Register::ST0 + any8),
            K::mem_offs => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_displ_size(if narrow || mode == Mode::Compat { 4 } else { 8 });
                instruction.set_memory_displacement64(window + DATA + rng.below(DATA_LEN + 16));
            }
            K::imm8_const_1 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            K::imm8 => {
                let value = if rng.one_in(2) { rng.below(70) as u8 } else { rng.next() as u8 };
                if operand > 0 && instruction.op_kind(operand - 1) == OpKind::Immediate16 {
                    // ENTER's level.
                    instruction.set_op_kind(operand, OpKind::Immediate8_2nd);
                    instruction.set_immediate8_2nd(value);
                } else {
                    instruction.set_op_kind(operand, OpKind::Immediate8);
                    instruction.set_immediate8(value);
                }
            }
            K::imm8sex16 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to16);
                instruction.set_immediate8to16(i16::from(rng.value() as i8));
            }
            K::imm8sex32 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to32);
                instruction.set_immediate8to32(i32::from(rng.value() as i8));
            }
            K::imm8sex64 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to64);
                instruction.set_immediate8to64(i64::from(rng.value() as i8));
            }
            K::imm16 => {
                instruction.set_op_kind(operand, OpKind::Immediate16);
                let small = matches!(code.mnemonic(), Mnemonic::Enter | Mnemonic::Ret | Mnemonic::Retf);
                instruction.set_immediate16(if small { rng.below(64) as u16 } else { rng.value() as u16 });
            }
            K::imm32 => {
                instruction.set_op_kind(operand, OpKind::Immediate32);
                instruction.set_immediate32(rng.value() as u32);
            }
            K::imm32sex64 => {
                instruction.set_op_kind(operand, OpKind::Immediate32to64);
                instruction.set_immediate32to64(i64::from(rng.value() as i32));
            }
            K::imm64 => {
                instruction.set_op_kind(operand, OpKind::Immediate64);
                instruction.set_immediate64(rng.value());
            }
            K::seg_rSI => instruction.set_op_kind(
                operand,
                if narrow || mode == Mode::Compat { OpKind::MemorySegESI } else { OpKind::MemorySegRSI },
            ),
            K::seg_rDI => instruction.set_op_kind(
                operand,
                if narrow || mode == Mode::Compat { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI },
            ),
            K::es_rDI => instruction.set_op_kind(
                operand,
                if narrow || mode == Mode::Compat { OpKind::MemoryESEDI } else { OpKind::MemoryESRDI },
            ),
            K::seg_rBX_al => {
                instruction.set_op_kind(operand, OpKind::Memory);
                let narrow = narrow || mode == Mode::Compat;
                instruction.set_memory_base(if narrow { Register::EBX } else { Register::RBX });
                instruction.set_memory_index(Register::AL);
            }
            K::br64_1 => {
                instruction.set_op_kind(operand, OpKind::NearBranch64);
                instruction.set_near_branch64((ip + rng.below(232)).wrapping_sub(110));
            }
            K::br64_4 => {
                instruction.set_op_kind(operand, OpKind::NearBranch64);
                instruction.set_near_branch64(window + 16 + rng.below(CODE_LEN - 64));
            }
            K::br32_1 => {
                instruction.set_op_kind(operand, OpKind::NearBranch32);
                instruction.set_near_branch32((ip + rng.below(232)).wrapping_sub(110) as u32);
            }
            K::br32_4 => {
                instruction.set_op_kind(operand, OpKind::NearBranch32);
                instruction.set_near_branch32((window + 16 + rng.below(CODE_LEN - 64)) as u32);
            }
            K::farbr4_2 => {
                instruction.set_op_kind(operand, OpKind::FarBranch32);
                instruction.set_far_branch32((window + 16 + rng.below(CODE_LEN - 64)) as u32);
                instruction.set_far_branch_selector(code_selector(rng, mode));
            }
            other => unreachable!("{code:?}: operand {other:?} in no family"),
        }
    }
    let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let string = instruction.is_string_instruction();
    if memory
        && description.can_use_lock_prefix()
        && instruction.op0_kind() == OpKind::Memory
        && rng.one_in(4)
    {
        instruction.set_has_lock_prefix(true);
    }
    if string {
        match rng.below(3) {
            0 if description.can_use_rep_prefix() => instruction.set_has_rep_prefix(true),
            1 if description.can_use_repne_prefix() => instruction.set_has_repne_prefix(true),
            _ => {}
        }
    }
    let source = (0..instruction.op_count()).any(|operand| {
        matches!(
            instruction.op_kind(operand),
            OpKind::MemorySegRSI | OpKind::MemorySegESI | OpKind::MemorySegRDI
        )
    });
    let short = matches!(instruction.memory_displ_size(), 2)
        || instruction.memory_base().size() == 2
        || instruction.memory_index().size() == 2;
    if short {
        // Only a segment with a base reaches the window with 16 bits.
        instruction.set_segment_prefix(Register::GS);
    } else if (memory || source) && rng.one_in(12) {
        // In compatibility mode FS would need a descriptor, and it is the C library's here.
        let first = if mode == Mode::Long { Register::FS } else { Register::GS };
        instruction.set_segment_prefix(rng.pick(&[first, Register::GS]));
    }
    Some(instruction)
}

/// A selector for a far transfer: mostly of 64- or 32-bit code of the same privilege, at times one that is refused.
pub(crate) fn code_selector(rng: &mut Rng, mode: Mode) -> u16 {
    let same = mode.selector();
    match rng.below(10) {
        0..=4 => same,
        5..=7 => Mode::Long.selector() ^ Mode::Compat.selector() ^ same,
        _ => rng.pick(&[0, 3, 0x10, 0x13, 0x2B, 0x1F3, 0x7]),
    }
}

fn draw_memory(
    rng: &mut Rng,
    mode: Mode,
    instruction: &mut Instruction,
    operand: u32,
    narrow: bool,
    window: u64,
) {
    if mode == Mode::Compat && narrow {
        draw_short_memory(rng, instruction, operand);
        return;
    }
    let narrow = narrow || mode == Mode::Compat;
    let registers = mode.registers();
    let first = if narrow { Register::EAX } else { Register::RAX };
    let wide = if narrow { 4 } else { 8 };
    instruction.set_op_kind(operand, OpKind::Memory);
    let shape = rng.below(10);
    if shape == 0 && mode == Mode::Long {
        // Relative to RIP: iced takes the address itself.
        instruction.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
        instruction.set_memory_displ_size(wide);
        instruction.set_memory_displacement64(window + DATA + rng.below(DATA_LEN + 16));
        return;
    }
    if shape <= 1 {
        instruction.set_memory_displ_size(wide);
        instruction.set_memory_displacement64(window + DATA + rng.below(DATA_LEN + 16));
        return;
    }
    let index = shape >= 6;
    let base = shape != 6;
    if base {
        instruction.set_memory_base(first + rng.below(registers) as u32);
    }
    if index {
        let number = rng.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]) & (registers as u32 - 1);
        let number = if number == 4 { 5 } else { number };
        instruction.set_memory_index(first + number);
        instruction.set_memory_index_scale(rng.pick(&[1, 2, 4, 8]));
    }
    let displacement = if base { rng.below(3) } else { 2 };
    match displacement {
        0 => {}
        1 => {
            instruction.set_memory_displ_size(1);
            instruction.set_memory_displacement64(i64::from(rng.value() as i8) as u64);
        }
        _ => {
            instruction.set_memory_displ_size(wide);
            instruction.set_memory_displacement64(i64::from(rng.value() as i32) as u64);
        }
    }
}

/// An address of 16 bits.
fn draw_short_memory(rng: &mut Rng, instruction: &mut Instruction, operand: u32) {
    use Register::{BP, BX, DI, None, SI};
    instruction.set_op_kind(operand, OpKind::Memory);
    let (base, index) = rng.pick(&[
        (BX, SI),
        (BX, DI),
        (BP, SI),
        (BP, DI),
        (SI, None),
        (DI, None),
        (BP, None),
        (BX, None),
        (None, None),
    ]);
    instruction.set_memory_base(base);
    instruction.set_memory_index(index);
    let size = if base == None { 2 } else { rng.pick(&[0, 1, 2]) };
    // BP alone always has a displacement.
    let size = if (base, index) == (BP, None) { size.max(1) } else { size };
    instruction.set_memory_displ_size(size);
    let value = rng.value();
    instruction.set_memory_displacement64(match size {
        0 => 0,
        1 => i64::from(value as i8) as u64 & 0xFFFF,
        _ => value & 0xFFFF,
    });
}
