//! The harness itself: the host side is repeatable and right, and a wrong engine is found out.

mod host;

use ft_vcpu::{CpuState, Kick};
use host::case::{Case, Regs, Trap};
use host::compare::{self, Latitude};
use host::drive::{Pair, Source};
use host::engine::Spoilt;
use host::forms::{self, Family};
use host::guest::Quiet;
use host::kvm::KvmVcpu;
use host::layout::{self, DATA};
use host::native::Native;
use host::rng::Rng;
use iced_x86::{Code, Decoder, DecoderOptions};

fn run(native: &mut Native, window: u64, code: &[u8], change: impl FnOnce(&mut Regs)) -> host::case::Outcome {
    let mut regs = Regs { rip: window + 0x100, ..Regs::default() };
    change(&mut regs);
    native.run(&Case { code: code.to_vec(), regs, data: vec![0x11; 0x3000] })
}

#[test]
fn the_host_side_reports_what_the_instruction_did() {
    if !host::host_is_an_oracle() {
        return;
    }
    let window = layout::window(1);
    let mut native = Native::new(window);

    // add eax, ecx: carry out of 32 bits, upper half cleared.
    let outcome = run(&mut native, window, &[0x01, 0xC8], |regs| {
        regs.gpr[0] = 0xFFFF_FFFF_FFFF_FFFF;
        regs.gpr[1] = 1;
        regs.gpr[4] = 0x1234_5678_9ABC_DEF0;
    });
    assert_eq!(outcome.trap, None);
    assert_eq!(outcome.regs.gpr[0], 0);
    assert_eq!(outcome.regs.gpr[4], 0x1234_5678_9ABC_DEF0);
    assert_eq!(outcome.regs.rflags, 0x55);
    assert_eq!(outcome.regs.rip, window + 0x102);

    // div cl by zero.
    let outcome = run(&mut native, window, &[0xF6, 0xF1], |_| {});
    assert_eq!(outcome.trap, Some(Trap { vector: 0, error: 0, address: 0 }));
    assert_eq!(outcome.regs.rip, window + 0x100);

    // mov [rax], ecx: unmapped, read-only, and a non-canonical address.
    for (address, vector, error) in [(0x7000, 14, 6), (DATA + 0x3000, 14, 7), (1 << 60, 13, 0)] {
        let address = window + address;
        let outcome = run(&mut native, window, &[0x89, 0x08], |regs| regs.gpr[0] = address);
        let fault = if vector == 14 { address } else { 0 };
        assert_eq!(outcome.trap, Some(Trap { vector, error, address: fault }));
    }

    // mov [rip+x], xmm15: the FS base, memory, vector registers.
    let outcome = run(&mut native, window, &[0x64, 0x44, 0x0F, 0x11, 0x38], |regs| {
        regs.fs_base = window + DATA;
        regs.gpr[0] = 0x20;
        regs.xmm[15] = (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210);
    });
    assert_eq!(outcome.trap, None);
    assert_eq!(native.data()[0x20..0x28], 0x0123_4567_89AB_CDEF_u64.to_le_bytes());
    assert_eq!(native.data()[0x28..0x30], 0xFEDC_BA98_7654_3210_u64.to_le_bytes());
    assert!(native.data()[..0x20].iter().all(|byte| *byte == 0x11));

    // divps xmm0, xmm1 with division by zero unmasked.
    let outcome = run(&mut native, window, &[0x0F, 0x5E, 0xC1], |regs| {
        regs.xmm[0] = (0x3F80_0000, 0);
        regs.mxcsr = 0x1F80 & !0x200;
    });
    assert_eq!(outcome.trap.map(|trap| trap.vector), Some(19));

    // fld1: the stack grows down into R7.
    let outcome = run(&mut native, window, &[0xD9, 0xE8], |_| {});
    assert_eq!(outcome.regs.x87.tag, 0x80);
    assert_eq!(outcome.regs.x87.status >> 11 & 7, 7);
    assert_eq!(outcome.regs.x87.registers[7], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]);

    // ud2, hlt.
    assert_eq!(run(&mut native, window, &[0x0F, 0x0B], |_| {}).trap.unwrap().vector, 6);
    assert_eq!(run(&mut native, window, &[0xF4], |_| {}).trap.unwrap().vector, 13);
}

