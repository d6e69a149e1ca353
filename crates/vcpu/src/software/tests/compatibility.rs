//! 32-bit programs under a 64-bit kernel: getting there and back, segments with bases and limits, system calls.

use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

use super::{CODE, GDT, IDT, Machine, STACK, assemble};
use crate::state::Segment;
use crate::{CpuState, Vcpu};

const USER: u64 = CODE + 0x400;
const HANDLER: u64 = CODE + 0x1800;
const DATA: u64 = 0x20_0000;
/// User code of 32 bits, and user data of 4 KiB from DATA on.
const CODE_32: u16 = 0x30 | 3;
const SMALL: u16 = 0x38 | 3;

fn assemble_32(at: u64, program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(32).unwrap();
    program(&mut assembler);
    assembler.assemble(at).unwrap()
}

/// A machine whose 64-bit kernel goes to a 32-bit program by IRET. INT 0x80 and the exceptions end it: the handler keeps
/// the vector in RDI, the frame in R8-R12 (an error code first, if there is one), and halts.
fn machine(program: impl FnOnce(&mut CodeAssembler)) -> (Machine, CpuState) {
    let mut m = Machine::new(|a| {
        a.push(0x1B_i32).unwrap();
        a.push(0x7_0000_i32).unwrap();
        a.push(2_i32).unwrap();
        a.push(i32::from(CODE_32)).unwrap();
        a.push(USER as i32).unwrap();
        a.iretq().unwrap();
    });
    m.write(USER, &assemble_32(USER, program));
    m.write(GDT + 48, &0x00CF_FB00_0000_FFFF_u64.to_le_bytes());
    m.write(GDT + 56, &(0x0040_F300_0000_0FFF_u64 | DATA << 16).to_le_bytes());
    for vector in [0_u64, 3, 4, 5, 6, 12, 13, 14, 0x80] {
        let at = HANDLER + 32 * (vector & 0x1F) + if vector == 0x80 { 0x400 } else { 0 };
        m.write(
            at,
            &assemble(at, |a| {
                a.mov(edi, vector as i32).unwrap();
                for register in [r8, r9, r10, r11, r12] {
                    a.pop(register).unwrap();
                }
                a.hlt().unwrap();
            }),
        );
        m.gate(vector, at, 3);
    }
    let state = super::long_mode();
    m.cpu.restore(&state);
    (m, state)
}

#[test]
fn a_32_bit_program_runs_and_calls_the_kernel() {
    let (mut m, _) = machine(|a| {
        let (mut function, mut over) = (a.create_label(), a.create_label());
        a.mov(eax, 0x1B_i32).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(eax, i32::from(SMALL)).unwrap();
        a.mov(gs, eax).unwrap();
        a.mov(ebx, 0xFFFF_FFFF_u32).unwrap();
        a.inc(ebx).unwrap();
        a.call(function).unwrap();
        a.pushad().unwrap();
        a.popad().unwrap();
        a.mov(al, 0x19_i32).unwrap();
        a.add(al, 0x28_i32).unwrap();
        a.daa().unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.mov(ecx, dword_ptr(0x10).gs()).unwrap();
        a.mov(edx, dword_ptr(ecx + DATA as i32)).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
        a.int(0x80).unwrap();
    });
    m.write(DATA + 0x10, &0x20_u32.to_le_bytes());
    m.write(DATA + 0x20, &0x1234_5678_u32.to_le_bytes());
    let end = m.finish();
    assert_eq!(end.gpr[7], 0x80, "{:x?} {:?}", end, m.cpu.take_unimplemented());
    assert_eq!((end.gpr[3], end.gpr[1], end.gpr[2]), (0, 0x20, 0x1234_5678));
    assert_eq!(end.gpr[0] as u8, 0x47);
    // CS, SS and ESP of the program are on the kernel's stack.
    assert_eq!((end.gpr[9], end.gpr[11], end.gpr[12]), (u64::from(CODE_32), 0x7_0000, 0x1B));
    assert_eq!(end.segments[1].attributes & 0x2000, 0x2000);
    assert!(m.cpu.take_unimplemented().is_empty());
}

