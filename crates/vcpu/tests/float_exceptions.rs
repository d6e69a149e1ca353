//! Which exception a floating-point instruction raises, by CR0, CR4 and what is pending: cases that a user program on the
//! host cannot set up (SDM volume 3, section 2.5 and table 2-2).

mod host;

use ft_vcpu::{CpuState, Kick, Stop};
use host::case::{Case, Regs};
use host::guest::{Guest, Quiet};
use host::layout;

const MONITOR: u64 = 1 << 1;
const EMULATE: u64 = 1 << 2;
const SWITCHED: u64 = 1 << 3;
const OSFXSR: u64 = 1 << 9;
const OSXMMEXCPT: u64 = 1 << 10;

/// The vector that one instruction raises in a state changed by `change`, or none.
fn vector(guest: &mut Guest, window: u64, code: &[u8], change: impl FnOnce(&mut CpuState)) -> Option<u8> {
    let mut regs = Regs { rip: window + 0x100, ..Regs::default() };
    regs.gpr[0] = window + layout::DATA + 0x100;
    regs.gpr[4] = window + layout::DATA + 0x800;
    let case = Case { code: code.to_vec(), regs, data: vec![0; layout::DATA_LEN as usize] };
    let start = guest.load(&case);
    let mut state = guest.vcpu.state();
    change(&mut state);
    guest.vcpu.restore(&state);
    assert_eq!(guest.vcpu.run(start + 1, &Kick::new(), &mut Quiet), Stop::Reached);
    let outcome = guest.outcome(&guest.vcpu.state()).expect("an outcome");
    assert!(guest.vcpu.take_unimplemented().is_empty());
    outcome.trap.map(|trap| trap.vector)
}

#[test]
fn control_registers_decide() {
    let window = layout::window(1);
    let mut guest = Guest::new(window, host::engine::software);
    let sse: [&[u8]; 4] = [
        &[0x0F, 0x58, 0xC1],             // addps xmm0, xmm1
        &[0x0F, 0x28, 0xC1],             // movaps xmm0, xmm1
        &[0xF2, 0x0F, 0x2D, 0x00],       // cvtsd2si eax, [rax]
        &[0x66, 0x0F, 0x38, 0x00, 0xC1], // pshufb xmm0, xmm1
    ];
    for code in sse {
        assert_eq!(vector(&mut guest, window, code, |_| {}), None, "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= EMULATE), Some(6), "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= SWITCHED), Some(7), "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr4 &= !OSFXSR), Some(6), "{code:02x?}");
    }
    // paddb mm0, mm1; emms; cvtpi2ps xmm0, mm0: CR0.EM means there is no MMX.
    for code in [&[0x0F, 0xFC, 0xC1][..], &[0x0F, 0x77], &[0x0F, 0x2A, 0xC0]] {
        assert_eq!(vector(&mut guest, window, code, |_| {}), None, "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= EMULATE), Some(6), "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= SWITCHED), Some(7), "{code:02x?}");
    }
    // fld1; fld dword [rax]; fstp qword [rax]; fnstcw [rax]; fnstenv [rax]; fneni.
    let x87: [&[u8]; 6] =
        [&[0xD9, 0xE8], &[0xD9, 0x00], &[0xDD, 0x18], &[0xD9, 0x38], &[0xD9, 0x30], &[0xDB, 0xE0]];
    for code in x87 {
        assert_eq!(vector(&mut guest, window, code, |_| {}), None, "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= EMULATE), Some(7), "{code:02x?}");
        assert_eq!(vector(&mut guest, window, code, |state| state.cr0 |= SWITCHED), Some(7), "{code:02x?}");
    }
    // fwait: CR0.TS counts only with CR0.MP.
    assert_eq!(vector(&mut guest, window, &[0x9B], |state| state.cr0 |= SWITCHED | MONITOR), Some(7));
    let without = |state: &mut CpuState| state.cr0 = state.cr0 & !MONITOR | SWITCHED;
    assert_eq!(vector(&mut guest, window, &[0x9B], without), None);
}

#[test]
fn an_unmasked_sse_exception_is_xm_or_ud() {
    let window = layout::window(2);
    let mut guest = Guest::new(window, host::engine::software);
    // divss xmm0, xmm1: 0 / 0.
    let code = [0xF3, 0x0F, 0x5E, 0xC1];
    let unmask = |state: &mut CpuState| state.mxcsr &= !0x80;
    assert_eq!(vector(&mut guest, window, &code, |_| {}), None);
    assert_eq!(guest.vcpu.state().mxcsr & 0x3F, 1);
    assert_eq!(
        vector(&mut guest, window, &code, |state| {
            unmask(state);
            state.cr4 |= OSXMMEXCPT;
        }),
        Some(19)
    );
    assert_eq!(guest.vcpu.state().mxcsr & 0x3F, 1);
    assert_eq!(
        vector(&mut guest, window, &code, |state| {
            unmask(state);
            state.cr4 &= !OSXMMEXCPT;
        }),
        Some(6)
    );
}

/// An x87 exception waits for the next instruction that waits for it.
#[test]
fn a_pending_x87_exception_is_mf_for_those_that_wait() {
    let window = layout::window(3);
    let mut guest = Guest::new(window, host::engine::software);
    let pend = |state: &mut CpuState| {
        state.x87.control &= !4;
        state.x87.status |= 0x8084;
    };
    // fld1; fwait; fldcw [rax]; fldenv [rax]; fxch; paddb mm0, mm1; emms.
    let waiting: [&[u8]; 7] = [
        &[0xD9, 0xE8],
        &[0x9B],
        &[0xD9, 0x28],
        &[0xD9, 0x20],
        &[0xD9, 0xC9],
        &[0x0F, 0xFC, 0xC1],
        &[0x0F, 0x77],
    ];
    for code in waiting {
        assert_eq!(vector(&mut guest, window, code, pend), Some(16), "{code:02x?}");
    }
    // fninit; fnclex; fnstcw, fnstsw, fnstenv, fnsave [rax]; fxsave [rax]; addps xmm0, xmm1.
    let others: [&[u8]; 8] = [
        &[0xDB, 0xE3],
        &[0xDB, 0xE2],
        &[0xD9, 0x38],
        &[0xDD, 0x38],
        &[0xD9, 0x30],
        &[0xDD, 0x30],
        &[0x0F, 0xAE, 0x00],
        &[0x0F, 0x58, 0xC1],
    ];
    for code in others {
        assert_eq!(vector(&mut guest, window, code, pend), None, "{code:02x?}");
    }
    // The instruction that meets the exception does not raise it: fdiv dword [rax], 1 / 0.
    let divide = |state: &mut CpuState| {
        state.x87.control &= !4;
        state.x87.tag = 1;
        state.x87.registers[0] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F];
    };
    assert_eq!(vector(&mut guest, window, &[0xD8, 0x30], divide), None);
    let state = guest.vcpu.state();
    assert_eq!(state.x87.status & 0x8084, 0x8084);
    assert_eq!(state.x87.registers[0], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]);
}
