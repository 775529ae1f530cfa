//! [`Recovery`]: how the ranges of one node go on without the others, once a majority is lost for good.
//!
//! Raft has no safe answer to that loss, so this is none: **writes that were acknowledged, but are only on the lost nodes,
//! are gone.** What it does keep is everything this node has, and the shape of a log that any node can read. To each range's
//! log it appends, in a new term, what a leader with a quorum of one would have:
//!
//! ```text
//! ... entries as they are | members: this node alone | (system range) the other nodes are removed
//!                         | ------------ in a term above every term here ------------
//! ```
//!
//! A configuration counts from the moment it is in the log, so the node that starts on it elects itself, and commits its
//! log to the end, entries included that nobody knows to be committed: they may have been acknowledged. What was appended
//! twice, or in part because the power failed, is appended again, in a higher term: planning anew finds out what is missing.
//!
//! **The lost nodes must never run again.** They may form a majority of the configuration they know, and go on beside this
//! node. One that finds the cluster as it is now is told that it was removed; two that find each other first are not.

use std::collections::{BTreeMap, BTreeSet};

use dstore_raft::{Configuration, EntryKind, Restored};
use dstore_storage::layout::{Stamp, system};
use dstore_storage::log::HardState;
use dstore_storage::{Entry as LogEntry, Log, LogError, LogIndex, LogOp, Position, RangeId, Reader, Term, WriteOp};
use prost::Message as _;

use super::{Content, RANGES, RangeState};
use crate::range_log::position;
use crate::wire::{NodeRecord, kind_number};
use crate::{Applied, NodeError, SYSTEM_RANGE};

/// Bytes of entries that are read from the log in one go.
const READ_BYTES: usize = 4 << 20;

/// Why a node's ranges cannot be made to go on by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// What the node has cannot be read, or does not fit together.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The log does not give back what it has.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It is none of the cluster's nodes any more.
    #[error("this node was removed from the cluster: choose another")]
    Removed,
    /// There is nothing to go on with.
    #[error("range {0} has no data here: this node never caught up, choose another")]
    NoData(RangeId),
    /// An entry of the log cannot be read.
    #[error("entry {position} of range {range}: {what}")]
    Entry {
        /// Of which range.
        range: RangeId,
        /// Which.
        position: Position,
        /// What is wrong with it.
        what: String,
    },
}

/// What is to be done so that this node's ranges go on with it alone.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// How each range stands, and what becomes of it.
    pub ranges: Vec<RangeRecovery>,
    /// The nodes that are given up.
    pub lost: Vec<u64>,
    ops: Vec<LogOp>,
}

/// A range that is to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRecovery {
    /// Which.
    pub range: RangeId,
    /// The newest term this node has seen.
    pub term: Term,
    /// How far its data is known to be decided.
    pub applied: Position,
    /// The last entry it has.
    pub last: Position,
    /// Who belongs to the range, as its log says.
    pub members: Configuration,
    /// Whether this node is the only member already.
    pub is_alone: bool,
}

/// A range as it is on disk.
struct Found {
    range: RangeId,
    applied: Applied,
    /// What makes the log follow the data, if it does not.
    reset: Option<LogOp>,
    last: Position,
    hard_state: HardState,
    tail: Tail,
}

/// What the data and the log behind it come to.
struct Tail {
    members: Configuration,
    stamp: Stamp,
    /// What is known of each node. In the system range alone.
    nodes: BTreeMap<u64, NodeRecord>,
}

