//! [`Ledger`]: what the log on disk says of every range, in the order it was written.
//!
//! Recovery builds it by reading; the log writer keeps it by writing the same records. So the head of a new segment, which
//! tells each range's state, can be checked against it when it is read back, and it always knows which is the oldest
//! segment that is still needed. It runs behind the index that readers see by what is not written yet.

use std::collections::{BTreeMap, VecDeque};

use super::super::HardState;
use super::format::{RangeState, Record};
use crate::ids::{LogIndex, Position, RangeId};

/// Entries of one range that lie in one segment: `first..=last`.
#[derive(Clone, Copy, Debug)]
struct Run {
    segment: u64,
    first: LogIndex,
    last: LogIndex,
}

#[derive(Clone, Debug, Default)]
struct RangeLedger {
    begin: Position,
    hard_state: HardState,
    /// Segments rise, indexes follow each other without a gap, from the begin to the last entry.
    runs: VecDeque<Run>,
}

impl RangeLedger {
    fn last(&self) -> LogIndex {
        self.runs.back().map_or(self.begin.index, |run| run.last)
    }

    fn state(&self) -> RangeState {
        RangeState { begin: self.begin, last: self.last(), hard_state: self.hard_state }
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    ranges: BTreeMap<RangeId, RangeLedger>,
    /// How many runs lie in each segment, for those that have any.
    runs_by_segment: BTreeMap<u64, u64>,
}

impl Ledger {
    /// Takes the next record, which lies in `segment`. The error says why it cannot follow what came before.
    pub(crate) fn apply(&mut self, record: &Record, segment: u64) -> Result<(), String> {
        match record {
            Record::Entry { range, entry } => self.append(*range, entry.index, segment),
            Record::HardState { range, state } => {
                self.ranges.entry(*range).or_default().hard_state = *state;
                Ok(())
            }
            Record::TruncatePrefix { range, begin } => self.truncate_prefix(*range, *begin),
            Record::Reset { range, begin } => {
                self.truncate_suffix(*range, LogIndex(0));
                self.ranges.entry(*range).or_default().begin = *begin;
                Ok(())
            }
            Record::RemoveRange { range } => {
                self.truncate_suffix(*range, LogIndex(0));
                self.ranges.remove(range);
                Ok(())
            }
            Record::RangeState { .. } => Err("a range's state is not at the head of its segment".to_owned()),
        }
    }

    /// Takes a range's state from the head of the oldest segment. Its entries lie in segments that are gone; they must
    /// be truncated by what follows.
    pub(crate) fn seed(&mut self, range: RangeId, state: RangeState) -> Result<(), String> {
        if state.last < state.begin.index {
            return Err(format!(
                "the state of range {range} ends at {} before it begins at {}",
                state.last, state.begin
            ));
        }
        let mut ledger = RangeLedger { begin: state.begin, hard_state: state.hard_state, runs: VecDeque::new() };
        if state.last > state.begin.index {
            ledger.runs.push_back(Run { segment: 0, first: state.begin.index.next(), last: state.last });
            *self.runs_by_segment.entry(0).or_default() += 1;
        }
        match self.ranges.insert(range, ledger) {
            None => Ok(()),
            Some(_) => Err(format!("the state of range {range} is told twice")),
        }
    }

    fn append(&mut self, range: RangeId, index: LogIndex, segment: u64) -> Result<(), String> {
        let ledger = self.ranges.entry(range).or_default();
        let (begin, last) = (ledger.begin, ledger.last());
        if index <= begin.index || index > last.next() {
            return Err(format!("entry {index} of range {range}, whose log begins at {begin} and ends at {last}"));
        }
        self.truncate_suffix(range, index);
        let ledger = self.ranges.entry(range).or_default();
        match ledger.runs.back_mut() {
            Some(run) if run.segment == segment => run.last = index,
            _ => {
                ledger.runs.push_back(Run { segment, first: index, last: index });
                *self.runs_by_segment.entry(segment).or_default() += 1;
            }
        }
        Ok(())
    }

    fn truncate_suffix(&mut self, range: RangeId, from: LogIndex) {
        let Some(ledger) = self.ranges.get_mut(&range) else { return };
        while let Some(run) = ledger.runs.back_mut() {
            if run.first < from {
                run.last = run.last.min(LogIndex(from.0 - 1));
                return;
            }
            let segment = run.segment;
            ledger.runs.pop_back();
            forget_run(&mut self.runs_by_segment, segment);
        }
    }

