//! [`RangeLog`]: one range's part of the node's log, as consensus reads it; and the words of the two, translated.
//!
//! Entries that are not in memory are read by another thread. Consensus is told that it cannot have them now, and asks again
//! whenever anything happens to its group, which their arrival is.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use dstore_raft as raft;
use dstore_storage as storage;
use dstore_storage::{Log, LogError, LogOp, RangeId};

use crate::wire::{kind_number, kind_of};

/// Reads that came and were not asked for again since: whoever wanted them may be gone.
const READ_MAX: usize = 4;

/// A range's log, to read.
pub(crate) struct RangeLog {
    log: Arc<dyn Log>,
    range: RangeId,
    /// None while the group starts, which waits for the disk.
    elsewhere: Option<RefCell<Elsewhere>>,
}

/// What is read by other threads.
#[derive(Default)]
struct Elsewhere {
    wanted: Vec<Wanted>,
    /// By the first entry.
    under_way: Vec<raft::LogIndex>,
    read: VecDeque<(raft::LogIndex, Result<Vec<raft::Entry>, raft::ReadLogError>)>,
}

/// Entries to be read, both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) from: raft::LogIndex,
    to: raft::LogIndex,
    bytes_max: usize,
}

impl RangeLog {
    /// A log that waits for the disk.
    pub(crate) fn new(log: Arc<dyn Log>, range: RangeId) -> RangeLog {
        RangeLog { log, range, elsewhere: None }
    }

    /// From now on others wait for the disk.
    pub(crate) fn stop_waiting(&mut self) {
        self.elsewhere = Some(RefCell::default());
    }

    /// What is to be read for it: each by [`RangeLog::reader`], whose outcome is for [`RangeLog::has_read`].
    pub(crate) fn take_wanted(&self) -> Vec<Wanted> {
        let Some(elsewhere) = &self.elsewhere else { return Vec::new() };
        let mut elsewhere = elsewhere.borrow_mut();
        let wanted = std::mem::take(&mut elsewhere.wanted);
        elsewhere.under_way.extend(wanted.iter().map(|wanted| wanted.from));
        wanted
    }

    /// Reads them, and waits for the disk.
    pub(crate) fn reader(&self, wanted: Wanted) -> impl FnOnce() -> Result<Vec<storage::Entry>, LogError> + use<> {
        let (log, range) = (self.log.clone(), self.range);
        let Wanted { from, to, bytes_max } = wanted;
        move || log.entries(range, storage::LogIndex(from.0), storage::LogIndex(to.0).next(), bytes_max)
    }

