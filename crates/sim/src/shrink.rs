//! The least of a seed that still fails.
//!
//! A seed's draws do not depend on what is left out, as far as that can be: a fault that does not happen is drawn all the same.
//! But what happens is another run, so leaving something out may hide a failure that has nothing to do with it. Whatever fails is
//! taken, then: first whole kinds of faults are left out, then the faults behind the last one that matters, then single ones; then
//! time, clients and transactions, until nothing helps any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::narrow::Narrow;
use crate::nemesis::{KINDS, Kind};
use crate::run::{Options, Outcome};
use crate::time::SECOND;

/// Runs that a search may take.
const RUNS_MAX: u32 = 400;

/// What a search came to.
#[derive(Debug)]
pub struct Shrunk {
    /// The least that failed.
    pub narrow: Narrow,
    /// How it failed.
    pub outcome: Outcome,
    /// How many runs it took.
    pub runs: u32,
}

struct Search<F> {
    run: F,
    best: Shrunk,
}

impl<F: Fn(&Narrow) -> Outcome> Search<F> {
    /// Whether it still fails, changed like this; then that is the best so far.
    fn fails(&mut self, change: impl FnOnce(&mut Narrow)) -> bool {
        let mut narrow = self.best.narrow.clone();
        change(&mut narrow);
        if self.best.runs >= RUNS_MAX || narrow == self.best.narrow {
            return false;
        }
        self.best.runs += 1;
        let outcome = (self.run)(&narrow);
        let failed = !outcome.failures.is_empty();
        if failed {
            (self.best.narrow, self.best.outcome) = (narrow, outcome);
        }
        failed
    }

    fn leave_out_kinds(&mut self) {
        // A panic tells no counts; then all kinds are tried.
        let counted: BTreeMap<Kind, u64> = self.best.outcome.faults.clone();
        for kind in KINDS.into_iter().filter(|kind| counted.is_empty() || counted.contains_key(kind)) {
            if !self.best.narrow.without.contains(&kind) {
                self.fails(|narrow| narrow.without.extend([kind]));
            }
        }
    }

    /// Halves, quarters and so on of the faults that are left (Zeller and Hildebrandt, TSE 2002).
    fn leave_out_faults(&mut self, struck: u64) {
        let all = || (0..struck).collect::<BTreeSet<u64>>();
        let mut pieces = 2;
        loop {
            let left: Vec<u64> = self.best.narrow.only.clone().unwrap_or_else(all).into_iter().collect();
            if left.is_empty() {
                return;
            }
            let size = left.len().div_ceil(pieces);
            let without = |piece: &[u64]| left.iter().copied().filter(|fault| !piece.contains(fault)).collect();
            let helped = left.chunks(size).rev().any(|piece| self.fails(|narrow| narrow.only = Some(without(piece))));
            if helped {
                pieces = pieces.saturating_sub(1).max(2);
            } else if size == 1 {
                return;
            } else {
                pieces *= 2;
            }
        }
    }

    /// The least number between 1 and `most` that fails, as if they all did from some on.
    fn least(&mut self, most: u64, mut set: impl FnMut(&mut Narrow, u64)) {
        let (mut low, mut high) = (0, most);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.fails(|narrow| set(narrow, middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }
}

/// Looks for the least of a failing seed that still fails. `run` runs it narrowed.
pub fn shrink(options: &Options, run: impl Fn(&Narrow) -> Outcome) -> Shrunk {
    let narrow = options.narrow.clone();
    let outcome = run(&narrow);
    let mut search = Search { run, best: Shrunk { narrow, outcome, runs: 1 } };
    if search.best.outcome.failures.is_empty() {
        return search.best;
    }
    loop {
        let before = search.best.narrow.clone();
        search.leave_out_kinds();
        // A run that panicked did not come to its count.
        let struck = if search.best.outcome.struck == 0 { 100 } else { search.best.outcome.struck };
        search.leave_out_faults(struck);
        let seconds = search.best.narrow.faults_max.min(20 * SECOND) / SECOND;
        search.least(seconds, |narrow, seconds| narrow.faults_max = seconds * SECOND);
        search.least(6.min(search.best.narrow.clients_max as u64), |narrow, clients| {
            narrow.clients_max = clients as usize
        });
        let (committed, refused, unknown) = search.best.outcome.transactions;
        let transactions = (committed + refused + unknown).min(search.best.narrow.transactions_max) as u64;
        search.least(transactions, |narrow, most| narrow.transactions_max = most as usize);
        if search.best.narrow == before || search.best.runs >= RUNS_MAX {
            return search.best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn what_does_not_matter_is_left_out() {
        // Fails where faults 7 and 31 happen, with two clients and 40 transactions.
        let run = |narrow: &Narrow| {
            let lets = |number| narrow.lets(number, Kind::Crash);
            let fails = lets(7) && lets(31) && narrow.clients_max >= 2 && narrow.transactions_max >= 40;
            let failures = fails.then(|| "it fails".to_owned()).into_iter().collect();
            let faults = BTreeMap::from([(Kind::Crash, 20), (Kind::Pause, 30)]);
            Outcome { failures, faults, struck: 50, transactions: (500, 3, 2), ..Outcome::default() }
        };
        let options = Options {
            seed: 1,
            trace: false,
            epoch: std::time::Instant::now(),
            narrow: Narrow::default(),
            #[cfg(feature = "planted")]
            planted: None,
        };
        let found = shrink(&options, run);
        assert_eq!(found.narrow.only, Some(BTreeSet::from([7, 31])));
        assert_eq!(found.narrow.without, BTreeSet::from([Kind::Pause]));
        assert_eq!((found.narrow.clients_max, found.narrow.transactions_max), (2, 40));
        let arguments = " --without pause --only 7,31 --clients 2 --transactions 40 --seconds 1";
        assert_eq!(found.narrow.arguments(), arguments);
    }
}
