//! The functions of the x87, on numbers: sine and cosine, arc tangent, exponential and logarithm of base two.
//!
//! Each is exact to some 115 bits before it is rounded to 64, so its results are the correctly rounded ones but for about
//! one in 2^50, and they are the same on every host. As in every x87 since the 80387, angles are reduced by a value of pi
//! with 66 bits (SDM volume 1, section 8.3.8), which is what programs that know of it expect.

use super::wide::Wide;

const LN_2: Wide = Wide::constant(0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF, -1);
const LOG2_E: Wide = Wide::constant(0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88, 0);
pub(super) const PI: Wide = Wide::constant(0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1, 1);

/// Pi with 66 bits: this, times 2^-64.
const PI_66: u128 = 0x3_243F_6A88_85A3_08D3;

/// Terms below this share of the sum do not matter.
const NEGLIGIBLE: i32 = -130;

/// The angle modulo pi/4, exactly, and the number of the eighth of a turn modulo 8. `|x| < 2^63`, not zero.
fn reduce(x: Wide) -> (Wide, u32) {
    // In units of 2^-66, a quarter of pi is PI_66 itself, and x is its 64 bits times 2^scale.
    if x.exponent < -1 {
        // Less than half is less than pi/4.
        return (x.abs(), 0);
    }
    let mut value = x.mantissa >> 64;
    let scale = x.exponent + 3;
    let mut eighth = 0;
    for _ in 0..scale {
        eighth = eighth << 1 & 7;
        value <<= 1;
        if value >= PI_66 {
            value -= PI_66;
            eighth |= 1;
        }
    }
    (Wide::from_integer(value, -66), eighth)
}

/// Below this exponent a function that begins like its argument is the argument, and a little less or more.
const TINY: i32 = -70;

/// The sum of `first` and of `term(1)`, `term(2)` and so on, to the last one that matters.
fn series(first: Wide, mut term: impl FnMut(u64) -> Wide) -> Wide {
    let mut sum = first;
    for n in 1..80 {
        let term = term(n);
        if term.is_zero() || term.exponent - sum.exponent < NEGLIGIBLE {
            break;
        }
        sum = sum.add(term);
    }
    sum
}

/// Sums `first` and its followers: each term is the one before it times `y / divisor(n)`.
fn products(first: Wide, y: Wide, divisor: impl Fn(u64) -> u64) -> Wide {
    let mut last = first;
    series(first, |n| {
        last = last.mul(y).div_small(divisor(n));
        last
    })
}

/// Sums `first * y^n / (2n + 1)`.
fn odd_parts(first: Wide, y: Wide) -> Wide {
    let mut power = first;
    series(first, |n| {
        power = power.mul(y);
        power.div_small(2 * n + 1)
    })
}

/// Sine and cosine of 0 to pi/4.
fn sine_cosine_small(r: Wide) -> (Wide, Wide) {
    let square = r.mul(r).negate();
    let sine = products(r, square, |n| 2 * n * (2 * n + 1));
    let cosine = products(Wide::ONE, square, |n| (2 * n - 1) * 2 * n);
    (sine, cosine)
}

/// Sine and cosine of an angle. `|x| < 2^63`, not zero.
pub(super) fn sine_cosine(x: Wide) -> (Wide, Wide) {
    if x.exponent < TINY {
        return (x.nudged(false), Wide::ONE.nudged(false));
    }
    let (rest, eighth) = reduce(x);
    let quarter = Wide::from_integer(PI_66, -66);
    let rest = if eighth & 1 == 1 { quarter.sub(rest) } else { rest };
    let (s, c) = sine_cosine_small(rest);
    let (s, c) = if matches!(eighth, 1 | 2 | 5 | 6) { (c, s) } else { (s, c) };
    let s = s.with_sign((eighth >= 4) != x.negative);
    (s, c.with_sign(matches!(eighth, 2..=5)))
}

/// The tangent of an angle. `|x| < 2^63`, not zero.
pub(super) fn tangent(x: Wide) -> Wide {
    if x.exponent < TINY {
        return x.nudged(true);
    }
    let (sine, cosine) = sine_cosine(x);
    sine.div(cosine)
}

/// The arc tangent of `y / x` for two positive numbers, in the first quadrant.
pub(super) fn arc_tangent(y: Wide, x: Wide) -> Wide {
    let swap = x.is_smaller(y);
    let mut t = if swap { x.div(y) } else { y.div(x) };
    if t.exponent < TINY {
        return if swap { PI.scale(-1).sub(t) } else { t.nudged(false) };
    }
    // The half of the angle, three times: atan(t) = 2 atan(t / (1 + sqrt(1 + t^2))).
    let mut halved = 0;
    while halved < 3 && t.exponent >= -4 {
        t = t.div(Wide::ONE.add(Wide::ONE.add(t.mul(t)).sqrt()));
        halved += 1;
    }
    let angle = odd_parts(t, t.mul(t).negate()).scale(halved);
    if swap { PI.scale(-1).sub(angle) } else { angle }
}

/// `2 * atanh(s)` over ln 2: the logarithm to base two of `(1 + s) / (1 - s)`.
fn log2_of_ratio(s: Wide) -> Wide {
    odd_parts(s, s.mul(s)).scale(1).mul(LOG2_E)
}

/// The logarithm to base two of a positive number.
pub(super) fn log2(x: Wide) -> Wide {
    // 0.75 <= m < 1.5
    let up = i32::from(x.mantissa >> 126 == 3);
    let power = x.exponent + up;
    let m = Wide { exponent: -up, ..x };
    let fraction = log2_of_ratio(m.sub(Wide::ONE).div(m.add(Wide::ONE)));
    let whole = Wide::from_integer(u128::from(power.unsigned_abs()), 0).with_sign(power < 0);
    whole.add(fraction)
}

/// The logarithm to base two of `1 + x`, for `x > -1`.
pub(super) fn log2_plus_1(x: Wide) -> Wide {
    if x.exponent >= -1 {
        return log2(Wide::ONE.add(x));
    }
    log2_of_ratio(x.div(x.add(Wide::ONE.scale(1))))
}

/// `2^x - 1`, for `|x| <= 1`.
pub(super) fn exp2_minus_1(x: Wide) -> Wide {
    let z = x.mul(LN_2);
    products(z, z, |n| n + 1)
}
