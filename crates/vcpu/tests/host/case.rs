//! What is run and what came out of it.

use ft_vcpu::state::X87;

use super::layout::{CODE_LEN, DATA_LEN};
use super::rng::Rng;

/// The flags that a user program sees: CF PF AF ZF SF DF OF, NT, AC, ID.
pub(crate) const USER_FLAGS: u64 = 0x0CD5 | 0x4000 | 0x4_0000 | 0x20_0000;

/// What the code segment says of the code in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// 64-bit mode.
    #[default]
    Long,
    /// Compatibility mode: 32-bit code of a user program.
    Compat,
}

impl Mode {
    pub(crate) fn bits(self) -> u32 {
        if self == Self::Long { 64 } else { 32 }
    }

    /// How many general (and vector) registers an instruction can name.
    pub(crate) fn registers(self) -> u64 {
        if self == Self::Long { 16 } else { 8 }
    }

    /// Linux's selector of such code.
    pub(crate) fn selector(self) -> u16 {
        if self == Self::Long { 0x33 } else { 0x23 }
    }

    /// The bits of an address.
    pub(crate) fn mask(self) -> u64 {
        if self == Self::Long { u64::MAX } else { 0xFFFF_FFFF }
    }
}

/// Linux's selector of the user's data segment.
pub(crate) const USER_DATA: u16 = 0x2B;

/// Registers of a user program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Regs {
    /// In the encoding's order.
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    /// Only [`USER_FLAGS`].
    pub(crate) rflags: u64,
    pub(crate) xmm: [(u64, u64); 16],
    pub(crate) mxcsr: u32,
    pub(crate) x87: X87,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    /// What CS says.
    pub(crate) mode: Mode,
    /// ES, DS, FS, GS.
    pub(crate) selectors: [u16; 4],
    /// The case may load FS or GS.
    pub(crate) loads_selectors: bool,
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            xmm: [(0, 0); 16],
            mxcsr: 0x1F80,
            x87: X87 { control: 0x37F, ..X87::default() },
            fs_base: 0,
            gs_base: 0,
            mode: Mode::Long,
            selectors: [USER_DATA, USER_DATA, 0, 0],
            loads_selectors: false,
        }
    }
}

impl Regs {
    /// Random registers; the x87 and MXCSR are as after reset.
    pub(crate) fn random(rng: &mut Rng, mode: Mode) -> Self {
        let mut regs = Self { mode, ..Self::default() };
        for register in &mut regs.gpr {
            *register = rng.value();
        }
        for register in &mut regs.xmm {
            *register = (rng.lane(), rng.lane());
            if rng.one_in(3) {
                register.1 = register.0;
            }
        }
        // CF PF AF ZF SF OF, and DF seldom.
        regs.rflags = rng.next() & 0x8D5;
        if rng.one_in(4) {
            regs.rflags |= 0x400;
        }
        if mode == Mode::Compat {
            // The upper halves are as a 32-bit program finds them.
            regs.gpr.iter_mut().for_each(|register| *register &= 0xFFFF_FFFF);
            regs.gpr[8..].fill(0);
        }
        regs
    }
}

/// An exception that the code raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trap {
    pub(crate) vector: u8,
    pub(crate) error: u32,
    /// For #PF.
    pub(crate) address: u64,
}

/// One thing to run.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Instruction bytes, at `regs.rip`. The rest of the code pages is INT3.
    pub(crate) code: Vec<u8>,
    pub(crate) regs: Regs,
    /// The three writable pages.
    pub(crate) data: Vec<u8>,
}

/// What came out; the data pages are asked for separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) regs: Regs,
    pub(crate) trap: Option<Trap>,
}

/// Contents for the data pages.
pub(crate) fn random_data(rng: &mut Rng) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..DATA_LEN / 8).flat_map(|_| rng.lane().to_le_bytes()).collect();
    // Runs of equal bytes, so that repeated compares and scans go on for a while.
    for _ in 0..6 {
        let start = rng.below(DATA_LEN - 600) as usize;
        let value = rng.pick(&[0_u8, 0xFF, 0x55]);
        bytes[start..start + rng.below(600) as usize].fill(value);
    }
    bytes
}

/// A place for an instruction of up to 15 bytes: anywhere in the code pages, often across their border.
pub(crate) fn code_offset(rng: &mut Rng) -> u64 {
    if rng.one_in(6) { 0x1000 - 1 - rng.below(15) } else { 0x80 + rng.below(CODE_LEN - 0x100) }
}
