//! What must be there when everything is over: each key is read through every node, and all acknowledged writes counted.

use std::collections::{BTreeMap, BTreeSet};

use dstore_sim::checker::{Key, MicroOp, Outcome, Token};

use super::Verdict;
use super::registers::Chains;
use crate::clients::{Record, What};

/// Everything that one node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By key.
    pub lists: BTreeMap<Key, Vec<Token>>,
    /// By key.
    pub counters: BTreeMap<Key, u64>,
    /// By key.
    pub registers: BTreeMap<Key, Option<Token>>,
}

#[derive(Debug, Default)]
struct List {
    acknowledged: Vec<Token>,
    in_doubt: Vec<Token>,
    /// The longest that was read.
    read: Vec<Token>,
}

#[derive(Debug, Default)]
struct Counter {
    acknowledged: u64,
    in_doubt: u64,
    read: u64,
}

#[derive(Debug, Default)]
struct Register {
    acknowledged: Vec<Token>,
    chains: Chains,
}

/// What clients know about each key, of all generations.
#[derive(Debug, Default)]
pub struct Expected {
    lists: BTreeMap<Key, List>,
    counters: BTreeMap<Key, Counter>,
    registers: BTreeMap<Key, Register>,
}

impl Expected {
    /// The keys of each kind.
    pub fn keys(&self) -> [Vec<Key>; 3] {
        [
            self.lists.keys().copied().collect(),
            self.counters.keys().copied().collect(),
            self.registers.keys().copied().collect(),
        ]
    }

    /// Adds a generation that was judged.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            match &record.what {
                What::Lists(ops) => ops.iter().for_each(|op| self.list_op(record.outcome, op)),
                What::Increment(key, value) => {
                    let counter = self.counters.entry(*key).or_default();
                    match record.outcome {
                        Outcome::Committed => counter.acknowledged += 1,
                        Outcome::Unknown => counter.in_doubt += 1,
                        Outcome::NotExecuted => {}
                    }
                    counter.read = counter.read.max(value.unwrap_or(0));
                }
                What::Count(key, value) => {
                    let counter = self.counters.entry(*key).or_default();
                    counter.read = counter.read.max(*value);
                }
                What::Swap { key, new, .. } => {
                    let register = self.registers.entry(*key).or_default();
                    register.acknowledged.extend((record.outcome == Outcome::Committed).then_some(*new));
                }
                What::Look(key, _) => drop(self.registers.entry(*key).or_default()),
            }
        }
        let mut by_register: BTreeMap<Key, Vec<Record>> = BTreeMap::new();
        for record in records {
            if let What::Swap { key, .. } = record.what
                && record.outcome != Outcome::NotExecuted
            {
                by_register.entry(key).or_default().push(record.clone());
            }
        }
        for (key, swaps) in by_register {
            self.registers.entry(key).or_default().chains = Chains::of(&swaps);
        }
    }

    fn list_op(&mut self, outcome: Outcome, op: &MicroOp) {
        let list = self.lists.entry(op.key()).or_default();
        match (op, outcome) {
            (MicroOp::Append { token, .. }, Outcome::Committed) => list.acknowledged.push(*token),
            (MicroOp::Append { token, .. }, Outcome::Unknown) => list.in_doubt.push(*token),
            (MicroOp::Read { list: Some(read), .. }, _) if read.len() > list.read.len() => list.read = read.clone(),
            _ => {}
        }
    }

    /// Judges what a node holds at the end. Lost writes are counted for the first node alone; all nodes are compared.
    pub fn judge(&self, found: &[(usize, Contents)], verdict: &mut Verdict) {
        let Some((_, first)) = found.first() else { return };
        for (node, contents) in found {
            if contents != first {
                verdict.blame(format!("at the end node {node} answers otherwise than node {}", found[0].0));
            }
        }
        for (key, list) in &self.lists {
            list.judge(*key, first.lists.get(key).map_or(&[], Vec::as_slice), verdict);
        }
        for (key, counter) in &self.counters {
            counter.judge(*key, first.counters.get(key).copied().unwrap_or(0), verdict);
        }
        for (key, register) in &self.registers {
            register.judge(*key, first.registers.get(key).copied().flatten(), verdict);
        }
    }
}

