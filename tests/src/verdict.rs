//! What a recorded history shows: whether it is strictly serializable, and how long nobody was served.

use std::fmt;
use std::time::Duration;

use dstore_sim::checker::{self, History, MicroOp, Outcome, Transaction, Violation};

/// Violations that are printed; one is enough to fail.
const PRINTED_MAX: usize = 5;

/// A judged history.
#[derive(Debug)]
pub struct Verdict {
    history: History,
    /// When the clients stopped.
    until: u64,
    violations: Vec<Violation>,
}

impl Verdict {
    /// Judges a history whose clients stopped at `until`.
    pub(crate) fn of(history: History, until: u64) -> Verdict {
        let violations = checker::check(&history);
        Verdict { history, until, violations }
    }

    /// Fails unless the history is strictly serializable: no acknowledged write lost, none applied twice, none that was
    /// refused, no stale read, no half of a block.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn assert_clean(&self) {
        let shown: Vec<String> = self.violations.iter().take(PRINTED_MAX).map(Violation::to_string).collect();
        assert!(
            self.violations.is_empty(),
            "{self}; {} violations, the first:\n{}",
            self.violations.len(),
            shown.join("\n")
        );
    }

    fn acknowledged_writes(&self) -> impl Iterator<Item = u64> {
        let of = |transaction: &Transaction| {
            (is_write(transaction) && transaction.outcome == Outcome::Committed)
                .then_some(transaction.completed)
                .flatten()
        };
        self.history.transactions.iter().filter_map(of)
    }

    /// The longest time between `from` and `to` in which no client's write was acknowledged. Moments are those of
    /// [`crate::recorder::Recorder::now`]; without `to`, until the clients stopped.
    pub fn gap(&self, from: u64, to: Option<u64>) -> Duration {
        longest_gap(self.acknowledged_writes(), from, to.unwrap_or(self.until))
    }

    /// The same for the clients of one node alone.
    pub fn gap_through(&self, node: usize, from: u64, to: u64) -> Duration {
        let of_node = |transaction: &&Transaction| {
            transaction.node == node as u64 && is_write(transaction) && transaction.outcome == Outcome::Committed
        };
        let completed =
            self.history.transactions.iter().filter(of_node).filter_map(|transaction| transaction.completed);
        longest_gap(completed, from, to)
    }

    /// How many transactions ended like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.history.transactions.iter().filter(|transaction| transaction.outcome == outcome).count()
    }

    /// How many answered reads of clients of `node` were sent and answered in that time.
    pub fn reads_through(&self, node: usize, from: u64, to: u64) -> usize {
        let is_read = |transaction: &&Transaction| {
            transaction.node == node as u64
                && transaction.outcome == Outcome::Committed
                && transaction.ops.iter().any(|op| matches!(op, MicroOp::Read { .. }))
                && transaction.completed.is_some_and(|at| (from..=to).contains(&at))
        };
        self.history.transactions.iter().filter(is_read).count()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = &self.history.transactions;
        let writes = all.iter().filter(|transaction| is_write(transaction)).count();
        write!(
            f,
            "{} transactions, {writes} of them write: {} acknowledged, {} refused, {} unknown",
            all.len(),
            self.count(Outcome::Committed),
            self.count(Outcome::NotExecuted),
            self.count(Outcome::Unknown)
        )
    }
}

fn longest_gap(moments: impl Iterator<Item = u64>, from: u64, to: u64) -> Duration {
    let mut moments: Vec<u64> = moments.filter(|at| (from..=to).contains(at)).collect();
    moments.extend([from, to]);
    moments.sort_unstable();
    let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max();
    Duration::from_nanos(longest.unwrap_or(0))
}

fn is_write(transaction: &Transaction) -> bool {
    transaction.ops.iter().any(|op| matches!(op, MicroOp::Append { .. }))
}

/// The one in the middle, and the longest.
///
/// # Panics
///
/// When there is none.
pub fn median_and_worst(gaps: &[Duration]) -> (Duration, Duration) {
    let mut sorted = gaps.to_vec();
    sorted.sort_unstable();
    (sorted[sorted.len() / 2], *sorted.last().expect("at least one was measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(token: u64, invoked: u64, completed: Option<u64>) -> Transaction {
        let outcome = if completed.is_some() { Outcome::Committed } else { Outcome::Unknown };
        let ops = vec![MicroOp::Append { key: 0, token, length: None }];
        Transaction { connection: token, node: 0, invoked, completed, outcome, ops }
    }

    fn read(list: &[u64], invoked: u64) -> Transaction {
        let ops = vec![MicroOp::Read { key: 0, list: Some(list.to_vec()) }];
        Transaction { connection: 99, node: 1, invoked, completed: Some(invoked + 1), outcome: Outcome::Committed, ops }
    }

    #[test]
    fn the_gap_is_the_longest_time_without_an_acknowledgement() {
        let transactions =
            vec![append(1, 0, Some(10)), append(2, 11, None), append(3, 12, Some(50)), read(&[1, 3], 60)];
        let verdict = Verdict::of(History { transactions, ..History::default() }, 100);
        verdict.assert_clean();
        assert_eq!(verdict.gap(0, None), Duration::from_nanos(50));
        assert_eq!(verdict.gap(0, Some(60)), Duration::from_nanos(40));
        assert_eq!(verdict.gap(20, Some(40)), Duration::from_nanos(20));
        assert_eq!(verdict.reads_through(1, 0, 100), 1);
        assert!(verdict.to_string().contains("4 transactions, 3 of them write: 3 acknowledged, 0 refused, 1 unknown"));
    }

    #[test]
    #[should_panic(expected = "stale read")]
    fn a_read_of_the_past_is_not_clean() {
        let transactions = vec![append(1, 0, Some(10)), read(&[], 20), read(&[1], 30)];
        Verdict::of(History { transactions, ..History::default() }, 100).assert_clean();
    }

    #[test]
    #[should_panic(expected = "lost")]
    fn a_write_that_was_acknowledged_and_is_gone_is_not_clean() {
        let transactions = vec![append(1, 0, Some(10)), append(2, 11, Some(20)), read(&[2], 30)];
        Verdict::of(History { transactions, ..History::default() }, 100).assert_clean();
    }
}
