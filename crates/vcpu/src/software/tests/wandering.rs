//! Programs that jump about at random, over pages that are mapped twice, taken away, mapped elsewhere and written to while they
//! run, at both privilege levels, with devices, interrupts, single steps, breakpoints and alignment checks: they go the same way whatever was cached, combined or
//! remembered, and wherever runs end.

use iced_x86::code_asm::*;

use super::combining::{DATA, Draw, draw};
use super::{CODE, Machine, PAGE_TABLE, STACK, TSS, assemble, cases};
use crate::software::Options;
use crate::{CpuState, Position, Stop, Vcpu};

/// Pages of code, and pieces of code in each: all but the last end in a jump, and that runs into the next page.
const PAGES: u64 = 6;
const PIECES: u64 = 10;
const PIECE: u64 = 0x190;
/// The same pages once more, with the same entries of all TLBs.
const ALIAS: u64 = CODE + 0x40_0000;
const ALIAS_TABLE: u64 = 0xB000;
/// Where handlers are: of page faults, interrupts, #DB, and all else.
const HANDLERS: u64 = CODE + 0x1_0000;
/// Addresses of pieces, and of bytes of code that may be written.
const TARGETS: u64 = 0xC000;
const SITES: u64 = 0xD000;
const ENTRIES: u64 = 256;
/// Where there is no RAM.
const DEVICE: u64 = 0xE000_0000;

fn piece(page: u64, number: u64) -> u64 {
    CODE + page * 0x1000 + 0x20 + number * PIECE
}

fn any_piece(d: &mut Draw) -> u64 {
    let alias = if d.below(3) == 0 { ALIAS - CODE } else { 0 };
    piece(d.below(PAGES), d.below(PIECES)) + alias
}

/// The page table entry of a page of code, and what it may become.
fn remapping(d: &mut Draw) -> (u64, u64) {
    let (page, other) = (d.below(PAGES), d.below(PAGES));
    match d.below(3) {
        0 => (ALIAS_TABLE + 8 * (0x100 + page), CODE + other * 0x1000),
        1 => (ALIAS_TABLE + 8 * (0x100 + page), CODE + page * 0x1000),
        _ => (PAGE_TABLE + 8 * ((CODE >> 12) + page), CODE + page * 0x1000),
    }
}

/// Draws R10 from one of the tables, by a generator of the program's own in R11.
fn pick(a: &mut CodeAssembler, table: u64) -> Result<(), IcedError> {
    a.imul_3(r11, r11, 0x4C95_7F2D)?;
    a.add(r11, 0x1405_7B7F)?;
    a.mov(r10, r11)?;
    a.shr(r10, 40)?;
    a.and(r10d, ENTRIES as i32 - 1)?;
    a.mov(r10, qword_ptr(r10 * 8 + table as i32))
}

/// What ordinary instructions do not do.
fn special(a: &mut CodeAssembler, d: &mut Draw) -> Result<(), IcedError> {
    match d.below(16) {
        0..=2 => {
            pick(a, SITES)?;
            a.mov(byte_ptr(r10), al)
        }
        3 => a.mov(qword_ptr(r8), rax),
        4 => a.mov(rdx, qword_ptr(r8 + 8)),
        5 => a.add(edx, dword_ptr(r8 + 16)),
        6 | 7 => {
            let (at, to) = remapping(d);
            let flags = [7, 7, 0x27, 6, 3][d.below(5) as usize];
            a.mov(r10, at as i64)?;
            a.mov(qword_ptr(r10), (to | flags) as i32)?;
            // Not executable.
            if d.below(4) == 0 {
                a.bts(qword_ptr(r10), 63)?;
            }
            let table = if at < ALIAS_TABLE { PAGE_TABLE } else { ALIAS_TABLE - 8 * 0x400 };
            if d.below(2) == 0 { a.invlpg(byte_ptr((at - table) / 8 * 0x1000)) } else { Ok(()) }
        }
        8 => a.invlpg(byte_ptr(any_piece(d))),
        // Rarely, since little is remembered beyond it.
        9 if d.below(8) == 0 => {
            a.mov(r10, cr3)?;
            a.mov(cr3, r10)
        }
        9 => {
            pick(a, SITES)?;
            a.mov(byte_ptr(r10), r11b)
        }
        // What the page tables look like is part of the result.
        10 => {
            let (at, _) = remapping(d);
            a.mov(r10, at as i64)?;
            a.imul_2(r13, r13)?;
            a.add(r13, qword_ptr(r10))?;
            a.and(qword_ptr(r10), !0x60)
        }
        11 => {
            let page = PAGE_TABLE + 8 * ((DATA >> 12) + d.below(2));
            a.mov(r10, page as i64)?;
            a.add(r13, qword_ptr(r10))?;
            a.and(qword_ptr(r10), !0x60)?;
            if d.below(3) == 0 {
                // A device's page.
                a.mov(rdi, DEVICE as i64 | 7)?;
                a.mov(qword_ptr(r10), rdi)?;
            } else {
                a.btr(qword_ptr(r10), 0)?;
            }
            a.invlpg(byte_ptr(rbx + 0x10))
        }
        12 => {
            a.pushfq()?;
            a.or(dword_ptr(rsp), [0x100, 0x4_0000][d.below(2) as usize])?;
            a.popfq()
        }
        13 => {
            a.mov(r10, any_piece(d) as i64)?;
            a.mov(dr0, r10)?;
            // Off; on execution; on writes to DR1; on accesses to eight bytes there.
            let control = [0x400, 0x400, 0x401, 0x404 | 1 << 20, 0x404 | 0b1011 << 20];
            a.mov(r10d, control[d.below(5) as usize])?;
            a.mov(dr7, r10)
        }
        14 => {
            a.lea(rdi, ptr(rbx + d.below(64) as i32 - 32))?;
            a.mov(rsi, STACK as i64 - 16)?;
            a.mov(ecx, d.below(48) as i32)?;
            a.rep().movsb()
        }
        _ => {
            a.cmp(rax, rdx)?;
            a.in_(eax, 0x43)
        }
    }
}