impl Recovery {
    /// Works out what is to be done on the node `me`, whose data and log these are, at the time `now_ms`. `founders` are those
    /// of the cluster, or nobody if the node joined later: a founder knows the first state of every range, and may not have
    /// flushed it yet.
    ///
    /// # Errors
    ///
    /// This node has nothing to go on with, or it cannot be read.
    pub fn plan(
        reader: &dyn Reader,
        log: &dyn Log,
        me: u64,
        founders: &[u64],
        now_ms: u64,
    ) -> Result<Recovery, RecoveryError> {
        let found = RANGES.map(|range| Found::read(reader, log, range, founders));
        let found = found.into_iter().collect::<Result<Vec<Found>, _>>()?;
        let mut nodes = BTreeMap::new();
        found.iter().for_each(|found| nodes.extend(found.tail.nodes.clone()));
        if nodes.get(&me).is_some_and(NodeRecord::is_removed) {
            return Err(RecoveryError::Removed);
        }
        let members = found.iter().flat_map(|found| found.tail.members.members()).map(|node| node.0);
        let all: BTreeSet<u64> = members.chain(nodes.keys().copied()).chain(founders.iter().copied()).collect();
        let is_gone = |node: &u64| nodes.get(node).is_some_and(NodeRecord::is_removed);
        let lost: Vec<u64> = all.into_iter().filter(|node| *node != me && !is_gone(node)).collect();
        let tombs: Vec<WriteOp> = lost.iter().map(|node| tombstone(*node, nodes.get(node), now_ms)).collect();
        let mut recovery = Recovery { ranges: Vec::new(), lost, ops: Vec::new() };
        for found in found {
            let effects = if found.range == SYSTEM_RANGE { tombs.clone() } else { Vec::new() };
            recovery.plan_range(found, me, effects, now_ms)?;
        }
        Ok(recovery)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ops.is_empty()
    }

    /// What is to be submitted to the log, all at once.
    #[must_use]
    pub fn into_ops(self) -> Vec<LogOp> {
        self.ops
    }

    fn plan_range(&mut self, found: Found, me: u64, effects: Vec<WriteOp>, now_ms: u64) -> Result<(), RecoveryError> {
        let Found { range, applied, reset, last, hard_state, tail } = found;
        let applied = applied.position;
        let alone = Configuration::new([dstore_raft::NodeId(me)], []);
        let is_alone = tail.members == alone;
        let term = hard_state.term.max(last.term).max(applied.term);
        let mut contents = Vec::new();
        if !is_alone {
            contents.push((EntryKind::Config, alone.encode()));
        }
        if !effects.is_empty() {
            if tail.stamp.as_u64() == u64::MAX {
                let what = "no stamp is above its own".to_owned();
                return Err(RecoveryError::Entry { range, position: last, what });
            }
            let stamp = Stamp::next(tail.stamp.as_u64(), now_ms);
            let entry = crate::Entry { stamp, last_stamp: stamp, ops: effects };
            contents.push((EntryKind::Normal, entry.encode()));
        }
        if !contents.is_empty() {
            let term = Term(term.0 + 1);
            let entry =
                |(index, (kind, payload))| LogEntry { index: LogIndex(index), term, kind: kind_number(kind), payload };
            let entries = (last.index.0 + 1..).zip(contents).map(entry).collect();
            let state = HardState { term, vote: me, commit: hard_state.commit };
            self.ops.extend(reset);
            self.ops.push(LogOp::SetHardState { range, state });
            self.ops.push(LogOp::Append { range, entries });
        }
        self.ranges.push(RangeRecovery { range, term, applied, last, members: tail.members, is_alone });
        Ok(())
    }
}

/// What says that a node is no more.
fn tombstone(node: u64, known: Option<&NodeRecord>, now_ms: u64) -> WriteOp {
    let known = known.cloned().unwrap_or_else(|| NodeRecord { node, ..NodeRecord::default() });
    let record = NodeRecord { removed_at_ms: now_ms.max(1), ..known };
    WriteOp::Put { key: system::node_key(node), value: record.encode_to_vec().into() }
}

impl Found {
    fn read(reader: &dyn Reader, log: &dyn Log, range: RangeId, founders: &[u64]) -> Result<Found, RecoveryError> {
        let RangeState { mut applied, mut members } = RangeState::read(reader, range)?;
        if applied.position == Position::default() {
            let founders = founders.iter().map(|node| dstore_raft::NodeId(*node));
            let first = Restored::bootstrap(Configuration::new(founders, []));
            applied.position = position(first.applied);
            members = Some(first.configuration).filter(|members| !members.is_empty());
        }
        let members = members.ok_or(RecoveryError::NoData(range))?;
        let (reset, last, hard_state) = join(log, range, applied.position)?;
        let nodes = if range == SYSTEM_RANGE { super::node_records(reader)? } else { Vec::new() };
        let nodes = nodes.into_iter().map(|record| (record.node, record)).collect();
        let mut tail = Tail { members, stamp: applied.stamp, nodes };
        if reset.is_none() {
            tail.follow(log, range, applied.position.index, last)?;
        }
        Ok(Found { range, applied, reset, last, hard_state, tail })
    }
}

