//! Process contexts (PCID) and the registers by which Linux knows the processor.

use iced_x86::code_asm::*;

use super::{CODE, Machine, PAGE_TABLE, assemble};
use crate::software::cpuid::cpuid;

const HANDLER: u64 = CODE + 0x1800;
const WHERE: u64 = 0x20_0000;
const DESCRIPTOR: u64 = 0x20_2000;

/// A guest that reads a page, has it mapped elsewhere behind the TLB's back, does INVPCID in context 1, and reads again.
fn read_twice(kind: u64, context: u64, address: u64) -> (u64, u64) {
    let mut m = Machine::new(|a| {
        a.mov(rax, cr4).unwrap();
        a.bts(rax, 17).unwrap();
        a.mov(cr4, rax).unwrap();
        a.mov(rax, cr3).unwrap();
        a.bts(rax, 0).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(rbx, WHERE as i64).unwrap();
        a.mov(r8, qword_ptr(rbx)).unwrap();
        a.mov(rcx, (PAGE_TABLE + (WHERE >> 12) * 8) as i64).unwrap();
        a.mov(rdx, 0x20_1007_i64).unwrap();
        a.mov(qword_ptr(rcx), rdx).unwrap();
        a.mov(rsi, DESCRIPTOR as i64).unwrap();
        a.mov(rdi, kind as i64).unwrap();
        a.invpcid(rdi, xmmword_ptr(rsi)).unwrap();
        a.mov(r9, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    m.write(WHERE, &1_u64.to_le_bytes());
    m.write(WHERE + 0x1000, &2_u64.to_le_bytes());
    m.write(DESCRIPTOR, &context.to_le_bytes());
    m.write(DESCRIPTOR + 8, &address.to_le_bytes());
    m.write(HANDLER, &assemble(HANDLER, |a| a.hlt().unwrap()));
    m.gate(13, HANDLER, 0);
    let state = m.finish();
    (state.gpr[8], state.gpr[9])
}

#[test]
fn invpcid_drops_what_it_names() {
    assert_eq!(read_twice(0, 1, WHERE), (1, 2));
    assert_eq!(read_twice(0, 2, WHERE), (1, 1), "another context");
    assert_eq!(read_twice(0, 1, WHERE + 0x1000), (1, 1), "another page");
    assert_eq!(read_twice(1, 1, 0), (1, 2));
    assert_eq!(read_twice(1, 2, 0), (1, 1));
    assert_eq!(read_twice(2, 0, 0), (1, 2));
    assert_eq!(read_twice(3, 0, 0), (1, 2));
    // Faults leave R9 alone.
    assert_eq!(read_twice(4, 1, 0), (1, 0));
    assert_eq!(read_twice(0, 0x1000, 0), (1, 0));
    assert_eq!(read_twice(0, 1, 1 << 47), (1, 0));
}

#[test]
fn cr3_takes_a_context_and_forgets_the_bit_that_keeps_translations() {
    let mut m = Machine::new(|a| {
        a.mov(rax, cr4).unwrap();
        a.bts(rax, 17).unwrap();
        a.mov(cr4, rax).unwrap();
        a.mov(rax, cr3).unwrap();
        a.or(rax, 5).unwrap();
        a.bts(rax, 63).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(rbx, cr3).unwrap();
        a.hlt().unwrap();
    });
    let before = m.cpu.cpu.s.cr3;
    let state = m.finish();
    assert_eq!(state.gpr[3], before | 5);
}

#[test]
fn contexts_begin_with_number_0() {
    let mut m = Machine::new(|a| {
        a.mov(rax, cr3).unwrap();
        a.or(rax, 8).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(rax, cr4).unwrap();
        a.bts(rax, 17).unwrap();
        a.mov(cr4, rax).unwrap();
        a.hlt().unwrap();
    });
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.mov(rbx, 13_i64).unwrap();
            a.hlt().unwrap();
        }),
    );
    m.gate(13, HANDLER, 0);
    assert_eq!(m.finish().gpr[3], 13);
}

/// What Linux takes its clocks and its mitigations from.
#[test]
fn the_model_is_what_linux_needs() {
    assert_eq!(cpuid(0x15, 0, 0)[..3], [1, 1, 1_000_000_000]);
    assert_eq!(cpuid(0x8000_0007, 0, 0)[3] >> 8 & 1, 1, "invariant TSC");
    assert_eq!(cpuid(6, 0, 0)[0] >> 2 & 1, 1, "the APIC timer always runs");
    let [_, _, c, d] = cpuid(1, 0, 0);
    for (bit, what) in [(17, "PCID"), (24, "TSC deadline"), (31, "hypervisor")] {
        assert_eq!(c >> bit & 1, 1, "{what}");
    }
    for (bit, what) in [(21, "x2APIC"), (28, "AVX"), (30, "RDRAND")] {
        assert_eq!(c >> bit & 1, 0, "{what}");
    }
    for (bit, what) in [(7, "machine check"), (14, "machine check architecture")] {
        assert_eq!(d >> bit & 1, 0, "{what}");
    }
    let [_, b, _, d] = cpuid(7, 0, 0);
    for (bit, what) in [(0, "FSGSBASE"), (1, "TSC_ADJUST"), (7, "SMEP"), (10, "INVPCID"), (20, "SMAP")] {
        assert_eq!(b >> bit & 1, 1, "{what}");
    }
    assert_eq!(d >> 26 & 1 & d >> 29, 1, "SPEC_CTRL and ARCH_CAPABILITIES");
    assert_eq!(cpuid(7, 2, 0)[3] >> 4 & 1, 1, "BHI_CTRL");
}

/// RDMSR of an MSR, or what comes of writing `value` to it and reading it back; `None` after #GP.
fn msr(number: u32, value: Option<u64>) -> Option<u64> {
    let mut m = Machine::new(|a| {
        a.mov(ecx, number as i32).unwrap();
        if let Some(value) = value {
            a.mov(eax, value as i32).unwrap();
            a.mov(edx, (value >> 32) as i32).unwrap();
            a.wrmsr().unwrap();
        }
        a.rdmsr().unwrap();
        a.hlt().unwrap();
    });
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.mov(ebx, 13_i32).unwrap();
            a.hlt().unwrap();
        }),
    );
    m.gate(13, HANDLER, 0);
    let state = m.finish();
    (state.gpr[3] != 13).then_some(state.gpr[0] | state.gpr[2] << 32)
}

#[test]
fn speculation_is_controlled_by_name_only() {
    // RDCL_NO, IBRS_ALL, SSB_NO, MDS_NO, TAA_NO, BHI_NO, ITS_NO.
    let wanted = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 20 | 1 << 62;
    assert_eq!(msr(0x10A, None).unwrap() & wanted, wanted);
    assert_eq!(msr(0x48, Some(0x401)), Some(0x401));
    assert_eq!(msr(0x48, Some(1 << 5)), None);
    assert_eq!(msr(0x49, Some(1)), None, "PRED_CMD cannot be read");
    assert_eq!(msr(0x10A, Some(0)), None, "ARCH_CAPABILITIES cannot be written");
}

#[test]
fn memory_types_are_as_a_firmware_leaves_them() {
    let state = crate::CpuState::reset_pvh(0, 0);
    assert_eq!(state.mtrr[0], 0xC06);
    assert_eq!(state.mtrr[12..14], [0xC000_0000, 0xFF_C000_0800]);
    assert_eq!(state.mtrr.len(), 28);
}
