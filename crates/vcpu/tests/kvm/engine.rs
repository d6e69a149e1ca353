//! What a position is, what may be done between two, and what is saved and restored.

use ft_vcpu::kvm::KvmVcpu;
use ft_vcpu::memory::{PAGE, PageFlags};
use ft_vcpu::software::{Options, SoftwareVcpu};
use ft_vcpu::state::Exception;
use ft_vcpu::{CpuState, Dead, GuestRam, Kick, Position, Stand, Stop, Vcpu};
use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::bare::{Board, CLOCK, CODE, DATA, DEVICE, Did, EXCEPTION, INTERRUPT_PORT, RAM, guest};
use super::host::rng::Rng;
use super::interruptions::Interruptions;
use super::{host, host_is_emulated, works};

const LIMIT: Position = 1_000_000;

fn kvm(ram: &GuestRam, state: &CpuState) -> KvmVcpu {
    let mut vcpu = KvmVcpu::new(ram.clone()).expect("the probe made one");
    vcpu.restore(state);
    vcpu
}

/// Runs to `until`, whatever the host does in between.
fn run(vcpu: &mut dyn Vcpu, until: Position, board: &mut Board) -> Stop {
    let kick = Kick::new();
    loop {
        match vcpu.run(until, &kick, board) {
            Stop::Kicked | Stop::Busy | Stop::Clock => {}
            stop => return stop,
        }
    }
}

fn memory(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; RAM];
    ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Enables interrupts, one of which is pending, and halts with `halt`, which that one ends.
///
/// A VMRUN of QEMU's does not load the interrupt shadow: where the host is interrupted between STI and the next instruction, the guest
/// takes an interrupt one instruction early, and the HLT behind it finds none. There, something without a shadow is used.
fn enable_interrupts(a: &mut CodeAssembler, halt: bool) {
    if host_is_emulated() {
        a.pushfq().unwrap();
        a.or(dword_ptr(rsp), 0x200).unwrap();
        a.popfq().unwrap();
    } else {
        a.sti().unwrap();
        if halt {
            a.hlt().unwrap();
        }
    }
}

/// Ports, devices, memory, interrupts that wait for their window and such that do not, halts, a task priority that is raised for a
/// while.
fn busy_program(a: &mut CodeAssembler) {
    let mut top = a.create_label();
    let mut spin = a.create_label();
    let mut quiet = a.create_label();
    a.mov(rsi, DATA).unwrap();
    a.mov(rbx, DEVICE).unwrap();
    a.mov(r8d, 60).unwrap();
    a.set_label(&mut top).unwrap();
    a.mov(rax, qword_ptr(rbx)).unwrap();
    a.mov(qword_ptr(rsi), rax).unwrap();
    a.movups(xmm1, xmmword_ptr(rsi)).unwrap();
    a.addsd(xmm0, xmm1).unwrap();
    a.imul_2(rax, r8).unwrap();
    a.mov(edx, 9).unwrap();
    a.mov(cr8, rdx).unwrap();
    a.mov(edx, 2000).unwrap();
    a.set_label(&mut spin).unwrap();
    a.dec(edx).unwrap();
    a.jnz(spin).unwrap();
    a.mov(rdx, cr8).unwrap();
    a.add(rax, rdx).unwrap();
    a.mov(edx, 1).unwrap();
    a.mov(cr8, rdx).unwrap();
    a.mov(dword_ptr(rbx + 0x20), eax).unwrap();
    a.in_(al, 0x80u32).unwrap();
    a.test(r8d, 3).unwrap();
    a.jnz(quiet).unwrap();
    a.out(u32::from(INTERRUPT_PORT), al).unwrap();
    a.add(qword_ptr(rsi + 8), 1).unwrap();
    enable_interrupts(a, false);
    a.add(rax, rcx).unwrap();
    a.add(rcx, 1).unwrap();
    a.cli().unwrap();
    a.out(u32::from(INTERRUPT_PORT), eax).unwrap();
    enable_interrupts(a, true);
    a.cli().unwrap();
    a.set_label(&mut quiet).unwrap();
    a.add(rsi, 0x800).unwrap();
    a.dec(r8d).unwrap();
    a.jnz(top).unwrap();
    a.mov(word_ptr(rbx + 2), ax).unwrap();
    a.hlt().unwrap();
}

