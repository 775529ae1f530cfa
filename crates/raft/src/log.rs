//! The log: a tail in memory over the log on disk, and the marks that move along it.
//!
//! ```text
//!        base                                                        last
//!   ......|--------------------------------------------------------|
//!          |<--------- storage --------->|
//!                      |<------------------ tail ----------------->|
//!    marks:    applied <= applying <= commit <= last
//!                                 durable <= handed <= last
//! ```
//!
//! The tail holds every entry that is not durable yet or not handed out to be applied yet, and, as a cache with a bound,
//! those some follower still lacks; so in the ordinary run of things nothing is read back from the disk.
//! `commit` and `durable` are independent: a majority elsewhere may commit what this disk has not got, and it may be
//! applied at once, since it cannot be lost any more.
//!
//! Writes complete late. When entries are overwritten while their write is in flight, the write's completion must not count
//! for the new entries at the same indexes; so overwriting clips what the writes in flight will claim.

use std::collections::VecDeque;

use crate::storage::{LogStorage, ReadLogError, take_bytes};
use crate::{Entry, EntryId, LogIndex, Term};

/// A write handed to the driver and not reported.
#[derive(Debug)]
struct Write {
    number: u64,
    /// When it completes, the log up to here is durable; lower than what it wrote if that was overwritten since.
    last: LogIndex,
    /// It makes the log begin anew.
    restarts: bool,
}

#[derive(Debug)]
pub(crate) struct Log<S> {
    storage: S,
    /// Set while the log in `storage` is void: it is to begin after this entry, and that is not durable yet.
    restart: Option<EntryId>,
    restart_handed: bool,
    tail: VecDeque<Entry>,
    /// Index of the first entry of the tail, or where it would be. The log ends where the tail ends.
    tail_first: LogIndex,
    /// Cost of the tail.
    tail_bytes: u64,
    writes: VecDeque<Write>,
    handed: LogIndex,
    durable: LogIndex,
    commit: LogIndex,
    applying: LogIndex,
    applied: LogIndex,
    /// Cost of the entries from `applied` to `applying`; falls to zero when the two meet.
    applying_bytes: u64,
}

/// The log on disk begins after the entry that the data says is applied; what lies between is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap;

impl<S: LogStorage> Log<S> {
    /// Joins the log on disk to the state that has been applied up to `applied`.
    ///
    /// A log that does not contain that entry is void: the state was ahead of it when the node crashed, and whatever it
    /// holds is older or was overwritten. It begins anew, at the applied entry.
    pub(crate) fn new(storage: S, applied: EntryId) -> Result<Log<S>, Gap> {
        if applied.index < storage.base().index {
            return Err(Gap);
        }
        let holds_it = storage.term(applied.index) == Some(applied.term);
        let last = if holds_it { storage.last_index() } else { applied.index };
        Ok(Log {
            storage,
            restart: (!holds_it).then_some(applied),
            restart_handed: false,
            tail: VecDeque::new(),
            tail_first: last.next(),
            tail_bytes: 0,
            writes: VecDeque::new(),
            handed: last,
            durable: if holds_it { last } else { LogIndex::ZERO },
            commit: applied.index,
            applying: applied.index,
            applied: applied.index,
            applying_bytes: 0,
        })
    }

    pub(crate) fn storage(&self) -> &S {
        &self.storage
    }

    pub(crate) fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    pub(crate) fn base(&self) -> EntryId {
        self.restart.unwrap_or_else(|| self.storage.base())
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.tail_first.prev() + self.tail.len() as u64
    }

