//! What the software engine implements is what it says: CPUID promises nothing that is missing, every form that it promises
//! is compared with the host or on a list of those that cannot be, and the engine knows all of them.

mod host;

use std::collections::{BTreeMap, BTreeSet};

use host::case::{Case, Mode, Regs};
use host::drive::Source;
use host::forms::{self, Family, Fate};
use host::guest::Guest;
use host::layout;
use iced_x86::{Code, CpuidFeature as F, Encoder, Instruction, OpCodeOperandKind, OpKind, Register};

const FAMILIES: [Family; 9] = [
    Family::Integer,
    Family::Sse,
    Family::LaterSse,
    Family::Mmx,
    Family::X87,
    Family::State,
    Family::Far,
    Family::Segment,
    Family::Privileged,
];

/// The forms of which the engine itself says that it does not implement them, found by running some cases of each.
fn missing(mode: Mode, window: u64) -> BTreeSet<String> {
    let window = layout::window(window);
    let mut guest = Guest::new(window, host::engine::software);
    let mut source = Source::new(window, mode);
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        for code in forms::forms_in(mode, family) {
            for number in 0..12 {
                let Some((case, _)) = source.form(family, code, number) else { continue };
                // What it does is compared elsewhere; here only what it says counts.
                let _ = guest.run_one(&case);
                if !guest.vcpu.take_unimplemented().is_empty() {
                    names.insert(format!("{code:?}"));
                    break;
                }
            }
        }
    }
    names
}

#[test]
fn every_form_that_is_compared_is_implemented() {
    for (mode, window) in [(Mode::Long, 1), (Mode::Compat, 3)] {
        let names = missing(mode, window);
        assert!(names.is_empty(), "{mode:?}: not implemented: {names:?}");
    }
}

/// One encoding of a form, with whatever operands it takes.
fn any_encoding(code: Code, mode: Mode, ip: u64) -> Option<Vec<u8>> {
    use OpCodeOperandKind as K;
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let long = mode == Mode::Long;
    for operand in 0..code.op_code().op_count() {
        let kind = code.op_code().op_kind(operand);
        let mut set = |register: Register| {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        };
        match kind {
            K::mem => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_base(if long { Register::RAX } else { Register::EAX });
            }
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => set(Register::CX),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode => set(Register::ECX),
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode => set(Register::RCX),
            K::imm8 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(0x80);
            }
            K::imm16 => {
                instruction.set_op_kind(operand, OpKind::Immediate16);
            }
            K::br16_1 | K::br16_2 => {
                instruction.set_op_kind(operand, OpKind::NearBranch16);
                instruction.set_near_branch16(ip as u16);
            }
            K::farbr2_2 => {
                instruction.set_op_kind(operand, OpKind::FarBranch16);
                instruction.set_far_branch_selector(0x23);
            }
            _ => return None,
        }
    }
    let mut encoder = Encoder::new(mode.bits());
    encoder.encode(&instruction, ip).ok()?;
    Some(encoder.take_buffer())
}

/// The forms that cannot be compared with the host are known to the engine all the same.
#[test]
fn every_other_form_is_implemented() {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (mode, window) in [(Mode::Long, 4), (Mode::Compat, 5)] {
        let window = layout::window(window);
        let mut guest = Guest::new(window, host::engine::software);
        let mut names = BTreeSet::new();
        for code in Code::values() {
            let Fate::Elsewhere(reason) = forms::fate(code, mode) else { continue };
            *reasons.entry(reason).or_default() += 1;
            // A branch of 16 bits leads to the same address cut to 16 bits: close enough to be encoded from there.
            let bytes = [window + 0x100, 0x100].into_iter().find_map(|ip| any_encoding(code, mode, ip));
            let bytes = bytes.unwrap_or_else(|| panic!("{code:?} cannot be encoded"));
            let mut regs = Regs { rip: window + 0x100, mode, ..Regs::default() };
            regs.gpr[0] = window + layout::DATA + 0x100;
            regs.gpr[4] = window + layout::DATA + 0x800;
            let case = Case { code: bytes, regs, data: vec![0; layout::DATA_LEN as usize] };
            let _ = guest.run_one(&case);
            if !guest.vcpu.take_unimplemented().is_empty() {
                names.insert(format!("{code:?}"));
            }
        }
        assert!(names.is_empty(), "{mode:?}: not implemented: {names:?}");
    }
    println!("{reasons:#?}");
}

