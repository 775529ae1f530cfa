//! What registers tell. Every token is put once, and whoever puts or takes something is told what was there: so each token has
//! one writer, its readers, and at most one that replaced it, in this order. Absence has no name, so it makes no edge; it is
//! judged by time: once somebody has found a token gone, nobody who asks later may find it there.
//!
//! A token with a deadline is judged by that too, where it is known how wrong clocks may be: it must be there before, and gone
//! after.

use std::collections::BTreeMap;

use super::graph::{Edge, Graph, Kind};
use super::history::{History, Key, MicroOp, Outcome, Seen, Token, Transaction, key_name};
use super::lists::Index;
use super::report::{Anomaly, Violation};

/// Rounding to milliseconds, here and there, and stamps that run ahead by what is written within one.
const SLACK_MS: u64 = 20;
const MS: u64 = 1_000_000;

/// What was observed of one register, by committed transactions.
#[derive(Default)]
struct Register {
    /// Who found what there, from outside.
    looks: Vec<(usize, Seen)>,
    /// Who found a token, or left it there.
    met: BTreeMap<Token, Vec<usize>>,
    readers: BTreeMap<Token, Vec<usize>>,
    replaced: BTreeMap<Token, usize>,
    /// How long a token may live, where its writer was told that it is in.
    lives: BTreeMap<Token, (usize, Option<u64>)>,
    /// When changes were sent of which nobody knows whether they took effect.
    unknown: Vec<u64>,
}

/// Puts the order of tokens into the graph, and what is wrong with single registers among the violations.
pub(super) fn examine(history: &History, index: &Index, graph: &mut Graph, violations: &mut Vec<Violation>) {
    let mut registers: BTreeMap<Key, Register> = BTreeMap::new();
    for id in 0..history.transactions.len() {
        gather(history, id, &mut registers, violations);
    }
    for (key, register) in &registers {
        let judge = Judge { history, index, key: *key, register };
        judge.connect(graph);
        judge.writers(violations);
        violations.extend(judge.returned());
        if let Some(error_ms) = history.clock_error_ms {
            violations.extend(judge.outlived(error_ms + SLACK_MS));
            violations.extend(judge.vanished(error_ms + SLACK_MS));
        }
    }
}

/// What one transaction tells.
fn gather(history: &History, id: usize, registers: &mut BTreeMap<Key, Register>, violations: &mut Vec<Violation>) {
    let transaction = &history.transactions[id];
    let mut known: BTreeMap<Key, Seen> = BTreeMap::new();
    for op in &transaction.ops {
        let changes = match op {
            MicroOp::Put { .. } | MicroOp::Take { .. } => true,
            MicroOp::Look { .. } => false,
            _ => continue,
        };
        let (key, register) = (op.key(), registers.entry(op.key()).or_default());
        if transaction.outcome == Outcome::Unknown && changes {
            register.unknown.push(transaction.invoked);
        }
        let Some(saw) = op.saw().filter(|_| transaction.outcome == Outcome::Committed) else { continue };
        match known.get(&key) {
            None => register.looks.push((id, saw)),
            Some(before) if *before == saw => {}
            Some(_) => {
                let text = format!("{} is not what the same transaction found or left there before", key_name(key));
                let mut violation = Violation::new(Anomaly::Internal, text);
                violation.show(history, [id]);
                violations.push(violation);
            }
        }
        if let Some(token) = saw {
            register.readers.entry(token).or_default().push(id);
            register.met.entry(token).or_default().push(id);
        }
        let leaves = match op {
            MicroOp::Put { if_absent: true, .. } if saw.is_some() => saw,
            MicroOp::Put { token, life_ms, .. } => {
                register.lives.insert(*token, (id, *life_ms));
                register.met.entry(*token).or_default().push(id);
                Some(*token)
            }
            MicroOp::Take { .. } => None,
            _ => saw,
        };
        if let Some(token) = saw.filter(|_| leaves != saw)
            && let Some(other) = register.replaced.insert(token, id)
        {
            let text = format!("{token} in {} was replaced twice", key_name(key));
            let mut violation = Violation::new(Anomaly::LostUpdate, text);
            violation.show(history, [other, id]);
            violations.push(violation);
        }
        known.insert(key, leaves);
    }
}

struct Judge<'a> {
    history: &'a History,
    index: &'a Index,
    key: Key,
    register: &'a Register,
}