/// The end of a piece: somewhere else.
fn leave(a: &mut CodeAssembler, d: &mut Draw) -> Result<(), IcedError> {
    let fixed = d.below(3) == 0;
    let target = any_piece(d);
    match d.below(8) {
        0 if fixed => return a.jmp(target),
        1 if fixed => return a.call(target),
        2 => {
            pick(a, TARGETS)?;
            a.bt(r11, 33)?;
            a.jb(target)?;
        }
        3 => {
            pick(a, TARGETS)?;
            a.cmp(dword_ptr(rbx - 8), edx)?;
            a.jle(target)?;
        }
        4 => {
            pick(a, TARGETS)?;
            a.test(r11b, 0x11)?;
            a.jne(target)?;
        }
        _ => pick(a, TARGETS)?,
    }
    match d.below(5) {
        0 => a.jmp(r10),
        1 => a.call(r10),
        2 => {
            a.push(r10)?;
            a.ret()
        }
        3 => {
            a.mov(qword_ptr(rsp), r10)?;
            a.jmp(qword_ptr(rsp))
        }
        _ => {
            for register in [r10, rax, rdx, rdx] {
                a.push(register)?;
            }
            for register in [rcx, rdx, rsi] {
                a.pop(register)?;
            }
            a.ret()
        }
    }
}

/// A piece at an address; with addresses of bytes in it that may become anything.
fn write_piece(at: u64, last: bool, d: &mut Draw) -> (Vec<u8>, Vec<u64>) {
    let room = if last { 0x1000 - (at & 0xFFF) } else { PIECE } as usize;
    // The stack lies across two pages, and now and then in the data, or in code.
    let stack = match d.below(72) {
        0 => DATA + 0x10,
        1..=5 => piece(d.below(PAGES), d.below(PIECES)) + PIECE - 0x10,
        _ => STACK,
    };
    let begin = |a: &mut CodeAssembler, d: &mut Draw| a.lea(rsp, ptr(stack + d.below(5) * 8 - 16)).unwrap();
    let mut parts = vec![assemble(at, |a| begin(a, d))];
    let mut sites = Vec::new();
    let mut len = parts[0].len();
    let wanted = 2 + d.below(14);
    for _ in 0..wanted {
        let here = at + len as u64;
        let bytes = assemble(here, |a| match d.below(10) {
            0 => a.mov(esi, 0x1234_5678_i32).unwrap(),
            1 => a.jmp(here + 2 + d.below(2)).unwrap(),
            2 | 3 => special(a, d).unwrap(),
            _ => draw(a, d).unwrap(),
        });
        if len + bytes.len() + 80 > room {
            break;
        }
        if bytes[0] == 0xBE {
            sites.extend((1..5).map(|n| here + n));
        }
        len += bytes.len();
        // A jump over one byte, which is a NOP.
        let over = bytes[0] == 0xEB;
        parts.push(bytes);
        if over {
            parts.push(vec![0x90]);
            len += 1;
        }
    }
    if last {
        // An instruction across the end of the page, whose immediate may be written on both sides.
        let before = 1 + d.below(9) as usize;
        parts.push(vec![0x90; room - len - before]);
        let here = at + (room - before) as u64;
        parts.push(assemble(here, |a| a.mov(rsi, 0x1122_3344_5566_7788_i64).unwrap()));
        sites.extend((2..10).map(|n| here + n));
    } else {
        parts.push(assemble(at + len as u64, |a| leave(a, d).unwrap()));
    }
    (parts.concat(), sites)
}

