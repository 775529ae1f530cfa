//! Reading a number: the grammar of C's `strtold`, less what Redis refuses.

use super::{Big, EXPONENT_MIN, Extended};

/// Exponents in the text beyond this are as good as infinite; far from overflowing an `i64` with any number of digits.
const TEXT_EXPONENT_MAX: i64 = 1 << 32;

/// Decimal magnitudes (exponent of the first digit, plus one) beyond these over- or underflow: the largest number is
/// about 1.2e4932, and half the smallest about 1.8e-4951.
const MAGNITUDE_MAX: i64 = 4933;
const MAGNITUDE_MIN: i64 = -4951;

pub(super) fn parse(text: &[u8]) -> Option<Extended> {
    if text.len() > Extended::CHARS_MAX {
        return None;
    }
    let (negative, unsigned) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
        return Some(Extended::Infinite { negative });
    }
    let number = match unsigned {
        [b'0', b'x' | b'X', hex @ ..] => parse_hex(negative, hex)?,
        decimal => parse_decimal(negative, decimal)?,
    };
    match number {
        Number::Zero => Some(Extended::Finite { negative, significand: 0, exponent: EXPONENT_MIN }),
        // What is not zero in the text but is nothing or infinite as a number is out of range.
        Number::Rounded(Extended::Infinite { .. } | Extended::Finite { significand: 0, .. }) => None,
        Number::Rounded(number) => Some(number),
    }
}

enum Number {
    Zero,
    Rounded(Extended),
}

/// The parts of a number: its digits without the point and without leading zeros, and the exponent of the last digit.
struct Parts {
    digits: Vec<u8>,
    /// How many digits were behind the point.
    behind_point: i64,
    exponent: i64,
}

/// Splits `digits [. digits] [mark [sign] digits]`; none if it is anything else.
fn split(text: &[u8], is_digit: fn(&u8) -> bool, mark: u8) -> Option<Parts> {
    let end = text.iter().position(|byte| byte.to_ascii_lowercase() == mark).unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(end);
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let whole = &mantissa[..point];
    let fraction = mantissa.get(point + 1..).unwrap_or(&[]);
    if whole.is_empty() && fraction.is_empty() || !whole.iter().chain(fraction).all(is_digit) {
        return None;
    }
    let digits = whole.iter().chain(fraction).copied().skip_while(|digit| *digit == b'0').collect();
    let exponent = if exponent.is_empty() { 0 } else { parse_exponent(&exponent[1..])? };
    Some(Parts { digits, behind_point: fraction.len() as i64, exponent })
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0, |value, digit| (value * 10 + i64::from(digit - b'0')).min(TEXT_EXPONENT_MAX));
    Some(if negative { -magnitude } else { magnitude })
}

fn parse_decimal(negative: bool, text: &[u8]) -> Option<Number> {
    let Parts { digits, behind_point, exponent } = split(text, u8::is_ascii_digit, b'e')?;
    if digits.is_empty() {
        return Some(Number::Zero);
    }
    let tens = exponent - behind_point;
    let magnitude = digits.len() as i64 + tens;
    if !(MAGNITUDE_MIN..=MAGNITUDE_MAX).contains(&magnitude) {
        return None;
    }
    let mut numerator = Big::from_digits(&digits);
    let power = u32::try_from(tens.unsigned_abs()).expect("bounded by magnitude and length");
    if tens >= 0 {
        numerator.scale(power);
        let (top, below, cut) = numerator.top();
        return Some(Number::Rounded(Extended::rounded(negative, top, cut, i64::from(below))));
    }
    let mut divisor = Big::from_u64(1);
    divisor.scale(power);
    // A quotient of 100 or 101 bits: more than enough to round to 64, and less than 128.
    const QUOTIENT_BITS: i64 = 100;
    let shift = QUOTIENT_BITS + i64::from(divisor.bits()) - i64::from(numerator.bits());
    let by = u32::try_from(shift.unsigned_abs()).expect("bounded by magnitude and length");
    if shift >= 0 {
        numerator.shift_left(by)
    } else {
        divisor.shift_left(by)
    }
    let (quotient, remainder) = numerator.divide(&divisor);
    Some(Number::Rounded(Extended::rounded(negative, quotient, remainder, -shift)))
}

fn parse_hex(negative: bool, text: &[u8]) -> Option<Number> {
    let Parts { digits, behind_point, exponent } = split(text, u8::is_ascii_hexdigit, b'p')?;
    if digits.is_empty() {
        return Some(Number::Zero);
    }
    let mut wide: u128 = 0;
    let mut inexact = false;
    let mut exponent = exponent - 4 * behind_point;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit.to_ascii_lowercase() - b'a' + 10,
        };
        if wide >> 124 == 0 {
            wide = (wide << 4) | u128::from(value);
        } else {
            inexact |= value != 0;
            exponent += 4;
        }
    }
    Some(Number::Rounded(Extended::rounded(negative, wide, inexact, exponent)))
}
