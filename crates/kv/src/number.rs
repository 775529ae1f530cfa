//! Integers in text, as strict as Redis: one spelling for each number.

use crate::context::errors;
use crate::evaluation::Stop;

/// Longest spelling: `-9223372036854775808`.
pub(crate) const I64_CHARS_MAX: usize = 20;

/// Reads a signed 64-bit integer. No plus sign, no space, no leading zero, no `-0`.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    if text.len() > I64_CHARS_MAX {
        return None;
    }
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let mut magnitude: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Built downwards, because the negative side reaches one further.
        magnitude = magnitude.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(magnitude) } else { magnitude.checked_neg() }
}

/// Reads what Redis reads into a C `int`.
pub(crate) fn parse_int(text: &[u8]) -> Result<i32, Stop> {
    let value = parse_i64(text).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    i32::try_from(value).map_err(|_| Stop::error(errors::INT_OUT_OF_RANGE))
}

#[cfg(test)]
mod tests {
    use super::parse_i64;

    #[test]
    fn one_spelling_for_each_integer() {
        for good in ["0", "7", "-1", "10", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(parse_i64(good.as_bytes()), Some(good.parse().unwrap()));
        }
        for bad in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "-01",
            "00",
            "1.0",
            "1e3",
            "0x10",
            "a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "100000000000000000000",
        ] {
            assert_eq!(parse_i64(bad.as_bytes()), None, "{bad}");
        }
    }
}
