//! The images keep to the rules that let every engine run them deterministically: nothing in them reads a counter or
//! asks for randomness, uses x87 or anything newer than SSE2, or spins.

mod image;

use std::collections::BTreeSet;

use iced_x86::{CpuidFeature, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess};

/// Why an instruction may not be in an image.
fn objection(instruction: &Instruction) -> Option<&'static str> {
    if instruction.is_invalid() {
        // The decoder is built without VEX, EVEX and XOP: their instructions come out as this, too.
        return Some("no instruction of the baseline");
    }
    match instruction.mnemonic() {
        Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpmc => return Some("reads a counter"),
        Mnemonic::Rdrand | Mnemonic::Rdseed => return Some("asks for randomness"),
        Mnemonic::Cpuid => return Some("could depend on the CPU's model"),
        Mnemonic::Pause => return Some("spins"),
        // The compiler writes BSF with a REP prefix where the source is not zero: TZCNT on newer CPUs, with the same
        // result (the flags differ, and are not used).
        Mnemonic::Tzcnt => return None,
        _ => {}
    }
    let allowed = |feature: &CpuidFeature| {
        matches!(
            feature,
            CpuidFeature::INTEL8086
                | CpuidFeature::INTEL8086_ONLY
                | CpuidFeature::INTEL186
                | CpuidFeature::INTEL286
                | CpuidFeature::INTEL386
                | CpuidFeature::INTEL486
                | CpuidFeature::X64
                | CpuidFeature::CMOV
                | CpuidFeature::MULTIBYTENOP
                | CpuidFeature::MSR
                | CpuidFeature::SSE
                | CpuidFeature::SSE2
        )
    };
    let floating = instruction.cpuid_features().iter().any(|feature| {
        matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX)
    });
    if floating {
        return Some("x87 or MMX");
    }
    (!instruction.cpuid_features().iter().all(allowed)).then_some("newer than SSE2")
}

#[test]
fn images_have_no_forbidden_instruction() {
    for name in ft_guests::NAMES {
        let elf = ft_guests::builtin(name).expect("a listed name");
        let mut count = 0;
        for instruction in image::instructions(elf) {
            count += 1;
            if let Some(objection) = objection(&instruction) {
                panic!("{name}: {instruction:?} at {:#x}: {objection}", instruction.ip());
            }
        }
        assert!(count > 1000, "{name}: only {count} instructions were found");
    }
}

/// Loops that wait for something in memory: rounds that only read, and in which nothing depends on the round before. Under an
/// engine that applies inputs only where the guest leaves its own code, such a loop never ends.
///
/// What a scan can see: straight loops, from the target of a jump back to the jump. One with a port access, a halt, a call, a
/// store or a string instruction in it does something each round; one that changes a register which it also reads counts, or goes
/// through memory.
fn spins(instructions: &[Instruction]) -> Vec<u64> {
    let mut factory = InstructionInfoFactory::new();
    let mut found = Vec::new();
    for (end, jump) in instructions.iter().enumerate() {
        let target = jump.near_branch_target();
        let is_back = jump.is_jcc_short_or_near() || jump.is_jmp_short_or_near();
        if !is_back || target > jump.ip() || jump.ip() - target > 256 {
            continue;
        }
        let start = instructions.partition_point(|instruction| instruction.ip() < target);
        if instructions[start].ip() != target {
            continue;
        }
        let body = &instructions[start..=end];
        if body[..body.len() - 1]
            .iter()
            .any(|inside| inside.flow_control() == FlowControl::UnconditionalBranch)
        {
            continue;
        }
        let (mut reads, mut acts) = (false, false);
        let (mut written, mut needed) = (BTreeSet::new(), BTreeSet::new());
        for instruction in body {
            acts |= instruction.is_string_instruction()
                || matches!(
                    instruction.flow_control(),
                    FlowControl::Call | FlowControl::IndirectCall | FlowControl::Return
                )
                || matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out | Mnemonic::Hlt);
            let info = factory.info(instruction);
            for memory in info.used_memory() {
                reads |= matches!(memory.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite);
                acts |=
                    !matches!(memory.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            }
            let used = |other: [OpAccess; 2]| {
                let used =
                    info.used_registers().iter().filter(move |register| !other.contains(&register.access()));
                used.map(|register| register.register().full_register())
            };
            // What an instruction reads it reads before it writes.
            needed
                .extend(used([OpAccess::Write, OpAccess::CondWrite]).filter(|name| !written.contains(name)));
            written.extend(used([OpAccess::Read, OpAccess::CondRead]));
        }
        let carried = needed.intersection(&written).next().is_some();
        if reads && !acts && !carried {
            found.push(jump.ip());
        }
    }
    found
}

