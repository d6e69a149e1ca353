//! What is remembered of jumps and blocks is never believed when the guest has changed what it followed from.

use iced_x86::code_asm::*;

use super::{CODE, Machine, PAGE_TABLE, STACK, assemble};
use crate::software::Options;
use crate::{CpuState, Vcpu};

const FAR: u64 = CODE + 0x4000;
const HANDLER: u64 = CODE + 0x8000;

/// The page table entry of an address.
fn entry(address: u64) -> u64 {
    PAGE_TABLE + (address >> 12) * 8
}

fn put(m: &Machine, at: u64, program: impl FnOnce(&mut CodeAssembler)) {
    m.write(at, &assemble(at, program));
}

/// The jump cache knows an address, and the guest goes to every other one with the same low 48 bits.
#[test]
fn a_jump_to_a_non_canonical_address_faults_whatever_lies_at_its_low_bits() {
    let next = CODE + 0x1000;
    let mut m = Machine::new(|a| {
        a.mov(r8, FAR as i64).unwrap();
        a.mov(r9, 1_i64 << 48).unwrap();
        a.mov(r10, r8).unwrap();
        // Learnt, used, forgotten and learnt anew.
        a.call(r8).unwrap();
        a.call(r8).unwrap();
        a.invlpg(byte_ptr(r8)).unwrap();
        a.call(r8).unwrap();
        a.call(r8).unwrap();
        a.invlpg(byte_ptr(0x30_0000)).unwrap();
        a.jmp(next).unwrap();
    });
    put(&m, next, |a| {
        a.add(r10, r9).unwrap();
        a.jmp(r10).unwrap();
    });
    put(&m, FAR, |a| {
        let mut end = a.create_label();
        a.inc(rbx).unwrap();
        // The last one of the 65536 is the address itself.
        a.cmp(rcx, 0xFFFF).unwrap();
        a.je(end).unwrap();
        a.ret().unwrap();
        a.set_label(&mut end).unwrap();
        a.hlt().unwrap();
    });
    put(&m, HANDLER, |a| {
        let mut same = a.create_label();
        a.pop(rax).unwrap();
        a.add(rdx, rax).unwrap();
        a.inc(rcx).unwrap();
        a.cmp(qword_ptr(rsp), r10).unwrap();
        a.je(same).unwrap();
        a.inc(rsi).unwrap();
        a.set_label(&mut same).unwrap();
        a.mov(qword_ptr(rsp), next as i32).unwrap();
        a.iretq().unwrap();
    });
    m.gate(13, HANDLER, 0);
    let end = m.finish();
    // Four calls and the last jump; faults: all but one, without an error code, and each at the address itself.
    assert_eq!((end.gpr[3], end.gpr[1], end.gpr[2], end.gpr[6]), (5, 0xFFFF, 0, 0));
}

