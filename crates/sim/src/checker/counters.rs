//! What counters tell. Every increment by one makes another value, so a value is a version, and values are the order: whoever
//! found a lower one came before whoever found a higher one. Increments of unknown outcome are the values that nobody was told.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Edge, Graph, Kind};
use super::history::{History, Key, MicroOp, Outcome, key_name};
use super::report::{Anomaly, Violation};

/// What was observed of one counter.
#[derive(Default)]
struct Counter {
    /// Who made it what, and who found it at what: by value, increments before reads.
    observed: BTreeMap<(u64, bool), BTreeSet<usize>>,
    /// When increments were sent that may have taken effect.
    sent: Vec<u64>,
}

/// Puts the order of values into the graph, and what is wrong with single counters among the violations.
pub(super) fn examine(history: &History, graph: &mut Graph, violations: &mut Vec<Violation>) {
    let mut counters: BTreeMap<Key, Counter> = BTreeMap::new();
    for (id, transaction) in history.transactions.iter().enumerate() {
        let committed = transaction.outcome == Outcome::Committed;
        let mut known: BTreeMap<Key, u64> = BTreeMap::new();
        for op in &transaction.ops {
            let (key, value, adds) = match op {
                MicroOp::Add { key, value } => (*key, *value, true),
                MicroOp::Count { key, value } => (*key, *value, false),
                _ => continue,
            };
            let counter = counters.entry(key).or_default();
            if adds && transaction.outcome != Outcome::NotExecuted {
                counter.sent.push(transaction.invoked);
            }
            let Some(value) = value.filter(|_| committed) else { continue };
            if known.insert(key, value).is_some_and(|before| before + u64::from(adds) != value) {
                let text = format!("{} is not what the same transaction made of it before", key_name(key));
                violations.push(shown(Anomaly::Internal, text, history, [id]));
            }
            let fellows = counter.observed.entry((value, !adds)).or_default();
            if adds && let Some(other) = fellows.first().copied() {
                let text = format!("two increments of {} were answered with {value}", key_name(key));
                violations.push(shown(Anomaly::LostIncrement, text, history, [other, id]));
            }
            fellows.insert(id);
        }
    }
    for (key, counter) in &mut counters {
        counter.sent.sort_unstable();
        order(*key, counter, graph);
        violations.extend(too_high(history, *key, counter));
    }
}

fn shown(anomaly: Anomaly, text: String, history: &History, ids: impl IntoIterator<Item = usize>) -> Violation {
    let mut violation = Violation::new(anomaly, text);
    violation.show(history, ids);
    violation
}

fn order(key: Key, counter: &Counter, graph: &mut Graph) {
    let groups: Vec<_> = counter.observed.iter().collect();
    for pair in groups.windows(2) {
        let [((_, from_reads), from), ((value, to_reads), to)] = pair else { continue };
        let kind = match (from_reads, to_reads) {
            (false, false) => Kind::Ww,
            (false, true) => Kind::Wr,
            (true, _) => Kind::Rw,
        };
        for from in *from {
            to.iter().for_each(|to| graph.add(*from, Edge { to: *to, kind, key, token: *value }));
        }
    }
}

/// Nobody can find more than was asked for by then.
fn too_high(history: &History, key: Key, counter: &Counter) -> Option<Violation> {
    counter.observed.iter().find_map(|((value, _), found_by)| {
        let id = found_by.iter().copied().find(|id| {
            let completed = history.transactions[*id].completed.unwrap_or(u64::MAX);
            let asked = counter.sent.partition_point(|sent| *sent <= completed);
            (asked as u64) < *value
        })?;
        let text = format!("{} was found at {value}, and fewer increments had been asked for by then", key_name(key));
        Some(shown(Anomaly::CountTooHigh, text, history, [id]))
    })
}