/// Same case, same outcome, over many forms: nothing of the test process leaks into a result.
#[test]
fn the_host_side_is_repeatable() {
    if !host::host_is_an_oracle() {
        return;
    }
    let window = layout::window(2);
    let mut native = Native::new(window);
    let mut source = Source::new(window, host::case::Mode::Long);
    let (mut ran, mut traps) = (0, 0);
    for family in [
        Family::Integer,
        Family::Sse,
        Family::LaterSse,
        Family::Mmx,
        Family::X87,
        Family::Far,
        Family::Privileged,
    ] {
        let mut of_family = 0;
        for (code, number) in
            forms::forms(family).into_iter().flat_map(|code| [(code, 0), (code, 1), (code, 2)])
        {
            let (case, instruction) = source
                .form(family, code, number)
                .unwrap_or_else(|| panic!("no case of {code:?} could be made"));
            of_family += usize::from(number == 0);
            let ip = case.regs.rip;
            let first = native.run(&case);
            let memory = native.data().to_vec();
            // Something else in between.
            run(&mut native, window, &[0x0F, 0x0B], |regs| regs.rflags = 0x8D5);
            let second = native.run(&case);
            assert_eq!(first, second, "{}", host::drive::describe(&case, &instruction, &first));
            assert_eq!(memory, native.data());
            let text = host::drive::describe(&case, &instruction, &first);
            assert!(first.trap.is_none() || first.regs.rip == ip, "{text}");
            ran += 1;
            traps += usize::from(first.trap.is_some());
        }
        println!("{family:?}: {of_family} forms");
    }
    println!("{ran} cases, {traps} exceptions");
    assert!(ran > 3000 && traps * 4 < ran);
}

/// Every part of an outcome counts in the comparison, and what is undefined does not.
#[test]
fn the_comparison_sees_each_part() {
    if !host::host_is_an_oracle() {
        return;
    }
    let window = layout::window(3);
    let mut native = Native::new(window);
    let want = run(&mut native, window, &[0x01, 0xC8], |regs| regs.gpr[0] = 5);
    let strict = Latitude::default();
    assert!(compare::differences(&want, &want, &strict).is_empty());
    let plants: [fn(&mut host::case::Outcome); 12] = [
        |got| got.regs.gpr[0] ^= 1 << 63,
        |got| got.regs.gpr[15] ^= 1,
        |got| got.regs.rip += 1,
        |got| got.regs.rflags ^= 1,
        |got| got.regs.rflags ^= 0x400,
        |got| got.regs.xmm[15].1 ^= 1,
        |got| got.regs.mxcsr ^= 0x20,
        |got| got.regs.x87.status ^= 1,
        |got| got.regs.x87.tag ^= 1,
        |got| got.regs.x87.control ^= 0x100,
        |got| got.regs.x87.registers[3][9] ^= 1,
        |got| got.trap = Some(Trap { vector: 6, error: 0, address: 0 }),
    ];
    for (number, plant) in plants.into_iter().enumerate() {
        let mut got = want.clone();
        plant(&mut got);
        assert_eq!(compare::differences(&want, &got, &strict).len(), 1, "plant {number}");
    }
    assert!(compare::memory_difference(0, &[1, 2, 3], &[1, 2, 4]).is_some());
    assert!(compare::memory_difference(0, &[1, 2, 3], &[1, 2, 3]).is_none());

    // mul ecx leaves AF undefined but defines CF; shl eax, cl by 32 changes no flag.
    for (bytes, rcx, open) in
        [(&[0xF7_u8, 0xE1][..], 0, 0xD4), (&[0xD3, 0xE0], 32, 0), (&[0xD3, 0xE0], 1, 0x10)]
    {
        let instruction = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
        let mut regs = Regs::default();
        regs.gpr[1] = rcx;
        let case = Case { code: bytes.to_vec(), regs, data: Vec::new() };
        assert_eq!(Latitude::of(&instruction, &case).flags, open, "{bytes:02x?}");
    }
}

