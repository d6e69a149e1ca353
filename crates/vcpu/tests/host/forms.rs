//! All instruction forms of 64-bit user mode, out of iced's table, and random instructions of a form.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction, Mnemonic,
    OpCodeOperandKind, OpKind, Register,
};

use super::layout::{CODE_LEN, DATA, DATA_LEN};
use super::rng::Rng;

/// A kind of instruction; each is a group of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// General registers, flags, strings, branches, stack.
    Integer,
    /// SSE and SSE2 without MMX registers.
    Sse,
    /// SSE3, SSSE3, SSE4 without MMX registers.
    LaterSse,
    /// Anything with an MMX register.
    Mmx,
    X87,
    /// Far returns and IRET to the same privilege.
    Far,
    /// #GP at CPL 3.
    Privileged,
}

/// All forms of a family.
pub(crate) fn forms(family: Family) -> Vec<Code> {
    Code::values().filter(|&code| self::family(code) == Some(family)).collect()
}

/// The family of a form; `None` if a user program on the host cannot tell what it does to a guest, or x86-64-v2 does
/// not have it.
pub(crate) fn family(code: Code) -> Option<Family> {
    use CpuidFeature as F;
    let description = code.op_code();
    let usable = description.is_instruction()
        && description.mode64()
        && description.encoding() == EncodingKind::Legacy
        // Two instructions with one name.
        && !description.fwait()
        && description.intel_decoder64()
        && description.amd_decoder64();
    if !usable {
        return None;
    }
    match code.mnemonic() {
        // Answers that are the host's own, or the kernel's.
        Mnemonic::Cpuid
        | Mnemonic::Syscall
        | Mnemonic::Sysenter
        | Mnemonic::Int
        | Mnemonic::Int3
        | Mnemonic::Int1
        | Mnemonic::Sgdt
        | Mnemonic::Sidt
        | Mnemonic::Sldt
        | Mnemonic::Str
        | Mnemonic::Smsw
        // The host's LDT and per-CPU segments are not the guest's.
        | Mnemonic::Lar
        | Mnemonic::Lsl
        | Mnemonic::Verr
        | Mnemonic::Verw
        | Mnemonic::Lss
        | Mnemonic::Lfs
        | Mnemonic::Lgs
        => return None,
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Retf => {
            // With 16-bit operands no address of the window can be returned to.
            let wide = matches!(
                code,
                Code::Iretd | Code::Iretq | Code::Retfd | Code::Retfd_imm16 | Code::Retfq | Code::Retfq_imm16
            );
            return wide.then_some(Family::Far);
        }
        _ => {}
    }
    // 16-bit branches: makers differ. Far branches change segments.
    // AMD refuses PREFETCH with a register, Intel does nothing.
    if matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    ) {
        return None;
    }
    let operands: Vec<_> = (0..description.op_count()).map(|number| description.op_kind(number)).collect();
    if matches!(code, Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16 | Code::Bswap_r16)
        || operands.iter().any(|kind| matches!(kind, OpCodeOperandKind::br16_1 | OpCodeOperandKind::br16_2))
    {
        return None;
    }
    if operands.iter().any(|kind| {
        matches!(kind, OpCodeOperandKind::seg_reg | OpCodeOperandKind::fs | OpCodeOperandKind::gs)
    }) && !matches!(code.mnemonic(), Mnemonic::Push)
        && operands[0] == OpCodeOperandKind::seg_reg
    {
        return None;
    }
    if code.mnemonic() == Mnemonic::Pop
        && matches!(operands[0], OpCodeOperandKind::fs | OpCodeOperandKind::gs)
    {
        return None;
    }
    if matches!(operands.first(), Some(OpCodeOperandKind::mem))
        && matches!(code.mnemonic(), Mnemonic::Jmp | Mnemonic::Call)
    {
        // Far, through memory.
        return None;
    }
    let privileged = !description.cpl3()
        || matches!(code.mnemonic(), Mnemonic::In | Mnemonic::Out | Mnemonic::Cli | Mnemonic::Sti);
    let strings_of_ports = matches!(
        code.mnemonic(),
        Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
    );
    let features = code.cpuid_features();
    if privileged || strings_of_ports {
        let old = [F::INTEL8086, F::INTEL286, F::INTEL386, F::INTEL486, F::X64, F::MSR, F::INTEL186];
        return features.iter().all(|feature| old.contains(feature)).then_some(Family::Privileged);
    }
    let mmx = operands.iter().any(|kind| {
        matches!(kind, OpCodeOperandKind::mm_or_mem | OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm)
    }) || code.mnemonic() == Mnemonic::Emms;
    let all_in = |set: &[F]| features.iter().all(|feature| set.contains(feature));
    if all_in(&[
        F::INTEL8086,
        F::INTEL186,
        F::INTEL286,
        F::INTEL386,
        F::INTEL486,
        F::X64,
        F::CMOV,
        F::CX8,
        F::CMPXCHG16B,
        F::POPCNT,
        F::MULTIBYTENOP,
        F::PAUSE,
        // ENDBR and RDSSP do nothing where control-flow enforcement is off.
        F::CET_IBT,
    ]) || matches!(code.mnemonic(), Mnemonic::Rdsspd | Mnemonic::Rdsspq)
    {
        Some(Family::Integer)
    } else if all_in(&[F::FPU, F::FPU287, F::FPU387, F::CMOV, F::SSE3, F::FXSR, F::X64])
        && (features.contains(&F::FPU)
            || features.contains(&F::FPU387)
            || features.contains(&F::FPU287)
            || features.contains(&F::FXSR))
    {
        Some(Family::X87)
    } else if !all_in(&[F::MMX, F::SSE, F::SSE2, F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2, F::X64, F::CLFSH]) {
        None
    } else if mmx {
        Some(Family::Mmx)
    } else if all_in(&[F::SSE, F::SSE2, F::X64, F::CLFSH]) {
        Some(Family::Sse)
    } else {
        Some(Family::LaterSse)
    }
}

