//! Random long-mode programs of ordinary instructions, run on both engines: the same registers, flags and memory at the end.
//!
//! After an instruction that leaves flags undefined the programs have one that defines them, so that none is ever seen.

use ft_vcpu::kvm::KvmVcpu;
use ft_vcpu::{Kick, Stop};

use super::host::case::{Case, Outcome};
use super::host::compare::{self, Latitude};
use super::host::guest::{Guest, Quiet};
use super::host::layout::{self, DATA};
use super::host::programs;
use super::host::rng::Rng;
use super::{host, works};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

const LIMIT: u64 = 50_000_000;

/// Runs to the end, which is INT3.
fn run(guest: &mut Guest, case: &Case) -> Result<Outcome, String> {
    guest.load(case);
    let kick = Kick::new();
    loop {
        match guest.vcpu.run(LIMIT, &kick, &mut Quiet) {
            Stop::Busy | Stop::Kicked => {}
            Stop::Dead(_) => break,
            Stop::Failed => return Err(guest.vcpu.take_failure().unwrap_or_default()),
            stop => return Err(format!("{stop:?}")),
        }
    }
    guest.outcome(&guest.vcpu.state())
}

fn listing(case: &Case) -> String {
    let mut text = format!("{:x?}\n", case.regs);
    let mut formatter = IntelFormatter::new();
    for instruction in &mut Decoder::with_ip(64, &case.code, case.regs.rip, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        text += &format!("{:x} {line}\n", instruction.ip());
    }
    text
}

#[test]
fn random_programs_end_the_same_on_both_engines() {
    if !works("random_programs_end_the_same_on_both_engines") {
        return;
    }
    let window = layout::window(4);
    let mut software = Guest::new(window, host::engine::software);
    let mut hardware = Guest::new(window, |ram| Box::new(KvmVcpu::new(ram).expect("the probe made one")));
    let codes = programs::ordinary();
    let mut instructions = 0;
    let count = host::cases(600);
    for number in 0..count as u64 {
        let mut rng = Rng::new(host::seed() ^ 4 << 56 ^ number << 16);
        rng = Rng::new(rng.next());
        let size = 50 + rng.below(150) as usize;
        let case = programs::random_program(&mut rng, &codes, size, window);
        let fail = |what: String| -> ! {
            panic!("seed {}, program {number}: {what}\n{}", host::seed(), listing(&case))
        };
        let want = run(&mut hardware, &case).unwrap_or_else(|error| fail(format!("KVM: {error}")));
        let got = run(&mut software, &case).unwrap_or_else(|error| fail(format!("software: {error}")));
        instructions += software.vcpu.position() - 1000;
        let mut found = compare::differences(&want, &got, &Latitude::default());
        found.extend(compare::memory_difference(window + DATA, &hardware.data(), &software.data()));
        if !found.is_empty() {
            fail(format!("KVM ends at {:x}, software at {:x}: {found:#?}", want.regs.rip, got.regs.rip));
        }
    }
    println!("{count} programs, {instructions} instructions, seed {}", host::seed());
    assert!(instructions > 100 * count as u64);
}
