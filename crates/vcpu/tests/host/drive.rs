//! Runs many cases of each form of a group on both sides and reports each class of difference once.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ft_vcpu::{GuestRam, Vcpu};
use iced_x86::{Code, Formatter, Instruction, IntelFormatter};

use super::case::{self, Case, Mode, Outcome, Regs};
use super::compare::{self, Latitude};
use super::draw;
use super::forms::{self, Family};
use super::guest::Guest;
use super::layout::{self, DATA};
use super::native::Native;
use super::place;
use super::rng::Rng;

/// How many times to draw before a case is given up.
const ATTEMPTS: u64 = 40;

/// What a group of cases came to.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) cases: usize,
    /// Cases by exception vector on the host.
    pub(crate) traps: BTreeMap<u8, usize>,
    /// Cases of each form.
    pub(crate) forms: BTreeMap<String, usize>,
    /// By form and names of what differs: how often, and the first example.
    pub(crate) classes: BTreeMap<(String, String), (usize, String)>,
    /// Forms that the engine says it does not implement.
    pub(crate) unimplemented: BTreeMap<String, (usize, String)>,
}

impl Report {
    /// Prints the figures, and panics if anything differed.
    pub(crate) fn conclude(self, name: &str) {
        println!(
            "{name}: {} forms, {} cases, exceptions by vector {:?}, seed {}",
            self.forms.len(),
            self.cases,
            self.traps,
            super::seed()
        );
        if self.classes.is_empty() && self.unimplemented.is_empty() {
            return;
        }
        let mut text = String::new();
        for (form, (count, first)) in &self.unimplemented {
            let _ = writeln!(text, "not implemented: {form} ({count} cases), first {first}");
        }
        for ((form, what), (count, example)) in &self.classes {
            let _ = writeln!(text, "{form} [{what}] {count} times; first:\n{example}");
        }
        panic!(
            "{name}: {} classes of difference, {} forms not implemented (seed {})\n{text}",
            self.classes.len(),
            self.unimplemented.len(),
            super::seed()
        );
    }

    fn differ(&mut self, form: &str, what: String, example: impl FnOnce() -> String) {
        self.classes.entry((form.into(), what)).or_insert_with(|| (0, example())).0 += 1;
    }
}

/// Makes cases for a window.
pub(crate) struct Source {
    window: u64,
    mode: Mode,
    data: Vec<u8>,
}

impl Source {
    pub(crate) fn new(window: u64, mode: Mode) -> Self {
        Self { window, mode, data: case::random_data(&mut Rng::new(super::seed())) }
    }

    /// Case `number` of `code`; `None` if many attempts gave none that is safe on the host.
    pub(crate) fn form(&mut self, family: Family, code: Code, number: usize) -> Option<(Case, Instruction)> {
        let mut rng = Rng::new(super::seed() ^ (code as u64) << 40 ^ (number as u64) << 8);
        // Mixing once keeps neighbouring seeds apart.
        rng = Rng::new(rng.next());
        (0..ATTEMPTS).find_map(|_| self.draw(&mut rng, family, code))
    }

    /// Case `number` of random bytes that happen to be an instruction of one of `families`.
    pub(crate) fn bytes(&mut self, families: &[Family], number: usize) -> Option<(Case, Instruction)> {
        let mut rng = Rng::new(super::seed() ^ (number as u64) << 8 ^ 0xB17E5);
        rng = Rng::new(rng.next());
        (0..5 * ATTEMPTS).find_map(|_| {
            let ip = self.window + case::code_offset(&mut rng);
            let bytes = random_bytes(&mut rng, self.mode);
            let instruction = forms::decode(self.mode, &bytes, ip, self.window)?;
            let family =
                forms::family_in(instruction.code(), self.mode).filter(|family| families.contains(family))?;
            let code = bytes[..instruction.len()].to_vec();
            self.prepare(&mut rng, family, code, instruction, ip)
        })
    }

    fn draw(&mut self, rng: &mut Rng, family: Family, code: Code) -> Option<(Case, Instruction)> {
        let ip = self.window + case::code_offset(rng);
        let bytes = draw::random_instruction(rng, self.mode, code, ip, self.window)?;
        let instruction = forms::decode(self.mode, &bytes, ip, self.window)?;
        if instruction.len() != bytes.len() {
            return None;
        }
        self.prepare(rng, family, bytes, instruction, ip)
    }