/// A random instruction of `code` at `ip`, in the window at `window`: its bytes, or `None` if what was drawn cannot be
/// encoded.
pub(crate) fn random_instruction(rng: &mut Rng, code: Code, ip: u64, window: u64) -> Option<Vec<u8>> {
    let mut prefixes = Vec::new();
    if rng.one_in(10) {
        prefixes = ignored_prefixes(rng, code);
    }
    let ip = ip + prefixes.len() as u64;
    let instruction = draw(rng, code, ip, window)?;
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, ip).ok()?;
    let mut bytes = prefixes;
    bytes.extend(encoder.take_buffer());
    (bytes.len() <= 15).then_some(bytes)
}

/// The instruction at the start of `bytes`, if it is one of a family and its branches stay in the code.
pub(crate) fn decode(bytes: &[u8], ip: u64, window: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || family(instruction.code()).is_none() {
        return None;
    }
    if matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32) {
        let target = instruction.near_branch_target();
        let end = ip + instruction.len() as u64;
        let inside = (window..window + CODE_LEN - 16).contains(&target);
        if !inside || (ip..end).contains(&target) {
            return None;
        }
    }
    // Some processors take the condition out of the prefix.
    let repeated = instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
        || bytes.iter().take_while(|byte| is_prefix(**byte)).any(|byte| matches!(byte, 0xF2 | 0xF3));
    if matches!(instruction.mnemonic(), Mnemonic::Loope | Mnemonic::Loopne) && repeated {
        return None;
    }
    // With REX.B this is PAUSE or XCHG, by maker.
    if instruction.code() == Code::Pause
        && bytes[..instruction.len()].iter().any(|byte| is_prefix(*byte) && byte & 0xF1 == 0x41)
    {
        return None;
    }
    // On a near branch, an operand-size prefix means other things to other makers.
    let near = !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Exception);
    let prefixes = &bytes[..instruction.len().saturating_sub(1)];
    if near && prefixes.iter().take_while(|byte| is_prefix(**byte)).any(|byte| *byte == 0x66) {
        return None;
    }
    Some(instruction)
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3)
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

pub(crate) fn draw(rng: &mut Rng, code: Code, ip: u64, window: u64) -> Option<Instruction> {
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
        let any16 = rng.below(16) as u32;
        let any8 = rng.below(8) as u32;
        let memory = rng.below(2) == 0;
        match kind {
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
                if memory =>
            {
                draw_memory(rng, &mut instruction, operand, narrow, window);
            }
            K::mem => draw_memory(rng, &mut instruction, operand, narrow, window),
            K::r8_or_mem | K::r8_reg | K::r8_opcode => set(Register::AL + rng.below(20) as u32),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => set(Register::AX + any16),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode => set(Register::EAX + any16),
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode => set(Register::RAX + any16),
            K::mm_or_mem | K::mm_reg | K::mm_rm => set(Register::MM0 + any8),
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => set(Register::XMM0 + any16),
            K::seg_reg => set(Register::ES + rng.below(6) as u32),
            K::cr_reg => {
                set(rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8]));
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
                instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
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
            K::seg_rSI => instruction
                .set_op_kind(operand, if narrow { OpKind::MemorySegESI } else { OpKind::MemorySegRSI }),
            K::seg_rDI => instruction
                .set_op_kind(operand, if narrow { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI }),
            K::es_rDI => instruction
                .set_op_kind(operand, if narrow { OpKind::MemoryESEDI } else { OpKind::MemoryESRDI }),
            K::seg_rBX_al => {
                instruction.set_op_kind(operand, OpKind::Memory);
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
    if (memory || source) && rng.one_in(12) {
        instruction.set_segment_prefix(rng.pick(&[Register::FS, Register::GS]));
    }
    Some(instruction)
}

fn draw_memory(rng: &mut Rng, instruction: &mut Instruction, operand: u32, narrow: bool, window: u64) {
    let first = if narrow { Register::EAX } else { Register::RAX };
    let wide = if narrow { 4 } else { 8 };
    instruction.set_op_kind(operand, OpKind::Memory);
    let shape = rng.below(10);
    if shape == 0 {
        // Relative to RIP: iced takes the address itself.
        instruction.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
        instruction.set_memory_displ_size(wide);
        instruction.set_memory_displacement64(window + DATA + rng.below(DATA_LEN + 16));
        return;
    }
    if shape == 1 {
        instruction.set_memory_displ_size(wide);
        instruction.set_memory_displacement64(window + DATA + rng.below(DATA_LEN + 16));
        return;
    }
    let index = shape >= 6;
    let base = shape != 6;
    if base {
        instruction.set_memory_base(first + rng.below(16) as u32);
    }
    if index {
        let number = rng.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
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
