//! [`RangeLogs`]: where every entry is, and the newest payloads themselves, for both implementations of the log.
//!
//! It answers everything that must not touch the disk. An entry is in memory from the moment it is submitted; once it is
//! written it has a [`Place`] in a segment, and its payload may leave memory, oldest first, when the cache is full.
//! An entry without a place is never evicted.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Entry, HardState, LogError, LogOp, RangeStatus};
use crate::ids::{LogIndex, Position, RangeId, Term};

/// Where an entry's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not written yet. `number` tells this append from another one at the same index.
    Waiting { number: u64 },
    /// In segment number `segment`, its record starting at `offset`.
    At { segment: u64, offset: u32 },
}

/// What is known of one entry without its payload. 32 bytes: there is one for every entry on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) term: Term,
    pub(crate) place: Place,
    pub(crate) payload_len: u32,
    pub(crate) kind: u8,
}

/// One entry as the index knows it: whole, or where to read its payload.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Whole(Entry),
    OnDisk { index: LogIndex, slot: Slot },
}

#[derive(Clone, Debug, Default)]
struct RangeLog {
    begin: Position,
    hard_state: HardState,
    /// Slot `i` is the entry `begin.index + 1 + i`.
    slots: VecDeque<Slot>,
    /// Payloads of the newest entries: a suffix of `slots`, with the number of their append.
    cached: VecDeque<(u64, Bytes)>,
}

impl RangeLog {
    fn last_index(&self) -> LogIndex {
        LogIndex(self.begin.index.0 + self.slots.len() as u64)
    }

    fn last(&self) -> Position {
        match self.slots.back() {
            Some(slot) => Position { index: self.last_index(), term: slot.term },
            None => self.begin,
        }
    }

    /// The slot number of `index`, if an entry is there.
    fn slot_of(&self, index: LogIndex) -> Option<usize> {
        let above = index.0.checked_sub(self.begin.index.0)?;
        let slot = usize::try_from(above.checked_sub(1)?).ok()?;
        (slot < self.slots.len()).then_some(slot)
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.begin.index {
            return Some(self.begin.term);
        }
        self.slot_of(index).map(|slot| self.slots[slot].term)
    }

    /// The cached payload of slot `slot`.
    fn payload(&self, slot: usize) -> Option<&Bytes> {
        let first_cached = self.slots.len() - self.cached.len();
        slot.checked_sub(first_cached).map(|i| &self.cached[i].1)
    }
}

/// The logs of all ranges, in memory.
#[derive(Clone, Debug)]
pub(crate) struct RangeLogs {
    ranges: BTreeMap<RangeId, RangeLog>,
    /// Number of the next append, unique in the life of this index.
    next_number: u64,
    /// Appends in the order they came, for eviction. May name payloads that are gone already.
    order: VecDeque<(RangeId, u64)>,
    entries: u64,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

/// The shape of a range's log while a batch of operations is checked against it, before any is applied.
#[derive(Clone, Copy)]
struct Shape {
    begin: Position,
    last: Position,
    /// No operation of the batch has touched the range yet, so the index still tells the terms between the two.
    untouched: bool,
}

impl RangeLogs {
    pub(crate) fn new(cache_bytes_max: usize) -> RangeLogs {
        RangeLogs {
            ranges: BTreeMap::new(),
            next_number: 0,
            order: VecDeque::new(),
            entries: 0,
            cache_bytes: 0,
            cache_bytes_max,
        }
    }

    /// Puts a range there as recovery found it. `slots` follow `begin` without a gap.
    pub(crate) fn restore(&mut self, range: RangeId, begin: Position, hard_state: HardState, slots: VecDeque<Slot>) {
        self.entries += slots.len() as u64;
        let before = self.ranges.insert(range, RangeLog { begin, hard_state, slots, cached: VecDeque::new() });
        assert!(before.is_none(), "range {range} restored twice");
    }

