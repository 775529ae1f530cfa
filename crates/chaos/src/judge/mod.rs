//! The judge: takes in what clients did, a generation of keys at a time, and says what was wrong with it.
//!
//! A generation that all clients have left is read once more, in full (the closing reads are part of its history), and
//! judged while the clients go on with the next one. So the memory of a run grows with the last values of its keys and
//! not with its history. Judging generations one by one loses nothing: every request touches keys of one generation only,
//! and strict serializability of parts that share no operation is that of the whole (it is *local*: Herlihy and Wing,
//! "Linearizability", TOPLAS 1990, section 3.2, with a generation as the object).
//!
//! | what | how it is judged |
//! |---|---|
//! | lists | `dstore_sim::checker`, as simulated histories are |
//! | registers | each value names the one it replaced: turned into lists ([`registers`]), then the same |
//! | counters | places taken by acknowledged increments, and holes between them ([`counters`]) |
//! | everything, at the end | every key through every node: [`finally`] |

pub mod counters;
pub mod finally;
pub mod registers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use dstore_sim::checker::{self, History, Outcome, Transaction, Violation};

use crate::auditor::Auditor;
use crate::clients::{Record, Shared, Told, What};
use finally::Expected;

/// Violations that are kept in words. All are counted.
const KEPT_MAX: usize = 20;

/// Between two looks for a generation that everybody has left.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests that were judged.
    pub operations: u64,
    /// Of those: answered.
    pub answered: u64,
    /// Refused.
    pub refused: u64,
    /// Without an answer that can be relied on.
    pub unknown: u64,
    /// Writes that were acknowledged; a block of several counts for each.
    pub acknowledged: u64,
    /// Generations of keys.
    pub generations: u64,
    /// What was wrong, all told.
    pub violations: u64,
    /// Acknowledged writes that are not there at the end.
    pub lost: u64,
    /// The first violations in words.
    pub told: Vec<String>,
}

impl Verdict {
    /// Counts something that is wrong.
    pub fn blame(&mut self, what: String) {
        self.violations += 1;
        if self.told.len() < KEPT_MAX {
            self.told.push(what);
        }
    }

    fn count(&mut self, record: &Record) {
        self.operations += 1;
        match record.outcome {
            Outcome::Committed => self.answered += 1,
            Outcome::NotExecuted => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
        self.acknowledged += if record.outcome == Outcome::Committed { record.what.writes() } else { 0 };
    }
}

/// Judges while the clients work. To be run in a thread of its own.
pub struct Judge {
    shared: Arc<Shared>,
    told: Receiver<Told>,
    auditor: Auditor,
    /// Where a history that shows something wrong is written to.
    evidence: PathBuf,
    /// By generation.
    windows: BTreeMap<u32, Vec<Record>>,
    next: u32,
    verdict: Verdict,
    expected: Expected,
}

impl Judge {
    /// A judge of what the clients of `shared` tell over `told`. It leaves evidence in a directory.
    pub fn new(shared: Arc<Shared>, told: Receiver<Told>, auditor: Auditor, evidence: &Path) -> Judge {
        let evidence = evidence.to_owned();
        let (windows, verdict, expected) = (BTreeMap::new(), Verdict::default(), Expected::default());
        Judge { shared, told, auditor, evidence, windows, next: 0, verdict, expected }
    }

    /// Judges until all clients are gone, and gives what came of it, and what must be there now. `gives_up` tells the
    /// judge to go without closing reads that cannot be made.
    pub fn run(mut self, gives_up: &AtomicBool) -> (Verdict, Expected) {
        loop {
            match self.told.recv_timeout(LOOK_AGAIN) {
                Ok(told) => self.take(told),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.shared.take_left() {
                // Whatever is about this generation was sent before it was left.
                while let Ok(told) = self.told.try_recv() {
                    self.take(told);
                }
                self.close(gives_up);
            }
        }
        while self.windows.keys().next_back().is_some_and(|last| *last >= self.next) {
            self.close(gives_up);
        }
        (self.verdict, self.expected)
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Record(record) => self.windows.entry(record.generation).or_default().push(record),
            Told::Strange(what) => self.verdict.blame(what),
        }
    }

    fn close(&mut self, gives_up: &AtomicBool) {
        let generation = self.next;
        self.next += 1;
        let mut records = self.windows.remove(&generation).unwrap_or_default();
        match self.auditor.read_generation(generation, || gives_up.load(Ordering::Relaxed)) {
            Some(closing) => records.extend(closing),
            None => self.verdict.blame(format!("generation {generation} could not be read any more")),
        }
        records.sort_by_key(|record| record.invoked);
        self.verdict.generations += 1;
        records.iter().for_each(|record| self.verdict.count(record));
        let found = examine(&records);
        if !found.is_empty() {
            self.keep(generation, &records, &found);
        }
        found.into_iter().for_each(|what| self.verdict.blame(what));
        self.expected.add(&records);
    }

