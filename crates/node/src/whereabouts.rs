//! Where nodes are, by what this node's log says of it and its data does not yet.
//!
//! After a crash the data may be from before a node moved. The log has the entry that says where it is now, but that counts
//! only once a leader has said that it is committed; and to find that leader, or to become it, may take that very node. So
//! what the entries say is used to look for it, and for nothing else: a node said so itself, whether the entry lives or not.

use dstore_raft::EntryKind;
use dstore_storage::layout::system;
use dstore_storage::{Log, LogIndex, RangeId, WriteOp};
use prost::Message as _;

use crate::NodeError;
use crate::entry::Entry;
use crate::wire::{NodeRecord, kind_of};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 1 << 20;

/// The records of nodes in the entries of the system range behind `applied`, oldest first, those of removed nodes left out.
pub(crate) fn logged_records(log: &dyn Log, range: RangeId, applied: LogIndex) -> Result<Vec<NodeRecord>, NodeError> {
    let mut records = Vec::new();
    let Some(status) = log.status(range) else { return Ok(records) };
    let mut next = applied.next().max(status.begin.index.next());
    while next <= status.last.index {
        let entries = log.entries(range, next, status.last.index.next(), READ_BYTES).map_err(NodeError::Log)?;
        let Some(last) = entries.last() else { break };
        next = last.index.next();
        let normal = entries.iter().filter(|entry| kind_of(entry.kind.into()) == Some(EntryKind::Normal));
        // What this version cannot read it will refuse when it is to be applied.
        let ops = normal.filter_map(|entry| Entry::decode(&entry.payload).ok()).flat_map(|entry| entry.ops);
        records.extend(ops.filter_map(|op| record_of(&op)));
    }
    Ok(records)
}

fn record_of(op: &WriteOp) -> Option<NodeRecord> {
    let WriteOp::Put { key, value } = op else { return None };
    let nodes = system::nodes_span();
    if *key < nodes.start[..] || *key >= nodes.end[..] {
        return None;
    }
    NodeRecord::decode(value.clone()).ok().filter(|record| !record.is_removed())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dstore_storage::layout::Stamp;
    use dstore_storage::{self as storage, LogOp, MemoryLog, Term};

    use super::*;
    use crate::SYSTEM_RANGE;
    use crate::wire::kind_number;

    fn entry(index: u64, kind: EntryKind, ops: Vec<WriteOp>) -> storage::Entry {
        let stamp = Stamp::from_u64(index);
        let payload = if ops.is_empty() { Bytes::new() } else { Entry { stamp, last_stamp: stamp, ops }.encode() };
        storage::Entry { index: LogIndex(index), term: Term(1), kind: kind_number(kind), payload }
    }

    fn put(node: u64, address: &str, removed_at_ms: u64) -> WriteOp {
        let record = NodeRecord { node, peer_address: address.to_owned(), removed_at_ms, ..NodeRecord::default() };
        WriteOp::Put { key: system::node_key(node), value: record.encode_to_vec().into() }
    }

    #[test]
    fn where_a_node_is_counts_before_it_is_applied_and_that_it_is_removed_does_not() {
        let log = MemoryLog::new();
        assert!(logged_records(&log, SYSTEM_RANGE, LogIndex::default()).unwrap().is_empty());
        let other = WriteOp::Put { key: "other".into(), value: "x".into() };
        let entries = vec![
            entry(1, EntryKind::Normal, vec![put(1, "applied:1", 0)]),
            entry(2, EntryKind::Blank, Vec::new()),
            entry(3, EntryKind::Normal, vec![other, put(2, "b:1", 0), put(3, "c:1", 7)]),
            entry(4, EntryKind::Normal, vec![put(2, "moved:1", 0)]),
        ];
        log.submit(vec![LogOp::Append { range: SYSTEM_RANGE, entries }], Box::new(|result| result.unwrap())).unwrap();
        let records = logged_records(&log, SYSTEM_RANGE, LogIndex(1)).unwrap();
        let places: Vec<_> = records.iter().map(|record| (record.node, record.peer_address.as_str())).collect();
        assert_eq!(places, [(2, "b:1"), (2, "moved:1")]);
    }
}