impl Tail {
    /// Follows the entries behind `applied`.
    fn follow(
        &mut self,
        log: &dyn Log,
        range: RangeId,
        applied: LogIndex,
        last: Position,
    ) -> Result<(), RecoveryError> {
        let (mut next, end) = (applied.next(), last.index.next());
        while next < end {
            for entry in log.entries(range, next, end, READ_BYTES)? {
                next = entry.index.next();
                let position = entry.position();
                match Content::of(entry.kind, &entry.payload) {
                    Content::Blank => {}
                    Content::Configuration(members) => self.members = members,
                    Content::Effects(effects) => {
                        self.stamp = self.stamp.max(effects.last_stamp);
                        effects.ops.iter().for_each(|op| self.note_node(op));
                    }
                    Content::Unreadable(what) => return Err(RecoveryError::Entry { range, position, what }),
                }
            }
        }
        Ok(())
    }

    /// Takes in an operation on a node's record. They are put, and never deleted.
    fn note_node(&mut self, op: &WriteOp) {
        if let WriteOp::Put { key, value } = op
            && let Some(node) = system::decode_node(key)
            && let Ok(record) = NodeRecord::decode(value.clone())
        {
            self.nodes.insert(node, record);
        }
    }
}

/// How the log follows the data: the operation that makes it do so, if it does not; its last entry; its hard state.
fn join(
    log: &dyn Log,
    range: RangeId,
    applied: Position,
) -> Result<(Option<LogOp>, Position, HardState), RecoveryError> {
    let Some(status) = log.status(range) else {
        // What every founder begins with was never in a log.
        if applied != position(Restored::bootstrap(Configuration::default()).applied) {
            return Err(NodeError::LogMissing { range, applied }.into());
        }
        return Ok((Some(LogOp::Reset { range, begin: applied }), applied, HardState::default()));
    };
    if status.begin.index > applied.index {
        return Err(NodeError::LogGap { range, begin: status.begin, applied }.into());
    }
    let reset = dstore_storage::log::begin_at_applied(log, range, applied);
    let last = if reset.is_some() { applied } else { status.last };
    Ok((reset, last, status.hard_state))
}

#[cfg(test)]
mod tests {
    use dstore_storage::layout::local;
    use dstore_storage::{Bytes, Engine, MemoryEngine, MemoryLog};

    use super::*;
    use crate::USER_RANGE;

    const ME: u64 = 2;
    const NOW_MS: u64 = 1_000;
    const FOUNDERS: [u64; 3] = [1, 2, 3];

    fn ids(nodes: &[u64]) -> Vec<dstore_raft::NodeId> {
        nodes.iter().map(|node| dstore_raft::NodeId(*node)).collect()
    }

    fn three() -> Configuration {
        Configuration::new(ids(&FOUNDERS), [])
    }

    fn alone() -> Configuration {
        Configuration::new(ids(&[ME]), [])
    }

    fn submit(log: &MemoryLog, ops: Vec<LogOp>) {
        log.submit(ops, Box::new(|result| result.unwrap())).unwrap();
        log.sync();
    }

    fn append(log: &MemoryLog, range: RangeId, index: u64, term: u64, kind: EntryKind, payload: Bytes) {
        let entry = LogEntry { index: LogIndex(index), term: Term(term), kind: kind_number(kind), payload };
        submit(log, vec![LogOp::Append { range, entries: vec![entry] }]);
    }

    /// Both ranges begin at (1, 1), with the three founders, and have one entry in term 2.
    fn founded() -> (MemoryEngine, MemoryLog) {
        let (engine, log) = (MemoryEngine::new(), MemoryLog::new());
        for range in RANGES {
            apply(&engine, range, Position::new(1, 1), &three());
            submit(&log, vec![LogOp::Reset { range, begin: Position::new(1, 1) }]);
            append(&log, range, 2, 2, EntryKind::Blank, Bytes::new());
        }
        (engine, log)
    }

