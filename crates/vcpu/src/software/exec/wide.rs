//! Numbers with 128 bits of significand, for the functions of the x87: wide enough that what is lost on the way never
//! reaches the 64 bits of a result but by its rounding, and the same on every host because it is integers only.

/// `mantissa * 2^(exponent - 127)`, the mantissa's top bit set; or zero, with mantissa 0. No infinities, no NaNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    pub negative: bool,
    pub exponent: i32,
    pub mantissa: u128,
}

const TOP: u128 = 1 << 127;

impl Wide {
    pub(super) const ZERO: Self = Self { negative: false, exponent: 0, mantissa: 0 };
    pub(super) const ONE: Self = Self { negative: false, exponent: 0, mantissa: TOP };

    /// A positive constant.
    pub(super) const fn constant(mantissa: u128, exponent: i32) -> Self {
        Self { negative: false, exponent, mantissa }
    }

    /// `value * 2^scale`.
    pub(super) fn from_integer(value: u128, scale: i32) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        let shift = value.leading_zeros();
        Self { negative: false, exponent: 127 - shift as i32 + scale, mantissa: value << shift }
    }

    pub(super) fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    pub(super) fn negate(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    pub(super) fn with_sign(self, negative: bool) -> Self {
        Self { negative, ..self }
    }

    pub(super) fn abs(self) -> Self {
        self.with_sign(false)
    }

    /// Times `2^power`.
    pub(super) fn scale(self, power: i32) -> Self {
        if self.is_zero() { self } else { Self { exponent: self.exponent + power, ..self } }
    }

    /// The next number: up in magnitude, or down. For what is lost where a sum has one term that counts.
    pub(super) fn nudged(self, up: bool) -> Self {
        if up {
            return Self { mantissa: self.mantissa.saturating_add(1), ..self };
        }
        let mantissa = self.mantissa - 1;
        if mantissa & TOP != 0 {
            return Self { mantissa, ..self };
        }
        Self { mantissa: mantissa << 1 | 1, exponent: self.exponent - 1, ..self }
    }

    /// True if the magnitude is less than the other's.
    pub(super) fn is_smaller(self, other: Self) -> bool {
        match (self.is_zero(), other.is_zero()) {
            (_, true) => false,
            (true, false) => true,
            _ => (self.exponent, self.mantissa) < (other.exponent, other.mantissa),
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        if other.is_zero() {
            return self;
        }
        if self.is_zero() {
            return other;
        }
        let (large, small) = if self.is_smaller(other) { (other, self) } else { (self, other) };
        let distance = (large.exponent - small.exponent) as u32;
        let moved = if distance > 127 { 0 } else { small.mantissa >> distance };
        if large.negative == small.negative {
            let (sum, carry) = large.mantissa.overflowing_add(moved);
            return if carry {
                Self { mantissa: sum >> 1 | TOP, exponent: large.exponent + 1, ..large }
            } else {
                Self { mantissa: sum, ..large }
            };
        }
        // One bit more than fits keeps a difference of neighbours exact.
        let lost = distance > 0 && distance < 128 && small.mantissa >> (distance - 1) & 1 == 1;
        let difference = large.mantissa - moved;
        if difference == 0 {
            return Self::ZERO;
        }
        let shift = difference.leading_zeros();
        let mut mantissa = difference << shift;
        if lost && shift > 0 {
            mantissa -= 1 << (shift - 1);
        }
        let again = mantissa.leading_zeros();
        Self {
            negative: large.negative,
            exponent: large.exponent - (shift + again) as i32,
            mantissa: mantissa << again,
        }
    }

    pub(super) fn sub(self, other: Self) -> Self {
        self.add(other.negate())
    }

    pub(super) fn mul(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        let low = |value: u128| value & u128::from(u64::MAX);
        let (a1, a0) = (self.mantissa >> 64, low(self.mantissa));
        let (b1, b0) = (other.mantissa >> 64, low(other.mantissa));
        let (cross1, cross2) = (a1 * b0, a0 * b1);
        let middle = ((a0 * b0) >> 64) + low(cross1) + low(cross2);
        let high = a1 * b1 + (cross1 >> 64) + (cross2 >> 64) + (middle >> 64);
        let shift = high.leading_zeros();
        // The product of two normalised numbers has its top bit at one of two places.
        let mantissa = if shift == 0 { high } else { high << 1 | (middle >> 63 & 1) };
        Self {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent + 1 - shift as i32,
            mantissa,
        }
    }

    /// The quotient; `other` is not zero.
    pub(super) fn div(self, other: Self) -> Self {
        if self.is_zero() {
            return Self::ZERO;
        }
        debug_assert!(!other.is_zero());
        let divisor = other.mantissa;
        let mut exponent = self.exponent - other.exponent;
        let mut rest = self.mantissa;
        let mut quotient = 0_u128;
        let mut carry = false;
        if rest < divisor {
            exponent -= 1;
            carry = rest & TOP != 0;
            rest <<= 1;
        }
        for _ in 0..128 {
            quotient <<= 1;
            if carry || rest >= divisor {
                rest = rest.wrapping_sub(divisor);
                quotient |= 1;
            }
            carry = rest & TOP != 0;
            rest <<= 1;
        }
        Self { negative: self.negative != other.negative, exponent, mantissa: quotient }
    }

    /// Divided by a small number, which is not zero.
    pub(super) fn div_small(self, divisor: u64) -> Self {
        self.div(Self::from_integer(divisor.into(), 0))
    }

    /// The square root of a number that is not negative.
    pub(super) fn sqrt(self) -> Self {
        if self.is_zero() {
            return self;
        }
        // sqrt(m * 2^e) with e even; then Newton from a guess of 53 bits, each step doubling them.
        let odd = self.exponent & 1;
        let half = (self.exponent - odd) / 2;
        let m = Self { exponent: odd, negative: false, ..self };
        let value = (m.mantissa >> 75) as f64 / (1_u64 << 52) as f64 * f64::from(1 + odd);
        let bits = value.sqrt().to_bits();
        let guess_mantissa = u128::from(bits & ((1 << 52) - 1) | 1 << 52) << 75;
        let guess_exponent = (bits >> 52) as i32 - 1023;
        let mut root = Self { negative: false, exponent: guess_exponent, mantissa: guess_mantissa };
        for _ in 0..2 {
            root = root.add(m.div(root)).scale(-1);
        }
        root.scale(half)
    }
}

#[cfg(test)]
mod tests {
    use super::Wide;

    fn wide(value: f64) -> Wide {
        let bits = value.to_bits();
        let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
        Wide::from_integer(mantissa.into(), (bits >> 52 & 0x7FF) as i32 - 1075).with_sign(value < 0.0)
    }

    fn float(value: Wide) -> f64 {
        let magnitude = value.mantissa as f64 * f64::from(value.exponent - 127).exp2();
        if value.negative { -magnitude } else { magnitude }
    }

    #[test]
    fn the_four_operations_and_the_root_agree_with_doubles() {
        let values = [1.0, 1.5, -3.25, 1e-9, 12345.678, -1e20, 0.1, 7.0];
        for a in values {
            for b in values {
                let (x, y) = (wide(a), wide(b));
                let near = |got: Wide, want: f64| {
                    let got = float(got);
                    assert!((got - want).abs() <= want.abs() * 1e-15, "{a} {b}: {got} {want}");
                };
                near(x.add(y), a + b);
                if a != b {
                    near(x.sub(y), a - b);
                }
                near(x.mul(y), a * b);
                near(x.div(y), a / b);
                near(x.abs().sqrt(), a.abs().sqrt());
            }
        }
        assert_eq!(wide(1.5).sub(wide(1.5)), Wide::ZERO);
        assert_eq!(wide(3.0).div_small(3), Wide::ONE);
    }

    /// (a / b) * b and sqrt(a)^2 come back to all but the last bits.
    #[test]
    fn precision_is_that_of_128_bits() {
        let third = Wide::ONE.div_small(3);
        let error = third.mul(wide(3.0)).sub(Wide::ONE);
        assert!(error.is_zero() || error.exponent < -124, "{error:?}");
        let root = wide(2.0).sqrt();
        let error = root.mul(root).sub(wide(2.0));
        assert!(error.is_zero() || error.exponent < -122, "{error:?}");
    }
}
