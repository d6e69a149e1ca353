//! Debug registers, single steps, alignment checks.

use iced_x86::code_asm::*;

use super::{CODE, Machine, assemble};
use crate::state::Exception;
use crate::{CpuState, Vcpu};

const HANDLER: u64 = CODE + 0x1800;
const DATA: u64 = 0x20_0000;

/// A handler of #DB that counts in R8, sums the addresses in R9, keeps DR6 in R10 (and clears it), and sets RF.
fn with_handler(m: &mut Machine) {
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.inc(r8).unwrap();
            a.add(r9, qword_ptr(rsp)).unwrap();
            a.push(rax).unwrap();
            a.mov(rax, dr6).unwrap();
            a.mov(r10, rax).unwrap();
            a.mov(rax, 0xFFFF_0FF0_u32 as i64).unwrap();
            a.mov(dr6, rax).unwrap();
            a.pop(rax).unwrap();
            a.or(dword_ptr(rsp + 16), 0x1_0000).unwrap();
            a.iretq().unwrap();
        }),
    );
    m.gate(1, HANDLER, 0);
}

fn run(program: impl FnOnce(&mut CodeAssembler), debug: [u64; 6]) -> (CpuState, Machine) {
    let mut m = Machine::new(program);
    with_handler(&mut m);
    let mut state = super::long_mode();
    state.debug = debug;
    m.cpu.restore(&state);
    (m.finish(), m)
}

#[test]
fn a_data_breakpoint_is_a_trap_after_each_access() {
    let program = |a: &mut CodeAssembler| {
        a.mov(rbx, DATA as i64).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(byte_ptr(rbx + 3), 1).unwrap();
        a.add(word_ptr(rbx + 2), 1).unwrap();
        a.mov(qword_ptr(rbx + 4), rax).unwrap();
        a.mov(qword_ptr(rbx - 4), rax).unwrap();
        a.mov(dword_ptr(rbx - 4), eax).unwrap();
        a.hlt().unwrap();
    };
    // Four bytes at DATA: for writes by DR1, for any access by DR2.
    let on_write = 1 << 2 | 0b1101 << 20;
    let (state, _) = run(program, [0, DATA, 0, 0, 0xFFFF_0FF0, 0x400 | on_write]);
    assert_eq!((state.gpr[8], state.gpr[10] & 0xF), (3, 2));
    let on_access = 1 << 4 | 0b1111 << 24;
    let (state, _) = run(program, [0, 0, DATA, 0, 0xFFFF_0FF0, 0x400 | on_access]);
    assert_eq!((state.gpr[8], state.gpr[10] & 0xF), (4, 4));
    let (state, _) = run(program, [DATA, DATA, DATA, DATA, 0xFFFF_0FF0, 0x400]);
    assert_eq!(state.gpr[8], 0);
}

#[test]
fn a_repeated_string_stops_after_the_element_that_hits() {
    let (state, m) = run(
        |a| {
            a.mov(rdi, DATA as i64).unwrap();
            a.mov(ecx, 100_i32).unwrap();
            a.mov(al, 7_i32).unwrap();
            a.rep().stosb().unwrap();
            a.hlt().unwrap();
        },
        [DATA + 40, 0, 0, 0, 0xFFFF_0FF0, 0x401 | 1 << 16],
    );
    // The trap comes between two elements: the address is that of the instruction itself.
    let at = CODE + 10 + 5 + 2;
    assert_eq!((state.gpr[8], state.gpr[9]), (1, at));
    assert_eq!((state.gpr[1], m.u64(DATA + 92) as u8), (0, 7));
}

