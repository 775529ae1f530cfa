//! The payload of a log entry: a stamp and the effects of every command that arrived in one turn of the loop.
//!
//! ```text
//!  offset  size  field
//!  0       1     version of this format: 1
//!  1       8     stamp, little-endian: what expiry was judged by, and the version of the first key written
//!  9       8     last stamp, little-endian: the highest version given out; the next entry's stamp is above it
//!  17      4     number of operations, little-endian
//!  21      ...   the operations
//!
//!  operation
//!  0       1     kind: 1 put, 2 delete, 3 delete range
//!  1       4     bytes of the key, little-endian (of the range's first key)
//!  5       4     bytes of the value, little-endian (of the range's end key; 0 for a delete)
//!  9       ...   key, then value
//! ```
//!
//! The log's record around it carries the checksum. A payload of another version, or one that is not exactly what it
//! says it is, is refused: the node stops instead of applying a guess.

use bytes::{BufMut, Bytes, BytesMut};
use dstore_storage::WriteOp;
use dstore_storage::layout::Stamp;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 21;
const OP_HEADER_BYTES: usize = 9;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;

/// The decoded payload of a log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What expiry was judged by. Above the `last_stamp` of every earlier entry of the range.
    pub stamp: Stamp,
    /// The highest version given out; `stamp <= last_stamp`.
    pub last_stamp: Stamp,
    /// What changes, in order, atomically.
    pub ops: Vec<WriteOp>,
}

/// Why a payload was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a version this one does not know.
    #[error("the entry has format {0}, this binary knows {VERSION}")]
    UnknownVersion(u8),
    /// An operation this version does not know.
    #[error("operation {0} of the entry has unknown kind {1}")]
    UnknownOperation(u32, u8),
    /// It ends in the middle of something, or goes on after its end.
    #[error("the entry is {actual} bytes long, but its content says {expected}")]
    Length {
        /// Bytes that are there.
        actual: usize,
        /// Bytes that its content asks for, as far as it could be read.
        expected: usize,
    },
    /// Its stamps contradict each other.
    #[error("the entry's last stamp is below its first")]
    Stamps,
}

/// Bytes that `op` takes in a payload.
pub(crate) fn encoded_len(op: &WriteOp) -> usize {
    let (_, first, second) = parts(op);
    OP_HEADER_BYTES + first.len() + second.len()
}

fn parts(op: &WriteOp) -> (u8, &[u8], &[u8]) {
    match op {
        WriteOp::Put { key, value } => (PUT, key, value),
        WriteOp::Delete { key } => (DELETE, key, &[]),
        WriteOp::DeleteRange { start, end } => (DELETE_RANGE, start, end),
    }
}

impl Entry {
    /// The payload's bytes.
    pub fn encode(&self) -> Bytes {
        let length = HEADER_BYTES + self.ops.iter().map(encoded_len).sum::<usize>();
        let mut out = BytesMut::with_capacity(length);
        out.put_u8(VERSION);
        out.put_u64_le(self.stamp.as_u64());
        out.put_u64_le(self.last_stamp.as_u64());
        out.put_u32_le(u32::try_from(self.ops.len()).expect("an entry's bytes are bounded far below 2^32 operations"));
        for op in &self.ops {
            let (kind, first, second) = parts(op);
            out.put_u8(kind);
            out.put_u32_le(u32::try_from(first.len()).expect("keys are bounded below 4 GiB"));
            out.put_u32_le(u32::try_from(second.len()).expect("values are bounded below 4 GiB"));
            out.put_slice(first);
            out.put_slice(second);
        }
        out.freeze()
    }

    /// Reads a payload; keys and values share its memory.
    ///
    /// # Errors
    ///
    /// See [`EntryError`].
    pub fn decode(payload: &Bytes) -> Result<Entry, EntryError> {
        let length = |expected| EntryError::Length { actual: payload.len(), expected };
        let version = *payload.first().ok_or(length(HEADER_BYTES))?;
        if version != VERSION {
            return Err(EntryError::UnknownVersion(version));
        }
        let header: &[u8; HEADER_BYTES] = payload.first_chunk().ok_or(length(HEADER_BYTES))?;
        let stamp = Stamp::from_u64(u64_at(header, 1));
        let last_stamp = Stamp::from_u64(u64_at(header, 9));
        if last_stamp < stamp {
            return Err(EntryError::Stamps);
        }
        let count = u32_at(header, 17);
        let mut at = HEADER_BYTES;
        let mut ops = Vec::with_capacity((count as usize).min(payload.len() / OP_HEADER_BYTES));
        for position in 0..count {
            let header = payload.get(at..at + OP_HEADER_BYTES).ok_or(length(at + OP_HEADER_BYTES))?;
            let (kind, first, second) = (header[0], u32_at(header, 1) as usize, u32_at(header, 5) as usize);
            let first_at = at + OP_HEADER_BYTES;
            let second_at = first_at + first;
            at = second_at + second;
            if at > payload.len() {
                return Err(length(at));
            }
            let (first, second) = (payload.slice(first_at..second_at), payload.slice(second_at..at));
            ops.push(match kind {
                PUT => WriteOp::Put { key: first, value: second },
                DELETE => WriteOp::Delete { key: first },
                DELETE_RANGE => WriteOp::DeleteRange { start: first, end: second },
                _ => return Err(EntryError::UnknownOperation(position, kind)),
            });
        }
        if at != payload.len() {
            return Err(length(at));
        }
        Ok(Entry { stamp, last_stamp, ops })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        let key = Bytes::from_static(b"key");
        Entry {
            stamp: Stamp::from_u64(5),
            last_stamp: Stamp::from_u64(7),
            ops: vec![
                WriteOp::Put { key: key.clone(), value: Bytes::from_static(b"value") },
                WriteOp::Delete { key: key.clone() },
                WriteOp::DeleteRange { start: key, end: Bytes::from_static(b"l") },
            ],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for entry in [sample(), Entry { ops: Vec::new(), ..sample() }] {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused() {
        let whole = sample().encode();
        for length in 0..whole.len() {
            let error = Entry::decode(&whole.slice(..length)).unwrap_err();
            assert!(matches!(error, EntryError::Length { .. }), "{length}: {error}");
        }
        let mut longer = BytesMut::from(&whole[..]);
        longer.put_u8(0);
        assert!(matches!(Entry::decode(&longer.freeze()), Err(EntryError::Length { .. })));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let change = |at: usize, to: u8| {
            let mut bytes = BytesMut::from(&sample().encode()[..]);
            bytes[at] = to;
            Entry::decode(&bytes.freeze())
        };
        assert_eq!(change(0, 2), Err(EntryError::UnknownVersion(2)));
        assert_eq!(change(HEADER_BYTES, 9), Err(EntryError::UnknownOperation(0, 9)));
        assert_eq!(change(1, 9), Err(EntryError::Stamps));
    }

    #[test]
    fn an_absurd_count_of_operations_costs_no_memory() {
        let mut bytes = BytesMut::from(&sample().encode()[..]);
        bytes[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Entry::decode(&bytes.freeze()), Err(EntryError::Length { .. })));
    }
}
