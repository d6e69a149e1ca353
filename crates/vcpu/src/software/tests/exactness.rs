//! Stops are exact, and nothing the guest sees depends on where runs or blocks are cut.

use iced_x86::code_asm::*;

use super::{CODE, Machine, assemble};
use crate::software::Options;
use crate::{CpuState, Position, Stop, Vcpu};

/// A busy program: loops, calls, REP, ports, MMIO, RDTSC, self-modifying code; interrupts go to a handler that counts.
fn program() -> Vec<u8> {
    assemble(CODE, |a| {
        let mut top = a.create_label();
        let mut function = a.create_label();
        let mut patched = a.create_label();
        a.sti().unwrap();
        a.mov(r15, 0x20_0000_i64).unwrap();
        a.mov(r8, 0xE000_0000_u64 as i64).unwrap();
        a.xor(r14d, r14d).unwrap();
        a.set_label(&mut top).unwrap();
        a.inc(r14).unwrap();
        a.mov(rax, r14).unwrap();
        a.imul_2(rax, r14).unwrap();
        a.call(function).unwrap();
        a.mov(ecx, r14d).unwrap();
        a.and(ecx, 0x1FFF).unwrap();
        a.lea(rdi, qword_ptr(r15 + 0x7FF)).unwrap();
        a.mov(rsi, r15).unwrap();
        a.rep().movsb().unwrap();
        a.out(0x42, al).unwrap();
        a.in_(eax, 0x43).unwrap();
        a.add(r12, rax).unwrap();
        a.rdtsc().unwrap();
        a.xor(r13, rax).unwrap();
        // The immediate of the instruction after the store changes in every round.
        a.lea(r9, ptr(patched)).unwrap();
        a.mov(byte_ptr(r9 + 1), r14b).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(edx, 0x11_i32).unwrap();
        a.add(r11, rdx).unwrap();
        a.cmp(r14, 400).unwrap();
        a.jne(top).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
        a.set_label(&mut function).unwrap();
        a.mov(qword_ptr(r15 + r14 * 8), rax).unwrap();
        a.test(r14b, 7).unwrap();
        let mut skip = a.create_label();
        a.jne(skip).unwrap();
        a.mov(qword_ptr(r8), rax).unwrap();
        a.mov(rdx, qword_ptr(r8 + 8)).unwrap();
        a.set_label(&mut skip).unwrap();
        a.adc(r10, rax).unwrap();
        a.ret().unwrap();
    })
}

const HANDLER: u64 = CODE + 0x1800;

fn machine(options: Options) -> Machine {
    let mut m = Machine::with(options, &program());
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.inc(rbp).unwrap();
            a.iretq().unwrap();
        }),
    );
    m.gate(0x40, HANDLER, 0);
    // Device memory at 0xE0000000, by a 1 GiB page.
    m.write(0x2018, &(0xC000_0000_u64 | 0x83).to_le_bytes());
    m.platform.vector = 0x40;
    m.platform.timers = (1..200).map(|n| n * 97).collect();
    m
}

type Log = Vec<(Position, &'static str, u64, u64)>;

fn end(mut m: Machine, stops: &mut dyn FnMut(Position) -> Position) -> (CpuState, Vec<u8>, Log) {
    loop {
        let until = stops(m.cpu.position());
        match m.run(until) {
            Stop::Reached => assert_eq!(m.cpu.position(), until),
            Stop::Dead(crate::Dead::HaltedForEver) => break,
            other => panic!("{other:?} {:x?} {:?}", m.cpu.state(), m.cpu.take_unimplemented()),
        }
    }
    let (state, bytes) = m.all();
    (state, bytes, m.platform.log)
}

#[test]
fn runs_may_be_cut_anywhere() {
    let whole = end(machine(Options::default()), &mut |_| 1_000_000);
    assert_eq!(whole.0.gpr[14], 400);
    assert!(whole.0.gpr[5] > 50, "{:x?}", whole.0);
    let mut seed = 1_u64;
    for most in [1, 3, 17, 300] {
        let cut = end(machine(Options::default()), &mut |now| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            now + 1 + (seed >> 33) % most
        });
        assert_eq!(whole.0, cut.0, "registers, steps of up to {most}");
        assert!(whole.1 == cut.1, "memory, steps of up to {most}");
        assert_eq!(whole.2, cut.2, "accesses, steps of up to {most}");
    }
}

