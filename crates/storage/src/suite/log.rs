//! What every [`Log`] must do. Run [`all`] with a harness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Choices, for_each_seed};
use crate::log::{RangeStatus, begin_at_applied};
use crate::{Entry, HardState, Log, LogError, LogIndex, LogOp, Position, RangeId, Term};

/// Opens a log, makes it write, cuts its power, opens it again.
pub trait Harness {
    /// The log under test.
    type Log: Log + 'static;

    /// A new, empty log.
    fn create(&mut self) -> Self::Log;

    /// Returns when everything submitted is durable and its completions were called.
    fn settle(&mut self, log: &Self::Log);

    /// The machine loses power and comes back, perhaps in the midst of writing what was submitted and not settled.
    /// `seed` chooses what survives, where the implementation can choose.
    fn lose_power(&mut self, log: Self::Log, seed: u64) -> Self::Log;
}

/// Runs the whole suite.
///
/// # Panics
/// When the log breaks the contract.
pub fn all<H: Harness>(harness: &mut H) {
    what_is_submitted_is_read_at_once(harness);
    completions_are_called_in_order(harness);
    an_append_overwrites_the_suffix(harness);
    a_prefix_truncation_moves_the_begin(harness);
    a_reset_begins_anew_and_keeps_the_hard_state(harness);
    a_removed_range_is_gone_and_can_come_again(harness);
    ranges_do_not_meet(harness);
    reads_are_bounded_and_refuse_what_is_not_there(harness);
    what_does_not_fit_is_refused_whole(harness);
    a_log_behind_the_data_begins_at_the_applied_position(harness);
    for_each_seed(12, |seed| random_work_with_crashes_matches_a_model(harness, seed));
}

const R: RangeId = RangeId(1);

/// An entry whose payload tells where it belongs.
#[must_use]
pub fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(format!("entry {index} of term {term}"));
    Entry { index: LogIndex(index), term: Term(term), kind: (index % 3) as u8, payload }
}

/// An append of the entries `first..=last` in `term`.
#[must_use]
pub fn append(range: RangeId, first: u64, last: u64, term: u64) -> LogOp {
    LogOp::Append { range, entries: (first..=last).map(|index| entry(index, term)).collect() }
}

fn submit(log: &impl Log, ops: Vec<LogOp>) {
    log.submit(ops, Box::new(|result| result.expect("durable"))).expect("submit");
}

fn read(log: &impl Log, range: RangeId, lo: u64, hi: u64) -> Vec<Entry> {
    log.entries(range, LogIndex(lo), LogIndex(hi), usize::MAX).expect("entries")
}

/// The terms of all entries there are, in order; checks that each entry is the one it should be.
fn terms(log: &impl Log, range: RangeId) -> Vec<u64> {
    let status = log.status(range).expect("the range is there");
    let entries = read(log, range, status.first_index().0, status.last.index.0 + 1);
    for (found, index) in entries.iter().zip(status.first_index().0..) {
        assert_eq!(*found, entry(index, found.term.0));
        assert_eq!(log.term(range, found.index), Some(found.term));
    }
    entries.iter().map(|entry| entry.term.0).collect()
}

fn status(begin: (u64, u64), last: (u64, u64), hard_state: HardState) -> Option<RangeStatus> {
    Some(RangeStatus { begin: Position::new(begin.0, begin.1), last: Position::new(last.0, last.1), hard_state })
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote, commit: LogIndex(commit) }
}

const NO_STATE: HardState = HardState { term: Term(0), vote: 0, commit: LogIndex(0) };

/// Runs `check` on the log as it is, after it is settled, and after a power loss.
fn check_thrice<H: Harness>(harness: &mut H, log: H::Log, check: impl Fn(&H::Log)) -> H::Log {
    check(&log);
    harness.settle(&log);
    check(&log);
    let log = harness.lose_power(log, 1);
    check(&log);
    log
}

fn what_is_submitted_is_read_at_once<H: Harness>(harness: &mut H) {
    let log = harness.create();
    assert_eq!((log.status(R), log.ranges()), (None, vec![]));
    let state = hard_state(2, 7, 1);
    submit(&log, vec![LogOp::SetHardState { range: R, state }, append(R, 1, 3, 2)]);
    check_thrice(harness, log, |log| {
        assert_eq!(log.status(R), status((0, 0), (3, 2), state));
        assert_eq!(terms(log, R), [2, 2, 2]);
        assert_eq!(log.ranges(), [R]);
        assert_eq!((log.term(R, LogIndex(0)), log.term(R, LogIndex(4))), (Some(Term(0)), None));
    });
}