/// The same guest, in pieces and in one go, with a host that interrupts it often, and moved to another virtual machine at random:
/// the same states at the same positions.
#[test]
fn positions_are_the_same_however_the_guest_is_run() {
    if !works("positions_are_the_same_however_the_guest_is_run") {
        return;
    }
    let (ram, start) = guest(busy_program);
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    let mut states = vec![vcpu.state()];
    loop {
        let position = vcpu.position();
        match run(&mut vcpu, position + 1, &mut board) {
            Stop::Reached => assert_eq!(vcpu.position(), position + 1),
            stop => {
                assert_eq!(stop, Stop::Dead(Dead::HaltedForEver));
                break;
            }
        }
        assert_eq!(vcpu.stand(), Stand::Whole);
        states.push(vcpu.state());
    }
    assert_eq!(states[0], start, "what was restored is what is saved");
    // 60 rounds: two accesses of the device, one port, a lowered priority; in 15 of them two interrupts, each with a window or a
    // halt. Then one more access, and the last halt.
    assert_eq!(states.len() as u64 - 1, 60 * 4 + 15 * 4 + 2);
    assert_eq!(vcpu.state().gpr[12], 30);
    let end = memory(&ram);

    let mut rng = Rng::new(host::seed());
    let seen = Interruptions::seen();
    for case in 0..host::cases(6) {
        let _interruptions = (case % 2 == 0).then(Interruptions::begin);
        let (ram, start) = guest(busy_program);
        let (mut other, mut again) = (kvm(&ram, &start), Board::default());
        let mut position = 0;
        while position < states.len() as u64 - 1 {
            position = (position + 1 + rng.below(40)).min(states.len() as u64 - 1);
            assert_eq!(run(&mut other, position, &mut again), Stop::Reached);
            let state = other.state();
            assert_eq!(state, states[position as usize], "at {position}");
            if rng.one_in(3) {
                other = kvm(&ram, &state);
                assert_eq!(other.state(), state);
            }
        }
        assert_eq!((&again.did, &again.positions), (&board.did, &board.positions));
        assert!(memory(&ram) == end);
    }
    assert!(Interruptions::seen() > seen);
}

/// Both engines: what the guest does is the same, and so is how it ends. Only the count of positions is not.
#[test]
fn the_software_engine_does_the_same() {
    if !works("the_software_engine_does_the_same") {
        return;
    }
    let (ram, start) = guest(busy_program);
    let (mut hardware, mut board) = (kvm(&ram, &start), Board::default());
    assert_eq!(run(&mut hardware, LIMIT, &mut board), Stop::Dead(Dead::HaltedForEver));
    let (other_ram, start) = guest(busy_program);
    let mut software = SoftwareVcpu::new(other_ram.clone(), Options::default()).unwrap();
    software.restore(&start);
    let mut other = Board::default();
    assert_eq!(run(&mut software, LIMIT, &mut other), Stop::Dead(Dead::HaltedForEver));
    // The flags that INC leaves are defined; nothing undefined is left by the last instructions.
    let position = hardware.position();
    assert_eq!(hardware.state(), CpuState { position, ..software.state() });
    assert_eq!(board.did, other.did);
    assert!(memory(&ram) == memory(&other_ram));
}

/// A guest that computes for long is between two positions, and comes to the next one all the same.
#[test]
fn a_guest_that_does_not_exit_is_busy() {
    if !works("a_guest_that_does_not_exit_is_busy") {
        return;
    }
    let (ram, start) = guest(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 300_000_000).unwrap();
        a.set_label(&mut top).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.out(0x80u32, al).unwrap();
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board, kick) = (kvm(&ram, &start), Board::default(), Kick::new());
    let mut busy = 0;
    // A kick is no reason to stop where nothing can be done.
    kick.set();
    assert_eq!(vcpu.run(LIMIT, &kick, &mut board), Stop::Kicked);
    assert_eq!(vcpu.stand(), Stand::Whole);
    kick.take();
    while vcpu.position() == 0 {
        match vcpu.run(1, &kick, &mut board) {
            Stop::Busy => {
                busy += 1;
                assert_eq!((vcpu.position(), vcpu.stand()), (0, Stand::Between));
            }
            stop => assert_eq!(stop, Stop::Reached),
        }
    }
    assert!(busy > 0);
    assert_eq!(board.did, [Did::PortWrite(0x80, 1, 0)]);
    assert_eq!((vcpu.stand(), vcpu.state().gpr[1]), (Stand::Whole, 0));
}

