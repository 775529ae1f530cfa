//! [`RangeLog`]: one range's part of the node's log, as consensus reads it; and the words of the two, translated.

use std::sync::{Arc, OnceLock};

use dstore_raft as raft;
use dstore_storage as storage;
use dstore_storage::{Log, LogError, LogOp, RangeId};

use crate::wire::{kind_number, kind_of};

/// A range's log, to read.
pub(crate) struct RangeLog {
    log: Arc<dyn Log>,
    range: RangeId,
    /// Set when the disk did not give back what was written.
    failure: OnceLock<LogError>,
}

impl RangeLog {
    pub(crate) fn new(log: Arc<dyn Log>, range: RangeId) -> RangeLog {
        RangeLog { log, range, failure: OnceLock::new() }
    }

    /// Why the log cannot be trusted any more. Consensus waits for entries that it cannot read; the node must not.
    pub(crate) fn failure(&self) -> Option<LogError> {
        self.failure.get().cloned()
    }

    fn status(&self) -> storage::log::RangeStatus {
        let empty = storage::log::RangeStatus {
            begin: storage::Position::default(),
            last: storage::Position::default(),
            hard_state: storage::log::HardState::default(),
        };
        self.log.status(self.range).unwrap_or(empty)
    }

    /// Term and vote as they were last written.
    pub(crate) fn hard_state(&self) -> raft::HardState {
        let state = self.status().hard_state;
        raft::HardState { term: raft::Term(state.term.0), vote: (state.vote != 0).then_some(raft::NodeId(state.vote)) }
    }
}

impl raft::LogStorage for RangeLog {
    fn base(&self) -> raft::EntryId {
        entry_id(self.status().begin)
    }

    fn last_index(&self) -> raft::LogIndex {
        raft::LogIndex(self.status().last.index.0)
    }

    fn term(&self, index: raft::LogIndex) -> Option<raft::Term> {
        self.log.term(self.range, storage::LogIndex(index.0)).map(|term| raft::Term(term.0))
    }

    fn entries(
        &self,
        from: raft::LogIndex,
        to: raft::LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<raft::Entry>, raft::ReadLogError> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let found = self.log.entries(self.range, storage::LogIndex(from.0), storage::LogIndex(to.0).next(), bytes_max);
        match found {
            // An entry of a kind that this version does not know ends what can be read.
            Ok(entries) => {
                entries.into_iter().map(|entry| from_stored(entry).ok_or(raft::ReadLogError::NotHeld)).collect()
            }
            Err(LogError::Compacted { .. } | LogError::Unavailable { .. }) => Err(raft::ReadLogError::NotHeld),
            Err(error) => {
                self.failure.get_or_init(|| error);
                Err(raft::ReadLogError::NotNow)
            }
        }
    }
}

/// The operations of a write, in the order that any prefix of is a state consensus allows.
pub(crate) fn write_ops(range: RangeId, persist: &mut raft::Persist) -> Vec<LogOp> {
    let mut ops = Vec::with_capacity(2);
    if let Some(begin) = persist.restart_log {
        ops.push(LogOp::Reset { range, begin: position(begin) });
    }
    if let Some(state) = persist.hard_state {
        let vote = state.vote.map_or(0, |node| node.0);
        let commit = storage::LogIndex::default();
        let state = storage::log::HardState { term: storage::Term(state.term.0), vote, commit };
        ops.push(LogOp::SetHardState { range, state });
    }
    if !persist.entries.is_empty() {
        let entries = std::mem::take(&mut persist.entries).into_iter().map(to_stored).collect();
        ops.push(LogOp::Append { range, entries });
    }
    ops
}

fn to_stored(entry: raft::Entry) -> storage::Entry {
    storage::Entry {
        index: storage::LogIndex(entry.index.0),
        term: storage::Term(entry.term.0),
        kind: kind_number(entry.kind),
        payload: entry.data,
    }
}

fn from_stored(entry: storage::Entry) -> Option<raft::Entry> {
    Some(raft::Entry {
        index: raft::LogIndex(entry.index.0),
        term: raft::Term(entry.term.0),
        kind: kind_of(entry.kind.into())?,
        data: entry.payload,
    })
}

pub(crate) fn position(id: raft::EntryId) -> storage::Position {
    storage::Position::new(id.index.0, id.term.0)
}

pub(crate) fn entry_id(position: storage::Position) -> raft::EntryId {
    raft::EntryId::new(raft::Term(position.term.0), raft::LogIndex(position.index.0))
}

#[cfg(test)]
mod tests {
    use dstore_raft::LogStorage as _;
    use dstore_storage::log::{Completion, LogStats};

    use super::*;

    /// A log on a disk that gives back something else than was written.
    struct Rotten;

    impl Log for Rotten {
        fn submit(&self, _: Vec<LogOp>, _: Completion) -> Result<(), LogError> {
            Ok(())
        }

        fn entries(
            &self,
            _: RangeId,
            _: storage::LogIndex,
            _: storage::LogIndex,
            _: usize,
        ) -> Result<Vec<storage::Entry>, LogError> {
            Err(LogError::Damaged { path: "log/segment-7".into(), offset: 4096, what: "a checksum".to_owned() })
        }

        fn term(&self, _: RangeId, _: storage::LogIndex) -> Option<storage::Term> {
            None
        }

        fn status(&self, _: RangeId) -> Option<storage::log::RangeStatus> {
            None
        }

        fn ranges(&self) -> Vec<RangeId> {
            Vec::new()
        }

        fn payload_bytes_max(&self) -> usize {
            1 << 20
        }

        fn stats(&self) -> LogStats {
            LogStats::default()
        }
    }

    #[test]
    fn damage_that_a_read_meets_is_remembered_although_consensus_only_waits() {
        let log = RangeLog::new(Arc::new(Rotten), RangeId(1));
        assert!(log.failure().is_none());
        let read = log.entries(raft::LogIndex(1), raft::LogIndex(2), 100);
        assert!(matches!(read, Err(raft::ReadLogError::NotNow)));
        assert!(log.failure().is_some_and(|error| error.to_string().contains("log/segment-7 at offset 4096")));
    }
}