    fn apply(engine: &MemoryEngine, range: RangeId, position: Position, members: &Configuration) {
        let applied = Applied { position, ..Applied::default() };
        let put = |key, value| WriteOp::Put { key, value };
        let ops = [put(Applied::key(range), applied.encode()), put(local::members_key(range), members.encode())];
        engine.write(&ops).unwrap();
    }

    fn plan(engine: &MemoryEngine, log: &MemoryLog) -> Result<Recovery, RecoveryError> {
        Recovery::plan(engine, log, ME, &FOUNDERS, NOW_MS)
    }

    fn contents(log: &MemoryLog, range: RangeId) -> Vec<Content> {
        let status = log.status(range).unwrap();
        let entries = log.entries(range, status.first_index(), status.last.index.next(), usize::MAX).unwrap();
        entries.iter().map(|entry| Content::of(entry.kind, &entry.payload)).collect()
    }

    /// The nodes that the system range says are removed.
    fn removed(log: &MemoryLog) -> Vec<u64> {
        let mut tail = Tail { members: alone(), stamp: Stamp::ZERO, nodes: BTreeMap::new() };
        let status = log.status(SYSTEM_RANGE).unwrap();
        tail.follow(log, SYSTEM_RANGE, status.begin.index, status.last).unwrap();
        tail.nodes.values().filter(|record| record.is_removed()).map(|record| record.node).collect()
    }

    /// This node alone is in force everywhere, in a term above all others, and the other nodes are removed.
    fn assert_recovered(log: &MemoryLog, engine: &MemoryEngine, term: u64) {
        for range in RANGES {
            let status = log.status(range).unwrap();
            assert_eq!((status.last.term, status.hard_state.term), (Term(term), Term(term)), "range {range}");
            let mut members = contents(log, range).into_iter().rev();
            let last = members.find(|content| matches!(content, Content::Configuration(_)));
            assert_eq!(last, Some(Content::Configuration(alone())), "range {range}");
        }
        assert!(plan(engine, log).unwrap().is_done(), "done twice");
        assert!(plan(engine, log).unwrap().lost.is_empty());
    }

    #[test]
    fn each_range_gets_a_configuration_of_this_node_alone_in_a_new_term() {
        let (engine, log) = founded();
        let state = HardState { term: Term(7), vote: 3, commit: LogIndex(0) };
        RANGES.iter().for_each(|range| submit(&log, vec![LogOp::SetHardState { range: *range, state }]));
        let recovery = plan(&engine, &log).unwrap();
        assert_eq!(recovery.lost, [1, 3]);
        let wanted = RangeRecovery {
            range: USER_RANGE,
            term: Term(7),
            applied: Position::new(1, 1),
            last: Position::new(2, 2),
            members: three(),
            is_alone: false,
        };
        assert_eq!(recovery.ranges[1], wanted);
        submit(&log, recovery.into_ops());
        assert_recovered(&log, &engine, 8);
        assert_eq!(removed(&log), [1, 3]);
    }

    #[test]
    fn a_crash_between_any_two_operations_leaves_what_can_be_done_again() {
        let (engine, log) = founded();
        let ops = plan(&engine, &log).unwrap().into_ops();
        for cut in 0..=ops.len() {
            let (engine, log) = founded();
            submit(&log, ops[..cut].to_vec());
            let again = plan(&engine, &log).unwrap().into_ops();
            submit(&log, again);
            for range in RANGES {
                assert!(log.status(range).unwrap().last.index.0 >= 3);
            }
            assert!(plan(&engine, &log).unwrap().is_done(), "cut behind {cut}");
            assert_eq!(removed(&log), [1, 3]);
        }
    }