/// A machine about to wander; everything follows from the seed.
fn machine(seed: u64, options: Options) -> Machine {
    let d = &mut Draw(seed);
    let mut m = Machine::with(options, &[]);
    let mut sites = Vec::new();
    m.write(CODE, &vec![0x90; (PAGES * 0x1000) as usize]);
    for page in 0..PAGES {
        for number in 0..PIECES {
            let at = piece(page, number);
            let (code, more) = write_piece(at, number == PIECES - 1, d);
            m.write(at, &code);
            sites.extend(more);
        }
    }
    // The last page runs into this.
    let end = CODE + PAGES * 0x1000;
    m.write(end, &[0x90; 16]);
    m.write(end + 16, &assemble(end + 16, |a| a.jmp(piece(0, 0)).unwrap()));
    for n in 0..ENTRIES {
        m.write(TARGETS + 8 * n, &any_piece(d).to_le_bytes());
        m.write(SITES + 8 * n, &sites[d.below(sites.len() as u64) as usize].to_le_bytes());
    }
    m.write(0x3000 + 8 * (ALIAS >> 21), &(ALIAS_TABLE | 7).to_le_bytes());
    for page in 0..=PAGES {
        m.write(ALIAS_TABLE + 8 * (0x100 + page), &((CODE + page * 0x1000) | 7).to_le_bytes());
    }
    // Device memory, by a 1 GiB page.
    m.write(0x2018, &(0xC000_0000_u64 | 0x83).to_le_bytes());
    // The kernel's stack, for what comes from a program.
    m.write(TSS + 4, &(STACK - 0x4000).to_le_bytes());
    handlers(&m);
    m.platform.vector = 0x40;
    let mut at = 0;
    m.platform.timers = (0..400)
        .map(|_| {
            at += 1 + d.below(120);
            at
        })
        .collect();
    let mut state = m.cpu.state();
    state.rip = piece(0, 0);
    state.rflags |= 0x200;
    // Alignment is checked where AC is set, and pages may be not executable.
    state.cr0 |= 1 << 18;
    state.efer |= 1 << 11;
    state.debug[1] = DATA;
    state.gpr[3] = DATA;
    state.gpr[8] = DEVICE;
    state.gpr[11] = seed;
    m.cpu.restore(&state);
    m
}

fn handlers(m: &Machine) {
    let put = |number: u64, vectors: &[u64], program: &dyn Fn(&mut CodeAssembler)| {
        let at = HANDLERS + 0x100 * number;
        m.write(at, &assemble(at, program));
        for vector in vectors {
            m.gate(*vector, at, 0);
        }
    };
    put(0, &[0x40], &|a| {
        let mut back = a.create_label();
        a.inc(rbp).unwrap();
        a.xor(r13, qword_ptr(rsp)).unwrap();
        // Some programs end up in a loop; and the privilege level changes.
        a.test(ebp, 3).unwrap();
        a.jne(back).unwrap();
        a.xor(dword_ptr(rsp + 8), 8 ^ 0x23).unwrap();
        a.xor(dword_ptr(rsp + 32), 0x10 ^ 0x1B).unwrap();
        pick(a, TARGETS).unwrap();
        a.mov(qword_ptr(rsp), r10).unwrap();
        a.mov(ebx, DATA as i32).unwrap();
        a.set_label(&mut back).unwrap();
        a.iretq().unwrap();
    });
    // A missing page comes back, with nothing accessed.
    put(1, &[14], &|a| {
        let (mut alias, mut done) = (a.create_label(), a.create_label());
        a.push(rax).unwrap();
        a.push(rcx).unwrap();
        a.inc(r14).unwrap();
        a.mov(rax, cr2).unwrap();
        a.add(r13, rax).unwrap();
        a.shr(rax, 12).unwrap();
        a.cmp(rax, 0x400).unwrap();
        a.jae(alias).unwrap();
        a.mov(ecx, eax).unwrap();
        a.shl(ecx, 12).unwrap();
        a.add(ecx, 7).unwrap();
        a.mov(qword_ptr(rax * 8 + PAGE_TABLE as i32), rcx).unwrap();
        a.jmp(done).unwrap();
        a.set_label(&mut alias).unwrap();
        a.and(eax, 0x1FF).unwrap();
        a.mov(ecx, eax).unwrap();
        a.shl(ecx, 12).unwrap();
        a.add(ecx, 7).unwrap();
        a.mov(qword_ptr(rax * 8 + ALIAS_TABLE as i32), rcx).unwrap();
        a.set_label(&mut done).unwrap();
        a.pop(rcx).unwrap();
        a.pop(rax).unwrap();
        a.add(rsp, 8).unwrap();
        a.iretq().unwrap();
    });
    // Some steps, then none; and a breakpoint lets its instruction run.
    put(2, &[1], &|a| {
        let mut on = a.create_label();
        a.inc(r15).unwrap();
        a.xor(r13, qword_ptr(rsp)).unwrap();
        a.or(dword_ptr(rsp + 16), 0x1_0000).unwrap();
        a.test(r15d, 3).unwrap();
        a.jne(on).unwrap();
        a.and(dword_ptr(rsp + 16), !0x100).unwrap();
        a.set_label(&mut on).unwrap();
        a.iretq().unwrap();
    });
    // Code that became something else: on to another piece.
    put(3, &[6], &|a| {
        a.inc(r12).unwrap();
        a.mov(qword_ptr(rsp), piece(1, 1) as i32).unwrap();
        a.iretq().unwrap();
    });
    put(4, &[13, 12, 17], &|a| {
        a.inc(r12).unwrap();
        a.add(rsp, 8).unwrap();
        a.and(dword_ptr(rsp + 16), !0x4_0000).unwrap();
        a.mov(qword_ptr(rsp), piece(2, 2) as i32).unwrap();
        a.iretq().unwrap();
    });
}

