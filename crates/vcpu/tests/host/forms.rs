//! All instruction forms of user mode, out of iced's table: which of them are compared with the host, and in what family.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction, Mnemonic,
    OpCodeOperandKind, OpKind,
};

use super::case::Mode;
use super::layout::CODE_LEN;

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
    /// XSAVE and XRSTOR.
    State,
    /// Far branches, far returns and IRET to the same privilege, in and out of compatibility mode.
    Far,
    /// Loads of segment registers, and what asks about descriptors.
    Segment,
    /// #GP at CPL 3.
    Privileged,
}

/// What becomes of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Compared with the host.
    Compared(Family),
    /// The mode has it, but a user program on the host cannot tell what it does to a guest: why.
    Elsewhere(&'static str),
    /// The mode or the processor that CPUID describes does not have it.
    Absent,
}

/// All forms of a family in 64-bit mode.
pub(crate) fn forms(family: Family) -> Vec<Code> {
    forms_in(Mode::Long, family)
}

/// All forms of a family in a mode.
pub(crate) fn forms_in(mode: Mode, family: Family) -> Vec<Code> {
    Code::values().filter(|&code| fate(code, mode) == Fate::Compared(family)).collect()
}

/// The family of a form of 64-bit mode, if it is compared.
pub(crate) fn family(code: Code) -> Option<Family> {
    family_in(code, Mode::Long)
}

/// The family of a form of a mode, if it is compared.
pub(crate) fn family_in(code: Code, mode: Mode) -> Option<Family> {
    match fate(code, mode) {
        Fate::Compared(family) => Some(family),
        _ => None,
    }
}

/// Everything that CPUID of the engine promises, in iced's names, and what does nothing where it is not promised.
pub(crate) const ADVERTISED: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::INTEL8086,
        F::INTEL186,
        F::INTEL286,
        F::INTEL386,
        F::INTEL486,
        F::X64,
        F::FPU,
        F::FPU287,
        F::FPU387,
        F::CMOV,
        F::CX8,
        F::CMPXCHG16B,
        F::POPCNT,
        F::CLFSH,
        F::MULTIBYTENOP,
        F::PAUSE,
        F::MMX,
        F::FXSR,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::XSAVE,
        F::CPUID,
        F::TSC,
        F::RDTSCP,
        F::MSR,
        F::SYSCALL,
        F::SEP,
        F::FSGSBASE,
        F::SMAP,
        F::INVPCID,
        F::RDPID,
        F::RDPMC,
        // ENDBR does nothing where control-flow enforcement is off.
        F::CET_IBT,
    ]
};

/// What becomes of a form in a mode.
pub(crate) fn fate(code: Code, mode: Mode) -> Fate {
    use CpuidFeature as F;
    use OpCodeOperandKind as K;
    let description = code.op_code();
    let in_mode = match mode {
        Mode::Long => description.mode64() && description.intel_decoder64() && description.amd_decoder64(),
        Mode::Compat => description.mode32() && description.intel_decoder32() && description.amd_decoder32(),
    };
    let legacy = description.is_instruction() && description.encoding() == EncodingKind::Legacy;
    // Two instructions with one name.
    if !in_mode || !legacy || description.fwait() {
        return Fate::Absent;
    }
    let features = code.cpuid_features();
    let shadow_stack = matches!(code.mnemonic(), Mnemonic::Rdsspd | Mnemonic::Rdsspq);
    if !shadow_stack && !features.iter().all(|feature| ADVERTISED.contains(feature)) {
        return Fate::Absent;
    }
    if let Some(reason) = elsewhere(code, mode) {
        return Fate::Elsewhere(reason);
    }
    let operands: Vec<_> = (0..description.op_count()).map(|number| description.op_kind(number)).collect();
    let loads_segment = operands
        .first()
        .is_some_and(|kind| matches!(kind, K::seg_reg | K::es | K::ss | K::ds | K::fs | K::gs))
        && code.mnemonic() != Mnemonic::Push;
    match code.mnemonic() {
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Retf => {
            return Fate::Compared(Family::Far);
        }
        Mnemonic::Jmp | Mnemonic::Call if matches!(operands[0], K::mem | K::farbr2_2 | K::farbr4_2) => {
            return Fate::Compared(Family::Far);
        }
        Mnemonic::Lar
        | Mnemonic::Lsl
        | Mnemonic::Verr
        | Mnemonic::Verw
        | Mnemonic::Arpl
        | Mnemonic::Lds
        | Mnemonic::Les
        | Mnemonic::Lss
        | Mnemonic::Lfs
        | Mnemonic::Lgs => return Fate::Compared(Family::Segment),
        _ if loads_segment => return Fate::Compared(Family::Segment),
        _ => {}
    }
    let ports = matches!(
        code.mnemonic(),
        Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
    );
    if !description.cpl3() || ports || matches!(code.mnemonic(), Mnemonic::Cli | Mnemonic::Sti) {
        return Fate::Compared(Family::Privileged);
    }
    let mmx = operands.iter().any(|kind| matches!(kind, K::mm_or_mem | K::mm_reg | K::mm_rm))
        || code.mnemonic() == Mnemonic::Emms;
    let any_of = |set: &[F]| features.iter().any(|feature| set.contains(feature));
    let family = if any_of(&[F::FPU, F::FPU287, F::FPU387, F::FXSR]) {
        Family::X87
    } else if any_of(&[F::XSAVE]) {
        Family::State
    } else if mmx {
        Family::Mmx
    } else if any_of(&[F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2]) {
        Family::LaterSse
    } else if any_of(&[F::SSE, F::SSE2, F::CLFSH]) {
        Family::Sse
    } else {
        Family::Integer
    };
    Fate::Compared(family)
}

