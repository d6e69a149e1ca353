//! Ops that do the work of several instructions do just what those do: random programs, stepped through one instruction at a
//! time (where nothing is combined), against runs of every length.

use iced_x86::code_asm::*;

use super::{CODE, Machine, STACK, assemble, cases};
use crate::software::Options;
use crate::{CpuState, Stop, Vcpu};

/// Where the programs' data lies: across a page boundary, and the second page is not mapped.
pub(super) const DATA: u64 = 0x20_0FF0;

pub(super) struct Draw(pub u64);

impl Draw {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

const WIDE: [AsmRegister64; 6] = [rax, rcx, rdx, rsi, rdi, r9];
const NARROW: [AsmRegister32; 6] = [eax, ecx, edx, esi, edi, r9d];
const BYTES: [AsmRegister8; 6] = [al, cl, dl, sil, dil, r9b];

/// One instruction, or a few that belong together.
pub(super) fn draw(a: &mut CodeAssembler, d: &mut Draw) -> Result<(), IcedError> {
    let (x, y) = (d.below(6) as usize, d.below(6) as usize);
    let (w, v, n, m) = (WIDE[x], WIDE[y], NARROW[x], NARROW[y]);
    let imm = (d.below(1 << 32) as i32) >> d.below(28);
    let count = d.below(70) as u32;
    let near = rbx + d.below(14) as i32;
    match d.below(54) {
        0 | 1 => a.mov(w, v),
        2 | 3 => a.mov(n, m),
        4 => a.add(w, v),
        5 => a.add(n, m),
        6 => a.sub(w, v),
        7 => a.sub(n, m),
        8 => a.and(w, v),
        9 => a.and(n, m),
        10 => a.or(w, v),
        11 => a.or(n, m),
        12 => a.xor(w, v),
        13 => a.xor(n, m),
        14 => a.add(w, imm),
        15 => a.sub(n, imm),
        16 => a.and(n, imm),
        17 => a.xor(w, imm),
        18 => a.or(w, imm),
        19 => a.inc(w),
        20 => a.dec(n),
        21 => a.not(w),
        22 => a.neg(n),
        23 => a.shl(w, count),
        24 => a.shr(n, count),
        25 => a.sar(w, count),
        26 => a.rol(n, count),
        27 => a.ror(w, count),
        28 => a.ror(n, count),
        29 => a.imul_2(w, v),
        30 => a.imul_2(n, m),
        31 if y == 4 => a.movzx(NARROW[x % 5], bh),
        31 => a.movzx(n, BYTES[y]),
        32 => a.movsxd(w, m),
        33 => a.lea(w, ptr(v + imm)),
        34 => a.lea(n, ptr(v + w)),
        35 => a.bswap(w),
        36 => a.bswap(n),
        37 => a.adc(w, v),
        38 => a.sbb(n, m),
        39 => a.setb(BYTES[x]),
        40 => a.cmovs(w, v),
        41 => a.mov(n, imm),
        // Memory: what lies beyond the page faults, and ends the program.
        42 => {
            let mut over = a.create_label();
            let at = rbx + (d.below(12) as i32);
            match d.below(5) {
                0 => a.cmp(dword_ptr(at), imm)?,
                1 => a.cmp(n, dword_ptr(at))?,
                2 => a.cmp(qword_ptr(at), v)?,
                3 => a.cmp(byte_ptr(at), imm as i8 as i32)?,
                _ => a.test(byte_ptr(at), imm as i8 as i32)?,
            }
            match d.below(4) {
                0 => a.jb(over)?,
                1 => a.jne(over)?,
                2 => a.jle(over)?,
                _ => a.jns(over)?,
            }
            a.inc(r12)?;
            a.set_label(&mut over)?;
            a.nop()
        }
        43 => a.mov(qword_ptr(near), v),
        46 => a.mov(dword_ptr(near), m),
        47 => a.mov(byte_ptr(near), BYTES[y]),
        48 => a.mov(w, qword_ptr(near)),
        49 => a.mov(n, dword_ptr(near)),
        50 => a.movzx(n, byte_ptr(near)),
        51 => a.add(w, qword_ptr(near)),
        52 => a.add(n, dword_ptr(near)),
        44 => {
            for _ in 0..1 + d.below(7) {
                a.push(WIDE[d.below(6) as usize])?;
            }
            Ok(())
        }
        _ => {
            for _ in 0..1 + d.below(7) {
                a.pop(WIDE[d.below(6) as usize])?;
            }
            Ok(())
        }
    }
}

fn machine(code: &[u8]) -> Machine {
    let mut m = Machine::with(Options::default(), code);
    let mut state = m.cpu.state();
    for (n, register) in state.gpr.iter_mut().enumerate() {
        *register = 0x8123_4567_89AB_CDEF_u64.rotate_left(5 * n as u32);
    }
    state.gpr[3] = DATA;
    state.gpr[4] = STACK - 24;
    m.cpu.restore(&state);
    m.write(super::PAGE_TABLE + ((DATA >> 12) + 1) * 8, &0_u64.to_le_bytes());
    m.write(DATA, &0x7F80_0102_FFFE_8000_u64.to_le_bytes());
    m
}

/// The state at `until`, or where the program ends before.
fn at(m: &mut Machine, until: u64) -> (CpuState, bool) {
    let ended = m.run(until) != Stop::Reached;
    (m.cpu.state(), ended)
}

#[test]
fn combined_instructions_do_what_each_does() {
    let (count, seed) = cases(120);
    let mut d = Draw(seed);
    for round in 0..count {
        let code = assemble(CODE, |a| {
            for _ in 0..4 + d.below(40) {
                draw(a, &mut d).unwrap();
            }
            a.cli().unwrap();
            a.hlt().unwrap();
        });
        let mut steps = machine(&code);
        let mut until = 0;
        loop {
            until += 1;
            let (alone, ended) = at(&mut steps, until);
            let mut whole = machine(&code);
            let (together, _) = at(&mut whole, until);
            assert_eq!(alone, together, "program {round}, {until} instructions of {code:02x?}");
            if ended {
                assert!(steps.all().1 == whole.all().1, "memory of program {round}");
                break;
            }
        }
    }
}

/// A jump within a page costs nothing, but it is an instruction: an interrupt that is due before it returns to it, and code
/// behind it may be overwritten before it.
#[test]
fn a_jump_that_a_block_goes_on_behind_is_still_an_instruction() {
    let (handler, first, second) = (CODE + 0x1800, CODE + 0x100, CODE + 0x200);
    let start = |a: &mut CodeAssembler| {
        a.mov(rbx, 0xE000_0000_u64 as i64).unwrap();
        a.mov(eax, 0x40_i32).unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.mov(byte_ptr(rbx + 0x77), al).unwrap();
    };
    let before = assemble(CODE, start).len() as u64;
    let mut m = Machine::new(|a| {
        start(a);
        a.jmp(first).unwrap();
    });
    // Device memory at 0xE0000000, by a 1 GiB page.
    m.write(0x2018, &(0xC000_0000_u64 | 0x83).to_le_bytes());
    let piece = |at: u64, a: &dyn Fn(&mut CodeAssembler)| m.write(at, &assemble(at, a));
    piece(first, &|a| {
        // The immediate of the first instruction at `second`.
        a.lea(rsi, ptr(second + 1)).unwrap();
        a.mov(byte_ptr(rsi), 7).unwrap();
        a.jmp(second).unwrap();
    });
    piece(second, &|a| {
        a.mov(edx, 1_i32).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    piece(handler, &|a| {
        a.mov(rcx, qword_ptr(rsp)).unwrap();
        a.iretq().unwrap();
    });
    m.gate(0x40, handler, 0);
    let state = m.finish();
    assert_eq!(state.gpr[1], CODE + before);
    assert_eq!(state.gpr[2], 7);
    assert_eq!(state.position, 5 + 2 + 1 + 3 + 3);
}

/// An instruction across a page boundary whose second half changes is not what it was.
#[test]
fn a_straddling_instruction_is_decoded_from_its_bytes() {
    let at = CODE + 0xFFE;
    let mut m = Machine::new(|a| {
        a.lea(rbx, ptr(at + 3)).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.mov(rdx, at as i64).unwrap();
        a.jmp(rdx).unwrap();
    });
    m.write(
        at,
        &assemble(at, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.mov(eax, 0x0101_0101).unwrap();
            a.add(rcx, rax).unwrap();
            a.inc(byte_ptr(rbx)).unwrap();
            a.cmp(byte_ptr(rbx), 5).unwrap();
            a.jb(top).unwrap();
            a.hlt().unwrap();
        }),
    );
    let state = m.finish();
    // The fourth byte of the instruction is the third of its immediate.
    assert_eq!(state.gpr[1], 4 * 0x0100_0101 + ((1 + 2 + 3 + 4) << 16));
    assert_eq!(state.position, 4 + 4 * 5 + 1);
}
