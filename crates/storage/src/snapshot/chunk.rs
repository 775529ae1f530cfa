//! The bytes of a chunk: header, body. Pure; `docs/storage.md` draws them.
//!
//! All numbers are little-endian. A chunk says by itself what it is, which one of which snapshot, and whether it is
//! whole. [`parse`] trusts nothing: it looks at each length before it uses it, and allocates nothing that a length asks for.

use std::ops::Range;

use bytes::Bytes;

use super::spans::{SpanSum, Spans, record_head};

/// The body of a chunk of records takes no further record that would carry it above this: large enough that a stream runs at
/// full speed, small enough that a few under way do not matter. A larger record has a chunk to itself.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 4] = b"DSNP";
const VERSION: u16 = 1;
const KIND_SPANS: u8 = 1;
const KIND_RECORDS: u8 = 2;
const KIND_END: u8 = 3;
/// Bytes of the body of a chunk that ends a snapshot.
const END_BYTES: usize = 28;
/// Where the checksum begins to look.
const CHECKED_FROM: usize = 8;

/// Why a chunk was refused. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// Too short for a header, or it begins with something else.
    #[error("not a snapshot chunk ({bytes} bytes)")]
    NotAChunk {
        /// How many bytes there were.
        bytes: usize,
    },
    /// Written by a version that this one does not know.
    #[error("snapshot chunk of version {version}, this is version {VERSION}")]
    Version {
        /// What it says.
        version: u16,
    },
    /// Cut short, or something behind it.
    #[error("snapshot chunk of {found} bytes says that it has {said}")]
    Length {
        /// Bytes by its header.
        said: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Its bytes are not what was sent.
    #[error("snapshot chunk is damaged: checksum {said:08x} in it, {found:08x} of it")]
    Damaged {
        /// The checksum in its header.
        said: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// Whole, and yet it makes no sense: its writer is broken.
    #[error("snapshot chunk {number} is malformed: {what}")]
    Malformed {
        /// Its number.
        number: u64,
        /// What is wrong.
        what: String,
    },
    /// A chunk of another snapshot.
    #[error("chunk of snapshot {found}, not of {expected}")]
    OtherSnapshot {
        /// The snapshot being taken.
        expected: u64,
        /// The one the chunk is of.
        found: u64,
    },
    /// A chunk came twice, or before its turn, or one is missing.
    #[error("snapshot chunk {found} where {expected} comes next: {}", if found < expected { "it came before" } else { "one is missing" })]
    OutOfTurn {
        /// The number that comes next.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The snapshot is of other spans than the ones to be taken.
    #[error("the snapshot is of other key spans than the ones expected")]
    OtherSpans,
    /// The last chunk's figures are not those of the records that came.
    #[error("the snapshot's end says {said}, what came is {found}")]
    Sum {
        /// What was sent.
        said: SpanSum,
        /// What came.
        found: SpanSum,
    },
    /// A chunk after the last one.
    #[error("snapshot chunk {found} after the end")]
    AfterEnd {
        /// Its number.
        found: u64,
    },
    /// The end has not come yet.
    #[error("the snapshot is not complete: chunk {next} has not come")]
    Incomplete {
        /// The number that comes next.
        next: u64,
    },
}

/// A chunk whose header, checksum and structure are good.
pub(super) struct Chunk<'a> {
    pub(super) snapshot: u64,
    pub(super) number: u64,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    /// The first chunk: what the snapshot is of.
    Spans(Vec<Range<&'a [u8]>>),
    Records(Records<'a>),
    /// The last chunk: chunks in all, itself included, and the sum of all records.
    End {
        chunks: u64,
        sum: SpanSum,
    },
}

/// Walks through records that [`parse`] has found to be well-formed.
#[derive(Clone)]
pub(super) struct Records<'a>(Pairs<'a>);

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()?.ok()
    }
}

