//! Paging, TLBs, faults, code that changes.

use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

use super::{CODE, Machine, PAGE_TABLE, assemble};
use crate::memory::DIRTY;
use crate::{Stop, Vcpu};

const HANDLER: u64 = CODE + 0x1800;

/// The page table entry of an address.
fn entry(address: u64) -> u64 {
    PAGE_TABLE + (address >> 12) * 8
}

#[test]
fn a_page_fault_can_be_repaired_and_restarted() {
    let mut m = Machine::new(|a| {
        a.mov(rbx, 0x20_0FFC_i64).unwrap();
        a.mov(rax, 0x1122_3344_5566_7788_i64).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.add(qword_ptr(rbx), 1).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    // The second page is missing; the handler maps it, and notes error code and address.
    let table = entry(0x20_1000);
    m.write(table, &0_u64.to_le_bytes());
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.pop(r8).unwrap();
            a.mov(r9, cr2).unwrap();
            a.mov(rcx, table as i64).unwrap();
            a.mov(qword_ptr(rcx), 0x20_1007_i32).unwrap();
            a.inc(r10).unwrap();
            a.iretq().unwrap();
        }),
    );
    m.gate(14, HANDLER, 0);
    let state = m.finish();
    assert_eq!((state.gpr[8], state.gpr[9], state.gpr[10]), (2, 0x20_1000, 1));
    assert_eq!(m.u64(0x20_0FFC), 0x1122_3344_5566_7789);
    assert_eq!(state.position, 3 + 6 + 2 + 2);
}

#[test]
fn accessed_and_dirty_bits_follow_the_tlb() {
    let mut m = Machine::new(|a| {
        a.mov(rbx, 0x20_0000_i64).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.out(1, al).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.out(1, al).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.invlpg(byte_ptr(rbx)).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    let table = entry(0x20_0000);
    m.run(3);
    assert_eq!(m.u64(table) & 0x60, 0x20);
    m.run(5);
    assert_eq!(m.u64(table) & 0x60, 0x60);
    // Cleared behind the TLB's back: a warm entry does not set it again, a flushed one does.
    m.ram.write_obj(0x20_0007_u64, GuestAddress(table)).unwrap();
    m.run(6);
    assert_eq!(m.u64(table) & 0x60, 0);
    m.run(8);
    assert_eq!(m.u64(table) & 0x60, 0x20);
}

#[test]
fn code_may_change_itself_and_be_changed() {
    let mut m = Machine::new(|a| {
        let mut top = a.create_label();
        let mut patched = a.create_label();
        a.xor(ecx, ecx).unwrap();
        a.lea(r9, ptr(patched)).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(byte_ptr(r9 + 1), cl).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 0_i32).unwrap();
        a.add(rbx, rax).unwrap();
        a.inc(ecx).unwrap();
        a.cmp(ecx, 100).unwrap();
        a.jne(top).unwrap();
        a.jmp(top).unwrap();
    });
    m.run(2 + 6 * 100 - 1);
    assert_eq!(m.cpu.state().gpr[3], 4950);
    // A device writes over code: the next instruction becomes HLT.
    let rip = m.cpu.state().rip;
    m.write(rip, &[0xF4]);
    assert_eq!(m.run(10_000), Stop::Dead(crate::Dead::HaltedForEver));
    assert_eq!(m.cpu.position(), 602);
}

#[test]
fn an_instruction_may_lie_on_two_pages() {
    let at = CODE + 0x1000 - 4;
    let mut m = Machine::new(|a| {
        a.jmp(at).unwrap();
    });
    m.write(
        at,
        &assemble(at, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.mov(rax, 0x1122_3344_5566_7788_i64).unwrap();
            a.inc(rbx).unwrap();
            a.cmp(rbx, 5).unwrap();
            a.jne(top).unwrap();
            a.hlt().unwrap();
        }),
    );
    let state = m.finish();
    assert_eq!((state.gpr[0], state.gpr[3]), (0x1122_3344_5566_7788, 5));
    assert_eq!(state.position, 1 + 4 * 5 + 1);
}

#[test]
fn stores_mark_pages_dirty_again_after_they_were_taken() {
    let mut m = Machine::new(|a| {
        let mut top = a.create_label();
        a.mov(rbx, 0x20_0000_i64).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.jmp(top).unwrap();
    });
    let flags = m.cpu.cpu.flag_table.clone();
    m.run(100);
    assert!(flags.take_dirty().contains(&0x200));
    assert_eq!(flags.bytes()[0x200].load(std::sync::atomic::Ordering::Relaxed) & DIRTY, 0);
    m.run(200);
    assert_eq!(flags.take_dirty(), [0x200]);
}

#[test]
fn user_pages_are_protected() {
    let mut m = Machine::new(|a| {
        a.mov(rcx, (CODE + 0x400) as i64).unwrap();
        a.mov(r11, 2_i64).unwrap();
        a.sysretq().unwrap();
    });
    m.write(
        CODE + 0x400,
        &assemble(CODE + 0x400, |a| {
            a.mov(rbx, 0x20_0000_i64).unwrap();
            a.mov(qword_ptr(rbx), rbx).unwrap();
        }),
    );
    m.write(entry(0x20_0000), &0x20_0003_u64.to_le_bytes());
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.pop(r8).unwrap();
            a.mov(rbx, qword_ptr(rsp + 24)).unwrap();
            a.hlt().unwrap();
        }),
    );
    m.gate(14, HANDLER, 0);
    let mut state = super::long_mode();
    state.star = 0x0010_0008_0000_0000;
    m.cpu.restore(&state);
    let end = m.finish();
    // Present, write, user; and the stack is that of the TSS, with the user's below it.
    assert_eq!(end.gpr[8], 7);
    assert_eq!(end.gpr[4], super::STACK - 40);
    assert_eq!(end.gpr[3], super::STACK);
}