fn completions_are_called_in_order<H: Harness>(harness: &mut H) {
    let log = harness.create();
    let called = Arc::new(Mutex::new(Vec::new()));
    for number in 1..=50 {
        let note = Arc::clone(&called);
        let done = move |result: Result<(), LogError>| {
            result.expect("durable");
            note.lock().expect("no completion panics").push(number);
        };
        log.submit(vec![append(R, number, number, 1)], Box::new(done)).expect("submit");
    }
    harness.settle(&log);
    assert_eq!(*called.lock().expect("no completion panics"), (1..=50).collect::<Vec<_>>());
    submit(&log, vec![]);
    harness.settle(&log);
}

fn an_append_overwrites_the_suffix<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 5, 1)]);
    harness.settle(&log);
    submit(&log, vec![append(R, 3, 3, 2)]);
    let log = check_thrice(harness, log, |log| assert_eq!(terms(log, R), [1, 1, 2]));
    submit(&log, vec![append(R, 4, 4, 3)]);
    submit(&log, vec![append(R, 1, 6, 4)]);
    submit(&log, vec![append(R, 6, 6, 5)]);
    check_thrice(harness, log, |log| assert_eq!(terms(log, R), [4, 4, 4, 4, 4, 5]));
}

fn a_prefix_truncation_moves_the_begin<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 3, 1), append(R, 4, 6, 2)]);
    harness.settle(&log);
    submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(4) }]);
    submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(2) }]);
    let log = check_thrice(harness, log, |log| {
        assert_eq!(log.status(R), status((4, 2), (6, 2), NO_STATE));
        assert_eq!(terms(log, R), [2, 2]);
        assert_eq!((log.term(R, LogIndex(4)), log.term(R, LogIndex(3))), (Some(Term(2)), None));
        let compacted = log.entries(R, LogIndex(4), LogIndex(6), usize::MAX);
        assert!(matches!(compacted, Err(LogError::Compacted { begin, .. }) if begin == Position::new(4, 2)));
    });
    submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(6) }, append(R, 7, 7, 3)]);
    check_thrice(harness, log, |log| assert_eq!(log.status(R), status((6, 2), (7, 3), NO_STATE)));
}

fn a_reset_begins_anew_and_keeps_the_hard_state<H: Harness>(harness: &mut H) {
    let log = harness.create();
    let state = hard_state(5, 1, 4);
    submit(&log, vec![append(R, 1, 4, 5), LogOp::SetHardState { range: R, state }]);
    harness.settle(&log);
    submit(&log, vec![LogOp::Reset { range: R, begin: Position::new(100, 6) }]);
    let log = check_thrice(harness, log, |log| assert_eq!(log.status(R), status((100, 6), (100, 6), state)));
    submit(&log, vec![append(R, 101, 102, 6)]);
    check_thrice(harness, log, |log| assert_eq!(terms(log, R), [6, 6]));
}

fn a_removed_range_is_gone_and_can_come_again<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 4, 5), append(RangeId(2), 1, 1, 1)]);
    harness.settle(&log);
    submit(&log, vec![LogOp::RemoveRange { range: R }]);
    let log = check_thrice(harness, log, |log| assert_eq!((log.status(R), log.ranges()), (None, vec![RangeId(2)])));
    submit(&log, vec![append(R, 1, 2, 1), LogOp::RemoveRange { range: RangeId(2) }]);
    check_thrice(harness, log, |log| assert_eq!((terms(log, R), log.ranges()), (vec![1, 1], vec![R])));
}

fn ranges_do_not_meet<H: Harness>(harness: &mut H) {
    let log = harness.create();
    for index in 1..=20 {
        for range in 1..=20 {
            submit(&log, vec![append(RangeId(range), index, index, range)]);
        }
    }
    submit(&log, vec![LogOp::TruncatePrefix { range: RangeId(7), index: LogIndex(20) }]);
    check_thrice(harness, log, |log| {
        for range in (1..=20).filter(|range| *range != 7) {
            assert_eq!(terms(log, RangeId(range)), [range; 20]);
        }
        assert_eq!(log.status(RangeId(7)), status((20, 7), (20, 7), NO_STATE));
    });
}