#[test]
fn segments_have_limits_in_32_bit_code() {
    for (offset, ok) in [(0xFFC_u32, true), (0xFFD, false), (0x1000, false), (0, true)] {
        let (mut m, _) = machine(|a| {
            a.mov(eax, i32::from(SMALL)).unwrap();
            a.mov(gs, eax).unwrap();
            a.mov(dword_ptr(offset).gs(), eax).unwrap();
            a.int(0x80).unwrap();
        });
        let end = m.finish();
        assert_eq!(end.gpr[7], if ok { 0x80 } else { 13 }, "{offset:#x}");
        if ok {
            assert_eq!(m.u64(DATA + u64::from(offset)) as u32, u32::from(SMALL));
        } else {
            // Error code 0, and the instruction's own address.
            assert_eq!((end.gpr[8], end.gpr[9]), (0, USER + 5 + 2));
        }
    }
}

#[test]
fn a_null_segment_cannot_be_used_in_32_bit_code() {
    let (mut m, _) = machine(|a| {
        a.xor(eax, eax).unwrap();
        a.mov(fs, eax).unwrap();
        a.mov(eax, dword_ptr(DATA as u32).fs()).unwrap();
    });
    let end = m.finish();
    assert_eq!((end.gpr[7], end.gpr[8], end.gpr[9]), (13, 0, USER + 4));
}

#[test]
fn segment_loads_have_the_selector_as_error_code() {
    // A kernel segment, one beyond the table, code into SS, one that is not present.
    let cases = [(0x10_u16, 13), (0x1F8, 13), (CODE_32, 13), (0x40, 12), (0x47, 13)];
    for (selector, vector) in cases {
        let (mut m, _) = machine(|a| {
            a.mov(eax, i32::from(selector)).unwrap();
            a.mov(ss, eax).unwrap();
        });
        m.write(GDT + 64, &0x00CF_7300_0000_FFFF_u64.to_le_bytes());
        let selector = u64::from(selector);
        let end = m.finish();
        let vector = if selector == 0x40 { 13 } else { vector };
        // RPL 0 in SS is refused before presence is looked at.
        assert_eq!((end.gpr[7], end.gpr[8]), (vector, selector & 0xFFFC), "{selector:#x}");
    }
    let (mut m, _) = machine(|a| {
        a.mov(eax, 0x43_i32).unwrap();
        a.mov(ss, eax).unwrap();
    });
    m.write(GDT + 64, &0x00CF_7300_0000_FFFF_u64.to_le_bytes());
    assert_eq!(m.finish().gpr[7], 12);
}

#[test]
fn overflow_bounds_and_breakpoints_of_32_bit_code() {
    let (mut m, _) = machine(|a| {
        a.mov(eax, 0x7FFF_FFFF_i32).unwrap();
        a.into().unwrap();
        a.add(eax, 1).unwrap();
        a.into().unwrap();
    });
    let end = m.finish();
    // A trap: the address is that of the next instruction.
    assert_eq!((end.gpr[7], end.gpr[8]), (4, USER + 5 + 1 + 5 + 1));
    for (index, vector) in [(10, 0x80), (20, 0x80), (9, 5), (21, 5), (-1, 5)] {
        let (mut m, _) = machine(|a| {
            a.mov(eax, 0x1B_i32).unwrap();
            a.mov(ds, eax).unwrap();
            a.mov(ecx, index).unwrap();
            a.bound(ecx, dword_ptr(DATA as u32)).unwrap();
            a.int(0x80).unwrap();
        });
        m.write(DATA, &(10_u64 | 20 << 32).to_le_bytes());
        assert_eq!(m.finish().gpr[7], vector, "{index}");
    }
    let (mut m, _) = machine(|a| a.int3().unwrap());
    let end = m.finish();
    assert_eq!((end.gpr[7], end.gpr[8]), (3, USER + 1));
}

#[test]
fn sysenter_and_sysexit() {
    for wide in [false, true] {
        let back = USER + 0x100;
        let (mut m, mut state) = machine(|a| {
            a.mov(esi, 1_i32).unwrap();
            a.db(&[0x0F, 0x34]).unwrap();
        });
        let kernel = CODE + 0x1000;
        m.write(
            kernel,
            &assemble(kernel, |a| {
                a.mov(rbx, rsp).unwrap();
                a.mov(rdx, back as i64).unwrap();
                a.mov(rcx, 0x6_0000_i64).unwrap();
                if wide {
                    a.db(&[0x48]).unwrap();
                }
                a.db(&[0x0F, 0x35]).unwrap();
            }),
        );
        // INT 0x80 in both kinds of code.
        m.write(back, &[0xCD, 0x80]);
        // SYSEXIT wants its segments 16, 24 (32 bits), 32 and 40 (64 bits) behind the kernel's: it does not look at them.
        state.sysenter = [8, STACK - 0x100, kernel];
        state.rflags |= 0x200;
        m.cpu.restore(&state);
        let end = m.finish();
        assert_eq!((end.gpr[7], end.gpr[3]), (0x80, STACK - 0x100), "{:?}", m.cpu.take_unimplemented());
        let (code, stack) = if wide { (0x2B, 0x33) } else { (0x1B, 0x23) };
        assert_eq!((end.gpr[8], end.gpr[9], end.gpr[11], end.gpr[12]), (back + 2, code, 0x6_0000, stack));
        // Interrupts were switched off on the way in.
        assert_eq!(end.gpr[10] & 0x200, 0);
    }
}