#[test]
fn the_block_cache_is_invisible() {
    let whole = end(machine(Options::default()), &mut |_| 1_000_000);
    for (blocks, seed) in [(1, None), (4, None), (64, Some(7)), (64, Some(99)), (1 << 16, Some(3))] {
        let other = end(machine(Options { blocks, flush_seed: seed }), &mut |_| 1_000_000);
        assert_eq!(whole.0, other.0, "{blocks} {seed:?}");
        assert!(whole.1 == other.1, "{blocks} {seed:?}");
        assert_eq!(whole.2, other.2);
    }
}

#[test]
fn until_is_exact() {
    let mut m = Machine::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        for _ in 0..37 {
            a.inc(rax).unwrap();
        }
        a.jmp(top).unwrap();
    });
    let mut position = 0;
    for step in [1_u64, 2, 36, 37, 38, 39, 1000, 4095, 4096, 4097, 100_000] {
        position += step;
        assert_eq!(m.run(position), Stop::Reached);
        assert_eq!(m.cpu.position(), position);
        assert_eq!(m.cpu.state().gpr[0], position / 38 * 37 + position % 38);
    }
    assert_eq!(m.run(position), Stop::Reached);
    m.kick.set();
    assert_eq!(m.run(position + 1_000_000), Stop::Kicked);
    assert_eq!(m.run(position), Stop::Reached);
}

#[test]
fn interrupts_wait_for_the_shadow_and_wake_halts() {
    let mut m = Machine::new(|a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
        a.mov(al, 0x40_i32).unwrap();
        a.out(0x77, al).unwrap();
        a.nop().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    m.write(
        HANDLER,
        &assemble(HANDLER, |a| {
            a.shl(rbx, 8).unwrap();
            a.mov(bl, byte_ptr(rsp)).unwrap();
            a.iretq().unwrap();
        }),
    );
    m.gate(0x40, HANDLER, 0);
    m.platform.pending = Some(0x40);
    // After STI the NOP still runs: the handler sees the address after it.
    assert_eq!(m.run(100), Stop::Halted);
    assert_eq!(m.cpu.state().gpr[3], 2);
    assert_eq!(m.cpu.position(), 2 + 3 + 1);
    assert_eq!(m.run(100), Stop::Halted);
    m.platform.pending = Some(0x40);
    let state = m.finish();
    // HLT's return address is 3; OUT's interrupt comes right after it, at 7.
    assert_eq!(state.gpr[3], 0x02_03_07);
}

#[test]
fn the_platform_stops_the_machine_right_after_the_access() {
    let mut m = Machine::new(|a| {
        a.nop().unwrap();
        a.out(0x99, al).unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(m.run(100), Stop::Platform);
    assert_eq!(m.cpu.position(), 2);
    assert_eq!(m.platform.log, [(2, "out", 0x99, 0)]);
    m.platform.stop = false;
    m.finish();
}

/// Handlers call each other at their ends; in release builds these calls must be jumps, or the stack would grow without
/// end. The thread's stack is too small for even a millionth of them.
#[test]
fn the_stack_does_not_grow() {
    let count = if cfg!(debug_assertions) { 5_000_000 } else { 1_000_000_000 };
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        let mut m = Machine::new(|a| {
            let (mut top, mut function, mut skip) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(rbx, 0x20_0000_i64).unwrap();
            a.set_label(&mut top).unwrap();
            a.inc(rax).unwrap();
            a.mov(qword_ptr(rbx), rax).unwrap();
            a.add(qword_ptr(rbx + 8), rax).unwrap();
            a.adc(ecx, 7).unwrap();
            a.shl(rcx, 3).unwrap();
            a.rol(dword_ptr(rbx), 5).unwrap();
            a.movzx(edx, byte_ptr(rbx + 9)).unwrap();
            a.imul_2(rdx, rcx).unwrap();
            a.setb(dl).unwrap();
            a.cmovl(rsi, qword_ptr(rbx)).unwrap();
            a.bt(rsi, 3).unwrap();
            a.xchg(qword_ptr(rbx + 16), rsi).unwrap();
            a.movups(xmm0, xmmword_ptr(rbx)).unwrap();
            a.movups(xmmword_ptr(rbx + 24), xmm0).unwrap();
            a.test(al, 8).unwrap();
            a.je(skip).unwrap();
            a.call(function).unwrap();
            a.set_label(&mut skip).unwrap();
            a.cmp(rax, rcx).unwrap();
            a.jp(top).unwrap();
            a.jmp(top).unwrap();
            a.set_label(&mut function).unwrap();
            a.push(rbp).unwrap();
            a.push(5).unwrap();
            a.pop(rbp).unwrap();
            a.pop(rbp).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(m.run(count), Stop::Reached);
    });
    thread.unwrap().join().unwrap();
}