fn reads_are_bounded_and_refuse_what_is_not_there<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 9, 1)]);
    check_thrice(harness, log, |log| {
        let count = |hi, bytes| log.entries(R, LogIndex(1), LogIndex(hi), bytes).expect("entries").len();
        let one = entry(1, 1).payload.len();
        assert_eq!((count(10, usize::MAX), count(4, usize::MAX), count(1, usize::MAX)), (9, 3, 0));
        assert_eq!((count(10, 3 * one), count(10, 3 * one - 1)), (3, 2));
        assert_eq!(count(10, 0), 1, "at least one, or a large entry could never be read");
        let beyond = log.entries(R, LogIndex(5), LogIndex(11), usize::MAX);
        assert!(matches!(beyond, Err(LogError::Unavailable { last: LogIndex(9), .. })));
        assert!(log.entries(RangeId(99), LogIndex(1), LogIndex(2), usize::MAX).is_err());
    });
}

fn what_does_not_fit_is_refused_whole<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 3, 2), LogOp::TruncatePrefix { range: R, index: LogIndex(1) }]);
    let large = Bytes::from(vec![0; log.payload_bytes_max() + 1]);
    let large = Entry { index: LogIndex(4), term: Term(2), kind: 0, payload: large };
    let refused = [
        append(R, 5, 5, 2),
        append(R, 1, 1, 2),
        append(R, 4, 4, 1),
        append(RangeId(8), 2, 2, 1),
        LogOp::Append { range: R, entries: vec![] },
        LogOp::Append { range: R, entries: vec![entry(4, 2), entry(6, 2)] },
        LogOp::Append { range: R, entries: vec![entry(4, 3), entry(5, 2)] },
        LogOp::Append { range: R, entries: vec![large] },
        LogOp::TruncatePrefix { range: R, index: LogIndex(4) },
    ];
    for op in refused {
        let done = Box::new(|_| panic!("the completion of a refused submission was called"));
        let result = log.submit(vec![append(RangeId(9), 1, 1, 1), op.clone()], done);
        assert!(matches!(result, Err(LogError::Refused { .. } | LogError::EntryTooLarge { .. })), "{op:?}: {result:?}");
    }
    check_thrice(harness, log, |log| {
        assert_eq!((terms(log, R), log.ranges()), (vec![2, 2], vec![R]), "nothing of it was taken");
    });
}

fn a_log_behind_the_data_begins_at_the_applied_position<H: Harness>(harness: &mut H) {
    let log = harness.create();
    submit(&log, vec![append(R, 1, 5, 2)]);
    harness.settle(&log);
    for agreed in [(0, 0), (3, 2), (5, 2)] {
        assert_eq!(begin_at_applied(&log, R, Position::new(agreed.0, agreed.1)), None);
    }
    assert!(begin_at_applied(&log, R, Position::new(4, 3)).is_some(), "the log has another entry there");
    let op = begin_at_applied(&log, R, Position::new(8, 3)).expect("the data is ahead");
    submit(&log, vec![op]);
    check_thrice(harness, log, |log| assert_eq!(log.status(R), status((8, 3), (8, 3), NO_STATE)));
}

/// The dumb model of a log: what each range holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(BTreeMap<RangeId, RangeModel>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RangeModel {
    begin: Position,
    entries: Vec<Entry>,
    hard_state: HardState,
}

impl RangeModel {
    fn last(&self) -> Position {
        self.entries.last().map_or(self.begin, Entry::position)
    }
}