#[test]
fn a_code_breakpoint_is_a_fault_before_the_instruction() {
    let mut at = 0;
    let (state, _) = run(
        |a| {
            let mut top = a.create_label();
            a.mov(ecx, 5_i32).unwrap();
            a.set_label(&mut top).unwrap();
            a.inc(rbx).unwrap();
            a.dec(ecx).unwrap();
            a.jne(top).unwrap();
            a.hlt().unwrap();
            at = CODE + 5;
        },
        [CODE + 5, 0, 0, 0, 0xFFFF_0FF0, 0x401],
    );
    assert_eq!((state.gpr[8], state.gpr[9], state.gpr[3]), (5, 5 * at, 5));
    assert_eq!(state.gpr[10] & 0x400F, 1);
    assert_eq!(state.rflags & 0x1_0000, 0);
    // Each hit is an instruction that started and faulted, and ten of the handler.
    assert_eq!(state.position, 1 + 5 * (1 + 10 + 3) + 1);
}

/// While code breakpoints are armed, or RF holds, one instruction runs at a time even if it jumps to where a jump led before.
#[test]
fn a_jump_that_is_remembered_does_not_pass_a_breakpoint() {
    let far = CODE + 0x4000;
    for direct in [false, true] {
        let state = {
            let mut m = Machine::new(|a| {
                let mut top = a.create_label();
                a.mov(rdi, far as i64).unwrap();
                a.mov(eax, 0x401_i32).unwrap();
                a.mov(r12, 4_i64).unwrap();
                a.set_label(&mut top).unwrap();
                if direct {
                    a.call(far).unwrap();
                } else {
                    a.call(rdi).unwrap();
                }
                a.dec(r12).unwrap();
                a.jg(top).unwrap();
                let mut end = a.create_label();
                a.jne(end).unwrap();
                a.mov(dr7, rax).unwrap();
                a.jmp(top).unwrap();
                a.set_label(&mut end).unwrap();
                a.hlt().unwrap();
            });
            m.write(
                far,
                &assemble(far, |a| {
                    a.nop().unwrap();
                    a.inc(rbx).unwrap();
                    a.ret().unwrap();
                }),
            );
            with_handler(&mut m);
            let mut state = super::long_mode();
            state.debug = [far + 1, 0, 0, 0, 0xFFFF_0FF0, 0x400];
            m.cpu.restore(&state);
            m.finish()
        };
        assert_eq!((state.gpr[3], state.gpr[8], state.gpr[9]), (5, 1, far + 1), "{direct}");
    }
}

/// RF is for one instruction: a REP that the instruction after it is does not get it, wherever the run ends.
#[test]
fn the_resume_flag_ends_with_a_jump() {
    // The REP is a block of its own, at the end of its page, so that a run can end right behind its first chunk.
    let far = CODE + 0x4FFE;
    let program = |a: &mut CodeAssembler| {
        let mut jump = a.create_label();
        a.mov(r12, far as i64).unwrap();
        for _ in 0..3 {
            a.mov(rdi, DATA as i64).unwrap();
            a.mov(ecx, 0x1800_i32).unwrap();
            a.call(r12).unwrap();
        }
        a.mov(rdi, DATA as i64).unwrap();
        a.mov(ecx, 0x1800_i32).unwrap();
        // A breakpoint at address 0: without one, nobody keeps RF.
        a.mov(edx, 0x401_i32).unwrap();
        a.mov(dr7, rdx).unwrap();
        a.mov(rax, rsp).unwrap();
        a.push(0x10_i32).unwrap();
        a.push(rax).unwrap();
        a.push(0x1_0002_i32).unwrap();
        a.push(8_i32).unwrap();
        a.lea(rbx, ptr(jump)).unwrap();
        a.push(rbx).unwrap();
        a.iretq().unwrap();
        a.set_label(&mut jump).unwrap();
        a.call(r12).unwrap();
        a.hlt().unwrap();
    };
    let machine = || {
        let m = Machine::new(program);
        m.write(
            far,
            &assemble(far, |a| {
                a.rep().stosb().unwrap();
                a.ret().unwrap();
            }),
        );
        m
    };
    let mut alone = machine();
    for until in 1..40 {
        alone.run(until);
        let mut whole = machine();
        whole.run(until);
        assert_eq!(alone.cpu.state(), whole.cpu.state(), "{until}");
    }
    assert_eq!(alone.cpu.state().rflags & 0x1_0000, 0);
}