/// An access that sees the time takes two positions, and the time may be set at the first.
#[test]
fn the_time_is_told_before_the_guest_looks() {
    if !works("the_time_is_told_before_the_guest_looks") {
        return;
    }
    let (ram, start) = guest(|a| {
        a.mov(rbx, CLOCK).unwrap();
        a.out(0x80u32, al).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(rsi, rax).unwrap();
        a.mov(ecx, 0x10).unwrap();
        a.rdmsr().unwrap();
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board, kick) = (kvm(&ram, &start), Board::default(), Kick::new());
    let next = |vcpu: &mut KvmVcpu, board: &mut Board| loop {
        match vcpu.run(LIMIT, &kick, board) {
            Stop::Busy | Stop::Kicked => {}
            stop => return (stop, vcpu.position(), vcpu.stand()),
        }
    };
    assert_eq!(next(&mut vcpu, &mut board), (Stop::Clock, 2, Stand::Clock));
    assert_eq!(board.did.len(), 1, "the access is not made yet");
    board.now = 7777;
    assert_eq!(next(&mut vcpu, &mut board), (Stop::Clock, 4, Stand::Clock));
    board.now = 0x1_0000_2222;
    assert_eq!(next(&mut vcpu, &mut board), (Stop::Dead(Dead::HaltedForEver), 6, Stand::Whole));
    let state = vcpu.state();
    assert_eq!((state.gpr[6], state.gpr[0], state.gpr[2]), (7777, 0x2222, 1));
    // Who was told the position of the access stops before it without being asked.
    let (ram, _) = guest(|a| {
        a.mov(rbx, CLOCK).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    assert_eq!((run(&mut vcpu, 1, &mut board), vcpu.stand()), (Stop::Reached, Stand::Clock));
    board.now = 5;
    assert_eq!((run(&mut vcpu, 2, &mut board), vcpu.stand()), (Stop::Reached, Stand::Whole));
    assert_eq!(vcpu.state().gpr[0], 5);
}

#[test]
fn what_the_guest_writes_is_found() {
    if !works("what_the_guest_writes_is_found") {
        return;
    }
    let (ram, start) = guest(|a| {
        a.mov(rsi, DATA).unwrap();
        for page in [3, 5, 130] {
            a.mov(byte_ptr(rsi + page * PAGE as i32), 1).unwrap();
        }
        a.out(0x80u32, al).unwrap();
        a.mov(byte_ptr(rsi + 7 * PAGE as i32), 1).unwrap();
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    let flags: PageFlags = ram.iter().next().unwrap().bitmap();
    flags.take_dirty();
    vcpu.log_writes(true).unwrap();
    assert_eq!(run(&mut vcpu, 1, &mut board), Stop::Reached);
    // A device's write is in the same table.
    ram.write_obj(1_u8, GuestAddress(DATA)).unwrap();
    vcpu.gather_writes().unwrap();
    let first = DATA as usize / PAGE;
    // Of the pages below, processors count some that they only walked through.
    let found = || -> Vec<usize> { flags.take_dirty().into_iter().filter(|page| *page >= first).collect() };
    assert_eq!(found(), [first, first + 3, first + 5, first + 130]);
    run(&mut vcpu, LIMIT, &mut board);
    vcpu.gather_writes().unwrap();
    assert_eq!(found(), [first + 7]);
    vcpu.log_writes(false).unwrap();
    vcpu.gather_writes().unwrap();
    assert!(found().is_empty());
}

/// CPUID is the table that both sides compare, and nothing of the host's besides.
#[test]
fn cpuid_is_the_table() {
    if !works("cpuid_is_the_table") {
        return;
    }
    const LEAVES: [(u32, u32); 18] = [
        (0, 0),
        (1, 0),
        (2, 0),
        (4, 0),
        (7, 0),
        (7, 1),
        (0xA, 0),
        (0xD, 0),
        (0x15, 0),
        (0x16, 0),
        (0x1F, 0),
        (0x4000_0000, 0),
        (0x4000_0001, 0),
        (0x8000_0000, 0),
        (0x8000_0001, 0),
        (0x8000_0007, 0),
        (0x8000_0008, 0),
        (0x8000_001F, 0),
    ];
    let (ram, start) = guest(|a| {
        a.mov(rsi, DATA).unwrap();
        for (leaf, subleaf) in LEAVES {
            a.mov(eax, leaf).unwrap();
            a.mov(ecx, subleaf).unwrap();
            a.cpuid().unwrap();
            for (offset, register) in (0..).step_by(4).zip([eax, ebx, ecx, edx]) {
                a.mov(dword_ptr(rsi + offset), register).unwrap();
            }
            a.add(rsi, 16).unwrap();
        }
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    run(&mut vcpu, LIMIT, &mut board);
    assert_eq!(vcpu.state().gpr[6], DATA + 16 * LEAVES.len() as u64);
    for (number, (leaf, subleaf)) in LEAVES.into_iter().enumerate() {
        let found: [u32; 4] = ram.read_obj(GuestAddress(DATA + 16 * number as u64)).unwrap();
        let known = vcpu.leaves().iter().find(|known| (known.leaf, known.subleaf) == (leaf, subleaf));
        assert_eq!(found, known.map_or([0; 4], |known| known.values), "leaf {leaf:#x}, subleaf {subleaf}");
    }
}

/// MSRs of neither KVM's list nor the board's raise #GP; those of the software engine have its values.
#[test]
fn msrs_are_those_of_the_software_engine() {
    if !works("msrs_are_those_of_the_software_engine") {
        return;
    }
    let program = |a: &mut CodeAssembler| {
        a.rdmsr().unwrap();
        a.hlt().unwrap();
    };
    let [(ram, start), (other_ram, other_start)] = [guest(program), guest(program)];
    let hardware: Box<dyn Vcpu> = Box::new(kvm(&ram, &start));
    let software: Box<dyn Vcpu> = Box::new(SoftwareVcpu::new(other_ram, Options::default()).unwrap());
    let mut engines = [(hardware, start), (software, other_start)];
    for msr in [
        0x10,
        0x17,
        0x1B,
        0x3B,
        0x8B,
        0xE7,
        0xFE,
        0x10A,
        0x174,
        0x176,
        0x1A0,
        0x277,
        0x2FF,
        0x4B56_4D01,
        0xC000_0080,
        0xC000_0081,
        0xC000_0084,
        0xC000_0100,
        0xC000_0102,
        0xC000_0103,
        0xC001_0015_u32,
    ] {
        let mut board = Board { now: 0x12_3456_789A, ..Board::default() };
        let [hardware, software] = engines.each_mut().map(|(vcpu, start)| {
            start.gpr[1] = msr.into();
            vcpu.restore(start);
            run(&mut **vcpu, LIMIT, &mut board);
            let state = vcpu.state();
            (state.gpr[0], state.gpr[2], state.gpr[7])
        });
        assert_eq!(hardware, software, "MSR {msr:#x}");
        let known = hardware.2 != EXCEPTION + 13;
        assert_eq!(known, ![0xE7, 0x4B56_4D01, 0xC001_0015].contains(&msr), "MSR {msr:#x}");
    }
}

/// An exception that an access ends in is taken by whoever has the state after the access, under either engine.
#[test]
fn an_exception_on_its_way_is_part_of_the_state() {
    if !works("an_exception_on_its_way_is_part_of_the_state") {
        return;
    }
    // An MSR that there is not; a port access in single steps.
    type Program = (u8, Option<u32>, fn(&mut CodeAssembler));
    let programs: [Program; 2] = [
        (13, Some(0), |a| {
            a.mov(ecx, 0xE7).unwrap();
            a.rdmsr().unwrap();
            a.hlt().unwrap();
        }),
        (1, None, |a| {
            a.pushfq().unwrap();
            a.or(dword_ptr(rsp), 0x100).unwrap();
            a.popfq().unwrap();
            a.out(0x80u32, al).unwrap();
            a.inc(rbx).unwrap();
            a.hlt().unwrap();
        }),
    ];
    for (vector, code, program) in programs {
        let (ram, start) = guest(program);
        let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
        assert_eq!(run(&mut vcpu, 1, &mut board), Stop::Reached);
        let state = vcpu.state();
        assert_eq!(state.exception, Some(Exception { vector, code }));
        assert_eq!(vcpu.state(), state, "looking changes nothing");
        let mut other = kvm(&ram, &state);
        assert_eq!(other.state(), state);
        let mut software = SoftwareVcpu::new(ram.clone(), Options::default()).unwrap();
        software.restore(&state);
        let ends = [&mut vcpu as &mut dyn Vcpu, &mut other, &mut software].map(|vcpu| {
            assert_eq!(run(vcpu, LIMIT, &mut board), Stop::Dead(Dead::HaltedForEver));
            CpuState { position: 0, ..vcpu.state() }
        });
        assert_eq!((ends[0].gpr[7], ends[0].exception), (EXCEPTION + u64::from(vector), None));
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:#x?}");
    }
}

/// The task priority is the board's: what the guest raises is seen at the next exit, what it lowers is an exit.
#[test]
fn the_task_priority_is_the_boards() {
    if !works("the_task_priority_is_the_boards") {
        return;
    }
    let (ram, start) = guest(|a| {
        a.mov(eax, 9).unwrap();
        a.mov(cr8, rax).unwrap();
        a.sti().unwrap();
        a.out(u32::from(INTERRUPT_PORT), al).unwrap();
        a.mov(r13, r12).unwrap();
        a.mov(eax, 1).unwrap();
        a.mov(cr8, rax).unwrap();
        a.nop().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    assert_eq!(run(&mut vcpu, 1, &mut board), Stop::Reached);
    assert_eq!(board.cr8, 9);
    assert_eq!(run(&mut vcpu, LIMIT, &mut board), Stop::Dead(Dead::HaltedForEver));
    assert_eq!(board.cr8, 1);
    let state = vcpu.state();
    assert_eq!(
        (state.gpr[13], state.gpr[12]),
        (0, 1),
        "held while the priority was high, taken when it was low"
    );
}

/// KVM asks for the task priority at each entry, and the host may leave the guest between what raised it and the next exit.
#[test]
fn the_task_priority_outlives_an_interruption() {
    if !works("the_task_priority_outlives_an_interruption") {
        return;
    }
    let interrupted = (20..40).any(|length: i32| {
        let (ram, start) = guest(|a| {
            let mut spin = a.create_label();
            a.mov(eax, 9).unwrap();
            a.mov(cr8, rax).unwrap();
            a.mov(rcx, 1_i64 << length).unwrap();
            a.set_label(&mut spin).unwrap();
            a.dec(rcx).unwrap();
            a.jnz(spin).unwrap();
            a.mov(rbx, cr8).unwrap();
            a.out(0x80u32, al).unwrap();
            a.hlt().unwrap();
        });
        let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
        let mut interruptions = 0;
        let kick = Kick::new();
        while vcpu.position() == 0 {
            interruptions += u32::from(vcpu.run(1, &kick, &mut board) == Stop::Busy);
        }
        assert_eq!((vcpu.state().gpr[3], board.cr8), (9, 9), "interrupted {interruptions} times");
        interruptions > 0
    });
    assert!(interrupted, "the guest was let run for as long as it liked");
}

#[test]
fn a_triple_fault_is_the_guests_end() {
    if !works("a_triple_fault_is_the_guests_end") {
        return;
    }
    let (ram, mut start) = guest(|a| {
        a.out(0x80u32, al).unwrap();
        a.ud2().unwrap();
    });
    start.idtr.limit = 0;
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    assert_eq!(run(&mut vcpu, LIMIT, &mut board), Stop::Dead(Dead::TripleFault));
    assert_eq!(vcpu.position(), 2);
}

/// What KVM cannot do is this host's failure, not the guest's end, and says what it was.
#[test]
fn what_kvm_cannot_do_is_a_failure() {
    if !works("what_kvm_cannot_do_is_a_failure") {
        return;
    }
    let (ram, start) = guest(|a| {
        a.out(0x80u32, al).unwrap();
        a.mov(rax, DEVICE).unwrap();
        // Code in a device.
        a.jmp(rax).unwrap();
    });
    let (mut vcpu, mut board) = (kvm(&ram, &start), Board::default());
    assert_eq!(run(&mut vcpu, LIMIT, &mut board), Stop::Failed);
    let why = vcpu.take_failure().unwrap();
    assert!(why.contains("0xfeb00000"), "{why}");
    assert_eq!(run(&mut vcpu, LIMIT, &mut board), Stop::Failed, "it stays so");
    vcpu.restore(&CpuState { rip: CODE, ..start });
    assert_eq!(run(&mut vcpu, 1, &mut board), Stop::Reached);
}
