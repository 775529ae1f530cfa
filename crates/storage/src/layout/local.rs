//! Range-local records: `0x01 | range id | field`, what a range knows about itself.
//!
//! ```text
//! field 0x01                                        applied state: last applied index and term (the node's format)
//! field 0x02 | deadline ms (u64) | data key         expiry index; the value is empty
//! field 0x03 | db (u8)                              key count of a database (u64); absent is 0
//! field 0x04                                        members of the range's group (the consensus library's format)
//! field 0x05 | node | incarnation | connection      what a gateway's connection last had executed (the node's format);
//!                                                   all three u64
//! field 0x06                                        when replicas were last compared (the node's format)
//! ```
//!
//! The expiry index has one record for each key with an expiry, written and removed with the key's head record. It may
//! also have stale records (a FLUSHDB leaves those of its database behind), so it is *advisory*: whoever reads it must
//! look at the head. Its data key is that of a head, or what [`orphans`](super::chunk::orphans) gives: chunks that nobody
//! needs any more, to be removed from that time on. The count includes keys that have expired and are not yet swept.

use std::ops::Range;

use bytes::Bytes;

use super::{RangeId, tag};

const FIELD_APPLIED: u8 = 0x01;
const FIELD_EXPIRY: u8 = 0x02;
const FIELD_COUNT: u8 = 0x03;
const FIELD_MEMBERS: u8 = 0x04;
const FIELD_REQUEST: u8 = 0x05;
const FIELD_CHECK: u8 = 0x06;

/// Tag, range id, field.
const PREFIX_BYTES: usize = 10;

fn prefix(range: RangeId, field: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + 32);
    out.push(tag::RANGE_LOCAL);
    out.extend_from_slice(&range.0.to_be_bytes());
    out.push(field);
    out
}

/// Where the range's applied state is.
pub fn applied_key(range: RangeId) -> Bytes {
    Bytes::from(prefix(range, FIELD_APPLIED))
}

/// Where the members of the range's group are.
pub fn members_key(range: RangeId) -> Bytes {
    Bytes::from(prefix(range, FIELD_MEMBERS))
}

/// Where it stands when the range's replicas were last compared.
pub fn check_key(range: RangeId) -> Bytes {
    Bytes::from(prefix(range, FIELD_CHECK))
}

/// Where the range remembers what a connection of a gateway last had executed.
pub fn request_key(range: RangeId, node: u64, incarnation: u64, connection: u64) -> Bytes {
    let mut out = request_bound(range, node, incarnation);
    out.extend_from_slice(&connection.to_be_bytes());
    Bytes::from(out)
}

/// The first possible request record of a gateway's incarnation: a bound for scans and deletions.
pub fn request_bound(range: RangeId, node: u64, incarnation: u64) -> Vec<u8> {
    let mut out = prefix(range, FIELD_REQUEST);
    out.extend_from_slice(&node.to_be_bytes());
    out.extend_from_slice(&incarnation.to_be_bytes());
    out
}

/// Where all range-local records of a range are.
pub fn span(range: RangeId) -> Range<Vec<u8>> {
    let mut start = prefix(range, 0);
    start.pop();
    let end = super::key::prefix_successor(&start).expect("tag 0x01 has a successor");
    start..end
}

/// The expiry-index record of the key at `data_key`.
pub fn expiry_key(range: RangeId, deadline_ms: u64, data_key: &[u8]) -> Bytes {
    let mut out = expiry_bound(range, deadline_ms);
    out.extend_from_slice(data_key);
    Bytes::from(out)
}

/// The first possible index record of a deadline: a bound for scans.
pub fn expiry_bound(range: RangeId, deadline_ms: u64) -> Vec<u8> {
    let mut out = prefix(range, FIELD_EXPIRY);
    out.extend_from_slice(&deadline_ms.to_be_bytes());
    out
}

/// Where the whole expiry index of a range is.
pub fn expiry_span(range: RangeId) -> Range<Vec<u8>> {
    prefix(range, FIELD_EXPIRY)..prefix(range, FIELD_EXPIRY + 1)
}

/// Deadline and data key of an index record; none if this is not one.
pub fn decode_expiry(key: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = key.split_at_checked(PREFIX_BYTES)?;
    let (deadline, data_key) = rest.split_first_chunk::<8>()?;
    let known = head[0] == tag::RANGE_LOCAL && head[PREFIX_BYTES - 1] == FIELD_EXPIRY;
    (known && !data_key.is_empty()).then(|| (u64::from_be_bytes(*deadline), data_key))
}

/// Where the key count of a database is.
pub fn count_key(range: RangeId, db: u8) -> Bytes {
    let mut out = prefix(range, FIELD_COUNT);
    out.push(db);
    Bytes::from(out)
}

/// Where the key counts of all databases of a range are.
pub fn count_span(range: RangeId) -> Range<Vec<u8>> {
    prefix(range, FIELD_COUNT)..prefix(range, FIELD_COUNT + 1)
}

/// The value of a count record.
pub fn encode_count(count: u64) -> Bytes {
    Bytes::copy_from_slice(&count.to_be_bytes())
}

/// Reads the value of a count record; none if it is not eight bytes.
pub fn decode_count(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::key;

    #[test]
    fn the_bytes_are_as_documented() {
        let range = RangeId(0x0102);
        assert_eq!(&applied_key(range)[..], b"\x01\0\0\0\0\0\0\x01\x02\x01");
        assert_eq!(&count_key(range, 7)[..], b"\x01\0\0\0\0\0\0\x01\x02\x03\x07");
        let record = expiry_key(range, 5, &key::encode(0, b"k"));
        assert_eq!(&record[..], b"\x01\0\0\0\0\0\0\x01\x02\x02\0\0\0\0\0\0\0\x05\x03\x00k\x00\x01");
    }

    #[test]
    fn the_index_is_in_order_of_time_and_reads_back() {
        let data_key = key::encode(3, b"k");
        let soon = expiry_key(RangeId(1), 255, &key::encode(15, b"zzz"));
        let later = expiry_key(RangeId(1), 256, &data_key);
        assert!(soon < later);
        assert_eq!(decode_expiry(&later), Some((256, &data_key[..])));
        assert_eq!(decode_expiry(&count_key(RangeId(1), 0)), None);
        assert_eq!(decode_expiry(&expiry_bound(RangeId(1), 4)), None);
        assert!(expiry_span(RangeId(1)).contains(&later.to_vec()));
        assert!(!expiry_span(RangeId(2)).contains(&later.to_vec()));
    }

    #[test]
    fn a_range_keeps_its_records_together() {
        for record in [applied_key(RangeId(4)), count_key(RangeId(4), 255), expiry_key(RangeId(4), u64::MAX, b"\xff")] {
            assert!(span(RangeId(4)).contains(&record.to_vec()));
            assert!(!span(RangeId(5)).contains(&record.to_vec()) && !span(RangeId(3)).contains(&record.to_vec()));
        }
        assert!(count_span(RangeId(4)).contains(&count_key(RangeId(4), 255).to_vec()));
        assert_eq!(decode_count(&encode_count(77)), Some(77));
        assert_eq!(decode_count(b"short"), None);
    }
}
