//! Says in what two outcomes differ, leaving out what the manuals leave undefined.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::case::{Case, Outcome, Trap};

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// What an instruction leaves open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latitude {
    /// Bits of RFLAGS.
    pub(crate) flags: u64,
    /// Bits of the x87 status word.
    pub(crate) x87_status: u16,
    /// Bits of this general register.
    pub(crate) gpr: Option<(usize, u64)>,
    /// The XMM results are approximations: compared with this relative error.
    pub(crate) relative_error: Option<f64>,
    /// Bytes of the memory operand, from and to.
    pub(crate) memory: Vec<(usize, usize)>,
    /// Two operands are read in no fixed order: either may fault first.
    pub(crate) either_fault: bool,
    /// Of the address of a #PF only the page counts.
    pub(crate) faults_by_page: bool,
    /// Whether the stores before the one that faults are seen.
    pub(crate) partial_stores: bool,
    /// Of an instruction that faults: whether the x87 has become the MMX before.
    pub(crate) mmx_before_fault: bool,
    /// The x87 results are approximations.
    pub(crate) x87_approximate: bool,
    /// The case gave FS and GS bases, which on the host has to do with selectors and here has not.
    pub(crate) any_selectors: bool,
}

impl Latitude {
    /// What `instruction` leaves undefined when run with the registers of `case`.
    pub(crate) fn of(instruction: &Instruction, case: &Case) -> Self {
        let undefined = instruction.rflags_undefined();
        let bits = [
            (RflagsBits::OF, 0x800),
            (RflagsBits::SF, 0x80),
            (RflagsBits::ZF, 0x40),
            (RflagsBits::AF, 0x10),
            (RflagsBits::CF, 1),
            (RflagsBits::PF, 4),
        ];
        let flags = bits.iter().filter(|(bit, _)| undefined & bit != 0).map(|(_, flag)| flag).sum();
        let bits = [
            (RflagsBits::C0, 0x100),
            (RflagsBits::C1, 0x200),
            (RflagsBits::C2, 0x400),
            (RflagsBits::C3, 0x4000),
        ];
        let x87_status = bits.iter().filter(|(bit, _)| undefined & bit != 0).map(|(_, flag)| flag).sum();
        let mut latitude = Self { flags, x87_status, ..Self::default() };
        latitude.shift(instruction, case);
        latitude.any_selectors = (case.regs.fs_base, case.regs.gs_base) != (0, 0);
        latitude.faults_by_page = instruction.memory_size().size() > 16
            || matches!(
                instruction.mnemonic(),
                Mnemonic::Fldenv
                    | Mnemonic::Fnstenv
                    | Mnemonic::Xsave
                    | Mnemonic::Xsave64
                    | Mnemonic::Xrstor
                    | Mnemonic::Xrstor64
            );
        match instruction.mnemonic() {
            // Without a bit set the destination is undefined on paper. Both makers leave it alone; with 32-bit
            // operands the upper half is cleared or not.
            Mnemonic::Bsf | Mnemonic::Bsr => {
                let destination = instruction.op0_register();
                if destination.size() == 4 {
                    let bits = 0xFFFF_FFFF_0000_0000;
                    latitude.gpr = Some((destination.full_register().number(), bits));
                }
            }
            Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
                latitude.relative_error = Some(2.0 * 1.5 / 4096.0);
            }
            // Intel leaves TOP alone, AMD clears it.
            Mnemonic::Emms => latitude.x87_status |= 0x3800,
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsq => latitude.either_fault = true,
            Mnemonic::Cmpsd if instruction.is_string_instruction() => latitude.either_fault = true,
            // The pushes before a fault: processors differ.
            Mnemonic::Enter => latitude.partial_stores = true,
            Mnemonic::Maskmovq => latitude.mmx_before_fault = true,
            // FOP, FIP, FDP and their selectors: the engine keeps none. MXCSR_MASK: the host may have more bits.
            Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Xsave | Mnemonic::Xsave64 => {
                latitude.memory = vec![(6, 24), (28, 32)];
                // Which states count as in use.
                latitude.memory.push((512, 513));
                // The reserved upper parts of the x87 registers.
                latitude.memory.extend((0..8).map(|st| (32 + 16 * st + 10, 32 + 16 * st + 16)));
            }
            Mnemonic::Fnstenv | Mnemonic::Fnsave => {
                let wide = matches!(instruction.memory_size().size(), 28 | 108);
                latitude.memory = if wide { vec![(12, 28)] } else { vec![(6, 14)] };
            }
            Mnemonic::F2xm1
            | Mnemonic::Fyl2x
            | Mnemonic::Fyl2xp1
            | Mnemonic::Fpatan
            | Mnemonic::Fptan
            | Mnemonic::Fsin
            | Mnemonic::Fcos
            | Mnemonic::Fsincos => latitude.x87_approximate = true,
            _ => {}
        }
        latitude
    }

    /// Shifts by CL: nothing changes with a masked count of 0, and OF is defined with 1.
    fn shift(&mut self, instruction: &Instruction, case: &Case) {
        use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
        let by_cl = match instruction.mnemonic() {
            Rol | Ror | Rcl | Rcr | Shl | Shr | Sal | Sar => instruction.op1_kind() == OpKind::Register,
            Shld | Shrd => instruction.op2_kind() == OpKind::Register,
            _ => return,
        };
        let operand = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        let mask = if operand == 8 { 63 } else { 31 };
        let count = if by_cl { case.regs.gpr[1] & mask } else { u64::from(instruction.immediate8()) & mask };
        if count == 0 {
            self.flags = 0;
        } else if count == 1 {
            self.flags &= !0x800;
        }
        // The bit shifted out is beyond the operand: CF is undefined.
        if matches!(instruction.mnemonic(), Shl | Sal | Shr | Shld | Shrd) && count >= 8 * operand as u64 {
            self.flags |= 1;
        }
    }
}