impl List {
    fn judge(&self, key: Key, found: &[Token], verdict: &mut Verdict) {
        let there: BTreeSet<Token> = found.iter().copied().collect();
        let lost: Vec<&Token> = self.acknowledged.iter().filter(|token| !there.contains(token)).collect();
        if !lost.is_empty() {
            verdict.lost += lost.len() as u64;
            verdict.blame(format!("at the end list {key} lacks {lost:?}, which were acknowledged"));
        } else if !found.starts_with(&self.read) {
            verdict.blame(format!("at the end list {key} is {found:?}, but {:?} was read", self.read));
        }
        let known: BTreeSet<Token> = self.acknowledged.iter().chain(&self.in_doubt).copied().collect();
        let strange: Vec<&Token> = there.difference(&known).collect();
        if !strange.is_empty() || there.len() < found.len() {
            verdict
                .blame(format!("at the end list {key} is {found:?}: doubled, refused or unknown tokens {strange:?}"));
        }
    }
}

impl Counter {
    fn judge(&self, key: Key, found: u64, verdict: &mut Verdict) {
        let Counter { acknowledged, in_doubt, read } = *self;
        verdict.lost += acknowledged.saturating_sub(found);
        if found < acknowledged.max(read) || found > acknowledged + in_doubt {
            verdict.blame(format!(
                "at the end counter {key} is {found}; {acknowledged} increments were acknowledged, {in_doubt} are in doubt, \
                 and {read} was read"
            ));
        }
    }
}

impl Register {
    fn judge(&self, key: Key, found: Option<Token>, verdict: &mut Verdict) {
        let chain = match self.chains.up_to(key, found) {
            Ok(chain) => chain.into_iter().collect::<BTreeSet<Token>>(),
            Err(why) => {
                verdict.blame(format!("at the end {why}"));
                BTreeSet::new()
            }
        };
        let lost: Vec<&Token> = self.acknowledged.iter().filter(|token| !chain.contains(token)).collect();
        if !lost.is_empty() {
            verdict.lost += lost.len() as u64;
            verdict.blame(format!(
                "at the end register {key} is {found:?}, and {lost:?}, acknowledged, are not before it"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, append, read, refused, unknown};
    use super::*;

    fn expected() -> Expected {
        let mut expected = Expected::default();
        expected.add(&[
            answered(10, append(1, Some(1))),
            unknown(20, append(2, None)),
            refused(25, append(3, None)),
            answered(30, read(&[1])),
            answered(40, What::Increment(0, Some(1))),
            unknown(50, What::Increment(0, None)),
            answered(60, What::Swap { key: 0, old: None, new: 7 }),
            unknown(70, What::Swap { key: 0, old: Some(7), new: 8 }),
        ]);
        expected
    }

    fn contents(list: &[Token], counter: u64, register: Option<Token>) -> Contents {
        Contents {
            lists: [(0, list.to_vec())].into(),
            counters: [(0, counter)].into(),
            registers: [(0, register)].into(),
        }
    }

    fn judged(found: &[Contents]) -> (u64, u64) {
        let mut verdict = Verdict::default();
        let found: Vec<(usize, Contents)> = found.iter().cloned().enumerate().collect();
        expected().judge(&found, &mut verdict);
        (verdict.violations, verdict.lost)
    }

    #[test]
    fn what_was_in_doubt_may_be_there_or_not() {
        assert_eq!(judged(&[contents(&[1], 1, Some(7))]), (0, 0));
        assert_eq!(judged(&[contents(&[1, 2], 2, Some(8))]), (0, 0));
    }

    #[test]
    fn acknowledged_writes_that_are_gone_are_counted() {
        assert_eq!(judged(&[contents(&[], 1, Some(7))]), (1, 1));
        assert_eq!(judged(&[contents(&[1], 0, Some(7))]), (1, 1));
        assert_eq!(judged(&[contents(&[1], 1, None)]), (1, 1));
        assert_eq!(judged(&[contents(&[], 0, None)]), (3, 3));
    }

    #[test]
    fn what_should_not_be_there_is_found() {
        assert_eq!(judged(&[contents(&[1, 1], 1, Some(7))]), (1, 0));
        assert_eq!(judged(&[contents(&[1, 3], 1, Some(7))]), (1, 0), "it was refused");
        assert_eq!(judged(&[contents(&[1], 3, Some(7))]), (1, 0));
        assert_eq!(judged(&[contents(&[2, 1], 1, Some(7))]), (1, 0), "it was read otherwise");
    }

    #[test]
    fn nodes_that_differ_are_found() {
        assert_eq!(judged(&[contents(&[1], 1, Some(7)), contents(&[1, 2], 1, Some(7))]), (1, 0));
    }
}