    pub(crate) fn last(&self) -> EntryId {
        match self.tail.back() {
            Some(e) => e.id(),
            None => {
                let index = self.last_index();
                EntryId::new(self.term(index).expect("the last entry, or the base, has a term"), index)
            }
        }
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Whether a restart of the log is not durable yet.
    pub(crate) fn is_restarting(&self) -> bool {
        self.restart.is_some()
    }

    /// Term of an entry from the base to the last.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index >= self.tail_first {
            return self.tail.get((index - self.tail_first) as usize).map(|e| e.term);
        }
        match self.restart {
            Some(base) => (base.index == index).then_some(base.term),
            None => self.storage.term(index),
        }
    }

    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// The last entry at or before `at` whose term is not after `term`; the base if there is none. Terms only grow along a
    /// log, so a search by halves finds it.
    pub(crate) fn last_not_after(&self, term: Term, at: LogIndex) -> EntryId {
        let base = self.base();
        let (mut low, mut high) = (base.index, at.min(self.last_index()).max(base.index));
        while low < high {
            let middle = LogIndex(high.0 - (high.0 - low.0) / 2);
            if self.term(middle).is_some_and(|t| t <= term) {
                low = middle;
            } else {
                high = middle.prev();
            }
        }
        EntryId::new(self.term(low).unwrap_or(base.term), low)
    }

    /// Adds entries that follow the last.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "entries join");
        self.tail_bytes += entry.cost_bytes();
        self.tail.push_back(entry);
    }

    /// Adds entries that follow the last and each other. The usual case, that nothing else is in memory, moves them as
    /// they are.
    pub(crate) fn extend(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert_eq!(first.index, self.last_index().next(), "entries join");
        self.tail_bytes += entries.iter().map(Entry::cost_bytes).sum::<u64>();
        if self.tail.is_empty() {
            self.tail = VecDeque::from(entries);
        } else {
            self.tail.extend(entries);
        }
    }

    /// Drops the entries from `from` on.
    ///
    /// # Panics
    /// If one of them is committed: nothing may ever ask for that.
    pub(crate) fn truncate_from(&mut self, from: LogIndex) {
        assert!(from > self.commit, "entry {from} is committed (commit {})", self.commit);
        while self.tail.back().is_some_and(|e| e.index >= from) {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |e| e.cost_bytes());
        }
        if self.tail.is_empty() {
            self.tail_first = self.tail_first.min(from);
        }
        let last = from.prev();
        self.handed = self.handed.min(last);
        self.durable = self.durable.min(last);
        self.writes.iter_mut().for_each(|write| write.last = write.last.min(last));
    }

    /// Takes back the entries from `from` on, which were pushed and handed to nobody.
    pub(crate) fn unpush_from(&mut self, from: LogIndex) {
        assert!(from > self.handed, "entry {from} was handed out");
        self.truncate_from(from);
    }

    /// Begins anew after `base`, which a snapshot contains.
    pub(crate) fn restart_at(&mut self, base: EntryId) {
        assert!(base.index > self.commit, "a snapshot at {} does not undo commit {}", base.index, self.commit);
        self.tail.clear();
        self.tail_bytes = 0;
        self.tail_first = base.index.next();
        self.restart = Some(base);
        self.restart_handed = false;
        self.handed = base.index;
        self.durable = LogIndex::ZERO;
        for write in &mut self.writes {
            write.last = LogIndex::ZERO;
            write.restarts = false;
        }
        self.commit = base.index;
        self.applying = base.index;
        self.applying_bytes = 0;
    }

    /// What the next write must contain: a new beginning, and entries.
    pub(crate) fn take_unhanded(&mut self) -> (Option<EntryId>, Vec<Entry>) {
        let restart = if self.restart_handed { None } else { self.restart };
        self.restart_handed = true;
        let first = self.handed.next();
        self.handed = self.last_index();
        if first > self.handed {
            return (restart, Vec::new());
        }
        let from = (first - self.tail_first) as usize;
        (restart, self.tail.range(from..).cloned().collect())
    }

    /// Notes that everything handed so far is in the write of this number.
    pub(crate) fn wrote(&mut self, number: u64, restarts: bool) {
        self.writes.push_back(Write { number, last: self.handed, restarts });
    }

    /// The writes up to `number` are durable.
    pub(crate) fn persisted(&mut self, number: u64) {
        while let Some(write) = self.writes.pop_front_if(|w| w.number <= number) {
            if write.restarts {
                self.applied = self.applied.max(self.restart.map_or(LogIndex::ZERO, |r| r.index));
                self.restart = None;
            }
            self.durable = self.durable.max(write.last);
        }
    }

    /// Moves the commit index forward, never back. True if it moved.
    pub(crate) fn commit_to(&mut self, index: LogIndex) -> bool {
        assert!(index <= self.last_index(), "commit {index} is beyond the last entry {}", self.last_index());
        let moves = index > self.commit;
        self.commit = self.commit.max(index);
        moves
    }

    /// Whether [`Log::take_committed`] would return something.
    pub(crate) fn has_committed(&self, bytes_max: u64) -> bool {
        self.applying < self.commit && !self.is_restarting() && self.applying_bytes < bytes_max
    }

    /// Committed entries that were not handed out, as many as the limit allows. While a snapshot is being installed there
    /// is no state to apply them to. Those that are durable, and had by all others, are moved out of the tail rather than
    /// copied: nobody will want them again.
    pub(crate) fn take_committed(&mut self, bytes_max: u64, all_have: LogIndex) -> Vec<Entry> {
        if !self.has_committed(bytes_max) {
            return Vec::new();
        }
        let room = bytes_max - self.applying_bytes;
        let first = self.applying.next();
        let unwanted = self.commit.min(self.durable).min(all_have);
        let entries = if first == self.tail_first && unwanted >= first {
            self.move_out(unwanted, room)
        } else {
            let entries = self.read(first, self.commit, room).unwrap_or_default();
            self.applying_bytes += entries.iter().map(Entry::cost_bytes).sum::<u64>();
            entries
        };
        self.applying = self.applying + entries.len() as u64;
        entries
    }

    /// Takes entries off the front of the tail, up to `to`: one, then as many as fit.
    fn move_out(&mut self, to: LogIndex, bytes_max: u64) -> Vec<Entry> {
        let (mut n, mut bytes) = (0, 0);
        for e in self.tail.range(..(to - self.tail_first) as usize + 1) {
            let cost = e.cost_bytes();
            if n > 0 && bytes + cost > bytes_max {
                break;
            }
            bytes += cost;
            n += 1;
        }
        self.tail_first = self.tail_first + n as u64;
        self.tail_bytes -= bytes;
        self.applying_bytes += bytes;
        if n == self.tail.len() {
            return Vec::from(std::mem::take(&mut self.tail));
        }
        self.tail.drain(..n).collect()
    }

    /// Whether there is something to write.
    pub(crate) fn has_unhanded(&self) -> bool {
        self.handed < self.last_index() || (self.restart.is_some() && !self.restart_handed)
    }

    /// The driver has applied this far.
    pub(crate) fn applied_to(&mut self, index: LogIndex) {
        assert!(index <= self.applying, "applied {index}, but only {} was handed out", self.applying);
        self.applied = self.applied.max(index);
        if self.applied == self.applying {
            self.applying_bytes = 0;
        }
    }

    /// Entries from `from`, at most to `to`, from wherever they are.
    pub(crate) fn read(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, ReadLogError> {
        if from > to {
            return Ok(Vec::new());
        }
        if from >= self.tail_first {
            let start = (from - self.tail_first) as usize;
            return Ok(take_bytes(self.tail.range(start..=(to - self.tail_first) as usize), bytes_max));
        }
        if from <= self.base().index {
            return Err(ReadLogError::NotHeld);
        }
        self.storage.entries(from, to.min(self.tail_first.prev()), bytes_max)
    }

    /// Cost of the entries after `after` up to `to` that are of `term` and in the tail.
    pub(crate) fn cost_bytes(&self, after: LogIndex, to: LogIndex, term: Term) -> u64 {
        let from = after.next().max(self.tail_first);
        if from > to {
            return 0;
        }
        let range = (from - self.tail_first) as usize..=(to - self.tail_first) as usize;
        self.tail.range(range).filter(|e| e.term == term).map(Entry::cost_bytes).sum()
    }

    /// Drops from memory what is durable, handed out, and either had by every follower or more than the cache may hold.
    pub(crate) fn evict(&mut self, all_have: LogIndex, cache_bytes_max: u64) {
        let done = self.durable.min(self.applying);
        while let Some(first) = self.tail.front() {
            if first.index > done || (first.index > all_have && self.tail_bytes <= cache_bytes_max) {
                return;
            }
            self.tail_bytes -= first.cost_bytes();
            self.tail_first = self.tail_first.next();
            self.tail.pop_front();
        }
    }

    /// What the writes in flight will claim; for a planted bug.
    #[cfg(test)]
    pub(crate) fn claims(&self) -> Vec<LogIndex> {
        self.writes.iter().map(|w| w.last).collect()
    }

    #[cfg(test)]
    pub(crate) fn restore_claims(&mut self, claims: Vec<LogIndex>) {
        self.writes.iter_mut().zip(claims).for_each(|(w, last)| w.last = last);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{EntryKind, MemLog};

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"12345678"),
        }
    }

    const COST: u64 = 40;

    /// A log whose entries have these terms, all of them durable.
    fn stored(terms: &[u64]) -> Log<MemLog> {
        let mut storage = MemLog::default();
        storage.append(terms.iter().enumerate().map(|(i, t)| entry(i as u64 + 1, *t)).collect());
        Log::new(storage, EntryId::default()).unwrap()
    }

    /// Hands everything out, and writes it.
    fn write(log: &mut Log<MemLog>, number: u64) {
        let (restart, entries) = log.take_unhanded();
        if let Some(base) = restart {
            log.storage_mut().restart(base);
        }
        log.storage_mut().append(entries);
        log.wrote(number, restart.is_some());
        log.persisted(number);
    }

    #[test]
    fn the_last_entry_not_after_a_term_is_found_as_a_linear_search_would() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        let log = stored(&terms);
        for term in 0..8 {
            for at in 0..15 {
                let found = (0..=at.min(10)).rev().find(|i| *i == 0 || terms[*i - 1] <= term).unwrap();
                let got = log.last_not_after(Term(term), LogIndex(at as u64));
                assert_eq!(got.index.0, found as u64, "term {term} at {at}");
            }
        }
    }

    #[test]
    fn a_completion_does_not_count_for_what_overwrote_its_entries() {
        let mut log = stored(&[1]);
        log.push(entry(2, 1));
        log.push(entry(3, 1));
        let _in_flight = log.take_unhanded();
        log.wrote(1, false);
        log.truncate_from(LogIndex(3));
        log.push(entry(3, 2));
        let (_, second) = log.take_unhanded();
        log.wrote(2, false);
        assert_eq!(second.len(), 1);
        log.persisted(1);
        assert_eq!(log.durable(), LogIndex(2));
        log.persisted(2);
        assert_eq!(log.durable(), LogIndex(3));
    }

    #[test]
    fn a_log_without_the_applied_entry_begins_anew_there() {
        let mut storage = MemLog::default();
        storage.append(vec![entry(1, 1), entry(2, 1), entry(3, 1)]);
        for (term, index, last) in [(2, 2, 2), (1, 2, 3), (1, 5, 5)] {
            let mut log = Log::new(storage.clone(), EntryId::new(Term(term), LogIndex(index))).unwrap();
            assert_eq!(log.last_index(), LogIndex(last));
            let restarts = log.take_unhanded().0.is_some();
            assert_eq!(restarts, (term, index) != (1, 2));
        }
        let mut short = storage.clone();
        short.compact(LogIndex(2));
        assert_eq!(Log::new(short, EntryId::new(Term(1), LogIndex(1))).err(), Some(Gap));
    }

    #[test]
    fn committed_entries_are_handed_out_within_the_limit_and_again_when_applied() {
        for all_have in [LogIndex::ZERO, LogIndex(10)] {
            let mut log = stored(&[]);
            (1..=10).for_each(|i| log.push(entry(i, 1)));
            write(&mut log, 1);
            log.commit_to(LogIndex(10));
            assert_eq!(log.take_committed(3 * COST, all_have).len(), 3);
            assert_eq!(log.take_committed(3 * COST, all_have).len(), 0, "none is applied yet");
            log.applied_to(LogIndex(3));
            assert_eq!(log.take_committed(COST / 2, all_have).len(), 1, "one always fits");
        }
    }

    #[test]
    fn the_tail_keeps_what_is_needed_and_caches_no_more_than_its_bound() {
        let mut log = stored(&[]);
        (1..=10).for_each(|i| log.push(entry(i, 1)));
        log.evict(LogIndex(10), 0);
        assert_eq!(log.tail.len(), 10, "nothing is durable");
        write(&mut log, 1);
        log.evict(LogIndex(10), 0);
        assert_eq!(log.tail.len(), 10, "nothing is handed out");
        log.commit_to(LogIndex(8));
        let handed = log.take_committed(u64::MAX, LogIndex::ZERO).len();
        log.evict(LogIndex(2), 5 * COST);
        assert_eq!((handed, log.tail.len()), (8, 5), "a follower lacks 3, but the cache holds five");
        log.evict(LogIndex(10), 5 * COST);
        assert_eq!(log.tail.len(), 2, "9 and 10 are not handed out");
        let read = log.read(LogIndex(1), LogIndex(10), u64::MAX).unwrap();
        assert_eq!(read.len(), 8, "what was dropped is read from the log on disk");
    }
}
