//! XSAVE and its kind as a kernel uses them; LAR and LSL of the guest's own segments; RDPID.

use iced_x86::code_asm::*;

use super::{CODE, GDT, Machine, TSS, assemble};
use crate::Vcpu;

const AREA: i64 = 0x20_0000;
const HANDLER: u64 = CODE + 0x1800;

/// #UD and #GP end a program: the vector is in RDI.
fn with_handlers(m: &mut Machine) {
    for vector in [6, 13] {
        let at = HANDLER + 16 * vector;
        m.write(
            at,
            &assemble(at, |a| {
                a.mov(edi, vector as i32).unwrap();
                a.hlt().unwrap();
            }),
        );
        m.gate(vector, at, 0);
    }
}

#[test]
fn states_are_saved_and_restored_by_their_bits() {
    let mut m = Machine::new(|a| {
        a.mov(rax, cr4).unwrap();
        a.or(eax, 1 << 18).unwrap();
        a.mov(cr4, rax).unwrap();
        a.mov(eax, 1_i32).unwrap();
        a.cpuid().unwrap();
        a.mov(r15d, ecx).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.xor(edx, edx).unwrap();
        a.mov(eax, 3_i32).unwrap();
        a.xsetbv().unwrap();
        a.xor(eax, eax).unwrap();
        a.xgetbv().unwrap();
        a.mov(r14, rax).unwrap();
        a.mov(rbx, AREA).unwrap();
        a.fld1().unwrap();
        a.mov(rcx, 0x1122_3344_5566_7788_i64).unwrap();
        a.movq(xmm3, rcx).unwrap();
        a.xsave(ptr(rbx)).unwrap();
        a.pxor(xmm3, xmm3).unwrap();
        a.fninit().unwrap();
        // The x87 only.
        a.mov(eax, 1_i32).unwrap();
        a.xrstor(ptr(rbx)).unwrap();
        a.movq(r13, xmm3).unwrap();
        a.fnstsw(ax).unwrap();
        a.mov(r12, rax).unwrap();
        // All, of which the image says that SSE is as after reset.
        a.movq(xmm3, rcx).unwrap();
        a.mov(qword_ptr(rbx + 512), 1).unwrap();
        a.mov(eax, 3_i32).unwrap();
        a.xrstor(ptr(rbx)).unwrap();
        a.movq(r11, xmm3).unwrap();
        a.hlt().unwrap();
    });
    with_handlers(&mut m);
    let state = m.finish();
    assert_eq!(state.gpr[15] >> 26 & 3, 3, "XSAVE and OSXSAVE");
    assert_eq!(state.gpr[14], 3);
    assert_eq!(m.u64(AREA as u64 + 160 + 48), 0x1122_3344_5566_7788);
    assert_eq!((state.gpr[13], state.gpr[12] & 0x3800, state.gpr[11]), (0, 0x3800, 0));
    assert_eq!(state.x87.tag, 0x80);
}

#[test]
fn what_is_not_there_is_refused() {
    type Program = fn(&mut CodeAssembler);
    let programs: [(u64, bool, Program); 7] = [
        (6, false, |a| a.xgetbv().unwrap()),
        (6, false, |a| a.xsave(ptr(rbx)).unwrap()),
        // XCR1, XCR0 without the x87, XCR0 with AVX.
        (13, true, |a| {
            a.mov(ecx, 1_i32).unwrap();
            a.xgetbv().unwrap();
        }),
        (13, true, |a| {
            a.mov(eax, 2_i32).unwrap();
            a.xsetbv().unwrap();
        }),
        (13, true, |a| {
            a.mov(eax, 7_i32).unwrap();
            a.xsetbv().unwrap();
        }),
        (13, true, |a| a.xsave(ptr(rbx + 32)).unwrap()),
        // A compacted image.
        (13, true, |a| {
            a.mov(dword_ptr(rbx + 524), 0x8000_0000_u32).unwrap();
            a.mov(eax, 3_i32).unwrap();
            a.xrstor(ptr(rbx)).unwrap();
        }),
    ];
    for (vector, enabled, program) in programs {
        let mut m = Machine::new(program);
        with_handlers(&mut m);
        let mut state = super::long_mode();
        state.cr4 |= if enabled { 1 << 18 } else { 0 };
        state.gpr[3] = AREA as u64;
        m.cpu.restore(&state);
        assert_eq!(m.finish().gpr[7], vector, "{:?}", m.cpu.take_unimplemented());
    }
}

#[test]
fn descriptors_can_be_asked_about() {
    let mut m = Machine::new(|a| {
        a.mov(ecx, 0x28_i32).unwrap();
        a.lsl(eax, ecx).unwrap();
        a.sete(bl).unwrap();
        a.lar(edx, ecx).unwrap();
        // A task gate exists in 32-bit mode only, and one beyond the table nowhere.
        a.mov(ecx, 0x40_i32).unwrap();
        a.mov(esi, 0x77_i32).unwrap();
        a.lar(esi, ecx).unwrap();
        a.sete(bh).unwrap();
        a.mov(ecx, 0x18_i32).unwrap();
        a.verw(cx).unwrap();
        a.sete(r8b).unwrap();
        a.mov(ecx, 0x20_i32).unwrap();
        a.verw(cx).unwrap();
        a.sete(r9b).unwrap();
        a.verr(cx).unwrap();
        a.sete(r10b).unwrap();
        a.mov(ecx, 0xFFF8_i32).unwrap();
        a.verr(cx).unwrap();
        a.sete(r11b).unwrap();
        a.rdpid(r12).unwrap();
        a.hlt().unwrap();
    });
    m.write(GDT + 64, &0x0000_8500_0028_0000_u64.to_le_bytes());
    let mut state = super::long_mode();
    state.tsc_aux = 5;
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!((end.gpr[0], end.gpr[2], end.gpr[6]), (0x67, 0x8900, 0x77));
    assert_eq!(end.gpr[3] & 0xFFFF, 1);
    assert_eq!([8, 9, 10, 11].map(|n| end.gpr[n] & 0xFF), [1, 0, 1, 0]);
    assert_eq!(end.gpr[12], 5);
    assert_eq!(TSS, 0xA000);
}