    /// Whether `ops` fit what the log holds, each after the ones before it. `ranges_max` bounds how many ranges there are.
    pub(crate) fn check(&self, ops: &[LogOp], payload_bytes_max: usize, ranges_max: usize) -> Result<(), LogError> {
        let mut shapes: BTreeMap<RangeId, Option<Shape>> = BTreeMap::new();
        for op in ops {
            let range = op.range();
            let refuse = |what: String| Err(LogError::Refused { range, what });
            let shape = shapes.entry(range).or_insert_with(|| {
                self.ranges.get(&range).map(|log| Shape { begin: log.begin, last: log.last(), untouched: true })
            });
            let nothing = Position::default();
            let here = shape.unwrap_or(Shape { begin: nothing, last: nothing, untouched: false });
            let mut after = Shape { untouched: false, ..here };
            match op {
                LogOp::Append { entries, .. } => {
                    let Some(first) = entries.first() else {
                        return refuse("append of no entry".to_owned());
                    };
                    if first.index <= here.begin.index || first.index > here.last.index.next() {
                        return refuse(format!("append at {} into {}..={}", first.index, here.begin, here.last));
                    }
                    check_entries(range, entries, payload_bytes_max)?;
                    if let Some(before) = self.term_before(range, first.index, here)
                        && first.term < before
                    {
                        return refuse(format!("term falls from {before} to {} at {}", first.term, first.index));
                    }
                    after.last = entries.last().map_or(here.last, Entry::position);
                }
                LogOp::TruncatePrefix { index, .. } if *index > here.last.index => {
                    return refuse(format!("truncation to {index} beyond the last entry {}", here.last));
                }
                LogOp::TruncatePrefix { index, .. } if *index > here.begin.index => after.begin.index = *index,
                LogOp::TruncatePrefix { .. } | LogOp::SetHardState { .. } => {}
                LogOp::Reset { begin, .. } => after = Shape { begin: *begin, last: *begin, untouched: false },
                LogOp::RemoveRange { .. } => {
                    *shape = None;
                    continue;
                }
            }
            *shape = Some(after);
        }
        // Those that the batch removes again count too: the log writer meets every state in between.
        let created = shapes.keys().filter(|range| !self.ranges.contains_key(range));
        let (created, range) = created.fold((0, RangeId(0)), |(count, _), range| (count + 1, *range));
        if self.ranges.len() + created > ranges_max {
            return Err(LogError::Refused { range, what: format!("there are {} ranges already", self.ranges.len()) });
        }
        Ok(())
    }

    /// The term just before `index`, as far as it is known while a batch is checked.
    fn term_before(&self, range: RangeId, index: LogIndex, here: Shape) -> Option<Term> {
        let before = LogIndex(index.0 - 1);
        if before == here.last.index {
            return Some(here.last.term);
        }
        self.ranges.get(&range).filter(|_| here.untouched).and_then(|log| log.term(before))
    }

    /// Applies one checked operation. Returns the number of the first entry appended; the others follow it by one.
    ///
    /// # Panics
    /// When the operation was not checked.
    pub(crate) fn apply(&mut self, op: &LogOp) -> u64 {
        let first_number = self.next_number;
        match op {
            LogOp::Append { range, entries } => {
                for entry in entries {
                    self.append(*range, entry);
                }
                self.sweep_order();
            }
            LogOp::SetHardState { range, state } => self.ranges.entry(*range).or_default().hard_state = *state,
            LogOp::TruncatePrefix { range, index } => self.truncate_prefix(*range, *index),
            LogOp::Reset { range, begin } => {
                self.truncate_suffix(*range, LogIndex(0));
                self.ranges.entry(*range).or_default().begin = *begin;
            }
            LogOp::RemoveRange { range } => {
                self.truncate_suffix(*range, LogIndex(0));
                self.ranges.remove(range);
            }
        }
        first_number
    }

    fn append(&mut self, range: RangeId, entry: &Entry) {
        self.truncate_suffix(range, entry.index);
        let log = self.ranges.entry(range).or_default();
        assert_eq!(entry.index, log.last_index().next(), "append to range {range} leaves a gap");
        let number = self.next_number;
        self.next_number += 1;
        log.slots.push_back(Slot {
            term: entry.term,
            place: Place::Waiting { number },
            payload_len: u32::try_from(entry.payload.len()).expect("checked against the payload bound"),
            kind: entry.kind,
        });
        log.cached.push_back((number, entry.payload.clone()));
        self.order.push_back((range, number));
        self.entries += 1;
        self.cache_bytes += entry.payload.len();
    }

