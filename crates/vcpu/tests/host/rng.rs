//! A small generator of numbers that like corners.

/// SplitMix64: one state word, so that a case can be named by its seed.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A register value: often a corner of some operand size, often a small number, often anything.
    pub(crate) fn value(&mut self) -> u64 {
        let raw = self.next();
        match self.below(8) {
            0 => self.pick(&[0, 1, 2, u64::MAX, u64::MAX - 1]),
            1 => {
                // Near a power of two: the sign boundaries of all widths.
                let bit = self.pick(&[7_u32, 8, 15, 16, 31, 32, 63]);
                (1_u64 << bit).wrapping_add(self.below(3)).wrapping_sub(1)
            }
            2 => {
                let bit = self.pick(&[7_u32, 8, 15, 16, 31, 32, 63]);
                (1_u64 << bit).wrapping_add(self.below(3)).wrapping_sub(1) | (raw << 32)
            }
            3 => self.below(80),
            4 => self.below(80).wrapping_neg(),
            // A corner in the low part of a random word.
            5 => (raw & !0xFFFF) | self.pick(&[0, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF]),
            _ => raw,
        }
    }

    /// 64 bits of vector lane: integers as above, or floating-point corners.
    pub(crate) fn lane(&mut self) -> u64 {
        match self.below(4) {
            0 => self.value(),
            1 => u64::from(self.float32()) | u64::from(self.float32()) << 32,
            2 => self.float64(),
            _ => self.next(),
        }
    }

    pub(crate) fn float32(&mut self) -> u32 {
        let sign = (self.below(2) as u32) << 31;
        let raw = self.next() as u32;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7F80_0000,
            2 => 0x7FC0_0000 | (raw & 0x3F_FFFF),
            3 => 0x7F80_0001 | (raw & 0x3F_FFFF),
            4 => 1 + (raw & 0x7F_FFFE),
            5 => 0x7F7F_FFFF,
            6 => 0x0080_0000,
            7 => ((self.below(2000) as i64 - 1000) as f32).abs().to_bits(),
            8 => (f32::from_bits(0x3F80_0000 | (raw & 0x7F_FFFF)) * 2.0_f32.powi(self.below(80) as i32 - 10))
                .to_bits(),
            9 => self.pick(&[0x3F80_0000, 0x3F00_0000, 0x4F00_0000, 0x4EFF_FFFF, 0x5F00_0000, 0x3FC0_0000]),
            _ => raw & 0x7FFF_FFFF,
        }
    }

    pub(crate) fn float64(&mut self) -> u64 {
        let sign = self.below(2) << 63;
        let raw = self.next();
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7FF0_0000_0000_0000,
            2 => 0x7FF8_0000_0000_0000 | (raw & 0x7_FFFF_FFFF_FFFF),
            3 => 0x7FF0_0000_0000_0001 | (raw & 0x7_FFFF_FFFF_FFFF),
            4 => 1 + (raw & 0xF_FFFF_FFFF_FFFE),
            5 => 0x7FEF_FFFF_FFFF_FFFF,
            6 => 0x0010_0000_0000_0000,
            7 => ((self.below(2000) as i64 - 1000) as f64).abs().to_bits(),
            8 => (f64::from_bits(0x3FF0_0000_0000_0000 | (raw & 0xF_FFFF_FFFF_FFFF))
                * 2.0_f64.powi(self.below(80) as i32 - 10))
            .to_bits(),
            9 => self.pick(&[
                1.0_f64.to_bits(),
                0.5_f64.to_bits(),
                1.5_f64.to_bits(),
                2_147_483_648.0_f64.to_bits(),
                2_147_483_647.5_f64.to_bits(),
                9_223_372_036_854_775_808.0_f64.to_bits(),
                f64::from(f32::MAX).to_bits(),
                f64::from(f32::MIN_POSITIVE).to_bits(),
            ]),
            _ => raw & 0x7FFF_FFFF_FFFF_FFFF,
        }
    }

    /// 80 bits of x87 register: (significand, sign and exponent).
    pub(crate) fn float80(&mut self) -> (u64, u16) {
        let sign = (self.below(2) as u16) << 15;
        let raw = self.next();
        let integer = 1_u64 << 63;
        let (significand, exponent) = match self.below(14) {
            0 => (0, 0),
            1 => (integer, 0x7FFF),
            2 => (integer | 1 << 62 | (raw >> 2), 0x7FFF),
            3 => (integer | 1 | (raw >> 2), 0x7FFF),
            4 => (raw >> 1, 0),
            5 => (u64::MAX, 0x7FFE),
            6 => (integer, 1),
            // What no x87 since the 387 makes: unnormals, pseudo-infinities, pseudo-NaNs, pseudo-denormals.
            7 => (raw >> 1, raw as u16 & 0x7FFF),
            8 => (raw | integer, 0),
            9 => {
                let whole = self.below(2000) + 1;
                (whole << whole.leading_zeros(), 16383 + 63 - whole.leading_zeros() as u16)
            }
            10 => (raw | integer, 16383 + self.below(70) as u16),
            11 => (integer, 16383 + self.below(70) as u16 - 5),
            _ => (raw | integer, 16383 - 40 + self.below(80) as u16),
        };
        (significand, sign | exponent)
    }
}
