//! [`Head`]: the fixed part of a head record, which says what a key is.
//!
//! ```text
//! kind (u8) | flags (u8) | version (u64) | [expires at, ms (u64)] | [generation (u64)] | [length (u64) | chunk bits (u8)] | value ...
//! ```
//!
//! Ten bytes in front of the value of a plain string. An optional field is there if its flag is. A string in chunks has
//! no value here: it is in the sub-records of its generation (see [`chunk`](super::chunk)).

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::join;

/// The type of a key's value. The bytes 0x02 and up are for collections to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A string, whole behind the head or in chunks.
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
/// The value is in sub-records; goes with a generation.
const FLAG_CHUNKED: u8 = 0b100;

/// Kind, flags and version.
const FIXED_BYTES: usize = 10;

/// Length and chunk bits.
const CHUNKED_BYTES: usize = 9;

/// Enough for all fields that there are, which take 35 bytes.
const HEAD_BYTES_MAX: usize = 64;

/// A string whose value is in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    /// Bytes of the value.
    pub len: u64,
    /// A chunk covers `1 << bits` bytes of the value.
    pub bits: u8,
}

impl Chunked {
    /// Bounds of [`Chunked::bits`]: a chunk covers 1 KiB to 1 GiB.
    pub const BITS: std::ops::RangeInclusive<u8> = 10..=30;

    /// Longest value: far beyond what any setting allows, and chunk indexes fit.
    pub const LEN_MAX: u64 = 1 << 32;
}

/// What a head record says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type of the value.
    pub kind: Kind,
    /// Version of the last write; never 0.
    pub version: u64,
    /// When the key expires, milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// Which incarnation the sub-records belong to: the version of the write that began it.
    pub generation: Option<u64>,
    /// The value is in sub-records. Then there is a generation, and nothing behind the head.
    pub chunked: Option<Chunked>,
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
    /// A value in chunks without a generation, of an impossible length or chunk size, or with a value behind its head.
    #[error("impossible chunks in a head record")]
    Chunks,
}

impl Head {
    /// A plain string.
    pub fn string(version: u64, expires_at_ms: Option<u64>) -> Head {
        Head { kind: Kind::String, version, expires_at_ms, generation: None, chunked: None }
    }

    /// The whole record.
    ///
    /// # Panics
    /// If the version is 0, or if the value is in chunks and one is given here.
    pub fn encode(&self, value: &[u8]) -> Bytes {
        join(&[&self.encode_head(value), value])
    }

    /// A record and the key it is stored under, in one piece of memory.
    pub fn encode_with_key(&self, key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
        let mut key_bytes = join(&[key, &self.encode_head(value), value]);
        let record = key_bytes.split_off(key.len());
        (key_bytes, record)
    }

    /// What stands before `value`.
    fn encode_head(&self, value: &[u8]) -> SmallVec<[u8; HEAD_BYTES_MAX]> {
        assert!(self.version != 0, "a record needs a version");
        assert!(self.chunked.is_none() || (self.generation.is_some() && value.is_empty()), "chunks belong elsewhere");
        let mut out = SmallVec::new();
        out.extend_from_slice(&[self.kind as u8, self.flags()]);
        out.extend_from_slice(&self.version.to_be_bytes());
        for field in [self.expires_at_ms, self.generation].into_iter().flatten() {
            out.extend_from_slice(&field.to_be_bytes());
        }
        if let Some(Chunked { len, bits }) = self.chunked {
            out.extend_from_slice(&len.to_be_bytes());
            out.push(bits);
        }
        debug_assert_eq!(out.len(), self.encoded_len());
        out
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
        if flags & !(FLAG_EXPIRES | FLAG_GENERATION | FLAG_CHUNKED) != 0 {
            return Err(HeadError::UnknownFlags(flags));
        }
        let needed = len_with(flags);
        let mut field = || {
            let (bytes, after) = rest.split_first_chunk::<8>().ok_or(truncated(needed))?;
            rest = after;
            Ok(u64::from_be_bytes(*bytes))
        };
        let version = field()?;
        let expires_at_ms = if flags & FLAG_EXPIRES != 0 { Some(field()?) } else { None };
        let generation = if flags & FLAG_GENERATION != 0 { Some(field()?) } else { None };
        let mut chunked = None;
        if flags & FLAG_CHUNKED != 0 {
            let len = field()?;
            let [bits] = *rest else {
                return Err(if rest.is_empty() { truncated(needed) } else { HeadError::Chunks });
            };
            if generation.is_none() || !Chunked::BITS.contains(&bits) || len > Chunked::LEN_MAX {
                return Err(HeadError::Chunks);
            }
            chunked = Some(Chunked { len, bits });
        }
        if version == 0 {
            return Err(HeadError::VersionZero);
        }
        Ok(Head { kind, version, expires_at_ms, generation, chunked })
    }