    fn prepare(
        &mut self,
        rng: &mut Rng,
        family: Family,
        code: Vec<u8>,
        instruction: Instruction,
        ip: u64,
    ) -> Option<(Case, Instruction)> {
        let mut regs = Regs::random(rng, self.mode);
        regs.rip = ip;
        match family {
            Family::Sse | Family::LaterSse => regs.mxcsr = random_mxcsr(rng),
            Family::X87 | Family::Mmx => random_x87(rng, &mut regs),
            Family::State => {
                random_x87(rng, &mut regs);
                regs.mxcsr = random_mxcsr(rng);
            }
            Family::Integer | Family::Far | Family::Segment | Family::Privileged => {}
        }
        let mut case = Case { code, regs, data: self.data.clone() };
        place::place(rng, &instruction, &mut case, self.window).then_some((case, instruction))
    }
}

/// Both sides of the comparison, at the same addresses.
pub(crate) struct Pair {
    pub(crate) native: Native,
    pub(crate) guest: Guest,
    pub(crate) window: u64,
    /// Cases that are not compared, by what the host made of them.
    pub(crate) skip: fn(&Case, &Outcome) -> bool,
    source: Source,
}

impl Pair {
    /// Both sides in window `number`.
    pub(crate) fn new(number: u64, engine: impl FnOnce(GuestRam) -> Box<dyn Vcpu>) -> Self {
        Self::new_in(Mode::Long, number, engine)
    }

    /// The same for code of a mode.
    pub(crate) fn new_in(mode: Mode, number: u64, engine: impl FnOnce(GuestRam) -> Box<dyn Vcpu>) -> Self {
        let window = layout::window(number);
        Self {
            native: Native::new(window),
            guest: Guest::new(window, engine),
            window,
            skip: |_, _| false,
            source: Source::new(window, mode),
        }
    }

    /// `per_form` cases of each form.
    pub(crate) fn run_forms(&mut self, family: Family, codes: &[Code], per_form: usize) -> Report {
        let mut report = Report::default();
        for &code in codes {
            for number in 0..per_form {
                let Some((case, instruction)) = self.source.form(family, code, number) else { continue };
                self.check(&mut report, &case, &instruction);
            }
            let name = format!("{code:?}");
            let ran = report.forms.get(&name).copied().unwrap_or(0);
            assert!(4 * ran >= per_form, "{name}: only {ran} of {per_form} cases could be made");
        }
        report
    }

    /// `count` random byte strings that happen to be instructions of `families`.
    pub(crate) fn run_bytes(&mut self, families: &[Family], count: usize) -> Report {
        let mut report = Report::default();
        for number in 0..count {
            let Some((case, instruction)) = self.source.bytes(families, number) else { continue };
            self.check(&mut report, &case, &instruction);
        }
        report
    }

    fn check(&mut self, report: &mut Report, case: &Case, instruction: &Instruction) {
        let form = format!("{:?}", instruction.code());
        *report.forms.entry(form.clone()).or_default() += 1;
        report.cases += 1;
        let want = self.native.run(case);
        if (self.skip)(case, &want) {
            return;
        }
        if let Some(trap) = want.trap {
            *report.traps.entry(trap.vector).or_default() += 1;
        }
        // Leaving for an address that cannot be executed is the next instruction's fault, not this one's.
        assert!(
            want.trap.is_none() || want.regs.rip == case.regs.rip,
            "{}",
            describe(case, instruction, &want)
        );
        let got = self.guest.run_one(case);
        let missing = self.guest.vcpu.take_unimplemented();
        if !missing.is_empty() {
            report.unimplemented.entry(form).or_insert_with(|| (0, missing.join("; "))).0 += 1;
            return;
        }
        let got = match got {
            Ok(got) => got,
            Err(error) => {
                report.differ(&form, error.split(':').next().unwrap_or_default().into(), || {
                    format!("{}  {error}\n", describe(case, instruction, &want))
                });
                return;
            }
        };
        let latitude = Latitude::of(instruction, case);
        let mut found = compare::differences(&want, &got, &latitude);
        let base = self.window + DATA;
        let mut data = self.guest.data();
        if want.trap.is_some() && latitude.partial_stores {
            data.copy_from_slice(self.native.data());
        }
        if !latitude.memory.is_empty()
            && let Some(address) = place::operand_address(instruction, &case.regs)
        {
            compare::forgive(&latitude, address.wrapping_sub(base), self.native.data(), &mut data);
        }
        found.extend(compare::memory_difference(base, self.native.data(), &data));
        if found.is_empty() {
            return;
        }
        let what: Vec<&str> = found.iter().map(|line| line.split(':').next().unwrap_or_default()).collect();
        report.differ(&form, what.join(" "), || {
            let mut text = describe(case, instruction, &want);
            for line in &found {
                let _ = writeln!(text, "  {line}");
            }
            text
        });
    }
}