/// Why a form that the mode has is not compared with the host, if it is not. What these do is tested by guest programs
/// with known answers, in the engine's own tests.
fn elsewhere(code: Code, mode: Mode) -> Option<&'static str> {
    use OpCodeOperandKind as K;
    let description = code.op_code();
    let operands: Vec<_> = (0..description.op_count()).map(|number| description.op_kind(number)).collect();
    Some(match code.mnemonic() {
        Mnemonic::Cpuid | Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpid | Mnemonic::Xgetbv => {
            "the answer is the host's own"
        }
        Mnemonic::Rdpmc => "the kernel may let a program count",
        Mnemonic::Syscall
        | Mnemonic::Sysenter
        | Mnemonic::Int
        | Mnemonic::Int3
        | Mnemonic::Int1
        | Mnemonic::Into => "it leads into the kernel",
        Mnemonic::Sysret | Mnemonic::Sysretq | Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            "makers differ in what it does to a user program"
        }
        Mnemonic::Clac | Mnemonic::Stac => "#UD at CPL 3, which the comparison takes for #GP",
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            "the kernel may answer itself"
        }
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            "the kernel of the guest here has it off"
        }
        Mnemonic::Swapgs if mode == Mode::Compat => "64-bit mode only",
        Mnemonic::Iret | Mnemonic::Retf
            if !matches!(code, Code::Retfd | Code::Retfd_imm16 | Code::Retfq | Code::Retfq_imm16) =>
        {
            "with 16-bit operands no address of the window can be returned to"
        }
        _ => match code {
            Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D => "AMD refuses PREFETCH with a register, Intel does nothing",
            Code::Bswap_r16 => "makers differ in what it gives",
            Code::Movsxd_r16_rm16 => "makers differ in how much it reads",
            Code::Jmp_m1664
            | Code::Call_m1664
            | Code::Lss_r64_m1664
            | Code::Lfs_r64_m1664
            | Code::Lgs_r64_m1664 => "AMD has no 64-bit far pointers",
            Code::Jmp_rm16
            | Code::Call_rm16
            | Code::Jmp_m1616
            | Code::Call_m1616
            | Code::Jmp_ptr1616
            | Code::Call_ptr1616
            | Code::Retnw
            | Code::Retnw_imm16 => "with 16-bit operands no address of the window can be reached",
            _ if operands.iter().any(|kind| matches!(kind, K::br16_1 | K::br16_2)) => {
                "with 16-bit operands no address of the window can be reached"
            }
            _ => return None,
        },
    })
}

/// The instruction at the start of `bytes`, if it is one of a family and its branches stay in the code.
pub(crate) fn decode(mode: Mode, bytes: &[u8], ip: u64, window: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || family_in(instruction.code(), mode).is_none() {
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
