//! What the core asks of the log on disk, and that log in memory.

use std::collections::VecDeque;

use crate::{Entry, EntryId, LogIndex, Term};

/// The durable log of one group, as the core reads it. The driver writes it, as [`Persist`](crate::Persist) says.
///
/// The core keeps what is not durable yet, and what somebody still needs, in memory itself; it reads from here only what
/// it has dropped, after [`Raft::persisted`](crate::Raft::persisted) said that it is here. So between a write and its report
/// the store may answer either way for the entries concerned.
pub trait LogStorage {
    /// The entry after which this log begins: (0, 0) for one that was never shortened. It grows as the driver compacts,
    /// never beyond what is durable in the applied state, nor beyond [`Raft::durable_index`](crate::Raft::durable_index).
    fn base(&self) -> EntryId;

    /// Index of the last entry, or of the base if there is none.
    fn last_index(&self) -> LogIndex;

    /// Term of an entry from the base to the last; `None` outside. Must not wait for a disk: keep the few indexes at which
    /// the term changes in memory.
    fn term(&self, index: LogIndex) -> Option<Term>;

    /// Contiguous entries from `from` to `to`, both included: at least one, then as many as fit in `bytes_max`.
    fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, ReadLogError>;
}

/// Why entries cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadLogError {
    /// They are at or before the base, or not there.
    #[error("the log does not hold these entries")]
    NotHeld,
    /// They would have to be fetched from a disk. The store has begun to; the core will ask again.
    #[error("the entries are not in memory yet")]
    NotNow,
}

/// A log in memory.
#[derive(Clone, Debug, Default)]
pub struct MemLog {
    base: EntryId,
    entries: VecDeque<Entry>,
}

impl MemLog {
    /// A log that begins after `base`.
    pub fn new(base: EntryId) -> MemLog {
        MemLog { base, entries: VecDeque::new() }
    }

    /// Writes entries, replacing everything from the first of them on.
    ///
    /// # Panics
    /// If they do not join the log.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.base.index && first.index <= self.last_index().next(),
            "a gap before {}",
            first.index
        );
        self.entries.truncate((first.index - self.base.index.next()) as usize);
        self.entries.extend(entries);
    }

    /// Drops everything; the log begins after `base`.
    pub fn restart(&mut self, base: EntryId) {
        *self = MemLog::new(base);
    }

    /// Drops entries up to and including `to`.
    ///
    /// # Panics
    /// If the log does not reach so far.
    pub fn compact(&mut self, to: LogIndex) {
        if to > self.base.index {
            let term = self.term(to).expect("a log is compacted within itself");
            self.entries.drain(..(to - self.base.index) as usize);
            self.base = EntryId::new(term, to);
        }
    }
}

impl LogStorage for MemLog {
    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> LogIndex {
        self.base.index + self.entries.len() as u64
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let offset = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).map(|e| e.term)
    }

    fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, ReadLogError> {
        if from <= self.base.index || to > self.last_index() || from > to {
            return Err(ReadLogError::NotHeld);
        }
        let (start, end) = ((from - self.base.index - 1) as usize, (to - self.base.index) as usize);
        Ok(take_bytes(self.entries.range(start..end), bytes_max))
    }
}

/// At least one entry, then as many as fit.
pub(crate) fn take_bytes<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>, bytes_max: u64) -> Vec<Entry> {
    let mut out = Vec::with_capacity(entries.len().min(256));
    let mut bytes = 0u64;
    for e in entries {
        bytes = bytes.saturating_add(e.cost_bytes());
        if bytes > bytes_max && !out.is_empty() {
            break;
        }
        out.push(e.clone());
    }
    out
}