    /// Forgets the entries at and above `from`.
    fn truncate_suffix(&mut self, range: RangeId, from: LogIndex) {
        let Some(log) = self.ranges.get_mut(&range) else { return };
        let keep = from.0.saturating_sub(log.begin.index.0.saturating_add(1));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        while log.slots.len() > keep {
            log.slots.pop_back();
            self.entries -= 1;
            if let Some((_, payload)) = log.cached.pop_back() {
                self.cache_bytes -= payload.len();
            }
        }
    }

    /// Forgets the entries up to and including `to`.
    fn truncate_prefix(&mut self, range: RangeId, to: LogIndex) {
        let Some(log) = self.ranges.get_mut(&range) else { return };
        while log.begin.index < to {
            let slot = log.slots.pop_front().expect("checked: truncation ends within the log");
            self.entries -= 1;
            log.begin = Position { index: log.begin.index.next(), term: slot.term };
            if log.cached.len() > log.slots.len() {
                let (_, payload) = log.cached.pop_front().expect("longer than the slots, so not empty");
                self.cache_bytes -= payload.len();
            }
        }
    }

    /// Notes where a record is now, unless its entry was overwritten or forgotten meanwhile.
    pub(crate) fn place(&mut self, range: RangeId, index: LogIndex, number: u64, segment: u64, offset: u32) {
        let Some(log) = self.ranges.get_mut(&range) else { return };
        let Some(slot) = log.slot_of(index) else { return };
        let slot = &mut log.slots[slot];
        if slot.place == (Place::Waiting { number }) {
            slot.place = Place::At { segment, offset };
        }
    }

    /// Drops the oldest payloads that are on disk until the cache is within its bound.
    pub(crate) fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max {
            let Some((range, number)) = self.order.front().copied() else { return };
            if let Some(log) = self.ranges.get_mut(&range)
                && log.cached.front().is_some_and(|(cached, _)| *cached == number)
            {
                let slot = log.slots.len() - log.cached.len();
                if matches!(log.slots[slot].place, Place::Waiting { .. }) {
                    return;
                }
                let (_, payload) = log.cached.pop_front().expect("its front was just seen");
                self.cache_bytes -= payload.len();
            }
            self.order.pop_front();
        }
    }

    /// Truncation leaves names in `order` of payloads that are gone. Sweeps them once they are the greater part, so that
    /// the work is a constant for each append.
    fn sweep_order(&mut self) {
        if self.order.len() < 1024 || self.order.len() as u64 / 2 < self.entries {
            return;
        }
        let ranges = &self.ranges;
        self.order.retain(|(range, number)| {
            let cached = ranges.get(range).map(|log| &log.cached);
            cached.is_some_and(|cached| cached.binary_search_by_key(number, |(number, _)| *number).is_ok())
        });
    }

    /// The entries, looked up as they are taken.
    pub(crate) fn entries(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<impl Iterator<Item = Found> + use<'_>, LogError> {
        let log = self.ranges.get(&range);
        let (begin, last) = log.map(|log| (log.begin, log.last_index())).unwrap_or_default();
        if lo <= begin.index {
            return Err(LogError::Compacted { range, begin });
        }
        if hi > last.next() {
            return Err(LogError::Unavailable { range, index: LogIndex(hi.0 - 1), last });
        }
        let mut bytes = 0_usize;
        Ok((lo.0..hi.0).map(LogIndex).map_while(move |index| {
            let log = log?;
            let i = log.slot_of(index).expect("between begin and last");
            let slot = log.slots[i];
            bytes = bytes.saturating_add(slot.payload_len as usize);
            if index > lo && bytes > payload_bytes_max {
                return None;
            }
            Some(match log.payload(i) {
                Some(payload) => {
                    Found::Whole(Entry { index, term: slot.term, kind: slot.kind, payload: payload.clone() })
                }
                None => Found::OnDisk { index, slot },
            })
        }))
    }

    /// The first of them that are in memory.
    pub(crate) fn entries_in_memory(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let whole = |found| match found {
            Found::Whole(entry) => Some(entry),
            Found::OnDisk { .. } => None,
        };
        Ok(self.entries(range, lo, hi, payload_bytes_max)?.map_while(whole).collect())
    }

    pub(crate) fn term(&self, range: RangeId, index: LogIndex) -> Option<Term> {
        self.ranges.get(&range)?.term(index)
    }