/// Walks through pairs of byte strings, each with both lengths before it.
#[derive(Clone)]
struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = split_pair(self.rest);
        self.rest = pair.map_or(&[][..], |(_, _, rest)| rest);
        Some(pair.map(|(one, other, _)| (one, other)).ok_or_else(|| "a length beyond the body".to_owned()))
    }
}

fn split_pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let (one, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
    let (other, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
    Some((one, other, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads one chunk.
pub(super) fn parse(bytes: &[u8]) -> Result<Chunk<'_>, ChunkError> {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES).filter(|(header, _)| header.starts_with(MAGIC))
    else {
        return Err(ChunkError::NotAChunk { bytes: bytes.len() });
    };
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(ChunkError::Version { version });
    }
    let said = u64::from(u32_at(header, 12));
    if said != body.len() as u64 {
        let header = HEADER_BYTES as u64;
        return Err(ChunkError::Length { said: said + header, found: body.len() as u64 + header });
    }
    let (said, found) = (u32_at(header, 4), crc32c::crc32c(&bytes[CHECKED_FROM..]));
    if said != found {
        return Err(ChunkError::Damaged { said, found });
    }
    let (snapshot, number) = (u64_at(header, 16), u64_at(header, 24));
    let malformed = |what| ChunkError::Malformed { number, what };
    let body = parse_body(header[10], u32_at(header, 32), body).map_err(malformed)?;
    if matches!(body, Body::Spans(_)) != (number == 0) {
        return Err(malformed("the spans stand in the first chunk and nowhere else".to_owned()));
    }
    Ok(Chunk { snapshot, number, body })
}

fn parse_body(kind: u8, items: u32, body: &[u8]) -> Result<Body<'_>, String> {
    let counted = |found: usize| {
        if found == items as usize { Ok(()) } else { Err(format!("{items} items announced, {found} found")) }
    };
    match kind {
        KIND_SPANS => {
            let pairs: Vec<_> = Pairs { rest: body }.collect::<Result<_, _>>()?;
            counted(pairs.len())?;
            Ok(Body::Spans(pairs.into_iter().map(|(start, end)| start..end).collect()))
        }
        KIND_RECORDS => {
            let mut found = 0;
            for pair in (Pairs { rest: body }) {
                pair?;
                found += 1;
            }
            counted(found)?;
            Ok(Body::Records(Records(Pairs { rest: body })))
        }
        KIND_END if body.len() == END_BYTES => {
            counted(0)?;
            let sum = SpanSum { records: u64_at(body, 8), bytes: u64_at(body, 16), crc32c: u32_at(body, 24) };
            Ok(Body::End { chunks: u64_at(body, 0), sum })
        }
        KIND_END => Err(format!("an end of {} bytes", body.len())),
        other => Err(format!("kind {other}")),
    }
}

/// A chunk being put together.
pub(super) struct Builder {
    bytes: Vec<u8>,
    items: u32,
}

impl Builder {
    pub(super) fn with_capacity(body_bytes: usize) -> Builder {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body_bytes);
        bytes.resize(HEADER_BYTES, 0);
        Builder { bytes, items: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether a record of this size may still come into a chunk of at most `bytes_max`.
    pub(super) fn fits(&self, key: &[u8], value: &[u8], bytes_max: usize) -> bool {
        self.is_empty() || self.bytes.len() - HEADER_BYTES + 8 + key.len() + value.len() <= bytes_max
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(&record_head(key, value));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.items += 1;
    }

    pub(super) fn records(self, snapshot: u64, number: u64) -> Bytes {
        self.seal(KIND_RECORDS, snapshot, number)
    }

    pub(super) fn spans(spans: &Spans, snapshot: u64) -> Bytes {
        let mut builder = Builder::with_capacity(256);
        for span in spans {
            builder.push(&span.start, &span.end);
        }
        builder.seal(KIND_SPANS, snapshot, 0)
    }

    pub(super) fn end(snapshot: u64, number: u64, sum: SpanSum) -> Bytes {
        let mut builder = Builder::with_capacity(END_BYTES);
        for figure in [number + 1, sum.records, sum.bytes] {
            builder.bytes.extend_from_slice(&figure.to_le_bytes());
        }
        builder.bytes.extend_from_slice(&sum.crc32c.to_le_bytes());
        builder.seal(KIND_END, snapshot, number)
    }

    fn seal(mut self, kind: u8, snapshot: u64, number: u64) -> Bytes {
        let body_bytes = u32::try_from(self.bytes.len() - HEADER_BYTES).expect("a chunk has less than 4 GiB");
        let header = &mut self.bytes[..HEADER_BYTES];
        header[..4].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10] = kind;
        header[12..16].copy_from_slice(&body_bytes.to_le_bytes());
        header[16..24].copy_from_slice(&snapshot.to_le_bytes());
        header[24..32].copy_from_slice(&number.to_le_bytes());
        header[32..36].copy_from_slice(&self.items.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[CHECKED_FROM..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        Bytes::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Bytes {
        let mut builder = Builder::with_capacity(0);
        builder.push(b"k", b"value");
        builder.push(b"l", b"");
        builder.records(0x0102, 3)
    }

    /// The checksum made right again after a change, as a broken writer would have it.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes[CHECKED_FROM..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn refusal(bytes: &[u8]) -> ChunkError {
        parse(bytes).err().expect("refused")
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let chunk = records();
        assert_eq!(&chunk[..4], b"DSNP");
        assert_eq!(&chunk[8..12], b"\x01\0\x02\0", "version, kind");
        assert_eq!(&chunk[12..16], b"\x17\0\0\0", "body bytes");
        assert_eq!(&chunk[16..24], b"\x02\x01\0\0\0\0\0\0", "snapshot");
        assert_eq!(&chunk[24..32], b"\x03\0\0\0\0\0\0\0", "number");
        assert_eq!(&chunk[32..36], b"\x02\0\0\0", "items");
        assert_eq!(&chunk[36..], b"\x01\0\0\0\x05\0\0\0kvalue\x01\0\0\0\0\0\0\0l");

        let end = Builder::end(9, 4, SpanSum { records: 2, bytes: 7, crc32c: 0xAABB_CCDD });
        assert_eq!(end[10], 3);
        assert_eq!(&end[36..], b"\x05\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\xdd\xcc\xbb\xaa");
    }

    #[test]
    fn each_flipped_bit_and_each_missing_byte_is_noticed() {
        let good = records();
        assert!(parse(&good).is_ok());
        for at in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(parse(&bad).is_err(), "bit {at}");
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err(), "{length} bytes");
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(refusal(&longer), ChunkError::Length { said: 59, found: 60 });
    }

    #[test]
    fn what_a_broken_writer_sealed_is_refused_with_what_is_wrong() {
        let with = |at: usize, byte: u8| {
            let mut bytes = records().to_vec();
            bytes[at] = byte;
            refusal(&resealed(bytes)).to_string()
        };
        assert_eq!(with(0, b'X'), "not a snapshot chunk (59 bytes)");
        assert_eq!(with(8, 2), "snapshot chunk of version 2, this is version 1");
        assert_eq!(with(10, 9), "snapshot chunk 3 is malformed: kind 9");
        assert_eq!(with(10, 3), "snapshot chunk 3 is malformed: an end of 23 bytes");
        assert_eq!(with(32, 1), "snapshot chunk 3 is malformed: 1 items announced, 2 found");
        assert_eq!(with(36, 200), "snapshot chunk 3 is malformed: a length beyond the body");
        assert_eq!(with(39, 0xFF), "snapshot chunk 3 is malformed: a length beyond the body");
        let first = "snapshot chunk 0 is malformed: the spans stand in the first chunk and nowhere else";
        assert_eq!(with(24, 0), first);
    }
}