#[test]
fn images_wait_for_nothing_in_memory() {
    for name in ft_guests::NAMES {
        let elf = ft_guests::builtin(name).expect("a listed name");
        for code in image::sections(elf) {
            let instructions = image::decode(code.bits, code.address, code.bytes);
            let found: Vec<String> = spins(&instructions).iter().map(|at| format!("{at:#x}")).collect();
            assert!(found.is_empty(), "{name}: loops that may wait for memory end at {}", found.join(", "));
        }
    }
}

#[test]
fn the_scan_sees_loops_that_wait() {
    let scan = |bytes: &[u8]| spins(&image::decode(64, 0x1000, bytes)).len();
    // mov eax, [rdi]; test eax, eax; jz back
    assert_eq!(scan(&[0x8B, 0x07, 0x85, 0xC0, 0x74, 0xFA]), 1);
    // cmp dword ptr [rdi], 0; jne back
    assert_eq!(scan(&[0x83, 0x3F, 0x00, 0x75, 0xFB]), 1);
    // The same with a HLT in it, with an IN in it, and with a counter.
    assert_eq!(scan(&[0xF4, 0x83, 0x3F, 0x00, 0x75, 0xFA]), 0);
    assert_eq!(scan(&[0xEC, 0x83, 0x3F, 0x00, 0x75, 0xFA]), 0);
    assert_eq!(scan(&[0x83, 0x3F, 0x00, 0x48, 0xFF, 0xC7, 0x75, 0xF8]), 0);
}

#[test]
fn the_scan_sees_what_is_planted() {
    let planted: [(&str, &[u8]); 14] = [
        ("rdtsc", &[0x0f, 0x31]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("rdpmc", &[0x0f, 0x33]),
        ("rdrand eax", &[0x0f, 0xc7, 0xf0]),
        ("rdseed eax", &[0x0f, 0xc7, 0xf8]),
        ("cpuid", &[0x0f, 0xa2]),
        ("xsave [rax]", &[0x0f, 0xae, 0x20]),
        ("xgetbv", &[0x0f, 0x01, 0xd0]),
        ("vzeroupper", &[0xc5, 0xf8, 0x77]),
        ("vpaddd ymm0, ymm1, ymm2", &[0xc5, 0xf5, 0xfe, 0xc2]),
        ("pause", &[0xf3, 0x90]),
        ("fld1", &[0xd9, 0xe8]),
        ("pshufb xmm0, xmm1", &[0x66, 0x0f, 0x38, 0x00, 0xc1]),
        ("popcnt eax, eax", &[0xf3, 0x0f, 0xb8, 0xc0]),
    ];
    let elf = ft_guests::KV;
    let text = image::sections(elf).into_iter().find(|code| code.bits == 64).expect("a text section");
    let instructions = image::decode(64, text.address, text.bytes);
    for (name, bytes) in planted {
        // In place of an instruction in the middle, padded by NOPs to the end of one of those behind it.
        let at = (instructions[instructions.len() / 2].ip() - text.address) as usize;
        let end = instructions
            .iter()
            .map(|instruction| (instruction.next_ip() - text.address) as usize)
            .find(|&end| end >= at + bytes.len())
            .expect("the section goes on");
        let mut changed = text.bytes.to_vec();
        changed[at..end].fill(0x90);
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let found: Vec<_> = image::decode(64, text.address, &changed).iter().filter_map(objection).collect();
        assert!(!found.is_empty(), "{name} was not found");
    }
}

#[test]
fn images_hold_no_paths_of_this_machine() {
    for name in ft_guests::NAMES {
        let elf = ft_guests::builtin(name).expect("a listed name");
        for place in [env!("CARGO_MANIFEST_DIR"), "/.cargo/", "/home/", "/root/"] {
            let found = elf.windows(place.len()).any(|window| window == place.as_bytes());
            assert!(!found, "{name} holds {place}");
        }
    }
}

#[test]
fn builtin_knows_its_names() {
    assert!(ft_guests::NAMES.iter().all(|name| ft_guests::builtin(name).is_some()));
    assert_eq!(ft_guests::builtin("nothing"), None);
}

/// Pinned, so that a change of the kernels is seen to change what guests print.
#[test]
fn the_cpu_checksum_is_known() {
    assert_eq!(ft_guests::cpu_checksum(100), 0x9ff2_8602_2080_cb9f);
    assert_ne!(ft_guests::cpu_checksum(99), ft_guests::cpu_checksum(100));
}