    pub(crate) fn status(&self, range: RangeId) -> Option<RangeStatus> {
        let log = self.ranges.get(&range)?;
        Some(RangeStatus { begin: log.begin, last: log.last(), hard_state: log.hard_state })
    }

    /// Bytes of payload in the entries behind `index`.
    pub(crate) fn payload_bytes_behind(&self, range: RangeId, index: LogIndex) -> u64 {
        let Some(log) = self.ranges.get(&range) else { return 0 };
        let skip = usize::try_from(index.0.saturating_sub(log.begin.index.0)).unwrap_or(usize::MAX);
        log.slots.iter().skip(skip).map(|slot| u64::from(slot.payload_len)).sum()
    }

    pub(crate) fn ranges(&self) -> Vec<RangeId> {
        self.ranges.keys().copied().collect()
    }

    pub(crate) fn ranges_len(&self) -> u64 {
        self.ranges.len() as u64
    }

    pub(crate) fn entries_len(&self) -> u64 {
        self.entries
    }

    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes as u64
    }
}

fn check_entries(range: RangeId, entries: &[Entry], payload_bytes_max: usize) -> Result<(), LogError> {
    for entry in entries {
        if entry.payload.len() > payload_bytes_max {
            return Err(LogError::EntryTooLarge { bytes: entry.payload.len(), bytes_max: payload_bytes_max });
        }
    }
    for pair in entries.windows(2) {
        if pair[1].index != pair[0].index.next() || pair[1].term < pair[0].term {
            let what = format!("append of {} after {}", pair[1].position(), pair[0].position());
            return Err(LogError::Refused { range, what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(range: u64, index: u64) -> LogOp {
        let payload = Bytes::from(vec![7; 100]);
        let entry = Entry { index: LogIndex(index), term: Term(1), kind: 0, payload };
        LogOp::Append { range: RangeId(range), entries: vec![entry] }
    }

    fn cached(logs: &RangeLogs, range: u64) -> usize {
        logs.ranges[&RangeId(range)].cached.len()
    }

    #[test]
    fn payloads_leave_memory_oldest_first_and_only_once_they_are_on_disk() {
        let mut logs = RangeLogs::new(250);
        let numbers: Vec<u64> = (1..=5).map(|index| logs.apply(&append(1, index))).collect();
        logs.evict();
        assert_eq!(cached(&logs, 1), 5, "none is on disk");
        logs.place(RangeId(1), LogIndex(1), numbers[0], 1, 4096);
        logs.place(RangeId(1), LogIndex(3), numbers[2], 1, 4296);
        logs.evict();
        assert_eq!(cached(&logs, 1), 4, "the second holds back the third");
        for (index, number) in (1..).zip(&numbers) {
            logs.place(RangeId(1), LogIndex(index), *number, 1, 4096);
        }
        logs.evict();
        assert_eq!((cached(&logs, 1), logs.cache_bytes()), (2, 200));
    }

    #[test]
    fn a_place_that_comes_late_is_not_given_to_the_entry_that_overwrote() {
        let mut logs = RangeLogs::new(0);
        let old = logs.apply(&append(1, 1));
        let new = logs.apply(&append(1, 1));
        logs.place(RangeId(1), LogIndex(1), old, 1, 4096);
        logs.evict();
        assert_eq!(cached(&logs, 1), 1, "the new one is not on disk");
        logs.place(RangeId(1), LogIndex(1), new, 1, 5000);
        logs.evict();
        assert_eq!(cached(&logs, 1), 0);
    }

    /// One old entry that stays, and others that come and go: what is kept for eviction must not grow with the appends.
    #[test]
    fn the_order_of_appends_is_swept_of_what_is_gone() {
        let mut logs = RangeLogs::new(usize::MAX);
        logs.apply(&append(1, 1));
        for index in 1..=50_000 {
            logs.apply(&append(2, index));
            logs.apply(&LogOp::TruncatePrefix { range: RangeId(2), index: LogIndex(index) });
        }
        assert!(logs.order.len() <= 1024, "{} names for {} entries", logs.order.len(), logs.entries_len());
        assert_eq!((cached(&logs, 1), logs.cache_bytes()), (1, 100));
    }
}