/// Each part in which `got` differs from `want`, by name first, so that the first word names a class.
pub(crate) fn differences(want: &Outcome, got: &Outcome, latitude: &Latitude) -> Vec<String> {
    let mut found = Vec::new();
    let in_page = |trap: Option<Trap>| {
        let address = |trap: Trap| match trap.address {
            _ if latitude.either_fault => 0,
            // Of a large operand, which address of the missing page is reported differs between processors.
            address if latitude.faults_by_page => address >> 12,
            address => address,
        };
        trap.map(|trap| Trap { address: address(trap), ..trap })
    };
    if in_page(want.trap) != in_page(got.trap) {
        found.push(format!("trap: want {:x?} got {:x?}", want.trap, got.trap));
        if want.trap.is_some() != got.trap.is_some() {
            return found;
        }
    }
    for (number, name) in GPR.into_iter().enumerate() {
        // 32-bit code has no upper half of the stack pointer.
        let cut = if number == 4 { want.regs.mode.mask() } else { u64::MAX };
        let (want, got) = (want.regs.gpr[number] & cut, got.regs.gpr[number] & cut);
        let open = match latitude.gpr {
            Some((register, bits)) if register == number => bits,
            _ => 0,
        };
        if (want ^ got) & !open != 0 {
            found.push(format!("{name}: want {want:#x} got {got:#x}"));
        }
    }
    if want.regs.rip != got.regs.rip {
        found.push(format!("rip: want {:#x} got {:#x}", want.regs.rip, got.regs.rip));
    }
    if want.regs.mode != got.regs.mode {
        found.push(format!("cs: want {:?} got {:?}", want.regs.mode, got.regs.mode));
    }
    // Coming back from the kernel makes a null selector 0, whatever level it asks for.
    let real = |selectors: [u16; 4]| selectors.map(|selector| if selector < 4 { 0 } else { selector });
    if real(want.regs.selectors) != real(got.regs.selectors) && !latitude.any_selectors {
        found.push(format!("segments: want {:x?} got {:x?}", want.regs.selectors, got.regs.selectors));
    }
    // An exception that changes nothing changes no flags either; only #DE may have gone some way.
    let open = if want.trap.is_some_and(|trap| trap.vector != 0) { 0 } else { latitude.flags };
    let changed = (want.regs.rflags ^ got.regs.rflags) & !open;
    if changed != 0 {
        let names =
            [(1, "CF"), (4, "PF"), (0x10, "AF"), (0x40, "ZF"), (0x80, "SF"), (0x400, "DF"), (0x800, "OF")];
        let names: String =
            names.iter().filter(|(bit, _)| changed & bit != 0).map(|(_, name)| format!(" {name}")).collect();
        found.push(format!("flags:{names}: want {:#x} got {:#x}", want.regs.rflags, got.regs.rflags));
    }
    for number in 0..16 {
        let (want, got) = (want.regs.xmm[number], got.regs.xmm[number]);
        let same = match latitude.relative_error {
            Some(bound) => near(want.0, got.0, bound) && near(want.1, got.1, bound),
            None => want == got,
        };
        if !same {
            found.push(format!(
                "xmm{number}: want {:016x}:{:016x} got {:016x}:{:016x}",
                want.1, want.0, got.1, got.0
            ));
        }
    }
    // With an unmasked overflow or underflow, precision says whether the result would be exact with an exponent of any
    // size. The engine says whether it is exact with the exponent that there is.
    let unmasked = want.regs.mxcsr & !(want.regs.mxcsr >> 7) & 0x18;
    let beyond = want.trap.is_some_and(|trap| trap.vector == 19) && unmasked != 0;
    let open = if beyond { 0x20 } else { 0 };
    if (want.regs.mxcsr ^ got.regs.mxcsr) & !open != 0 {
        found.push(format!("mxcsr: want {:#x} got {:#x}", want.regs.mxcsr, got.regs.mxcsr));
    }
    x87(want, got, latitude, &mut found);
    found
}