    fn truncate_prefix(&mut self, range: RangeId, begin: Position) -> Result<(), String> {
        let Some(ledger) = self.ranges.get_mut(&range) else {
            return Err(format!("truncation of range {range}, which is not there"));
        };
        if begin.index < ledger.begin.index || begin.index > ledger.last() {
            let (from, last) = (ledger.begin, ledger.last());
            return Err(format!("truncation of range {range} to {begin}, which begins at {from} and ends at {last}"));
        }
        ledger.begin = begin;
        while let Some(run) = ledger.runs.front_mut() {
            if run.last > begin.index {
                run.first = run.first.max(begin.index.next());
                break;
            }
            let segment = run.segment;
            ledger.runs.pop_front();
            forget_run(&mut self.runs_by_segment, segment);
        }
        Ok(())
    }

    /// The state of every range, for the head of a new segment.
    pub(crate) fn states(&self) -> impl Iterator<Item = (RangeId, RangeState)> + '_ {
        self.ranges.iter().map(|(range, ledger)| (*range, ledger.state()))
    }

    /// The state of one range.
    pub(crate) fn state(&self, range: RangeId) -> Option<RangeState> {
        self.ranges.get(&range).map(RangeLedger::state)
    }

    pub(crate) fn ranges_len(&self) -> usize {
        self.ranges.len()
    }

    /// The oldest segment that holds an entry of any range; 0 for one that was gone when the log was read.
    pub(crate) fn oldest_segment(&self) -> Option<u64> {
        self.runs_by_segment.keys().next().copied()
    }

    /// A range whose entries the oldest segment holds, and how many segments from there only it needs. Costs a look at
    /// every range.
    pub(crate) fn pinned_by(&self, newest: u64) -> Option<(RangeId, u64)> {
        let oldest = self.ranges.iter().filter_map(|(range, ledger)| Some((ledger.runs.front()?.segment, *range)));
        let (mut first, mut second) = (None, newest);
        for (segment, range) in oldest {
            match first {
                Some((lowest, _)) if segment >= lowest => second = second.min(segment),
                _ => {
                    second = first.map_or(second, |(lowest, _)| lowest);
                    first = Some((segment, range));
                }
            }
        }
        first.filter(|(segment, _)| *segment < second).map(|(segment, range)| (range, second - segment))
    }
}

fn forget_run(runs_by_segment: &mut BTreeMap<u64, u64>, segment: u64) {
    let count = runs_by_segment.get_mut(&segment).expect("every run is counted");
    *count -= 1;
    if *count == 0 {
        runs_by_segment.remove(&segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use crate::log::Entry;

    fn append(ledger: &mut Ledger, range: u64, index: u64, segment: u64) -> Result<(), String> {
        let payload = bytes::Bytes::new();
        let entry = Entry { index: LogIndex(index), term: Term(1), kind: 0, payload };
        ledger.apply(&Record::Entry { range: RangeId(range), entry }, segment)
    }

    fn truncate(ledger: &mut Ledger, range: u64, index: u64) {
        ledger.apply(&Record::TruncatePrefix { range: RangeId(range), begin: Position::new(index, 1) }, 9).unwrap();
    }

    #[test]
    fn the_oldest_segment_moves_up_with_the_slowest_range() {
        let mut ledger = Ledger::default();
        for (range, index, segment) in [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 3, 3), (2, 2, 3)] {
            append(&mut ledger, range, index, segment).unwrap();
        }
        assert_eq!((ledger.oldest_segment(), ledger.pinned_by(4)), (Some(1), None), "two ranges share the oldest");
        truncate(&mut ledger, 2, 1);
        assert_eq!((ledger.oldest_segment(), ledger.pinned_by(4)), (Some(1), Some((RangeId(1), 2))));
        truncate(&mut ledger, 1, 2);
        assert_eq!(ledger.oldest_segment(), Some(3));
        truncate(&mut ledger, 1, 3);
        truncate(&mut ledger, 2, 2);
        assert_eq!((ledger.oldest_segment(), ledger.pinned_by(4)), (None, None));
    }

    #[test]
    fn an_overwritten_suffix_frees_the_segments_it_lay_in() {
        let mut ledger = Ledger::default();
        for index in 1..=4 {
            append(&mut ledger, 1, index, index).unwrap();
        }
        append(&mut ledger, 1, 2, 5).unwrap();
        truncate(&mut ledger, 1, 1);
        assert_eq!(ledger.oldest_segment(), Some(5));
        assert_eq!(ledger.state(RangeId(1)).unwrap().last, LogIndex(2));
    }

    #[test]
    fn what_cannot_follow_is_told() {
        let mut ledger = Ledger::default();
        assert!(append(&mut ledger, 1, 2, 1).unwrap_err().contains("entry 2 of range 1"));
        let gone = Record::TruncatePrefix { range: RangeId(7), begin: Position::new(1, 1) };
        assert!(ledger.apply(&gone, 1).unwrap_err().contains("not there"));
    }
}
