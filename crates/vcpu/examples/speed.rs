//! How fast the software engine is: hot integer loops, other instructions that kernels and C libraries are made of, and
//! programs of many functions, with 4-level paging on.
//!
//!     cargo run --release -p ft-vcpu --example speed

use ft_vcpu::memory::allocate;
use ft_vcpu::software::{Options, SoftwareVcpu};
use ft_vcpu::state::Segment;
use ft_vcpu::{CpuState, Kick, Platform, Position, Stop, Vcpu};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

const CODE: u64 = 0x20_0000;
const DATA: i64 = 0x60_0000;

struct Nothing;

impl Platform for Nothing {
    fn pio_read(&mut self, _: Position, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn pio_write(&mut self, _: Position, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: Position, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _: Position, _: u64, _: u8, _: u64) {}
    fn tsc(&mut self, at: Position) -> u64 {
        at
    }
    fn msr_read(&mut self, _: Position, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Position, _: u32, _: u64) -> bool {
        false
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: u8) {}
    fn next_timer(&self) -> Position {
        Position::MAX
    }
    fn fire_timers(&mut self, _: Position) {}
    fn pending_interrupt(&self) -> Option<u8> {
        None
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        0
    }
    fn wants_stop(&self) -> bool {
        false
    }
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn alu(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.add(rax, rbx)?;
    a.xor(rbx, rcx)?;
    a.lea(rdx, qword_ptr(rax + rbx * 2 + 5))?;
    a.shr(rdx, 3)?;
    a.sub(rcx, rdx)?;
    a.and(edx, 0xFFFF)?;
    a.inc(rsi)?;
    a.cmp(rsi, rdi)?;
    a.jne(top)?;
    a.jmp(top)
}

fn sum(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top) = (a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.set_label(&mut again)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut top)?;
    a.mov(rdx, qword_ptr(rbx + rcx * 8))?;
    a.add(rax, rdx)?;
    a.mov(qword_ptr(rbx + rcx * 8), rax)?;
    a.add(rcx, 1)?;
    a.cmp(rcx, 0x1000)?;
    a.jb(top)?;
    a.jmp(again)
}

fn hash(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top) = (a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.set_label(&mut again)?;
    a.mov(ecx, 0x4000_i32)?;
    a.mov(rsi, rbx)?;
    a.set_label(&mut top)?;
    a.movzx(edx, byte_ptr(rsi))?;
    a.xor(rax, rdx)?;
    a.imul_3(rax, rax, 0x0100_01B3)?;
    a.add(rsi, 1)?;
    a.dec(ecx)?;
    a.jne(top)?;
    a.jmp(again)
}

fn bubble(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top, mut keep) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.set_label(&mut again)?;
    a.xor(ecx, ecx)?;
    a.add(r9d, 0x1234567)?;
    a.mov(dword_ptr(rbx), r9d)?;
    a.set_label(&mut top)?;
    a.mov(eax, dword_ptr(rbx + rcx * 4))?;
    a.mov(edx, dword_ptr(rbx + rcx * 4 + 4))?;
    a.cmp(eax, edx)?;
    a.jbe(keep)?;
    a.mov(dword_ptr(rbx + rcx * 4), edx)?;
    a.mov(dword_ptr(rbx + rcx * 4 + 4), eax)?;
    a.set_label(&mut keep)?;
    a.inc(rcx)?;
    a.cmp(rcx, 1000)?;
    a.jne(top)?;
    a.jmp(again)
}

fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut function) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.mov(rdi, rax)?;
    a.call(function)?;
    a.add(rax, 3)?;
    a.jmp(top)?;
    a.set_label(&mut function)?;
    a.push(rbx)?;
    a.mov(rbx, rdi)?;
    a.test(bl, 1)?;
    a.lea(rax, qword_ptr(rbx + 1))?;
    a.cmove(rax, rbx)?;
    a.pop(rbx)?;
    a.ret()
}

/// Doubles: sums, products, quotients, conversions, comparisons.
fn doubles(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top) = (a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.mov(eax, 3_i32)?;
    a.cvtsi2sd(xmm2, eax)?;
    a.set_label(&mut again)?;
    a.xor(ecx, ecx)?;
    a.xorps(xmm0, xmm0)?;
    a.set_label(&mut top)?;
    a.cvtsi2sd(xmm1, ecx)?;
    a.divsd(xmm1, xmm2)?;
    a.addsd(xmm0, xmm1)?;
    a.mulsd(xmm1, xmm1)?;
    a.movsd_2(qword_ptr(rbx + rcx * 8), xmm1)?;
    a.addsd(xmm0, qword_ptr(rbx + rcx * 8))?;
    a.comisd(xmm0, xmm1)?;
    a.cvttsd2si(rdx, xmm0)?;
    a.add(ecx, 1)?;
    a.cmp(ecx, 0x1000)?;
    a.jb(top)?;
    a.jmp(again)
}

/// The inner loop of a C library's search for a byte, 16 at a time.
fn search(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top, mut found) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.mov(eax, 0x01_i32)?;
    a.movd(xmm1, eax)?;
    a.punpcklbw(xmm1, xmm1)?;
    a.pshufd(xmm1, xmm1, 0)?;
    a.set_label(&mut again)?;
    a.mov(rsi, rbx)?;
    a.mov(ecx, 0x400_i32)?;
    a.set_label(&mut top)?;
    a.movdqa(xmm0, xmmword_ptr(rsi))?;
    a.pcmpeqb(xmm0, xmm1)?;
    a.pmovmskb(eax, xmm0)?;
    a.test(eax, eax)?;
    a.jne(found)?;
    a.add(rsi, 16)?;
    a.dec(ecx)?;
    a.jne(top)?;
    a.set_label(&mut found)?;
    a.bsf(eax, ecx)?;
    a.jmp(again)
}

