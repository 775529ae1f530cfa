//! What registers tell. Every token is put once, and whoever puts or takes something is told what was there: so each token has
//! one writer, its readers, and at most one that replaced it, in this order. Absence has no name, so it makes no edge; it is
//! judged by time: once somebody has found a token gone, nobody who asks later may find it there.
//!
//! A token with a deadline is judged by that too, where it is known how wrong clocks may be: see `deadlines`.

use std::collections::BTreeMap;

use super::graph::{Edge, Graph, Kind};
use super::history::{History, Key, MicroOp, Outcome, Seen, Token, Transaction, Until, key_name};
use super::lists::Index;
use super::report::{Anomaly, Violation};

/// What was observed of one register, by committed transactions.
#[derive(Default)]
pub(super) struct Register {
    /// Who found what there, from outside.
    pub(super) looks: Vec<(usize, Seen)>,
    /// Who found a token, or left it there.
    met: BTreeMap<Token, Vec<usize>>,
    pub(super) readers: BTreeMap<Token, Vec<usize>>,
    pub(super) replaced: BTreeMap<Token, usize>,
    /// Until when a token was to be there, where its writer was told that it is in.
    pub(super) lives: BTreeMap<Token, (usize, Until)>,
    /// Whose deadline a token took over.
    pub(super) heir_of: BTreeMap<Token, Token>,
    /// Who gave a token another deadline.
    pub(super) expires: BTreeMap<Token, Vec<(usize, Until)>>,
    /// When changes were sent of which nobody knows whether they took effect.
    pub(super) unknown: Vec<u64>,
    /// Those among them that set a deadline for whatever is there.
    pub(super) unknown_expires: Vec<u64>,
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
            violations.extend(judge.outlived(error_ms));
            violations.extend(judge.vanished(error_ms));
        }
    }
}

/// What one transaction tells.
fn gather(history: &History, id: usize, registers: &mut BTreeMap<Key, Register>, violations: &mut Vec<Violation>) {
    let transaction = &history.transactions[id];
    let mut known: BTreeMap<Key, Seen> = BTreeMap::new();
    for op in &transaction.ops {
        let changes = match op {
            MicroOp::Put { .. } | MicroOp::Take { .. } | MicroOp::Expire { .. } => true,
            MicroOp::Look { .. } => false,
            _ => continue,
        };
        let (key, register) = (op.key(), registers.entry(op.key()).or_default());
        if transaction.outcome == Outcome::Unknown && changes {
            register.unknown.push(transaction.invoked);
            if matches!(op, MicroOp::Expire { .. }) {
                register.unknown_expires.push(transaction.invoked);
            }
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
            MicroOp::Put { token, until, .. } => {
                register.put((id, *token), *until, saw);
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
        let until = match op {
            MicroOp::Put { until, .. } if leaves != saw => Some(*until),
            MicroOp::Expire { until, .. } => {
                saw.into_iter().for_each(|token| register.expires.entry(token).or_default().push((id, *until)));
                Some(*until)
            }
            _ => None,
        };
        if matches!(until, Some(Until::At(_))) {
            // By the store's clock that may have passed already; then it is gone at once.
            known.remove(&key);
        } else {
            known.insert(key, leaves);
        }
    }
}

impl Register {
    /// A token was put where `saw` was.
    fn put(&mut self, (id, token): (usize, Token), until: Until, saw: Seen) {
        let until = match (until, saw) {
            (Until::Kept, Some(before)) => {
                self.heir_of.insert(token, before);
                until
            }
            (Until::Kept, None) => Until::Never,
            _ => until,
        };
        self.lives.insert(token, (id, until));
    }
}

pub(super) struct Judge<'a> {
    pub(super) history: &'a History,
    index: &'a Index,
    key: Key,
    pub(super) register: &'a Register,
}

impl Judge<'_> {
    pub(super) fn transaction(&self, id: usize) -> &Transaction {
        &self.history.transactions[id]
    }

    pub(super) fn completed(&self, id: usize) -> u64 {
        self.transaction(id).completed.unwrap_or(u64::MAX)
    }

    pub(super) fn violation(&self, anomaly: Anomaly, text: &str, ids: impl IntoIterator<Item = usize>) -> Violation {
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
}