fn x87(want: &Outcome, got: &Outcome, latitude: &Latitude, found: &mut Vec<String>) {
    let switched = latitude.mmx_before_fault && want.trap.is_some();
    let (want, got) = (&want.regs.x87, &got.regs.x87);
    if want.control != got.control {
        found.push(format!("fcw: want {:#x} got {:#x}", want.control, got.control));
    }
    // Precision and rounding of an approximation are the maker's, and with precision unmasked what sums it up.
    let approximate = match (latitude.x87_approximate, want.control & 0x20) {
        (false, _) => 0,
        (true, 0) => 0x82A0,
        (true, _) => 0x220,
    };
    let top = usize::from(want.status >> 11 & 7);
    let denormal =
        latitude.x87_approximate && want.registers[top][9] & 0x7F == 0 && want.registers[top][8] == 0;
    let open = latitude.x87_status
        | approximate
        // Whether a denormal result counts as exact.
        | if denormal { 0x10 } else { 0 }
        | if switched { 0x3800 } else { 0 };
    if (want.status ^ got.status) & !open != 0 {
        found.push(format!("fsw: want {:#x} got {:#x}", want.status, got.status));
    }
    if want.tag != got.tag && !switched {
        found.push(format!("ftw: want {:#x} got {:#x}", want.tag, got.tag));
    }
    for number in 0..8 {
        let (want, got) = (want.registers[number], got.registers[number]);
        let same = want == got || latitude.x87_approximate && near80(want, got);
        if !same {
            let text = |bytes: [u8; 10]| -> String {
                bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
            };
            found.push(format!("R{number}: want {} got {}", text(want), text(got)));
        }
    }
}

/// Both 32-bit lanes equal, or finite and near.
fn near(want: u64, got: u64, bound: f64) -> bool {
    [0, 32].into_iter().all(|shift| {
        let (want, got) = ((want >> shift) as u32, (got >> shift) as u32);
        let (a, b) = (f64::from(f32::from_bits(want)), f64::from(f32::from_bits(got)));
        want == got || (a.is_finite() && b.is_finite() && (a - b).abs() <= bound * a.abs())
    })
}

/// Same sign, and at most a few units in the last place apart.
fn near80(want: [u8; 10], got: [u8; 10]) -> bool {
    const UNITS: u128 = 4;
    let value = |bytes: [u8; 10]| {
        let significand = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let exponent = u16::from_le_bytes([bytes[8], bytes[9]]) & 0x7FFF;
        // A denormal has the exponent of the smallest normal numbers.
        (bytes[9] >> 7, u128::from(significand), exponent.max(1))
    };
    let ((sign, a, exponent), (other_sign, b, other_exponent)) = (value(want), value(got));
    if exponent == 0x7FFF || other_exponent == 0x7FFF || sign != other_sign {
        return false;
    }
    let least = exponent.min(other_exponent);
    if exponent.abs_diff(other_exponent) > 1 {
        return false;
    }
    (a << (exponent - least)).abs_diff(b << (other_exponent - least)) <= UNITS
}

/// Makes `got` equal to `want` in the parts that an instruction with its operand at `offset` leaves open.
pub(crate) fn forgive(latitude: &Latitude, offset: u64, want: &[u8], got: &mut [u8]) {
    for &(start, end) in &latitude.memory {
        let start = offset.saturating_add(start as u64).min(want.len() as u64) as usize;
        let end = offset.saturating_add(end as u64).min(want.len() as u64) as usize;
        got[start..end].copy_from_slice(&want[start..end]);
    }
}

/// Where two memories differ: first address, and the bytes there.
pub(crate) fn memory_difference(base: u64, want: &[u8], got: &[u8]) -> Option<String> {
    if want == got {
        return None;
    }
    let first = want.iter().zip(got).position(|(want, got)| want != got)?;
    let count = want.iter().zip(got).filter(|(want, got)| want != got).count();
    let end = (first + 16).min(want.len());
    Some(format!(
        "memory: {count} bytes from {:#x}: want {:02x?} got {:02x?}",
        base + first as u64,
        &want[first..end],
        &got[first..end]
    ))
}