/// A page of code that is mapped at two places with the same entry of the fetch TLB jumps from each to a page beside it.
#[test]
fn a_jump_from_a_page_that_is_mapped_twice_leads_to_the_page_beside_the_running_one() {
    const AWAY: u64 = 0x40_0000;
    let mut m = Machine::new(|a| {
        let mut top = a.create_label();
        a.mov(r8, FAR as i64).unwrap();
        a.mov(r9, (FAR + AWAY) as i64).unwrap();
        a.mov(ebp, 5).unwrap();
        a.set_label(&mut top).unwrap();
        for _ in 0..3 {
            a.call(r8).unwrap();
        }
        a.call(r9).unwrap();
        a.call(r8).unwrap();
        a.dec(ebp).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    let table = 0xB000_u64;
    m.write(0x3000 + 8 * ((FAR + AWAY) >> 21), &(table | 7).to_le_bytes());
    m.write(table + 8 * ((FAR >> 12) & 0x1FF), &(FAR | 7).to_le_bytes());
    m.write(table + 8 * (((FAR >> 12) + 1) & 0x1FF), &((FAR + 0x2000) | 7).to_le_bytes());
    put(&m, FAR, |a| a.jmp(FAR + 0x1000).unwrap());
    put(&m, FAR + 0x1000, |a| {
        a.inc(rbx).unwrap();
        a.ret().unwrap();
    });
    put(&m, FAR + 0x2000, |a| {
        a.inc(rcx).unwrap();
        a.ret().unwrap();
    });
    let end = m.finish();
    assert_eq!((end.gpr[3], end.gpr[1]), (20, 5));
}

/// What makes a page unfit for running between two jumps to it: each must be felt at once, or where the guest flushes.
#[test]
fn a_remembered_jump_does_not_pass_protection() {
    type Change = (&'static str, u64, bool, fn(&mut CodeAssembler));
    const FLUSH: fn(&mut CodeAssembler) = |a| a.invlpg(byte_ptr(FAR)).unwrap();
    let changes: [Change; 6] = [
        ("not present", 0, true, FLUSH),
        ("not executable", 1 << 63 | FAR | 7, true, FLUSH),
        ("not executable, and not flushed", 1 << 63 | FAR | 7, false, |a| a.nop().unwrap()),
        ("another page", (FAR + 0x1000) | 7, false, FLUSH),
        ("another page by CR3", (FAR + 0x1000) | 7, false, |a| {
            a.mov(rax, cr3).unwrap();
            a.mov(cr3, rax).unwrap();
        }),
        ("SMEP", FAR | 7, true, |a| {
            a.mov(rax, cr4).unwrap();
            a.or(eax, 1 << 20).unwrap();
            a.mov(cr4, rax).unwrap();
        }),
    ];
    for (name, new, faults, change) in changes {
        let smep = name == "SMEP";
        for call_direct in [false, true] {
            let program = |a: &mut CodeAssembler| {
                let mut top = a.create_label();
                a.mov(r8, FAR as i64).unwrap();
                a.mov(r12, 4_i64).unwrap();
                a.set_label(&mut top).unwrap();
                if call_direct {
                    a.call(FAR).unwrap();
                } else {
                    a.call(r8).unwrap();
                }
                a.dec(r12).unwrap();
                a.jg(top).unwrap();
                a.test(r12, r12).unwrap();
                let mut end = a.create_label();
                a.jne(end).unwrap();
                a.mov(r10, new as i64).unwrap();
                a.mov(r9, entry(FAR) as i64).unwrap();
                a.mov(qword_ptr(r9), r10).unwrap();
                change(a);
                a.jmp(top).unwrap();
                a.set_label(&mut end).unwrap();
                a.hlt().unwrap();
            };
            let mut m = Machine::new(program);
            // With SMEP, all but the page itself must be the supervisor's.
            if smep {
                for at in [CODE, HANDLER] {
                    m.write(entry(at), &(at | 3).to_le_bytes());
                }
            }
            put(&m, FAR, |a| {
                a.inc(rbx).unwrap();
                a.ret().unwrap();
            });
            put(&m, FAR + 0x1000, |a| {
                a.inc(rdx).unwrap();
                a.ret().unwrap();
            });
            put(&m, HANDLER, |a| {
                a.pop(rsi).unwrap();
                a.pop(rdi).unwrap();
                a.hlt().unwrap();
            });
            m.gate(14, HANDLER, 0);
            let end = m.finish();
            let moved = name.starts_with("another");
            let calls = 4 + u64::from(!faults && !moved);
            let got = (end.gpr[3], end.gpr[2], end.gpr[7]);
            assert_eq!(got, (calls, moved.into(), if faults { FAR } else { 0 }), "{name} {call_direct}");
            let code = if name == "not present" { 0x10 } else { 0x11 };
            assert_eq!(end.gpr[6], if faults { code } else { 0 }, "{name} {call_direct}");
        }
    }
}

/// The same code at both privilege levels jumps to a page of the kernel's.
#[test]
fn a_jump_that_the_kernel_remembers_is_not_the_programs() {
    let user = CODE + 0x400;
    let mut m = Machine::new(|a| {
        a.mov(r12, 5_i64).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.call(user).unwrap();
        a.dec(r12).unwrap();
        a.jne(top).unwrap();
        a.mov(rcx, user as i64).unwrap();
        a.mov(r11, 2_i64).unwrap();
        a.sysretq().unwrap();
    });
    put(&m, user, |a| a.jmp(FAR).unwrap());
    put(&m, FAR, |a| {
        a.inc(rbx).unwrap();
        a.ret().unwrap();
    });
    m.write(entry(FAR), &(FAR | 3).to_le_bytes());
    put(&m, HANDLER, |a| {
        a.pop(rsi).unwrap();
        a.pop(rdi).unwrap();
        a.hlt().unwrap();
    });
    m.gate(14, HANDLER, 0);
    let state = CpuState { star: 0x0010_0008_0000_0000, ..super::long_mode() };
    m.cpu.restore(&state);
    let end = m.finish();
    assert_eq!((end.gpr[3], end.gpr[6], end.gpr[7]), (5, 0x15, FAR));
}

/// More blocks are dropped than may wait to be freed, while jumps to them and from them are remembered.
#[test]
fn blocks_that_are_dropped_again_and_again_are_not_run() {
    let piece = |a: &mut CodeAssembler, next: u64| {
        a.mov(eax, 0_i32).unwrap();
        a.add(rbx, rax).unwrap();
        a.jmp(next).unwrap();
    };
    let program = |a: &mut CodeAssembler| {
        let mut top = a.create_label();
        a.mov(r8, FAR as i64).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.set_label(&mut top).unwrap();
        // Both pieces' immediates; the second one is on the page of a third that stays.
        a.mov(byte_ptr(r8 + 1), cl).unwrap();
        a.mov(byte_ptr(r8 + 0x1001), cl).unwrap();
        a.call(r8).unwrap();
        a.inc(ecx).unwrap();
        a.cmp(ecx, 3000).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    };
    for options in [Options::default(), Options { blocks: 3, flush_seed: None }] {
        let mut m = Machine::with(options, &assemble(CODE, program));
        put(&m, FAR, |a| piece(a, FAR + 0x1000));
        put(&m, FAR + 0x1000, |a| piece(a, FAR + 0x1800));
        put(&m, FAR + 0x1800, |a| {
            a.inc(rdx).unwrap();
            a.ret().unwrap();
        });
        let end = m.finish();
        let sum: u64 = (0..3000_u64).map(|n| 2 * (n & 0xFF)).sum();
        assert_eq!((end.gpr[3], end.gpr[2], end.gpr[4]), (sum, 3000, STACK));
        assert_eq!(end.position, 2 + 3000 * (3 + 3 + 3 + 2 + 3) + 1);
    }
}

/// An instruction of more than 15 bytes is none, wherever a run ends before it.
#[test]
fn an_instruction_that_is_too_long_faults_alike_in_a_block_and_alone() {
    for at in [CODE + 3, CODE + 0x1000 - 15, CODE + 0x1000 - 14, CODE + 0x1000 - 3] {
        for prefixes in [13, 14, 15, 20] {
            let ends = [1_u64, 2, 3, 4, 5, 6, 20].map(|until| {
                let mut m = Machine::new(|a| {
                    a.inc(rbx).unwrap();
                });
                let mut code = vec![0x90; (at - CODE) as usize];
                code.extend(vec![0x66; prefixes]);
                code.extend([0x90, 0xF4]);
                m.write(CODE, &code);
                for vector in [6, 13] {
                    let handler = HANDLER + 64 * vector;
                    put(&m, handler, |a| {
                        a.mov(edx, vector as i32).unwrap();
                        a.mov(rsi, qword_ptr(rsp)).unwrap();
                        a.hlt().unwrap();
                    });
                    m.gate(vector, handler, 0);
                }
                m.run(at - CODE + until - 3);
                m.finish()
            });
            for end in &ends {
                assert_eq!(*end, ends[0], "{prefixes} prefixes at {at:#x}");
            }
            assert_eq!(ends[0].gpr[2] != 0, prefixes > 14, "{prefixes} prefixes at {at:#x}");
        }
    }
}