    /// Bytes in front of the value.
    pub fn encoded_len(&self) -> usize {
        len_with(self.flags())
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
        let chunked = if self.chunked.is_some() { FLAG_CHUNKED } else { 0 };
        expires | generation | chunked
    }
}

/// Bytes of a head with these flags.
fn len_with(flags: u8) -> usize {
    let words = 8 * (flags & (FLAG_EXPIRES | FLAG_GENERATION)).count_ones() as usize;
    FIXED_BYTES + words + if flags & FLAG_CHUNKED != 0 { CHUNKED_BYTES } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        let plain = Head::string(0x0102, None).encode(b"v");
        assert_eq!(&plain[..], b"\x01\x00\0\0\0\0\0\0\x01\x02v");
        let (key, record) = Head::string(0x0102, None).encode_with_key(b"key", b"v");
        assert_eq!((&key[..], record), (&b"key"[..], plain));
        let full = Head { generation: Some(9), ..Head::string(7, Some(0x0A0B)) }.encode(b"");
        assert_eq!(&full[..], b"\x01\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x0a\x0b\0\0\0\0\0\0\0\x09");
        let chunked = Some(Chunked { len: 0x0203, bits: 14 });
        let large = Head { generation: Some(9), chunked, ..Head::string(7, None) }.encode(b"");
        assert_eq!(&large[..], b"\x01\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\x02\x03\x0e");
    }

    #[test]
    fn every_shape_survives_the_round_trip() {
        for expires_at_ms in [None, Some(0), Some(u64::MAX)] {
            let chunks = Some(Chunked { len: Chunked::LEN_MAX, bits: 30 });
            for (generation, chunked) in [(None, None), (Some(5), None), (Some(5), chunks)] {
                let head = Head { kind: Kind::String, version: 1, expires_at_ms, generation, chunked };
                let value = if chunked.is_some() { &b""[..] } else { b"value" };
                let record = head.encode(value);
                assert_eq!(Head::decode(&record), Ok(head));
                assert_eq!(&head.value(&record)[..], value);
                assert_eq!(&head.into_value(record.clone())[..], value);
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
        record[1] = 0b1000;
        assert_eq!(Head::decode(&record), Err(HeadError::UnknownFlags(0b1000)));
        let large =
            |bits| Head { generation: Some(9), chunked: Some(Chunked { len: 1, bits }), ..Head::string(7, None) };
        assert_eq!(Head::decode(&large(9).encode(b"")), Err(HeadError::Chunks));
        assert_eq!(Head::decode(&large(31).encode(b"")), Err(HeadError::Chunks));
        assert_eq!(Head::decode(&[&large(14).encode(b"")[..], b"v"].concat()), Err(HeadError::Chunks));
        let mut without_generation = Head::string(7, None).encode(b"\0\0\0\0\0\0\0\x01\x0e").to_vec();
        without_generation[1] = FLAG_CHUNKED;
        assert_eq!(Head::decode(&without_generation), Err(HeadError::Chunks));
        assert_eq!(Head::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(HeadError::VersionZero));
    }

    #[test]
    fn a_key_expires_when_its_deadline_comes() {
        let head = Head::string(1, Some(100));
        assert!(!head.expired_at(99) && head.expired_at(100) && head.expired_at(101));
        assert!(!Head::string(1, None).expired_at(u64::MAX));
    }
}
