//! System records: `0x02 | table | id`, what the cluster knows about itself.
//!
//! ```text
//! table 0x01 | node id (u64)                        a node: where it is (the node's format)
//! table 0x02 | range id (u64)                       a range's descriptor (the node's format)
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::{RangeId, tag};

const TABLE_NODE: u8 = 0x01;
const TABLE_RANGE: u8 = 0x02;

fn key(table: u8, id: u64) -> Bytes {
    let mut out = Vec::with_capacity(10);
    out.extend_from_slice(&[tag::SYSTEM, table]);
    out.extend_from_slice(&id.to_be_bytes());
    Bytes::from(out)
}

/// Where the record of a node is.
pub fn node_key(node: u64) -> Bytes {
    key(TABLE_NODE, node)
}

/// Where the records of all nodes are.
pub fn nodes_span() -> Range<[u8; 2]> {
    [tag::SYSTEM, TABLE_NODE]..[tag::SYSTEM, TABLE_NODE + 1]
}

/// The node whose record is at this key; none if it is another record.
pub fn decode_node(key: &[u8]) -> Option<u64> {
    decode(TABLE_NODE, key)
}

/// The range whose descriptor is at this key; none if it is another record.
pub fn decode_descriptor(key: &[u8]) -> Option<RangeId> {
    decode(TABLE_RANGE, key).map(RangeId)
}

fn decode(table: u8, key: &[u8]) -> Option<u64> {
    match key {
        [tag::SYSTEM, found, id @ ..] if *found == table => id.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// Where the descriptor of a range is.
pub fn descriptor_key(range: RangeId) -> Bytes {
    key(TABLE_RANGE, range.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        assert_eq!(&node_key(0x0102)[..], b"\x02\x01\0\0\0\0\0\0\x01\x02");
        assert_eq!(&descriptor_key(RangeId(1))[..], b"\x02\x02\0\0\0\0\0\0\0\x01");
    }

    #[test]
    fn a_key_names_what_it_is_of() {
        assert_eq!(decode_node(&node_key(u64::MAX)), Some(u64::MAX));
        assert_eq!(decode_descriptor(&descriptor_key(RangeId(7))), Some(RangeId(7)));
        assert_eq!(decode_node(&descriptor_key(RangeId(7))), None);
        assert_eq!(decode_descriptor(b"\x02\x02short"), None);
        let span = nodes_span();
        let holds = |key: &Bytes| span.start.as_slice() <= &key[..] && &key[..] < span.end.as_slice();
        assert!(holds(&node_key(0)) && holds(&node_key(u64::MAX)) && !holds(&descriptor_key(RangeId(0))));
    }
}