#[test]
fn single_steps_say_so() {
    let (state, _) = run(
        |a| {
            a.pushfq().unwrap();
            a.or(dword_ptr(rsp), 0x100).unwrap();
            a.popfq().unwrap();
            a.inc(rbx).unwrap();
            a.inc(rbx).unwrap();
            a.pushfq().unwrap();
            a.and(dword_ptr(rsp), !0x100_i32).unwrap();
            a.popfq().unwrap();
            a.inc(rbx).unwrap();
            a.hlt().unwrap();
        },
        [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
    );
    // The POPF that sets TF is not stepped, the one that clears it is.
    assert_eq!((state.gpr[8], state.gpr[3]), (5, 3));
    assert_eq!(state.gpr[10] & 0x400F, 0x4000);
}

#[test]
fn an_exception_that_was_on_its_way_comes_first() {
    let mut m = Machine::new(|a| {
        a.inc(rbx).unwrap();
        a.hlt().unwrap();
    });
    with_handler(&mut m);
    let exception = Some(Exception { vector: 1, code: None });
    m.cpu.restore(&CpuState { exception, ..super::long_mode() });
    assert_eq!(m.cpu.state().exception, exception);
    let state = m.finish();
    assert_eq!((state.gpr[8], state.gpr[9], state.gpr[3], state.exception), (1, CODE, 1, None));
    // The handler's ten instructions and the program's two.
    assert_eq!(state.position, 12);
}

#[test]
fn ports_and_the_registers_themselves_can_be_watched() {
    let (state, _) = run(
        |a| {
            a.mov(rax, cr4).unwrap();
            a.or(eax, 8).unwrap();
            a.mov(cr4, rax).unwrap();
            a.out(0x41, al).unwrap();
            a.out(0x42, al).unwrap();
            a.in_(eax, 0x3F).unwrap();
            a.mov(eax, 0x2400_i32).unwrap();
            a.mov(dr7, rax).unwrap();
            a.mov(rdx, dr0).unwrap();
            a.hlt().unwrap();
        },
        [0x42, 0, 0, 0, 0xFFFF_0FF0, 0x401 | 2 << 16],
    );
    // OUT 0x42 and the four ports of IN; then MOV from DR0, which is protected once.
    assert_eq!(state.gpr[8], 3);
    assert_eq!(state.gpr[10] & 0x200F, 0x2000);
    assert_eq!((state.gpr[2], state.debug[5]), (0x42, 0x400));
}

#[test]
fn unaligned_accesses_of_programs_fault_if_asked_for() {
    let mut m = Machine::new(|a| {
        a.mov(rcx, (CODE + 0x400) as i64).unwrap();
        a.mov(r11, 0x4_0002_i64).unwrap();
        a.mov(rbx, (DATA + 1) as i64).unwrap();
        // Neither here nor there does the kernel care.
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.sysretq().unwrap();
    });
    m.write(
        CODE + 0x400,
        &assemble(CODE + 0x400, |a| {
            a.mov(al, byte_ptr(rbx)).unwrap();
            a.mov(ax, word_ptr(rbx + 1)).unwrap();
            a.mov(eax, dword_ptr(rbx + 3)).unwrap();
            a.mov(eax, dword_ptr(rbx + 1)).unwrap();
        }),
    );
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.pop(r8).unwrap();
            a.mov(r9, qword_ptr(rsp)).unwrap();
            a.hlt().unwrap();
        }),
    );
    m.gate(17, HANDLER, 0);
    let mut state = super::long_mode();
    state.star = 0x0010_0008_0000_0000;
    state.cr0 |= 1 << 18;
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!((end.gpr[8], end.gpr[9]), (0, CODE + 0x400 + 2 + 4 + 3));
    // With CR0.AM off it is nothing.
    state.cr0 &= !(1 << 18);
    m.write(CODE + 0x400 + 2 + 4 + 3 + 3, &[0x0F, 0x0B]);
    m.gate(6, HANDLER, 0);
    m.cpu.restore(&state);
    assert_eq!(m.finish().gpr[8], CODE + 0x400 + 2 + 4 + 3 + 3);
}
