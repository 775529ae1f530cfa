//! [`Recorder`]: what all clients did and heard, as one history.

use crate::checker::{History, MicroOp, Outcome, Token, Transaction};
use crate::time::Moment;

/// A transaction in the history.
pub(super) type TransactionId = usize;

/// The history as it grows.
#[derive(Debug, Default)]
pub struct Recorder {
    history: History,
    tokens: Token,
    connections: u64,
    /// Answers that no store should give, whatever happens to it.
    problems: Vec<String>,
}

impl Recorder {
    /// What happened so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// A disk was full: commands may have been refused for that.
    pub fn note_full_disk(&mut self) {
        self.history.disks_were_full = true;
    }

    /// By how much clocks may be wrong: then deadlines are judged.
    pub fn note_clock_error(&mut self, ms: u64) {
        self.history.clock_error_ms = Some(ms);
    }

    /// Answers that nobody could explain.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Micro-operations that committed, and those refused or of unknown outcome.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |outcome| self.history.transactions.iter().filter(|one| one.outcome == outcome).count();
        (count(Outcome::Committed), count(Outcome::NotExecuted), count(Outcome::Unknown))
    }

    /// What all transactions did.
    pub fn operations(&self) -> usize {
        self.history.transactions.iter().map(|one| one.ops.len()).sum()
    }

    pub(super) fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    pub(super) fn connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(super) fn problem(&mut self, connection: u64, text: impl std::fmt::Display) {
        self.problems.push(format!("connection {connection}: {text}"));
    }

    /// A command was sent. Until its reply comes its outcome is unknown.
    pub(super) fn invoke(&mut self, now: Moment, connection: u64, node: u64, ops: Vec<MicroOp>) -> TransactionId {
        self.history.transactions.push(Transaction {
            connection,
            node,
            invoked: now,
            completed: None,
            outcome: Outcome::Unknown,
            ops,
        });
        self.history.transactions.len() - 1
    }

    /// It took effect, with these results.
    pub(super) fn commit(&mut self, now: Moment, id: TransactionId, ops: Vec<MicroOp>) {
        let transaction = &mut self.history.transactions[id];
        (transaction.completed, transaction.outcome, transaction.ops) = (Some(now), Outcome::Committed, ops);
    }

    /// It certainly did not, and never will.
    pub(super) fn refuse(&mut self, now: Moment, id: TransactionId) {
        let transaction = &mut self.history.transactions[id];
        (transaction.completed, transaction.outcome) = (Some(now), Outcome::NotExecuted);
    }

    pub(super) fn transaction(&self, id: TransactionId) -> &Transaction {
        &self.history.transactions[id]
    }
}