/// Compares `per_form` cases (times `FT_CASES`) of each form of a family with the host, in window `number`.
pub(crate) fn compare_family(mode: Mode, number: u64, family: Family, name: &str, per_form: usize) {
    if !super::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new_in(mode, number, super::engine::software);
    pair.run_forms(family, &forms::forms_in(mode, family), super::cases(per_form)).conclude(name);
}

/// Prefixes, an opcode, and whatever follows.
fn random_bytes(rng: &mut Rng, mode: Mode) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        bytes.push(rng.pick(&[0x66, 0x66, 0x67, 0x2E, 0x3E, 0xF2, 0xF3, 0xF3, 0x65, 0xF0, 0x48]));
    }
    if mode == Mode::Long && rng.one_in(2) {
        bytes.push(0x40 | rng.below(16) as u8);
    }
    if rng.one_in(2) {
        bytes.push(0x0F);
        if rng.one_in(6) {
            bytes.push(rng.pick(&[0x38, 0x3A]));
        }
    }
    while bytes.len() < 15 {
        bytes.push(rng.next() as u8);
    }
    bytes
}

fn random_mxcsr(rng: &mut Rng) -> u32 {
    let mut mxcsr = 0x1F80;
    if rng.one_in(2) {
        mxcsr |= (rng.below(4) as u32) << 13;
    }
    if rng.one_in(8) {
        mxcsr |= 0x8000;
    }
    if rng.one_in(8) {
        mxcsr |= 0x40;
    }
    if rng.one_in(8) {
        mxcsr &= !((rng.below(64) as u32) << 7);
    }
    if rng.one_in(4) {
        mxcsr |= rng.below(64) as u32;
    }
    mxcsr
}

/// Random stack and modes; exceptions are masked more often than not, and none is pending.
fn random_x87(rng: &mut Rng, regs: &mut Regs) {
    for register in &mut regs.x87.registers {
        let (significand, exponent) = rng.float80();
        register[..8].copy_from_slice(&significand.to_le_bytes());
        register[8..].copy_from_slice(&exponent.to_le_bytes());
    }
    regs.x87.tag = if rng.one_in(3) { rng.next() as u8 } else { 0xFF };
    regs.x87.status = (rng.below(8) as u16) << 11 | rng.next() as u16 & 0x4700;
    if rng.one_in(4) {
        regs.x87.status |= rng.below(64) as u16;
    }
    regs.x87.control = 0x37F;
    if rng.one_in(2) {
        regs.x87.control = 0x7F | rng.pick(&[0, 2, 3]) << 8 | (rng.below(4) as u16) << 10;
    }
    if rng.one_in(12) {
        regs.x87.control &= !(rng.below(64) as u16) | regs.x87.status & 0x3F;
    }
}

/// One case for a reader: text, bytes, inputs, and what the host said.
pub(crate) fn describe(case: &Case, instruction: &Instruction, want: &Outcome) -> String {
    let mut text = String::from("  ");
    IntelFormatter::new().format(instruction, &mut text);
    let bytes: String = case.code.iter().map(|byte| format!("{byte:02x}")).collect();
    let regs = &case.regs;
    let _ =
        writeln!(text, " = {bytes} at {:#x}, flags {:#x}, mxcsr {:#x}", regs.rip, regs.rflags, regs.mxcsr);
    let _ = writeln!(text, "  gpr {:x?}", regs.gpr);
    let xmm = |register: iced_x86::Register| {
        let (low, high) = regs.xmm[register.number()];
        format!("{register:?} {high:016x}:{low:016x} ")
    };
    let used: String = (0..instruction.op_count())
        .map(|operand| instruction.op_register(operand))
        .filter(|register| register.is_xmm())
        .map(xmm)
        .collect();
    if !used.is_empty() {
        let _ = writeln!(text, "  {used}");
    }
    if regs.mode != Mode::Long {
        let _ = writeln!(text, "  {:?}", regs.mode);
    }
    if regs.fs_base != 0 || regs.gs_base != 0 {
        let _ = writeln!(text, "  fs {:#x} gs {:#x}", regs.fs_base, regs.gs_base);
    }
    let family = forms::family_in(instruction.code(), regs.mode);
    if matches!(family, Some(Family::X87 | Family::Mmx | Family::State)) {
        let _ = writeln!(text, "  x87 {:x?}", regs.x87);
    }
    let _ = writeln!(
        text,
        "  host: trap {:x?}, rip {:#x}, flags {:#x}",
        want.trap, want.regs.rip, want.regs.rflags
    );
    text
}