type Way = (Stop, CpuState, Vec<u8>, Vec<(Position, &'static str, u64, u64)>);

/// Runs until `end` in runs of up to `most` instructions.
fn way(mut m: Machine, end: Position, most: u64) -> Way {
    let mut d = Draw(most);
    loop {
        let now = m.cpu.position();
        let stop = m.run(end.min(now + 1 + d.below(most)));
        if stop != Stop::Reached || m.cpu.position() == end {
            let (state, bytes) = m.all();
            return (stop, state, bytes, m.platform.log);
        }
    }
}

/// Where the first difference between a machine that runs alone steps and one that runs in one go shows, for the message.
fn first_difference(seed: u64, end: Position, options: Options) -> String {
    let differs = |position| {
        let (alone, whole) = (
            way(machine(seed, Options::default()), position, 1),
            way(machine(seed, options), position, position),
        );
        (alone.1 != whole.1 || alone.3 != whole.3).then_some((alone.1, whole.1))
    };
    let (mut same, mut other) = (0, end);
    if differs(end).is_none() {
        return String::from("not in a run in one go");
    }
    while other - same > 1 {
        let middle = (same + other) / 2;
        if differs(middle).is_some() { other = middle } else { same = middle }
    }
    let states = differs(other).map(|(alone, whole)| {
        format!(
            "{:x} {:x?} {:x}; not {:x} {:x?} {:x}",
            alone.rip, alone.gpr, alone.rflags, whole.rip, whole.gpr, whole.rflags
        )
    });
    format!("position {other}: {}", states.unwrap_or_default())
}

#[test]
fn nothing_that_is_remembered_is_seen() {
    const END: Position = 20_000;
    let mut events = [0; 5];
    let (count, first) = cases(12);
    for seed in (0..count).map(|n| first.wrapping_mul(1_000_000).wrapping_add(n)) {
        let alone = way(machine(seed, Options::default()), END, 1);
        for (n, register) in [5, 14, 15, 12, 13].into_iter().enumerate() {
            events[n] += u64::from(alone.1.gpr[register] != 0);
        }
        let cut = |most| (Options::default(), most);
        let flushed = |blocks, flush| (Options { blocks, flush_seed: Some(flush) }, END);
        let small = |blocks, most| (Options { blocks, flush_seed: None }, most);
        for (options, most) in
            [cut(END), cut(3), cut(40), cut(900), flushed(64, seed), small(64, 700), small(1, END)]
        {
            let other = way(machine(seed, options), END, most);
            let same = alone.0 == other.0 && alone.1 == other.1 && alone.3 == other.3 && alone.2 == other.2;
            assert!(
                same,
                "seed {seed}, {options:?}, runs of {most}: {}",
                first_difference(seed, END, options)
            );
        }
    }
    // Interrupts, page faults, steps, other exceptions: there were all of them.
    assert!(events.iter().all(|n| *n > 0), "{events:?}");
}