/// A kernel's variables behind GS, and its locks.
fn per_cpu(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut top) = (a.create_label(), a.create_label());
    a.mov(rbx, DATA)?;
    a.set_label(&mut again)?;
    a.mov(ecx, 100_i32)?;
    a.set_label(&mut top)?;
    a.inc(dword_ptr(rbx + 8).gs())?;
    a.mov(rdx, qword_ptr(rbx + 16).gs())?;
    a.xor(eax, eax)?;
    a.mov(esi, 1_i32)?;
    a.lock().cmpxchg(dword_ptr(rbx), esi)?;
    a.mov(dword_ptr(rbx), 0)?;
    a.dec(dword_ptr(rbx + 8).gs())?;
    a.dec(ecx)?;
    a.jne(top)?;
    a.jmp(again)
}

/// `count` functions of some 150 bytes, called one after the other and through each other.
fn functions(a: &mut CodeAssembler, count: usize) -> Result<(), IcedError> {
    let mut labels: Vec<_> = (0..count).map(|_| a.create_label()).collect();
    let mut top = a.create_label();
    a.mov(rbx, DATA)?;
    a.set_label(&mut top)?;
    for label in &labels {
        a.call(*label)?;
    }
    a.jmp(top)?;
    for (n, label) in labels.iter_mut().enumerate() {
        let (mut inner, mut out) = (a.create_label(), a.create_label());
        a.set_label(label)?;
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.push(r12)?;
        a.mov(r12, qword_ptr(rbx + (n * 64) as i32))?;
        a.mov(ecx, 3_i32)?;
        a.set_label(&mut inner)?;
        a.add(r12, rcx)?;
        a.mov(rax, r12)?;
        a.shr(rax, 7)?;
        a.xor(r12, rax)?;
        a.movzx(edx, byte_ptr(rbx + (n * 64 + 8) as i32))?;
        a.add(rdx, r12)?;
        a.mov(qword_ptr(rbx + (n * 64 + 16) as i32), rdx)?;
        a.dec(ecx)?;
        a.jne(inner)?;
        a.test(r12, 4)?;
        a.je(out)?;
        a.add(qword_ptr(rbx + (n * 64 + 24) as i32), 1)?;
        a.lea(rax, qword_ptr(r12 + rdx * 4))?;
        a.mov(qword_ptr(rbx + (n * 64 + 32) as i32), rax)?;
        a.set_label(&mut out)?;
        a.mov(qword_ptr(rbx + (n * 64) as i32), r12)?;
        a.pop(r12)?;
        a.pop(rbp)?;
        a.ret()?;
    }
    Ok(())
}

/// Seconds of processor time of this thread: other programs on the machine count less.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn measure(
    name: &str,
    instructions: u64,
    program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> f64 {
    let ram = allocate(16 << 20).expect("16 MiB");
    let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at)).expect("in RAM");
    put(0x1000, 0x2003);
    put(0x2000, 0x3003);
    for table in 0..8 {
        put(0x3000 + 8 * table, (0x4000 + 0x1000 * table) | 3);
        for page in 0..512 {
            put(0x4000 + 0x1000 * table + 8 * page, (table * 512 + page) << 12 | 3);
        }
    }
    let mut assembler = CodeAssembler::new(64).expect("64 bits");
    program(&mut assembler).expect("valid instructions");
    let code = assembler.assemble(CODE).expect("assembles");
    ram.write_slice(&code, GuestAddress(CODE)).expect("in RAM");
    let mut state = CpuState::reset_pvh(CODE, 0);
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8001_0033, 0x1000, 0x6A0, 0xD01);
    state.segments[1] = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA09B };
    state.gpr[4] = 0x1F_0000;
    let mut cpu = SoftwareVcpu::new(ram, Options::default()).expect("one region");
    cpu.restore(&state);
    let kick = Kick::new();
    assert_eq!(cpu.run(1_000_000, &kick, &mut Nothing), Stop::Reached);
    let start = cpu_seconds();
    assert_eq!(cpu.run(1_000_000 + instructions, &kick, &mut Nothing), Stop::Reached);
    let rate = instructions as f64 / (cpu_seconds() - start) / 1e6;
    println!("{name:<16} {rate:7.0} million instructions/s");
    rate
}

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(300_000_000);
    let loops: [(&str, Program); 5] =
        [("alu", alu), ("sum", sum), ("hash", hash), ("bubble", bubble), ("calls", calls)];
    let rates: Vec<f64> = loops.iter().map(|(name, program)| measure(name, count, program)).collect();
    let mean = rates.len() as f64 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>();
    println!("{:<16} {mean:7.0} million instructions/s (harmonic mean)", "hot loops");
    let others: [(&str, Program); 3] = [("doubles", doubles), ("search", search), ("per-CPU", per_cpu)];
    for (name, program) in others {
        measure(name, count / 4, &program);
    }
    for functions_count in [30, 300, 3000] {
        measure(&format!("{functions_count} functions"), count, &|a| functions(a, functions_count));
    }
}