impl Judge<'_> {
    fn transaction(&self, id: usize) -> &Transaction {
        &self.history.transactions[id]
    }

    fn completed(&self, id: usize) -> u64 {
        self.transaction(id).completed.unwrap_or(u64::MAX)
    }

    fn violation(&self, anomaly: Anomaly, text: &str, ids: impl IntoIterator<Item = usize>) -> Violation {
        let mut violation = Violation::new(anomaly, format!("{}: {text}", key_name(self.key)));
        violation.show(self.history, ids);
        violation
    }

    /// Writer, readers, whoever replaced it.
    fn connect(&self, graph: &mut Graph) {
        let key = self.key;
        for (token, readers) in &self.register.readers {
            let writer = self.index.writer_of(key, *token);
            let replaced = self.register.replaced.get(token).copied();
            for reader in readers {
                if let Some(writer) = writer {
                    graph.add(writer, Edge { to: *reader, kind: Kind::Wr, key, token: *token });
                }
                if let Some(replaced) = replaced {
                    graph.add(*reader, Edge { to: replaced, kind: Kind::Rw, key, token: *token });
                }
            }
            if let (Some(writer), Some(replaced)) = (writer, replaced) {
                graph.add(writer, Edge { to: replaced, kind: Kind::Ww, key, token: *token });
            }
        }
    }

    /// What was found there has to have been put there.
    fn writers(&self, violations: &mut Vec<Violation>) {
        for (token, readers) in &self.register.readers {
            let writer = self.index.writer_of(self.key, *token);
            let outcome = writer.map(|writer| self.transaction(writer).outcome);
            let what = match outcome {
                None => (Anomaly::Garbage, format!("{token} was never put there")),
                Some(Outcome::NotExecuted) => (Anomaly::AbortedRead, format!("putting {token} was refused")),
                Some(Outcome::Committed) if !self.register.lives.contains_key(token) => {
                    (Anomaly::Garbage, format!("{token} was not put there, since something was there"))
                }
                Some(_) => continue,
            };
            violations.push(self.violation(what.0, &what.1, writer.into_iter().chain(readers.first().copied())));
        }
    }

    /// The first who came after a token was there, and did not find it any more.
    fn gone(&self, token: Token) -> Option<usize> {
        let there = self.register.met.get(&token)?.iter().map(|id| self.completed(*id)).min()?;
        let missed =
            self.register.looks.iter().filter(|(id, saw)| *saw != Some(token) && self.transaction(*id).invoked > there);
        missed.map(|(id, _)| *id).min_by_key(|id| self.completed(*id))
    }

    fn returned(&self) -> Option<Violation> {
        self.register.readers.iter().find_map(|(token, readers)| {
            let gone = self.gone(*token)?;
            let late = readers.iter().copied().find(|id| self.transaction(*id).invoked > self.completed(gone))?;
            let text = format!("{token} was gone, and is there again");
            Some(self.violation(Anomaly::Returned, &text, [gone, late]))
        })
    }

    /// Found, although its deadline has passed by every clock.
    fn outlived(&self, error_ms: u64) -> Option<Violation> {
        self.register.lives.iter().find_map(|(token, (writer, life_ms))| {
            let until = self.completed(*writer).saturating_add(((*life_ms)? + 2 * error_ms) * MS);
            let readers = self.register.readers.get(token)?;
            let late = readers.iter().copied().find(|id| self.transaction(*id).invoked > until)?;
            let text = format!("{token} is there after its deadline");
            Some(self.violation(Anomaly::Outlived, &text, [*writer, late]))
        })
    }

    /// Not found, although its deadline has passed by no clock, and nobody can have taken or replaced it.
    fn vanished(&self, error_ms: u64) -> Option<Violation> {
        let doubtful_from = self.register.unknown.iter().min().copied().unwrap_or(u64::MAX);
        self.register.lives.iter().find_map(|(token, (writer, life_ms))| {
            if self.register.replaced.contains_key(token) {
                return None;
            }
            let until = match life_ms {
                Some(life_ms) => (self.transaction(*writer).invoked + life_ms * MS).saturating_sub(2 * error_ms * MS),
                None => u64::MAX,
            };
            let until = until.min(doubtful_from);
            let put = self.completed(*writer);
            let missed =
                self.register.looks.iter().find(|(id, saw)| {
                    saw.is_none() && self.transaction(*id).invoked > put && self.completed(*id) < until
                });
            let text = format!("{token} is not there, and nobody can have removed it");
            missed.map(|(id, _)| self.violation(Anomaly::Vanished, &text, [*writer, *id]))
        })
    }
}