    #[test]
    fn a_change_of_members_that_was_under_way_counts() {
        let (engine, log) = founded();
        let joint = three().change(&[dstore_raft::Change::AddVoter(dstore_raft::NodeId(4))]).unwrap();
        append(&log, USER_RANGE, 3, 2, EntryKind::Config, joint.encode());
        let recovery = plan(&engine, &log).unwrap();
        assert_eq!((&recovery.ranges[1].members, &recovery.lost[..]), (&joint, &[1, 3, 4][..]));
        submit(&log, recovery.into_ops());
        assert_recovered(&log, &engine, 3);
    }

    #[test]
    fn every_node_that_ever_was_is_removed_and_what_was_known_of_it_kept() {
        let (engine, log) = founded();
        let record = |node, removed_at_ms| {
            let peer_address = format!("10.0.0.{node}:1");
            let record = NodeRecord { node, peer_address, removed_at_ms, ..NodeRecord::default() };
            WriteOp::Put { key: system::node_key(node), value: record.encode_to_vec().into() }
        };
        engine.write(&[record(1, 0), record(2, 0), record(8, 77)]).unwrap();
        let stamp = Stamp::from_ms(NOW_MS + 50);
        let entry = crate::Entry { stamp, last_stamp: stamp, ops: vec![record(9, 0)] };
        append(&log, SYSTEM_RANGE, 3, 2, EntryKind::Normal, entry.encode());
        let recovery = plan(&engine, &log).unwrap();
        assert_eq!(recovery.lost, [1, 3, 9], "node 8 was removed before");
        submit(&log, recovery.into_ops());
        assert_recovered(&log, &engine, 3);
        let Some(Content::Effects(effects)) = contents(&log, SYSTEM_RANGE).pop() else { panic!("it ends in effects") };
        assert!(effects.stamp > stamp, "stamps grow along the log, whatever the clock says");
        let WriteOp::Put { value, .. } = &effects.ops[0] else { panic!("records are put") };
        let first = NodeRecord::decode(value.clone()).unwrap();
        assert_eq!((first.node, first.peer_address.as_str(), first.removed_at_ms), (1, "10.0.0.1:1", NOW_MS));
        engine.write(&[record(ME, 5)]).unwrap();
        assert!(matches!(plan(&engine, &log), Err(RecoveryError::Removed)));
    }

    #[test]
    fn a_founder_that_never_flushed_goes_on_from_its_log() {
        let (_, log) = founded();
        let engine = MemoryEngine::new();
        submit(&log, plan(&engine, &log).unwrap().into_ops());
        assert_recovered(&log, &engine, 3);
    }

    #[test]
    fn data_ahead_of_the_log_is_what_counts() {
        let (engine, log) = founded();
        RANGES.iter().for_each(|range| apply(&engine, *range, Position::new(9, 4), &three()));
        let recovery = plan(&engine, &log).unwrap();
        assert_eq!(recovery.ranges[0].last, Position::new(9, 4));
        submit(&log, recovery.into_ops());
        assert_eq!(log.status(USER_RANGE).unwrap().begin, Position::new(9, 4));
        assert_recovered(&log, &engine, 5);
    }

    #[test]
    fn nothing_to_go_on_with_is_refused() {
        let (engine, log) = (MemoryEngine::new(), MemoryLog::new());
        let joined = Recovery::plan(&engine, &log, ME, &[], NOW_MS);
        assert!(matches!(joined, Err(RecoveryError::NoData(RangeId(0)))), "{joined:?}");
        apply(&engine, RangeId(0), Position::new(9, 4), &three());
        let lost_log = plan(&engine, &log);
        assert!(matches!(lost_log, Err(RecoveryError::Node(NodeError::LogMissing { .. }))), "{lost_log:?}");
        submit(&log, vec![LogOp::Reset { range: RangeId(0), begin: Position::new(20, 5) }]);
        let gap = plan(&engine, &log);
        assert!(matches!(gap, Err(RecoveryError::Node(NodeError::LogGap { .. }))), "{gap:?}");
        let (engine, log) = founded();
        append(&log, USER_RANGE, 3, 2, EntryKind::Config, Bytes::from_static(b"garbage"));
        let damaged = plan(&engine, &log);
        assert!(matches!(damaged, Err(RecoveryError::Entry { .. })), "{damaged:?}");
    }
}
