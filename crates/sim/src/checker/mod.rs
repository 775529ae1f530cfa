//! Is a history of list appends strictly serializable, and if not, which few operations show it?
//!
//! Elle's method (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020).
//! Clients append tokens, each used once, to lists, and read lists. A list that was read tells which appends made it and in
//! which order: the *version order* of its key. From that follow the dependencies between transactions (Adya, Liskov and
//! O'Neil, "Generalized Isolation Level Definitions", ICDE 2000):
//!
//! * *ww*: one appended right behind the other;
//! * *wr*: one read what the other had appended last;
//! * *rw*: one read a state that the other then changed;
//! * the order of a connection, and of real time: what was answered before another was sent came before it.
//!
//! A history is strictly serializable if, and for what was observed only if, these have no cycle. What can be told from
//! a single list is looked for first, because it reads better: an acknowledged append that is gone, one that is there twice,
//! one that was refused and is there all the same.
//!
//! An outcome that nobody knows is taken as both: a transaction of which something was observed has happened, and has
//! no end in real time, and so has what its connection had sent before; any other constrains nothing.
//!
//! Clients also add one to *counters* and put tokens into *registers*, some of which expire, alone and in one transaction with
//! the rest. What these tell goes into the same graph: `counters` and `registers` say how. A register's key that has expired, or
//! was taken, must not come back with what it held, and must not go early or stay late: `deadlines`. Who read the end of a list
//! alone, or asked for its length, is taken for somebody who read all of it: `partial`.
//!
//! Read [`check`] first, then `lists` (what a list tells), `edges`, and `graph` (cycles).
//!
//! Caveat: an append that nobody read, on a key that nobody read afterwards, is not judged. A history should end with
//! a read of every key.

mod counters;
mod deadlines;
mod edges;
mod graph;
mod history;
mod lists;
#[cfg(test)]
mod more_tests;
mod partial;
mod registers;
mod report;
#[cfg(test)]
mod tests;

pub use history::{COUNTERS, History, Key, MicroOp, Outcome, REGISTERS, Seen, Token, Transaction, Until, key_name};
pub use report::{Anomaly, Violation};

/// Cycles reported of one history: the first shows that it is wrong, a few more may show why.
const CYCLES_MAX: usize = 3;

/// Everything that is wrong with a history; nothing if it is strictly serializable.
///
/// # Panics
///
/// Two writes of the history use one token: then it cannot be judged, and who made it is to blame.
pub fn check(history: &History) -> Vec<Violation> {
    let (completed, mut violations) = partial::complete(history);
    let history = completed.as_ref().unwrap_or(history);
    let index = lists::Index::new(history);
    let (orders, found) = lists::examine(history, &index);
    violations.extend(found);
    let mut graph = edges::build(history, &index, &orders);
    counters::examine(history, &mut graph, &mut violations);
    registers::examine(history, &index, &mut graph, &mut violations);
    for component in graph.components().into_iter().take(CYCLES_MAX) {
        violations.push(report::describe(history, graph.worst_cycle(&component)));
    }
    violations
}