    /// Writes down the whole history of a generation in which something is wrong.
    fn keep(&self, generation: u32, records: &[Record], found: &[String]) {
        let mut text = found.join("\n\n");
        text.push_str("\n\n");
        for record in records {
            let _ = writeln!(text, "{record:?}"); // strings take everything
        }
        let file = self.evidence.join(format!("generation{generation}.violations"));
        if let Err(error) = std::fs::write(&file, text) {
            eprintln_evidence(&file, &error);
        }
    }
}

#[allow(clippy::print_stderr, reason = "the evidence is all there is to tell")]
fn eprintln_evidence(file: &Path, error: &std::io::Error) {
    eprintln!("cannot write {}: {error}", file.display());
}

/// Everything that is wrong with the history of a generation, in the order in which its requests were sent.
pub fn examine(records: &[Record]) -> Vec<String> {
    let lists = records.iter().filter_map(|record| match &record.what {
        What::Lists(ops) => Some(transaction(record, ops.clone())),
        _ => None,
    });
    let mut found = check("lists", lists.collect());
    match registers::transactions(records) {
        Ok(transactions) => found.extend(check("registers", transactions)),
        Err(why) => found.push(why),
    }
    found.extend(counters::examine(records));
    found
}

fn transaction(record: &Record, ops: Vec<checker::MicroOp>) -> Transaction {
    let Record { connection, node, invoked, completed, outcome, .. } = *record;
    Transaction { connection, node: node as u64, invoked, completed, outcome, ops }
}

fn check(kind: &str, transactions: Vec<Transaction>) -> Vec<String> {
    let history = History { transactions, ..History::default() };
    let tell = |violation: Violation| format!("{kind}: {violation}");
    checker::check(&history).into_iter().map(tell).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use dstore_sim::checker::MicroOp;

    use super::*;

    /// A request sent at `at` and answered one later, over a connection of its own.
    pub(crate) fn answered(at: u64, what: What) -> Record {
        let (connection, completed) = (at, Some(at + 1));
        Record { generation: 0, connection, node: 0, invoked: at, completed, outcome: Outcome::Committed, what }
    }

    pub(crate) fn unknown(at: u64, what: What) -> Record {
        Record { completed: None, outcome: Outcome::Unknown, ..answered(at, what) }
    }

    pub(crate) fn refused(at: u64, what: What) -> Record {
        Record { outcome: Outcome::NotExecuted, ..answered(at, what) }
    }

    pub(crate) fn append(token: u64, length: Option<usize>) -> What {
        What::Lists(vec![MicroOp::Append { key: 0, token, length }])
    }

    pub(crate) fn read(list: &[u64]) -> What {
        What::Lists(vec![MicroOp::Read { key: 0, list: Some(list.to_vec()) }])
    }

    #[test]
    fn a_history_without_faults_is_clean() {
        let records = [
            answered(10, append(1, Some(1))),
            answered(20, What::Increment(0, Some(1))),
            answered(30, What::Swap { key: 0, old: None, new: 2 }),
            answered(40, read(&[1])),
            answered(50, What::Count(0, 1)),
            answered(60, What::Look(0, Some(2))),
        ];
        assert_eq!(examine(&records), Vec::<String>::new());
    }

    #[test]
    fn a_stale_read_a_lost_write_and_a_doubled_one_are_found() {
        let stale = [answered(10, append(1, Some(1))), answered(20, read(&[])), answered(30, read(&[1]))];
        assert!(examine(&stale).iter().any(|what| what.contains("stale read")), "{:?}", examine(&stale));
        let lost = [answered(10, append(1, Some(1))), answered(20, read(&[]))];
        assert!(examine(&lost).iter().any(|what| what.contains("lacks 1")), "{:?}", examine(&lost));
        let doubled = [answered(10, append(1, Some(1))), answered(20, read(&[1, 1]))];
        assert!(examine(&doubled).iter().any(|what| what.contains("twice")), "{:?}", examine(&doubled));
        let refused = [refused(10, append(1, None)), answered(20, read(&[1]))];
        assert!(examine(&refused).iter().any(|what| what.contains("refused")), "{:?}", examine(&refused));
    }

    #[test]
    fn violations_are_all_counted_and_the_first_ones_told() {
        let mut verdict = Verdict::default();
        (0..100).for_each(|number| verdict.blame(number.to_string()));
        assert_eq!((verdict.violations, verdict.told.len()), (100, KEPT_MAX));
    }
}
