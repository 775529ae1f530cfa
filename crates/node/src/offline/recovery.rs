//! [`Recovery`]: how the ranges of one node go on without the others, once a majority is lost for good.
//!
//! Raft has no safe answer to that loss, so this is none: **writes that were acknowledged, but are only on the lost nodes,
//! are gone.** What it does keep is everything this node has, and the shape of a log that any node can read. To each range's
//! log it appends, in a new term, what a leader with a quorum of one would have:
//!
//! ```text
//! ... entries as they are | members: this node alone
//!                         | in a term above every term here
//! ```
//!
//! A configuration counts from the moment it is in the log, so the node that starts on it elects itself, and commits its
//! log to the end, entries included that nobody knows to be committed: they may have been acknowledged. What was appended
//! twice, or in part because the power failed, is appended again, in a higher term: planning anew finds out what is missing.
//!
//! **The lost nodes must never run again.** They may form a majority of the configuration they know, and go on beside this
//! node. One that finds the cluster as it is now is told that it was removed; two that find each other first are not.

use dstore_raft::{Configuration, EntryKind, Restored};
use dstore_storage::log::HardState;
use dstore_storage::{Entry as LogEntry, Log, LogError, LogIndex, LogOp, Position, RangeId, Reader, Term};

use super::{Content, RANGES, RangeState};
use crate::NodeError;
use crate::range_log::position;
use crate::wire::kind_number;

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

/// What the log holds beyond the data.
struct Tail {
    members: Configuration,
}

impl Recovery {
    /// Works out what is to be done on the node `me`, whose data and log these are. `founders` are those of the cluster, or
    /// nobody if the node joined later: a founder knows the first state of every range, and may not have flushed it yet.
    ///
    /// # Errors
    ///
    /// This node has nothing to go on with, or it cannot be read.
    pub fn plan(reader: &dyn Reader, log: &dyn Log, me: u64, founders: &[u64]) -> Result<Recovery, RecoveryError> {
        let mut recovery = Recovery { ranges: Vec::new(), lost: Vec::new(), ops: Vec::new() };
        for range in RANGES {
            recovery.plan_range(reader, log, range, me, founders)?;
        }
        recovery.lost.sort_unstable();
        recovery.lost.dedup();
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

    fn plan_range(
        &mut self,
        reader: &dyn Reader,
        log: &dyn Log,
        range: RangeId,
        me: u64,
        founders: &[u64],
    ) -> Result<(), RecoveryError> {
        let RangeState { mut applied, mut members } = RangeState::read(reader, range)?;
        if applied.position == Position::default() {
            let founders = founders.iter().map(|node| dstore_raft::NodeId(*node));
            let first = Restored::bootstrap(Configuration::new(founders, []));
            applied.position = position(first.applied);
            members = Some(first.configuration).filter(|members| !members.is_empty());
        }
        let members = members.ok_or(RecoveryError::NoData(range))?;
        let (reset, last, hard_state) = join(log, range, applied.position)?;
        let first = Tail { members };
        let tail = if reset.is_some() { first } else { read_tail(log, range, applied.position.index, last, first)? };
        let alone = Configuration::new([dstore_raft::NodeId(me)], []);
        let is_alone = tail.members == alone;
        let term = hard_state.term.max(last.term).max(applied.position.term);
        let others = tail.members.members().into_iter().map(|node| node.0).filter(|node| *node != me);
        self.lost.extend(others);
        if !is_alone {
            let term = Term(term.0 + 1);
            let state = HardState { term, vote: me, commit: hard_state.commit };
            let entry = LogEntry {
                index: last.index.next(),
                term,
                kind: kind_number(EntryKind::Config),
                payload: alone.encode(),
            };
            self.ops.extend(reset);
            self.ops.push(LogOp::SetHardState { range, state });
            self.ops.push(LogOp::Append { range, entries: vec![entry] });
        }
        let applied = applied.position;
        self.ranges.push(RangeRecovery { range, term, applied, last, members: tail.members, is_alone });
        Ok(())
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

/// Follows the entries behind `applied`.
fn read_tail(
    log: &dyn Log,
    range: RangeId,
    applied: LogIndex,
    last: Position,
    mut tail: Tail,
) -> Result<Tail, RecoveryError> {
    let (mut next, end) = (applied.next(), last.index.next());
    while next < end {
        for entry in log.entries(range, next, end, READ_BYTES)? {
            next = entry.index.next();
            let position = entry.position();
            match Content::of(entry.kind, &entry.payload) {
                Content::Blank | Content::Effects(_) => {}
                Content::Configuration(members) => tail.members = members,
                Content::Unreadable(what) => return Err(RecoveryError::Entry { range, position, what }),
            }
        }
    }
    Ok(tail)
}
