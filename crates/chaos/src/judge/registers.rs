//! Histories of registers as histories of lists.
//!
//! A value takes the place of the one that its client had seen, and no value is written twice. So a value stands for all
//! values before it, back to the first: that is a list, and a compare-and-set is a block that read the list up to the old
//! value and appended the new one. Two that replaced the same value make two lists of which neither begins with the
//! other; a lost one is a token that is missing; and the checker of lists knows all the rest.

use std::collections::BTreeMap;

use dstore_sim::checker::{Key, MicroOp, Outcome, Token, Transaction};

use super::transaction;
use crate::clients::{Record, What};

/// Longer than any chain of a generation: values that replaced each other in a ring are nobody's.
const CHAIN_MAX: usize = 1_000_000;

/// What each value took the place of.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    before: BTreeMap<Token, (Key, Option<Token>)>,
}

impl Chains {
    /// Those of all registers of a history.
    pub fn of(records: &[Record]) -> Chains {
        let swaps = records.iter().filter_map(|record| match record.what {
            What::Swap { key, old, new } => Some((new, (key, old))),
            _ => None,
        });
        Chains { before: swaps.collect() }
    }

    /// All values of a register up to this one.
    ///
    /// # Errors
    ///
    /// Nobody wrote one of them there.
    pub fn up_to(&self, key: Key, last: Option<Token>) -> Result<Vec<Token>, String> {
        let mut chain = Vec::new();
        let mut at = last;
        while let Some(token) = at {
            chain.push(token);
            at = match self.before.get(&token) {
                Some((of, before)) if *of == key && chain.len() < CHAIN_MAX => *before,
                _ => return Err(format!("register {key} held {token}, which nobody wrote there")),
            };
        }
        chain.reverse();
        Ok(chain)
    }
}

/// The registers' part of a history.
///
/// # Errors
///
/// A value that nobody wrote was read.
pub fn transactions(records: &[Record]) -> Result<Vec<Transaction>, String> {
    let chains = Chains::of(records);
    let mut transactions = Vec::new();
    for record in records {
        let is_answered = record.outcome == Outcome::Committed;
        let read = |key, value| {
            let list = if is_answered { Some(chains.up_to(key, value)?) } else { None };
            Ok::<_, String>(MicroOp::Read { key, list })
        };
        let ops = match record.what {
            What::Swap { key, old, new } => vec![read(key, old)?, MicroOp::Append { key, token: new, length: None }],
            What::Look(key, value) => vec![read(key, value)?],
            _ => continue,
        };
        transactions.push(transaction(record, ops));
    }
    Ok(transactions)
}

#[cfg(test)]
mod tests {
    use super::super::examine;
    use super::super::tests::{answered, refused, unknown};
    use super::*;

    fn swap(old: Option<Token>, new: Token) -> What {
        What::Swap { key: 0, old, new }
    }

    fn bad(records: &[Record], says: &str) {
        let found = examine(records);
        assert!(found.iter().any(|what| what.contains(says)), "{found:?}");
    }

    #[test]
    fn a_chain_of_values_is_clean_whatever_became_of_the_unknown() {
        let looks = |value| answered(40, What::Look(0, value));
        assert!(examine(&[answered(10, swap(None, 1)), answered(20, swap(Some(1), 2)), looks(Some(2))]).is_empty());
        assert!(examine(&[answered(10, swap(None, 1)), unknown(20, swap(Some(1), 2)), looks(Some(1))]).is_empty());
        assert!(examine(&[answered(10, swap(None, 1)), unknown(20, swap(Some(1), 2)), looks(Some(2))]).is_empty());
        assert!(examine(&[refused(10, swap(None, 1)), looks(None)]).is_empty());
    }

    #[test]
    fn two_that_replaced_the_same_value_are_found() {
        let both = [answered(10, swap(None, 1)), answered(20, swap(Some(1), 2)), answered(30, swap(Some(1), 3))];
        assert!(!examine(&both).is_empty());
    }

    #[test]
    fn a_lost_value_a_stale_one_a_refused_one_and_a_stranger_are_found() {
        bad(&[answered(10, swap(None, 1)), answered(20, What::Look(0, None))], "lacks 1");
        let stale = [
            answered(10, swap(None, 1)),
            answered(20, swap(Some(1), 2)),
            answered(30, What::Look(0, Some(1))),
            answered(40, What::Look(0, Some(2))),
        ];
        bad(&stale, "stale read");
        bad(&[refused(10, swap(None, 1)), answered(20, What::Look(0, Some(1)))], "refused");
        bad(&[answered(20, What::Look(0, Some(9)))], "nobody wrote");
    }
}
