//! [`Narrow`]: a part of what a seed holds. For finding the least that still fails.

use std::collections::BTreeSet;

use crate::nemesis::Kind;
use crate::time::{Moment, SECOND};

/// What of a seed happens: without narrowing, all of it. What is left out changes as little as it can of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Kinds of faults that do not happen.
    pub without: BTreeSet<Kind>,
    /// The only faults that happen, by number; all of them if none is named.
    pub only: Option<BTreeSet<u64>>,
    /// How many clients there are at most.
    pub clients_max: usize,
    /// How many transactions clients begin before they only have to show that they can.
    pub transactions_max: usize,
    /// How long there are faults and work at most.
    pub faults_max: Moment,
}

impl Default for Narrow {
    fn default() -> Narrow {
        Narrow {
            without: BTreeSet::new(),
            only: None,
            clients_max: usize::MAX,
            transactions_max: usize::MAX,
            faults_max: Moment::MAX,
        }
    }
}

impl Narrow {
    /// Whether a fault happens.
    pub fn lets(&self, number: u64, kind: Kind) -> bool {
        !self.without.contains(&kind) && self.only.as_ref().is_none_or(|only| only.contains(&number))
    }

    /// The arguments of the program that say the same.
    pub fn arguments(&self) -> String {
        let mut text = String::new();
        if !self.without.is_empty() {
            let names: Vec<String> = self.without.iter().map(|kind| kind.name()).collect();
            text += &format!(" --without {}", names.join(","));
        }
        if let Some(only) = &self.only {
            let numbers: Vec<String> = only.iter().map(u64::to_string).collect();
            text += &format!(" --only {}", if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") });
        }
        if self.clients_max != usize::MAX {
            text += &format!(" --clients {}", self.clients_max);
        }
        if self.transactions_max != usize::MAX {
            text += &format!(" --transactions {}", self.transactions_max);
        }
        if self.faults_max != Moment::MAX {
            text += &format!(" --seconds {}", self.faults_max.div_ceil(SECOND));
        }
        text
    }
}
