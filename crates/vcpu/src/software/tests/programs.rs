//! Small programs with known results.

use iced_x86::code_asm::*;

use super::{CODE, Machine, STACK, assemble};
use crate::{CpuState, Dead, Stop, Vcpu};

#[test]
fn a_loop_sums_numbers_through_memory() {
    let mut m = Machine::new(|a| {
        let mut top = a.create_label();
        a.mov(rcx, 1000_i64).unwrap();
        a.xor(eax, eax).unwrap();
        a.mov(rbx, 0x20_0000_i64).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(qword_ptr(rbx + rcx * 8), rcx).unwrap();
        a.add(rax, qword_ptr(rbx + rcx * 8)).unwrap();
        a.dec(rcx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    let state = m.finish();
    assert_eq!(state.gpr[0], 500_500);
    assert_eq!(state.position, 3 + 4 * 1000 + 1);
    assert_eq!(state.rflags & 0x8D5, 0x44);
}

#[test]
fn calls_returns_and_the_stack() {
    let mut m = Machine::new(|a| {
        let mut function = a.create_label();
        a.mov(rax, 1_i64).unwrap();
        a.push(rax).unwrap();
        a.call(function).unwrap();
        a.pop(rcx).unwrap();
        a.lea(rdx, ptr(function)).unwrap();
        a.call(rdx).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut function).unwrap();
        a.shl(rax, 4).unwrap();
        a.pushfq().unwrap();
        a.pop(rbx).unwrap();
        a.ret().unwrap();
    });
    let state = m.finish();
    assert_eq!((state.gpr[0], state.gpr[1], state.gpr[4]), (256, 1, STACK));
    assert_eq!(state.gpr[3], 6);
}

#[test]
fn rep_movs_counts_one_for_each_page_chunk() {
    let mut m = Machine::new(|a| {
        a.mov(rsi, 0x20_0800_i64).unwrap();
        a.mov(rdi, 0x21_0000_i64).unwrap();
        a.mov(rcx, 0x3000_i64).unwrap();
        a.rep().movsb().unwrap();
        a.hlt().unwrap();
    });
    let bytes: Vec<u8> = (0..0x4000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    m.write(0x20_0000, &bytes);
    let state = m.finish();
    let mut copied = vec![0; 0x3000];
    vm_memory::Bytes::read_slice(&m.ram, &mut copied, vm_memory::GuestAddress(0x21_0000)).unwrap();
    assert_eq!(copied, bytes[0x800..0x3800]);
    // Chunks end at each operand's boundaries: 0x800 bytes each, 6 of them.
    assert_eq!(state.position, 3 + 6 + 1);
    assert_eq!((state.gpr[1], state.gpr[6], state.gpr[7]), (0, 0x20_3800, 0x21_3000));
}

#[test]
fn overlapping_and_backward_strings() {
    let mut m = Machine::new(|a| {
        a.mov(rsi, 0x20_0000_i64).unwrap();
        a.mov(rdi, 0x20_0001_i64).unwrap();
        a.mov(rcx, 100_i64).unwrap();
        a.rep().movsb().unwrap();
        a.std().unwrap();
        a.mov(rdi, 0x20_1FF8_i64).unwrap();
        a.mov(rcx, 600_i64).unwrap();
        a.mov(rax, 0x1122_3344_5566_7788_i64).unwrap();
        a.rep().stosq().unwrap();
        a.cld().unwrap();
        a.mov(rdi, 0x20_0000_i64).unwrap();
        a.mov(rcx, -1_i64).unwrap();
        a.xor(eax, eax).unwrap();
        a.repne().scasb().unwrap();
        a.hlt().unwrap();
    });
    m.write(0x20_0000, &[0x5A]);
    let state = m.finish();
    assert_eq!(m.u64(0x20_0000 + 93), 0x5A5A_5A5A_5A5A_5A5A);
    assert_eq!(m.u64(0x20_0D40), 0x1122_3344_5566_7788);
    assert_eq!(m.u64(0x20_0D38), 0);
    assert_eq!(state.gpr[7], 0x20_0000 + 102);
    assert_eq!(state.gpr[1], 102_u64.wrapping_neg() - 1);
}

#[test]
fn divide_error_goes_through_the_idt() {
    let mut m = Machine::new(|a| {
        a.mov(rax, 7_i64).unwrap();
        a.xor(edx, edx).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.div(rcx).unwrap();
        a.hlt().unwrap();
    });
    let handler = CODE + 0x800;
    m.write(
        handler,
        &assemble(handler, |a| {
            a.mov(rbx, qword_ptr(rsp)).unwrap();
            a.hlt().unwrap();
        }),
    );
    m.gate(0, handler, 0);
    let state = m.finish();
    assert_eq!(state.gpr[3], CODE + 14);
    assert_eq!(state.gpr[4], STACK - 40);
}

#[test]
fn a_triple_fault_is_the_end() {
    let mut m = Machine::new(|a| {
        a.ud2().unwrap();
    });
    assert_eq!(m.run(100), Stop::Dead(Dead::TripleFault));
    assert_eq!(m.cpu.position(), 1);
}

#[test]
fn protected_mode_enters_long_mode_as_a_pvh_guest_does() {
    let mut code = CodeAssembler::new(32).unwrap();
    let mut a64 = CodeAssembler::new(64).unwrap();
    let long = CODE + 0x100;
    code.mov(eax, cr4).unwrap();
    code.or(eax, 0x6A0).unwrap();
    code.mov(cr4, eax).unwrap();
    code.mov(eax, super::TABLES as i32).unwrap();
    code.mov(cr3, eax).unwrap();
    code.mov(ecx, 0xC000_0080_u32).unwrap();
    code.rdmsr().unwrap();
    code.or(eax, 0x901).unwrap();
    code.wrmsr().unwrap();
    code.mov(eax, cr0).unwrap();
    code.or(eax, 0x8001_0002_u32 as i32).unwrap();
    code.mov(cr0, eax).unwrap();
    code.push(0x1234_i32).unwrap();
    code.lgdt(fword_ptr(0x7000)).unwrap();
    let mut bytes = code.assemble(CODE).unwrap();
    // ljmp 8:long
    bytes.push(0xEA);
    bytes.extend_from_slice(&(long as u32).to_le_bytes());
    bytes.extend_from_slice(&8_u16.to_le_bytes());
    a64.pop(rbx).unwrap();
    a64.mov(rax, 0x1_0000_0001_i64).unwrap();
    a64.hlt().unwrap();
    let mut m = Machine::with(super::Options::default(), &bytes);
    m.write(long, &a64.assemble(long).unwrap());
    m.write(0x7000, &[0xFF, 0, 0, 0x80, 0, 0]);
    let mut start = CpuState::reset_pvh(CODE, 0x5000);
    start.gpr[4] = STACK;
    m.cpu.restore(&start);
    let state = m.finish();
    assert_eq!(state.gpr[0], 0x1_0000_0001);
    assert_eq!(state.efer & 0x500, 0x500);
    assert_eq!(state.gpr[3] as u32, 0x1234);
}

#[test]
fn user_mode_system_calls_and_privilege() {
    // Kernel: sysret to user; user: syscall; kernel: done.
    let mut m = Machine::new(|a| {
        a.mov(rcx, (CODE + 0x400) as i64).unwrap();
        a.mov(r11, 0x202_i64).unwrap();
        a.sysretq().unwrap();
    });
    m.write(
        CODE + 0x400,
        &assemble(CODE + 0x400, |a| {
            a.mov(rbx, 5_i64).unwrap();
            a.syscall().unwrap();
        }),
    );
    m.write(
        CODE + 0x800,
        &assemble(CODE + 0x800, |a| {
            a.cli().unwrap();
            a.hlt().unwrap();
        }),
    );
    let mut state = super::long_mode();
    state.star = 0x0010_0008_0000_0000;
    state.lstar = CODE + 0x800;
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!(end.gpr[3], 5);
    assert_eq!(end.gpr[1], CODE + 0x400 + 12);
    assert_eq!(end.segments[1].selector, 8);
    assert_eq!(end.position, 3 + 2 + 2);
}