    /// Takes what was read.
    ///
    /// # Errors
    ///
    /// The disk did not give back what was written: the node must stop.
    pub(crate) fn has_read(
        &self,
        from: raft::LogIndex,
        found: Result<Vec<storage::Entry>, LogError>,
    ) -> Result<(), LogError> {
        let Some(elsewhere) = &self.elsewhere else { return Ok(()) };
        let mut elsewhere = elsewhere.borrow_mut();
        elsewhere.under_way.retain(|under_way| *under_way != from);
        elsewhere.read.push_back((from, translated(found)?));
        if elsewhere.read.len() > READ_MAX {
            elsewhere.read.pop_front();
        }
        Ok(())
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

    /// Entries that are not in memory, if they were read already. Otherwise they will be.
    fn read_elsewhere(
        &self,
        elsewhere: &mut Elsewhere,
        wanted: Wanted,
    ) -> Result<Vec<raft::Entry>, raft::ReadLogError> {
        let at = elsewhere.read.iter().position(|(from, _)| *from == wanted.from);
        match at.and_then(|at| elsewhere.read.remove(at)) {
            Some((_, Err(error))) => return Err(error),
            Some((_, Ok(mut entries))) => {
                entries.retain(|entry| entry.index <= wanted.to);
                if self.are_current(&entries) {
                    return Ok(entries);
                }
            }
            None => {}
        }
        elsewhere.wanted.push(wanted);
        Err(raft::ReadLogError::NotNow)
    }

    /// Whether entries that were read some time ago are those that the log has now. Where one has the same index and term, all
    /// before it are the same, too: the Log Matching Property (Ongaro and Ousterhout, "In Search of an Understandable
    /// Consensus Algorithm", section 5.3).
    fn are_current(&self, entries: &[raft::Entry]) -> bool {
        use raft::LogStorage as _;
        entries.last().is_some_and(|last| self.term(last.index) == Some(last.term))
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
        let (lo, hi) = (storage::LogIndex(from.0), storage::LogIndex(to.0).next());
        let Some(elsewhere) = &self.elsewhere else {
            // Damage was found when the log was opened, if there is any.
            let found = self.log.entries(self.range, lo, hi, bytes_max);
            return translated(found).unwrap_or(Err(raft::ReadLogError::NotNow));
        };
        let mut elsewhere = elsewhere.borrow_mut();
        let is_awaited = elsewhere.under_way.contains(&from) || elsewhere.wanted.iter().any(|one| one.from == from);
        if is_awaited {
            return Err(raft::ReadLogError::NotNow);
        }
        match self.log.entries_in_memory(self.range, lo, hi, bytes_max) {
            Ok(found) if found.is_empty() => self.read_elsewhere(&mut elsewhere, Wanted { from, to, bytes_max }),
            found => translated(found).unwrap_or(Err(raft::ReadLogError::NotNow)),
        }
    }
}

/// In the words of consensus.
///
/// # Errors
///
/// The disk did not give back what was written.
fn translated(
    found: Result<Vec<storage::Entry>, LogError>,
) -> Result<Result<Vec<raft::Entry>, raft::ReadLogError>, LogError> {
    match found {
        // An entry of a kind that this version does not know ends what can be read.
        Ok(entries) => {
            Ok(entries.into_iter().map(|entry| from_stored(entry).ok_or(raft::ReadLogError::NotHeld)).collect())
        }
        Err(LogError::Compacted { .. } | LogError::Unavailable { .. }) => Ok(Err(raft::ReadLogError::NotHeld)),
        Err(error) => Err(error),
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
    use dstore_storage::MemoryLog;

    use super::*;

    const RANGE: RangeId = RangeId(1);

    fn entries(terms: &[u64], from: u64) -> Vec<storage::Entry> {
        let entry = |(at, term): (usize, &u64)| storage::Entry {
            index: storage::LogIndex(from + at as u64),
            term: storage::Term(*term),
            kind: kind_number(raft::EntryKind::Normal),
            payload: vec![b'x'; 10].into(),
        };
        terms.iter().enumerate().map(entry).collect()
    }

    fn append(log: &MemoryLog, terms: &[u64], from: u64) {
        let op = LogOp::Append { range: RANGE, entries: entries(terms, from) };
        log.submit(vec![op], Box::new(|result| result.unwrap())).unwrap();
        log.sync();
    }

    /// Six entries, of which the last two are in memory.
    fn six() -> (Arc<MemoryLog>, RangeLog) {
        let log = Arc::new(MemoryLog::new());
        append(&log, &[1, 1, 1, 2, 2, 2], 1);
        log.set_remembered(2);
        let mut range_log = RangeLog::new(log.clone(), RANGE);
        range_log.stop_waiting();
        (log, range_log)
    }

    fn ask(log: &RangeLog, from: u64, to: u64) -> Result<Vec<u64>, raft::ReadLogError> {
        let found = log.entries(raft::LogIndex(from), raft::LogIndex(to), 1 << 20)?;
        Ok(found.iter().map(|entry| entry.index.0).collect())
    }

    #[test]
    fn entries_that_are_not_in_memory_are_read_elsewhere_once_and_given_when_they_are_asked_for_again() {
        let (_, log) = six();
        assert_eq!(ask(&log, 5, 6), Ok(vec![5, 6]));
        for _ in 0..3 {
            assert_eq!(ask(&log, 2, 4), Err(raft::ReadLogError::NotNow));
        }
        let wanted = log.take_wanted();
        assert_eq!(wanted.iter().map(|wanted| wanted.from.0).collect::<Vec<_>>(), [2]);
        assert_eq!(ask(&log, 2, 4), Err(raft::ReadLogError::NotNow));
        assert!(log.take_wanted().is_empty(), "it is under way");
        log.has_read(wanted[0].from, log.reader(wanted[0])()).unwrap();
        assert_eq!(ask(&log, 2, 4), Ok(vec![2, 3, 4]));
        assert_eq!(ask(&log, 2, 4), Err(raft::ReadLogError::NotNow), "what was given is not kept");
    }

    #[test]
    fn entries_that_others_have_replaced_since_they_were_read_are_read_again() {
        let (log, range_log) = six();
        assert_eq!(ask(&range_log, 2, 4), Err(raft::ReadLogError::NotNow));
        let wanted = range_log.take_wanted()[0];
        let old = range_log.reader(wanted)();
        append(&log, &[3, 3, 3, 3], 3);
        range_log.has_read(wanted.from, old).unwrap();
        assert_eq!(ask(&range_log, 2, 4), Err(raft::ReadLogError::NotNow));
        let wanted = range_log.take_wanted()[0];
        range_log.has_read(wanted.from, range_log.reader(wanted)()).unwrap();
        let found = range_log.entries(raft::LogIndex(2), raft::LogIndex(4), 1 << 20).unwrap();
        assert_eq!(found.iter().map(|entry| entry.term.0).collect::<Vec<_>>(), [1, 3, 3]);
    }

    #[test]
    fn what_the_log_does_not_hold_any_more_is_told_when_it_is_asked_for_again() {
        let (log, range_log) = six();
        assert_eq!(ask(&range_log, 2, 4), Err(raft::ReadLogError::NotNow));
        let wanted = range_log.take_wanted()[0];
        let op = LogOp::TruncatePrefix { range: RANGE, index: storage::LogIndex(3) };
        log.submit(vec![op], Box::new(|result| result.unwrap())).unwrap();
        range_log.has_read(wanted.from, range_log.reader(wanted)()).unwrap();
        assert_eq!(ask(&range_log, 2, 4), Err(raft::ReadLogError::NotHeld));
    }

    #[test]
    fn damage_that_a_read_meets_is_told_to_the_node() {
        let (log, range_log) = six();
        assert_eq!(ask(&range_log, 1, 4), Err(raft::ReadLogError::NotNow));
        let wanted = range_log.take_wanted()[0];
        let rots = |seed| log.rot(seed) && log.damage().is_some_and(|error| error.to_string().contains("entry 3 "));
        assert!((0..1000).any(rots));
        let error = range_log.has_read(wanted.from, range_log.reader(wanted)()).unwrap_err();
        assert!(error.to_string().contains("entry 3 "), "{error}");
    }

    #[test]
    fn no_more_is_kept_than_a_few_reads_that_nobody_asked_for_again() {
        let (log, range_log) = six();
        log.set_remembered(0);
        for from in 1..=6 {
            assert_eq!(ask(&range_log, from, 6), Err(raft::ReadLogError::NotNow));
            let wanted = range_log.take_wanted()[0];
            range_log.has_read(wanted.from, range_log.reader(wanted)()).unwrap();
        }
        assert_eq!(range_log.elsewhere.unwrap().borrow().read.len(), READ_MAX);
    }
}
