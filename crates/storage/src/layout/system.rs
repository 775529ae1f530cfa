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
}
