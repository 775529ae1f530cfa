//! [`Total`]: what all seeds together did, and what they never did.

use std::collections::BTreeMap;
use std::fmt;

use crate::nemesis::{KINDS, Kind};
use crate::run::Outcome;
use crate::time::SECOND;

/// What all seeds together did.
#[derive(Debug, Default)]
pub struct Total {
    seeds: u64,
    simulated: u128,
    transactions: (usize, usize, usize),
    operations: usize,
    /// How often a kind of fault happened, and in how many seeds.
    faults: BTreeMap<Kind, (u64, u64)>,
    snapshots: u64,
    rot_noticed: u64,
    hash: u64,
    /// In how many seeds a marked place was reached.
    #[cfg(feature = "marks")]
    marks: BTreeMap<&'static str, u64>,
}

impl Total {
    /// Another seed.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += u128::from(outcome.simulated);
        self.transactions.0 += outcome.transactions.0;
        self.transactions.1 += outcome.transactions.1;
        self.transactions.2 += outcome.transactions.2;
        self.operations += outcome.operations;
        for (kind, count) in &outcome.faults {
            let (times, seeds) = self.faults.entry(*kind).or_default();
            (*times, *seeds) = (*times + count, *seeds + 1);
        }
        self.snapshots += outcome.snapshots;
        self.rot_noticed += outcome.rot_noticed;
        self.hash = self.hash.rotate_left(1) ^ outcome.hash;
        #[cfg(feature = "marks")]
        for mark in &outcome.marks {
            *self.marks.entry(mark).or_default() += 1;
        }
    }

    /// Simulated hours.
    pub fn hours(&self) -> f64 {
        self.simulated as f64 / (3600.0 * SECOND as f64)
    }

    /// Operations that were judged.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Marked places that no seed has reached.
    #[cfg(feature = "marks")]
    pub fn never_reached(&self) -> Vec<&'static str> {
        let all = dstore_node::marks::all().map(|(name, _)| name);
        all.filter(|name| !self.marks.contains_key(name)).collect()
    }

    #[cfg(feature = "marks")]
    fn tell_marks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "marked places, and in how many of {} seeds each was reached:", self.seeds)?;
        for (name, what) in dstore_node::marks::all() {
            let seeds = self.marks.get(name).copied().unwrap_or(0);
            writeln!(f, "  {seeds:>7}  {name}: {what}")?;
        }
        let never = self.never_reached();
        if !never.is_empty() {
            writeln!(f, "never reached: {}", never.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "marks")]
        self.tell_marks(f)?;
        let (committed, refused, unknown) = self.transactions;
        writeln!(
            f,
            "{:.2} simulated hours; {} operations checked, in transactions: {committed} committed, {refused} refused, \
             {unknown} of unknown outcome",
            self.hours(),
            self.operations
        )?;
        let counts: Vec<String> = KINDS
            .iter()
            .filter_map(|kind| self.faults.get(kind).map(|(times, seeds)| format!("{} {times} ({seeds})", kind.name())))
            .collect();
        writeln!(f, "faults (and in how many seeds): {}", counts.join(", "))?;
        let never: Vec<String> =
            KINDS.iter().filter(|kind| !self.faults.contains_key(kind)).map(|kind| kind.name()).collect();
        if !never.is_empty() {
            writeln!(f, "faults that never happened: {}", never.join(", "))?;
        }
        writeln!(f, "{} snapshots installed; {} nodes ended over a rotten disk", self.snapshots, self.rot_noticed)?;
        write!(f, "trace hash {:016x}", self.hash)
    }
}