impl Model {
    /// Does one operation.
    pub fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::RemoveRange { range } => {
                self.0.remove(range);
                return;
            }
            LogOp::TruncatePrefix { range, .. } if !self.0.contains_key(range) => return,
            _ => {}
        }
        let log = self.0.entry(op.range()).or_default();
        match op {
            LogOp::Append { entries, .. } => {
                for entry in entries {
                    log.entries.retain(|old| old.index < entry.index);
                    log.entries.push(entry.clone());
                }
            }
            LogOp::SetHardState { state, .. } => log.hard_state = *state,
            LogOp::TruncatePrefix { index, .. } => {
                while log.entries.first().is_some_and(|entry| entry.index <= *index) {
                    log.begin = log.entries.remove(0).position();
                }
            }
            LogOp::Reset { begin, .. } => {
                log.entries.clear();
                log.begin = *begin;
            }
            LogOp::RemoveRange { .. } => {}
        }
    }

    /// What a log holds, read through its trait, with every read checked against the others.
    ///
    /// # Errors
    /// Whatever a read failed with.
    ///
    /// # Panics
    /// When two reads do not agree.
    pub fn of(log: &dyn Log) -> Result<Model, LogError> {
        let mut model = Model::default();
        for range in log.ranges() {
            let status = log.status(range).expect("the range was just named");
            let end = LogIndex(status.last.index.0 + 1);
            let entries = log.entries(range, status.first_index(), end, usize::MAX)?;
            let found = RangeModel { begin: status.begin, entries, hard_state: status.hard_state };
            assert_eq!(found.last(), status.last);
            for entry in &found.entries {
                assert_eq!(log.term(range, entry.index), Some(entry.term));
            }
            model.0.insert(range, found);
        }
        Ok(model)
    }

    /// An operation that fits, small ranges and small logs so that they meet often. Payloads are below `payload_bytes`.
    ///
    /// # Panics
    /// When `payload_bytes` is 0.
    pub fn choose(&self, choices: &mut Choices, payload_bytes: u64) -> LogOp {
        let range = RangeId(1 + choices.below(5));
        let log = self.0.get(&range).cloned().unwrap_or_default();
        let last = log.last();
        match choices.below(20) {
            0 => LogOp::SetHardState { range, state: hard_state(last.term.0, choices.below(4), last.index.0) },
            1..=3 => {
                let held = log.entries.len() as u64;
                LogOp::TruncatePrefix { range, index: LogIndex(log.begin.index.0 + choices.below(held + 1)) }
            }
            4 if choices.one_in(3) => {
                let begin = Position::new(last.index.0 + choices.below(10), last.term.0 + choices.below(2));
                LogOp::Reset { range, begin }
            }
            5 if choices.one_in(6) => LogOp::RemoveRange { range },
            _ => {
                let overwritten = if choices.one_in(4) { choices.below(log.entries.len() as u64 + 1) } else { 0 };
                let first = last.index.0 + 1 - overwritten;
                let term = Term(last.term.0 + u64::from(overwritten > 0 || choices.one_in(10)));
                let count = 1 + choices.below(4);
                let mut make = |index| {
                    let payload = vec![choices.any() as u8; choices.below(payload_bytes) as usize];
                    Entry { index: LogIndex(index), term, kind: 1, payload: Bytes::from(payload) }
                };
                let entries = (first..first + count).map(&mut make);
                LogOp::Append { range, entries: entries.collect() }
            }
        }
    }
}

/// `ops`, one record at a time: a crash may leave any prefix of these.
#[must_use]
pub fn in_records(ops: &[LogOp]) -> Vec<LogOp> {
    let mut records = Vec::new();
    for op in ops {
        match op {
            LogOp::Append { range, entries } => {
                records
                    .extend(entries.iter().map(|entry| LogOp::Append { range: *range, entries: vec![entry.clone()] }));
            }
            op => records.push(op.clone()),
        }
    }
    records
}

/// The heart of it: whatever survives a crash is the state after some record, not before the last one acknowledged.
fn random_work_with_crashes_matches_a_model<H: Harness>(harness: &mut H, seed: u64) {
    let choices = &mut Choices::new(seed);
    let mut log = harness.create();
    let mut model = Model::default();
    for _ in 0..6 {
        // The states after each record since the log was opened, and how many of them were acknowledged.
        let mut states = vec![model.clone()];
        let acknowledged = Arc::new(Mutex::new(0_usize));
        for _ in 0..choices.below(60) {
            let mut ops = Vec::new();
            for _ in 0..choices.below(4) {
                let op = model.choose(choices, 3000);
                model.apply(&op);
                ops.push(op);
            }
            for record in in_records(&ops) {
                let mut state = states[states.len() - 1].clone();
                state.apply(&record);
                states.push(state);
            }
            let (note, count) = (Arc::clone(&acknowledged), states.len() - 1);
            let done = move |result: Result<(), LogError>| {
                result.expect("durable");
                *note.lock().expect("no completion panics") = count;
            };
            log.submit(ops, Box::new(done)).expect("submit");
            if choices.one_in(6) {
                harness.settle(&log);
                assert_eq!(*acknowledged.lock().expect("no completion panics"), states.len() - 1);
            }
            if choices.one_in(4) {
                assert_eq!(Model::of(&log).expect("read"), model);
            }
        }
        let acknowledged = *acknowledged.lock().expect("no completion panics");
        log = harness.lose_power(log, choices.any());
        let survived = Model::of(&log).expect("read");
        let found = states.iter().skip(acknowledged).position(|state| *state == survived);
        assert!(
            found.is_some(),
            "what survived is not the state after any of the records {acknowledged}..{}",
            states.len()
        );
        model = survived;
    }
}
