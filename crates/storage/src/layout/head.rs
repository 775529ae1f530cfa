//! [`Head`]: the fixed part of a head record, which says what a key is.
//!
//! ```text
//! kind (u8) | flags (u8) | version (u64) | [expires at, ms (u64)] | [generation (u64)] | value ...
//! ```
//!
//! Ten bytes in front of the value of a plain string. An optional field is there if its flag is.

use bytes::{Buf, Bytes};

/// The type of a key's value. The bytes 0x02 and up are for collections to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A string, whole behind the head.
    String = 0x01,
}

impl Kind {
    /// The name `TYPE` answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
        }
    }
}

const FLAG_EXPIRES: u8 = 0b001;
const FLAG_GENERATION: u8 = 0b010;
/// The value is in sub-records. Reserved for large strings; nothing writes it yet, so it is refused.
const FLAG_CHUNKED: u8 = 0b100;

/// Kind, flags and version.
const FIXED_BYTES: usize = 10;

/// What a head record says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type of the value.
    pub kind: Kind,
    /// Version of the last write; never 0.
    pub version: u64,
    /// When the key expires, milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// Which incarnation the sub-records of a collection belong to.
    pub generation: Option<u64>,
}

/// What is wrong with a head record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Shorter than its flags promise.
    #[error("head record of {len} bytes is cut short, its fields need {needed}")]
    Truncated {
        /// Bytes there are.
        len: usize,
        /// Bytes its fields take.
        needed: usize,
    },
    /// A type this build does not know.
    #[error("unknown kind {0:#04x} in a head record")]
    UnknownKind(u8),
    /// A flag this build does not know: the fields behind it cannot be found.
    #[error("unknown flags {0:#010b} in a head record")]
    UnknownFlags(u8),
    /// Version 0 means absent and is never stored.
    #[error("version 0 in a head record")]
    VersionZero,
}

impl Head {
    /// A plain string.
    pub fn string(version: u64, expires_at_ms: Option<u64>) -> Head {
        Head { kind: Kind::String, version, expires_at_ms, generation: None }
    }

    /// The whole record.
    ///
    /// # Panics
    /// If the version is 0.
    pub fn encode(&self, value: &[u8]) -> Bytes {
        assert!(self.version != 0, "a record needs a version");
        let mut out = Vec::with_capacity(self.encoded_len() + value.len());
        out.extend_from_slice(&[self.kind as u8, self.flags()]);
        out.extend_from_slice(&self.version.to_be_bytes());
        for field in [self.expires_at_ms, self.generation].into_iter().flatten() {
            out.extend_from_slice(&field.to_be_bytes());
        }
        debug_assert_eq!(out.len(), self.encoded_len());
        out.extend_from_slice(value);
        Bytes::from(out)
    }

    /// Reads the head of a record. The value is the rest: `record[head.encoded_len()..]`, see [`Head::value`].
    ///
    /// # Errors
    /// If this is not a head record as this build writes them; see [`HeadError`].
    pub fn decode(record: &[u8]) -> Result<Head, HeadError> {
        let truncated = |needed| HeadError::Truncated { len: record.len(), needed };
        let (&[kind, flags], mut rest) = record.split_first_chunk::<2>().ok_or(truncated(FIXED_BYTES))?;
        let kind = match kind {
            0x01 => Kind::String,
            unknown => return Err(HeadError::UnknownKind(unknown)),
        };
        if flags & !(FLAG_EXPIRES | FLAG_GENERATION) != 0 {
            return Err(HeadError::UnknownFlags(flags));
        }
        let needed = FIXED_BYTES + 8 * flags.count_ones() as usize;
        let mut field = || {
            let (bytes, after) = rest.split_first_chunk::<8>().ok_or(truncated(needed))?;
            rest = after;
            Ok(u64::from_be_bytes(*bytes))
        };
        let version = field()?;
        let expires_at_ms = if flags & FLAG_EXPIRES != 0 { Some(field()?) } else { None };
        let generation = if flags & FLAG_GENERATION != 0 { Some(field()?) } else { None };
        if version == 0 {
            return Err(HeadError::VersionZero);
        }
        Ok(Head { kind, version, expires_at_ms, generation })
    }

    /// Bytes in front of the value.
    pub fn encoded_len(&self) -> usize {
        FIXED_BYTES + 8 * self.flags().count_ones() as usize
    }

    /// The value of the record that this head was decoded from, sharing its memory.
    pub fn value(&self, record: &Bytes) -> Bytes {
        record.slice(self.encoded_len()..)
    }

    /// As [`Head::value`], of a record that is no longer needed: moves a pointer and shares nothing.
    pub fn into_value(self, mut record: Bytes) -> Bytes {
        record.advance(self.encoded_len());
        record
    }

    /// Whether the key has expired at `now_ms`: its deadline has come.
    pub fn expired_at(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
    }

    fn flags(&self) -> u8 {
        let expires = if self.expires_at_ms.is_some() { FLAG_EXPIRES } else { 0 };
        let generation = if self.generation.is_some() { FLAG_GENERATION } else { 0 };
        expires | generation
    }
}

const _: () = assert!(FLAG_CHUNKED & (FLAG_EXPIRES | FLAG_GENERATION) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        let plain = Head::string(0x0102, None).encode(b"v");
        assert_eq!(&plain[..], b"\x01\x00\0\0\0\0\0\0\x01\x02v");
        let full = Head { generation: Some(9), ..Head::string(7, Some(0x0A0B)) }.encode(b"");
        assert_eq!(&full[..], b"\x01\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x0a\x0b\0\0\0\0\0\0\0\x09");
    }

    #[test]
    fn every_shape_survives_the_round_trip() {
        for expires_at_ms in [None, Some(0), Some(u64::MAX)] {
            for generation in [None, Some(5)] {
                let head = Head { kind: Kind::String, version: 1, expires_at_ms, generation };
                let record = head.encode(b"value");
                assert_eq!(Head::decode(&record), Ok(head));
                assert_eq!(&head.value(&record)[..], b"value");
                assert_eq!(&head.into_value(record.clone())[..], b"value");
                for cut in 0..head.encoded_len() {
                    assert!(
                        matches!(Head::decode(&record[..cut]), Err(HeadError::Truncated { len, .. }) if len == cut)
                    );
                }
            }
        }
    }

    #[test]
    fn the_unknown_is_refused() {
        let mut record = Head::string(1, None).encode(b"v").to_vec();
        record[0] = 0x09;
        assert_eq!(Head::decode(&record), Err(HeadError::UnknownKind(9)));
        record[0] = 0x01;
        record[1] = FLAG_CHUNKED;
        assert_eq!(Head::decode(&record), Err(HeadError::UnknownFlags(FLAG_CHUNKED)));
        assert_eq!(Head::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(HeadError::VersionZero));
    }

    #[test]
    fn a_key_expires_when_its_deadline_comes() {
        let head = Head::string(1, Some(100));
        assert!(!head.expired_at(99) && head.expired_at(100) && head.expired_at(101));
        assert!(!Head::string(1, None).expired_at(u64::MAX));
    }
}