/// A program of the generator ends at its INT3 on the host, each time with the same result.
#[test]
fn programs_end() {
    if !host::host_is_an_oracle() {
        return;
    }
    let window = layout::window(4);
    let mut native = Native::new(window);
    let codes = host::programs::ordinary();
    let mut rng = Rng::new(host::seed());
    for _ in 0..host::cases(300) {
        let case = host::programs::random_program(&mut rng, &codes, 150, window);
        let first = native.run(&case);
        let memory = native.data().to_vec();
        assert_eq!(first.trap, None, "{:x?} at {:#x}", case.code, case.regs.rip);
        assert_eq!(first.regs.rip, case.regs.rip + case.code.len() as u64);
        assert_ne!(memory, case.data);
        assert_eq!(first, native.run(&case));
        assert_eq!(memory, native.data());
    }
}

/// The guest side is right: with KVM in the engine's place nothing differs.
#[test]
fn kvm_agrees_with_the_host() {
    if !host::host_is_an_oracle() {
        return;
    }
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        println!("skipped: no access to /dev/kvm");
        return;
    }
    let mut pair = Pair::new(9, |ram| Box::new(KvmVcpu::new(ram).unwrap()));
    pair.guest.counts = false;
    // Where KVM itself runs in a virtual machine it may emulate what raises #GP, or runs with an RSP that is not
    // canonical, and that emulation knows few instructions; the same
    // where code leads out of 64-bit mode.
    pair.skip = |case, want| {
        let canonical = |rsp: u64| (rsp as i64) << 16 >> 16 == rsp as i64;
        want.regs.mode != case.regs.mode
            || !canonical(case.regs.gpr[4])
            || !canonical(want.regs.gpr[4])
            || want.trap.is_some_and(|trap| matches!(trap.vector, 12 | 13))
    };
    for family in [Family::Integer, Family::Sse, Family::LaterSse, Family::Mmx, Family::X87, Family::Far] {
        pair.run_forms(family, &forms::forms(family), host::cases(6)).conclude(&format!("KVM {family:?}"));
    }
    pair.run_bytes(&[Family::Integer, Family::Sse, Family::X87], host::cases(3000)).conclude("KVM bytes");
    let codes = host::programs::ordinary();
    let mut rng = Rng::new(host::seed());
    for _ in 0..host::cases(100) {
        let case = host::programs::random_program(&mut rng, &codes, 150, pair.window);
        let want = pair.native.run(&case);
        pair.guest.load(&case);
        pair.guest.vcpu.run(1_000_000, &Kick::new(), &mut Quiet);
        let got = pair.guest.outcome(&pair.guest.vcpu.state()).unwrap();
        assert_eq!(want, got);
        assert_eq!(pair.native.data(), pair.guest.data());
    }
}

/// A wrong engine is found out, whatever part of its state is wrong.
#[test]
fn a_wrong_engine_is_found_out() {
    if !host::host_is_an_oracle() {
        return;
    }
    type Fault = fn(&mut CpuState);
    let faults: [(&str, Fault); 6] = [
        ("flags", |state| state.rflags ^= 1),
        ("r11", |state| state.gpr[11] = state.gpr[11].wrapping_add(1)),
        ("rip", |state| state.rip += 1),
        ("xmm3", |state| state.xmm[3].1 ^= 1 << 40),
        ("mxcsr", |state| state.mxcsr |= 0x20),
        ("stands at", |state| state.position += 1),
    ];
    for (number, (what, fault)) in (10..).zip(faults) {
        let mut pair =
            Pair::new(number, |ram| Box::new(Spoilt { inner: host::engine::software(ram), fault }));
        let report = pair.run_forms(Family::Integer, &[Code::Add_r32_rm32, Code::Mov_r64_rm64], 50);
        assert_eq!(report.cases, 100);
        let found = report.classes.keys().any(|(_, parts)| parts.contains(what));
        assert!(found, "{what}: only {:?}", report.classes.keys());
        let text = std::panic::catch_unwind(move || report.conclude("wrong")).expect_err("must fail");
        assert!(text.downcast_ref::<String>().is_some_and(|text| text.contains(what)));
    }
    // The right engine, in the same way.
    let mut pair = Pair::new(20, host::engine::software);
    pair.run_forms(Family::Integer, &[Code::Add_r32_rm32, Code::Mov_r64_rm64], 50).conclude("right");
}