/// EBX, ECX and EDX of a leaf, asked as a guest does.
fn cpuid(guest: &mut Guest, leaf: u64) -> [u64; 3] {
    let window = layout::window(2);
    let mut regs = Regs { rip: window + 0x100, ..Regs::default() };
    regs.gpr[0] = leaf;
    regs.gpr[4] = window + layout::DATA + 0x800;
    let case = Case { code: vec![0x0F, 0xA2], regs, data: vec![0; layout::DATA_LEN as usize] };
    let outcome = guest.run_one(&case).expect("CPUID runs");
    assert_eq!(outcome.trap, None);
    [3, 1, 2].map(|register| outcome.regs.gpr[register])
}

/// What CPUID advertises is what the tables of these tests take as advertised: a bit that is new here needs its forms.
#[test]
fn cpuid_promises_what_is_tested() {
    let mut guest = Guest::new(layout::window(2), host::engine::software);
    let [_, ecx, edx] = cpuid(&mut guest, 1);
    let [ebx7, ecx7, _] = cpuid(&mut guest, 7);
    let [_, ecx8, edx8] = cpuid(&mut guest, 0x8000_0001);
    let features = [
        (ecx, 0, F::SSE3),
        (ecx, 1, F::PCLMULQDQ),
        (ecx, 3, F::MONITOR),
        (ecx, 5, F::VMX),
        (ecx, 6, F::SMX),
        (ecx, 9, F::SSSE3),
        (ecx, 12, F::FMA),
        (ecx, 13, F::CMPXCHG16B),
        (ecx, 19, F::SSE4_1),
        (ecx, 20, F::SSE4_2),
        (ecx, 22, F::MOVBE),
        (ecx, 23, F::POPCNT),
        (ecx, 25, F::AES),
        (ecx, 26, F::XSAVE),
        (ecx, 28, F::AVX),
        (ecx, 29, F::F16C),
        (ecx, 30, F::RDRAND),
        (edx, 0, F::FPU),
        (edx, 4, F::TSC),
        (edx, 5, F::MSR),
        (edx, 8, F::CX8),
        (edx, 11, F::SEP),
        (edx, 15, F::CMOV),
        (edx, 19, F::CLFSH),
        (edx, 23, F::MMX),
        (edx, 24, F::FXSR),
        (edx, 25, F::SSE),
        (edx, 26, F::SSE2),
        (ebx7, 0, F::FSGSBASE),
        (ebx7, 3, F::BMI1),
        (ebx7, 4, F::HLE),
        (ebx7, 5, F::AVX2),
        (ebx7, 8, F::BMI2),
        (ebx7, 10, F::INVPCID),
        (ebx7, 11, F::RTM),
        (ebx7, 18, F::RDSEED),
        (ebx7, 19, F::ADX),
        (ebx7, 20, F::SMAP),
        (ebx7, 23, F::CLFLUSHOPT),
        (ebx7, 24, F::CLWB),
        (ebx7, 29, F::SHA),
        (ecx7, 5, F::WAITPKG),
        (ecx7, 7, F::CET_SS),
        (ecx7, 8, F::GFNI),
        (ecx7, 22, F::RDPID),
        (ecx7, 27, F::MOVDIRI),
        (ecx8, 5, F::LZCNT),
        (ecx8, 6, F::SSE4A),
        (edx8, 11, F::SYSCALL),
        (edx8, 27, F::RDTSCP),
        (edx8, 29, F::X64),
    ];
    for (register, bit, feature) in features {
        let promised = register >> bit & 1 == 1;
        assert_eq!(promised, forms::ADVERTISED.contains(&feature), "{feature:?}");
    }
    // OSXSAVE is the guest's own CR4, which the guest of these tests has set.
    assert_eq!(ecx >> 27 & 1, 1);
}
