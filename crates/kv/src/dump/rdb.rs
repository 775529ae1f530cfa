//! A string as RDB files have it.
//!
//! ```text
//! 00 | length | bytes                         length: 00xxxxxx, 01xxxxxx x8, 10000000 u32 BE, 10000001 u64 BE
//! 00 | 11000000 i8                            the integer in text; also 11000001 i16 LE, 11000010 i32 LE
//! 00 | 11000011 | length | length | LZF       compressed: packed length, length, packed bytes
//! ```

use crate::number::parse_i64;

/// The type byte of a string.
const TYPE_STRING: u8 = 0;
/// The highest type byte that Redis 7.0 knows.
const TYPE_MAX: u8 = 21;
/// Not types of values.
const TYPES_UNKNOWN: [u8; 1] = [8];

/// Longest text that is looked at as an integer.
const INTEGER_BYTES_MAX: usize = 11;

/// Why a payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RdbError {
    Malformed,
    /// A value of a type that does not exist here.
    OtherType,
    TooLong,
}

/// Type and value. Never compressed: what Redis writes compressed depends on what its memory held before.
pub(super) fn encode_string(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 32);
    out.push(TYPE_STRING);
    let integer = if value.len() <= INTEGER_BYTES_MAX { parse_i64(value) } else { None };
    match integer.map(i32::try_from) {
        Some(Ok(integer)) => encode_integer(&mut out, integer),
        _ => {
            encode_length(&mut out, value.len());
            out.extend_from_slice(value);
        }
    }
    out
}

fn encode_integer(out: &mut Vec<u8>, integer: i32) {
    if let Ok(byte) = i8::try_from(integer) {
        out.extend_from_slice(&[0xC0, byte.cast_unsigned()]);
    } else if let Ok(short) = i16::try_from(integer) {
        out.push(0xC1);
        out.extend_from_slice(&short.to_le_bytes());
    } else {
        out.push(0xC2);
        out.extend_from_slice(&integer.to_le_bytes());
    }
}

fn encode_length(out: &mut Vec<u8>, len: usize) {
    match len {
        0..0x40 => out.push(len as u8),
        0x40..0x4000 => out.extend_from_slice(&(len as u16 | 0x4000).to_be_bytes()),
        _ => match u32::try_from(len) {
            Ok(len) => {
                out.push(0x80);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        },
    }
}

/// The string of a payload's body. As in Redis, what stands behind it is not looked at.
pub(super) fn decode_string(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, RdbError> {
    let mut input = Input(body);
    match input.byte()? {
        TYPE_STRING => {}
        other if other <= TYPE_MAX && !TYPES_UNKNOWN.contains(&other) => return Err(RdbError::OtherType),
        _ => return Err(RdbError::Malformed),
    }
    match input.length()? {
        Length::Plain(len) => {
            let bytes = input.take(len)?;
            if bytes.len() > bytes_max { Err(RdbError::TooLong) } else { Ok(bytes.to_vec()) }
        }
        Length::Encoded(0) => input.array::<1>().map(|bytes| i8::from_le_bytes(bytes).to_string().into_bytes()),
        Length::Encoded(1) => input.array::<2>().map(|bytes| i16::from_le_bytes(bytes).to_string().into_bytes()),
        Length::Encoded(2) => input.array::<4>().map(|bytes| i32::from_le_bytes(bytes).to_string().into_bytes()),
        Length::Encoded(3) => {
            let (packed_len, len) = (input.plain_length()?, input.plain_length()?);
            let packed = input.take(packed_len)?;
            let len = usize::try_from(len).map_err(|_| RdbError::Malformed)?;
            if len > bytes_max {
                return Err(RdbError::TooLong);
            }
            unpack(packed, len).ok_or(RdbError::Malformed)
        }
        Length::Encoded(_) => Err(RdbError::Malformed),
    }
}

enum Length {
    Plain(u64),
    /// A string in another form.
    Encoded(u8),
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], RdbError> {
        let len = usize::try_from(len).map_err(|_| RdbError::Malformed)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RdbError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(RdbError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.array::<1>()?[0])
    }

    fn length(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        let low = u64::from(first & 0x3F);
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(low),
            (1, _) => Length::Plain(low << 8 | u64::from(self.byte()?)),
            (2, 0x80) => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            (2, 0x81) => Length::Plain(u64::from_be_bytes(self.array()?)),
            (2, _) => return Err(RdbError::Malformed),
            _ => Length::Encoded(first & 0x3F),
        })
    }

    fn plain_length(&mut self) -> Result<u64, RdbError> {
        match self.length()? {
            Length::Plain(len) => Ok(len),
            // Redis takes the number of the form for a length here.
            Length::Encoded(form) => Ok(form.into()),
        }
    }
}

