//! Chunks: the sub-records that hold a large string.
//!
//! ```text
//! data key of the head | 0x01 | generation (u64) | index (u32)        up to `1 << bits` bytes of the value
//! ```
//!
//! Chunk `n` covers the bytes `n << bits ..` of the value, up to the value's length. What is not there is zero: a chunk
//! that is missing, or the end of one that is shorter than what it covers. So a value that grows by a bit far out
//! costs one chunk.
//!
//! Only chunks of the head's own generation count. Others are orphans: a value that was overwritten or deleted leaves
//! its chunks behind, with a record that tells the sweep (see [`orphans`]), and a new value begins a generation of its own.

use std::ops::Range;

use bytes::Bytes;

use super::key;

/// First byte of a chunk's `sub`.
const CHUNK: u8 = 0x01;

/// Kind and generation.
const PREFIX_BYTES: usize = 9;

/// The key of a chunk.
pub fn chunk_key(data_key: &[u8], generation: u64, index: u32) -> Bytes {
    let mut out = orphans(data_key, generation);
    out.extend_from_slice(&index.to_be_bytes());
    Bytes::from(out)
}

/// What all chunks of a generation begin with; also how the expiry index names a generation that nobody needs any more.
pub fn orphans(data_key: &[u8], generation: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(data_key.len() + PREFIX_BYTES + 4);
    out.extend_from_slice(data_key);
    out.push(CHUNK);
    out.extend_from_slice(&generation.to_be_bytes());
    out
}

/// The span of these chunks.
pub fn span(data_key: &[u8], generation: u64, indexes: Range<u32>) -> Range<Bytes> {
    chunk_key(data_key, generation, indexes.start)..chunk_key(data_key, generation, indexes.end)
}

/// The span of all chunks of a generation, from what [`orphans`] gave.
pub fn whole_span(orphans: &[u8]) -> Range<Vec<u8>> {
    orphans.to_vec()..key::prefix_successor(orphans).expect("it begins with tag 0x03")
}

/// The generation, of the `sub` that [`orphans`] gave; none if it is another.
pub fn decode_orphans(sub: &[u8]) -> Option<u64> {
    match sub {
        [CHUNK, generation @ ..] => generation.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// Generation and index of a chunk, of its `sub`; none if this is no chunk.
pub fn decode(sub: &[u8]) -> Option<(u64, u32)> {
    let (prefix, index) = sub.split_at_checked(PREFIX_BYTES)?;
    Some((decode_orphans(prefix)?, u32::from_be_bytes(index.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        let data_key = key::encode(0, b"k");
        let chunk = chunk_key(&data_key, 0x0102, 3);
        assert_eq!(&chunk[..], b"\x03\x00k\x00\x01\x01\0\0\0\0\0\0\x01\x02\0\0\0\x03");
        let decoded = key::decode(&chunk).unwrap();
        assert_eq!(decode(decoded.sub), Some((0x0102, 3)));
        assert_eq!(decode_orphans(decoded.sub), None);
        let orphans = orphans(&data_key, 0x0102);
        assert_eq!(decode_orphans(key::decode(&orphans).unwrap().sub), Some(0x0102));
        assert_eq!(decode(&decoded.sub[..12]), None);
        assert_eq!(decode(b"\x02\0\0\0\0\0\0\x01\x02\0\0\0\x03"), None);
    }

    #[test]
    fn chunks_stand_behind_their_head_and_in_order() {
        let head = key::encode(3, b"k");
        let first = chunk_key(&head, 7, 0);
        let last = chunk_key(&head, 7, u32::MAX);
        assert!(head < first && first < last && last < chunk_key(&head, 8, 0));
        assert!(last < key::encode(3, b"k\0") && last < key::encode(3, b"k0"));
        let span = span(&head, 7, 1..3);
        assert!(!span.contains(&first) && span.contains(&chunk_key(&head, 7, 2)) && !span.contains(&last));
        let whole = whole_span(&orphans(&head, 7));
        assert!(whole.contains(&first.to_vec()) && whole.contains(&last.to_vec()));
        assert!(!whole.contains(&chunk_key(&head, 8, 0).to_vec()));
    }
}
