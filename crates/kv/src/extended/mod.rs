//! [`Extended`]: the 80-bit floating-point numbers of the x87, in software, for INCRBYFLOAT.
//!
//! Redis does INCRBYFLOAT in C's `long double`, which on the machines people run it on is this format: a sign, a 15-bit
//! exponent and a 64-bit significand without a hidden bit. `0.1 + 0.2` is `0.3` in it, and is not in an `f64`. To
//! answer what Redis answers, bit for bit and on every machine, reading, adding and printing are done here on integers:
//! correctly rounded, ties to even, with gradual underflow. Printing is C's `%.17Lf` with the trailing zeros cut.
//!
//! Cost is bounded: a number has at most [`Extended::CHARS_MAX`] characters, and one whose magnitude cannot fit is
//! refused before any big number is built.

mod big;
mod parse;

use self::big::Big;

/// A number that is not NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extended {
    /// `(-1)^negative * significand * 2^exponent`. Normal numbers have the significand's top bit set; subnormal ones
    /// and zero have the lowest exponent.
    Finite {
        /// The sign.
        negative: bool,
        /// All 64 bits of it.
        significand: u64,
        /// Of the significand's lowest bit.
        exponent: i32,
    },
    /// More than fits.
    Infinite {
        /// The sign.
        negative: bool,
    },
}

/// Exponent of the lowest bit of the smallest number.
const EXPONENT_MIN: i32 = -16445;
/// Exponent of the lowest bit of the largest numbers.
const EXPONENT_MAX: i32 = 16320;

/// Digits behind the point that are printed.
const FRACTION_DIGITS: usize = 17;
const FRACTION_SCALE: u128 = 10u128.pow(FRACTION_DIGITS as u32);

impl Extended {
    /// Longest text that is read as a number, as in Redis.
    pub(crate) const CHARS_MAX: usize = 5 * 1024 - 1;

    /// Zero.
    pub(crate) const ZERO: Extended = Extended::Finite { negative: false, significand: 0, exponent: EXPONENT_MIN };

    /// Reads a number as C's `strtold` does, where Redis accepts it: decimal or hexadecimal, `inf` and `infinity`; no
    /// space around it, no NaN, nothing that over- or underflows.
    pub(crate) fn parse(text: &[u8]) -> Option<Extended> {
        parse::parse(text)
    }

    /// The nearest number to `(-1)^negative * (wide + d) * 2^exponent`, where `d` is 0, or anything between 0 and 1 if
    /// `inexact`; then `wide` must have 66 bits or more.
    fn rounded(negative: bool, wide: u128, inexact: bool, exponent: i64) -> Extended {
        if wide == 0 && !inexact {
            return Extended::Finite { negative, significand: 0, exponent: EXPONENT_MIN };
        }
        let bits = i64::from(u128::BITS - wide.leading_zeros());
        debug_assert!(!inexact || bits >= 66, "an inexact significand of {bits} bits");
        let drop = (bits - 64).max(i64::from(EXPONENT_MIN) - exponent);
        let mut exponent = exponent + drop;
        let mut significand = match u32::try_from(drop) {
            Ok(drop) => round_off(wide, drop, inexact),
            // Fewer than 64 bits, all exact: move them up.
            Err(_) => wide << drop.unsigned_abs(),
        };
        if significand >> 64 != 0 {
            significand >>= 1;
            exponent += 1;
        }
        if exponent > i64::from(EXPONENT_MAX) {
            return Extended::Infinite { negative };
        }
        let significand = u64::try_from(significand).expect("rounded to 64 bits");
        let exponent = i32::try_from(exponent).expect("between the least and the greatest exponent");
        Extended::Finite { negative, significand, exponent }
    }

    /// The nearest number to the sum; none where it would be NaN.
    pub(crate) fn sum(self, other: Extended) -> Option<Extended> {
        use Extended::{Finite, Infinite};
        let (large, small) = match (self, other) {
            (Infinite { negative: a }, Infinite { negative: b }) => return (a == b).then_some(self),
            (Infinite { .. }, Finite { .. }) => return Some(self),
            (Finite { .. }, Infinite { .. }) => return Some(other),
            (Finite { .. }, Finite { .. }) if self.order() >= other.order() => (self, other),
            (Finite { .. }, Finite { .. }) => (other, self),
        };
        let (
            Finite { negative, significand: large, exponent: large_exponent },
            Finite { negative: small_negative, significand: small, exponent: small_exponent },
        ) = (large, small)
        else {
            unreachable!("both are finite");
        };
        // 62 spare bits below the larger one, one above for the carry.
        const SPARE_BITS: u32 = 62;
        let wide = u128::from(large) << SPARE_BITS;
        let distance = (large_exponent - small_exponent).unsigned_abs();
        let aligned = u128::from(small) << SPARE_BITS;
        let shifted = aligned.checked_shr(distance).unwrap_or(0);
        let inexact = aligned != 0 && (distance > aligned.trailing_zeros());
        let exponent = i64::from(large_exponent) - i64::from(SPARE_BITS);
        Some(if negative == small_negative {
            Extended::rounded(negative, wide + shifted, inexact, exponent)
        } else {
            let difference = wide - shifted - u128::from(inexact);
            // An exact zero is positive, whatever the signs were.
            Extended::rounded(negative && (difference != 0 || inexact), difference, inexact, exponent)
        })
    }

    /// Sorts by magnitude.
    fn order(self) -> (i32, u64) {
        match self {
            Extended::Finite { significand, exponent, .. } => (exponent, significand),
            Extended::Infinite { .. } => (i32::MAX, 0),
        }
    }

    /// The number with up to 17 digits behind the point; none for an infinity.
    pub(crate) fn to_decimal(self) -> Option<String> {
        let Extended::Finite { negative, significand, exponent } = self else {
            return None;
        };
        let mut text = match u32::try_from(exponent) {
            Ok(exponent) => {
                let mut whole = Big::from_u64(significand);
                whole.shift_left(exponent);
                whole.to_decimal()
            }
            // 64 bits times 10^17 (57 bits) fit; a shift beyond all of them leaves less than half a digit.
            Err(_) => {
                let scaled = round_off(u128::from(significand) * FRACTION_SCALE, exponent.unsigned_abs(), false);
                fixed_point(scaled)
            }
        };
        if negative && text != "0" {
            text.insert(0, '-');
        }
        Some(text)
    }
}

/// `wide / 2^drop`, to the nearest, ties to even. `inexact`: there is something below the lowest bit.
fn round_off(wide: u128, drop: u32, inexact: bool) -> u128 {
    if drop == 0 {
        // Callers with something below the lowest bit have bits to drop.
        debug_assert!(!inexact);
        return wide;
    }
    let kept = wide.checked_shr(drop).unwrap_or(0);
    let dropped = if drop < 128 { wide & ((1 << drop) - 1) } else { wide };
    // Half of a unit of what is kept; beyond 128 bits everything is below it.
    let up = match 1u128.checked_shl(drop - 1) {
        Some(half) => dropped > half || (dropped == half && (inexact || kept & 1 == 1)),
        None => false,
    };
    kept + u128::from(up)
}

/// `scaled / 10^17` without trailing zeros.
fn fixed_point(scaled: u128) -> String {
    let whole = scaled / FRACTION_SCALE;
    let fraction = format!("{:0width$}", scaled % FRACTION_SCALE, width = FRACTION_DIGITS);
    match fraction.trim_end_matches('0') {
        "" => whole.to_string(),
        digits => format!("{whole}.{digits}"),
    }
}

#[cfg(test)]
mod tests;