/// LZF (Marc Lehmann's): runs of literals, and copies of what came before. None unless it makes exactly `len` bytes.
fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    // Three bytes of input make at most 264 of output: a length that is a lie reserves no memory.
    let mut out = Vec::with_capacity(len.min(packed.len().saturating_mul(88)));
    let mut input = Input(packed);
    while let Ok(control) = input.byte() {
        let control = usize::from(control);
        if control < 32 {
            out.extend_from_slice(input.take(control as u64 + 1).ok()?);
        } else {
            let mut count = (control >> 5) + 2;
            if count == 9 {
                count += usize::from(input.byte().ok()?);
            }
            let distance = ((control & 0x1F) << 8 | usize::from(input.byte().ok()?)) + 1;
            let start = out.len().checked_sub(distance)?;
            if out.len() + count > len {
                return None;
            }
            // It may copy what it has just written.
            for at in start..start + count {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_the_forms_of_rdb_files() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"", b"\0\0"),
            (b"ab", b"\0\x02ab"),
            (b"7", b"\0\xC0\x07"),
            (b"-1", b"\0\xC0\xFF"),
            (b"300", b"\0\xC1\x2C\x01"),
            (b"-2147483648", b"\0\xC2\0\0\0\x80"),
            (b"2147483648", b"\0\x0A2147483648"),
            (b"007", b"\0\x03007"),
        ];
        for (value, encoded) in cases {
            assert_eq!(encode_string(value), encoded);
            assert_eq!(decode_string(encoded, 100), Ok(value.to_vec()));
        }
        for len in [63, 64, 0x3FFF, 0x4000] {
            let value = vec![b'x'; len];
            assert_eq!(decode_string(&encode_string(&value), len), Ok(value.clone()));
            assert_eq!(decode_string(&encode_string(&value), len - 1), Err(RdbError::TooLong));
        }
        assert_eq!(decode_string(b"\0\x81\0\0\0\0\0\0\0\x02ab", 2), Ok(b"ab".to_vec()));
    }

    #[test]
    fn compressed_strings_are_unpacked() {
        // One literal, then a copy of it.
        assert_eq!(unpack(b"\0a\xE0\0\0", 10), Some(b"aaaaaaaaaa".to_vec()));
        assert_eq!(decode_string(b"\0\xC3\x05\x0A\0a\xE0\0\0", 10), Ok(b"aaaaaaaaaa".to_vec()));
        for (packed, len) in
            [(&b"\0a\xE0\0\0"[..], 9), (b"\0a\xE0\0\0", 11), (b"\0a\xE0\0\x01", 10), (b"\x05a", 6), (b"\0a\xE0", 10)]
        {
            assert_eq!(unpack(packed, len), None);
        }
        assert_eq!(unpack(b"", usize::MAX), None);
        assert_eq!(decode_string(b"\0\xC3\x01\xBF\0", 10), Err(RdbError::Malformed));
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for body in [&b""[..], b"\0", b"\0\x02a", b"\0\xC4", b"\0\xC1\0", b"\0\x82\0\0\0\0", b"\x08\0", b"\xFE\0"] {
            assert_eq!(decode_string(body, 100), Err(RdbError::Malformed), "{body:?}");
        }
        assert_eq!(decode_string(b"\x01\x01\x01a", 100), Err(RdbError::OtherType));
    }
}