#[test]
fn syscall_from_32_bit_code_is_undefined() {
    let (mut m, mut state) = machine(|a| a.db(&[0x0F, 0x05]).unwrap());
    state.star = 0x0010_0008_0000_0000;
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!((end.gpr[7], end.gpr[8]), (6, USER));
}

#[test]
fn far_jumps_lead_from_32_to_64_bit_code_and_back() {
    let (mut m, _) = machine(|a| {
        a.mov(ebx, 1_i32).unwrap();
        // jmp far 0x23:USER+0x100
        a.db(&[0xEA]).unwrap();
        a.dd(&[(USER + 0x100) as u32]).unwrap();
        a.db(&[0x23, 0]).unwrap();
    });
    m.write(
        USER + 0x100,
        &assemble(USER + 0x100, |a| {
            a.mov(r15, 0x1_0000_0005_i64).unwrap();
            a.push(i32::from(CODE_32)).unwrap();
            a.push((USER + 0x200) as i32).unwrap();
            a.db(&[0x48, 0xCB]).unwrap();
        }),
    );
    // inc ebx; int 0x80: in 64-bit code the first would be a prefix.
    m.write(USER + 0x200, &[0x43, 0xCD, 0x80]);
    let end = m.finish();
    assert_eq!(
        (end.gpr[7], end.gpr[3], end.gpr[9]),
        (0x80, 2, u64::from(CODE_32)),
        "{:?}",
        m.cpu.take_unimplemented()
    );
    assert_eq!(end.gpr[15], 0x1_0000_0005);
}

/// EIP goes from the last byte of 4 GiB to the first, also where the platform is looked at in between.
#[test]
fn the_instruction_pointer_wraps_at_4_gib() {
    // RDTSC, or a NOP and one more; ending with the last page, or across its end.
    for (code, split) in [(&[0x0F, 0x31][..], 2), (&[0x0F, 0x31], 1), (&[0x90, 0x43], 2), (&[0x66, 0x90], 1)]
    {
        let start = 0x1_0000_0000 - split;
        let (mut m, mut state) = machine(|_| ());
        m.write(
            CODE,
            &assemble(CODE, |a| {
                a.push(0x1B_i32).unwrap();
                a.push(0x7_0000_i32).unwrap();
                a.push(2_i32).unwrap();
                a.push(i32::from(CODE_32)).unwrap();
                a.mov(eax, start as u32).unwrap();
                a.push(rax).unwrap();
                a.iretq().unwrap();
            }),
        );
        // The last page below 4 GiB is at 3 MiB.
        m.write(0x2018, &0xC007_u64.to_le_bytes());
        m.write(0xCFF8, &0xD007_u64.to_le_bytes());
        m.write(0xDFF8, &0x30_0007_u64.to_le_bytes());
        m.write(0x30_1000 - split, &code[..split as usize]);
        let rest = [&code[split as usize..], &[0xCD, 0x80]].concat();
        m.write(0, &rest);
        state.rip = CODE;
        m.cpu.restore(&state);
        let end = m.finish();
        assert_eq!((end.gpr[7], end.gpr[8]), (0x80, rest.len() as u64), "{code:x?} {split} {:x?}", end.cr2);
    }
}

/// A kernel's data segments become null on the way out, and a base without a segment stays.
#[test]
fn an_outward_return_takes_away_what_the_program_may_not_have() {
    let (mut m, mut state) = machine(|a| a.int(0x80).unwrap());
    state.segments[4] = Segment { selector: 0, base: 0x1234_5000, limit: 0, attributes: 0 };
    state.segments[5].selector = 0x10;
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!(end.segments[3], Segment::default());
    assert_eq!(end.segments[5], Segment::default());
    assert_eq!(end.segments[4].base, 0x1234_5000);
    let table: u64 = m.ram.read_obj(GuestAddress(IDT)).unwrap();
    assert_ne!(table, 0);
}
