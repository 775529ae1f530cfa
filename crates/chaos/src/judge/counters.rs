//! Is the history of a counter one of increments that each took effect once?
//!
//! An increment's answer is its place: the first is answered with 1, and no two with the same. So, for each counter:
//!
//! - no place is taken twice;
//! - who is sent after an answer takes a higher place, and reads no lower number (real time);
//! - a place below an answered number that nobody was told of is a *hole*: some increment of unknown outcome took it. At
//!   the moment of that answer there must be as many of those as holes, and they must have been sent before.
//!
//! For one counter that is all there is to strict serializability: the last rule is Hall's condition for giving every
//! hole an increment of its own.

use std::collections::BTreeMap;

use dstore_sim::checker::{Key, Outcome};

use crate::clients::{Record, What};

/// An answer: after it, the counter was known to stand at `value` at least.
#[derive(Clone, Copy, Debug)]
struct Known {
    invoked: u64,
    completed: u64,
    value: u64,
    is_increment: bool,
}

#[derive(Debug, Default)]
struct Counter {
    known: Vec<Known>,
    /// When increments of unknown outcome were sent.
    in_doubt: Vec<u64>,
}

/// Everything that is wrong with the counters of a generation.
pub fn examine(records: &[Record]) -> Vec<String> {
    let mut counters: BTreeMap<Key, Counter> = BTreeMap::new();
    for record in records {
        let (key, value, is_increment) = match record.what {
            What::Increment(key, value) => (key, value, true),
            What::Count(key, value) => (key, Some(value), false),
            _ => continue,
        };
        let counter = counters.entry(key).or_default();
        match (record.outcome, value, record.completed) {
            (Outcome::Committed, Some(value), Some(completed)) => {
                counter.known.push(Known { invoked: record.invoked, completed, value, is_increment });
            }
            (Outcome::Unknown, ..) if is_increment => counter.in_doubt.push(record.invoked),
            _ => {}
        }
    }
    counters.into_iter().flat_map(|(key, counter)| counter.examine(key)).collect()
}

impl Counter {
    fn examine(mut self, key: Key) -> Vec<String> {
        self.in_doubt.sort_unstable();
        let mut places: Vec<u64> =
            self.known.iter().filter(|known| known.is_increment).map(|known| known.value).collect();
        places.sort_unstable();
        let twice = places.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let mut found: Vec<String> =
            twice.map(|place| format!("counter {key}: two increments were answered with {place}")).collect();
        found.extend(self.real_time(key));
        found.extend(self.holes(key, &places));
        found
    }

    fn real_time(&self, key: Key) -> Vec<String> {
        let mut by_completion: Vec<&Known> = self.known.iter().collect();
        by_completion.sort_by_key(|known| known.completed);
        let mut by_invocation: Vec<&Known> = self.known.iter().collect();
        by_invocation.sort_by_key(|known| known.invoked);
        let mut before = by_completion.into_iter().peekable();
        let (mut floor, mut found) = (0, Vec::new());
        for known in by_invocation {
            while let Some(earlier) = before.next_if(|earlier| earlier.completed < known.invoked) {
                floor = floor.max(earlier.value);
            }
            let least = floor + u64::from(known.is_increment);
            if known.value < least {
                let (what, Known { value, invoked, .. }) = (if known.is_increment { "INCR" } else { "GET" }, known);
                found.push(format!(
                    "counter {key}: {what} was answered with {value} although {floor} had been answered before it was \
                     sent, at {invoked} ns"
                ));
            }
        }
        found
    }

    fn holes(&self, key: Key, places: &[u64]) -> Option<String> {
        self.known.iter().find_map(|known| {
            let taken = places.partition_point(|place| *place <= known.value) as u64;
            let holes = known.value.saturating_sub(taken);
            let fillers = self.in_doubt.partition_point(|sent| *sent < known.completed) as u64;
            (holes > fillers).then(|| {
                format!(
                    "counter {key} stood at {}, {taken} increments up to there were acknowledged, and only {fillers} more \
                     had been sent that nobody knows of: one was applied twice, or one that was refused was applied",
                    known.value
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, refused, unknown};
    use super::*;

    fn incr(at: u64, value: u64) -> Record {
        answered(at, What::Increment(0, Some(value)))
    }

    fn bad(records: &[Record], says: &str) {
        let found = examine(records);
        assert!(found.iter().any(|what| what.contains(says)), "{found:?}");
    }

    #[test]
    fn increments_that_are_counted_once_are_fine_whatever_became_of_the_unknown() {
        let doubt = || unknown(5, What::Increment(0, None));
        assert!(examine(&[incr(10, 1), doubt(), incr(20, 2), answered(30, What::Count(0, 2))]).is_empty());
        assert!(examine(&[incr(10, 1), doubt(), incr(20, 3), answered(30, What::Count(0, 3))]).is_empty());
        assert!(examine(&[doubt(), answered(30, What::Count(0, 1))]).is_empty());
        // Two that overlap may take places in any order.
        let long = Record { completed: Some(100), ..incr(10, 2) };
        assert!(examine(&[long, incr(20, 1)]).is_empty());
        // Counters are told apart.
        assert!(examine(&[incr(10, 1), answered(20, What::Increment(1, Some(1)))]).is_empty());
    }

    #[test]
    fn a_lost_increment_is_found() {
        bad(&[incr(10, 1), incr(20, 1)], "two increments were answered with 1");
        bad(&[incr(10, 1), incr(20, 2), answered(30, What::Count(0, 1))], "GET was answered with 1 although 2");
    }

    #[test]
    fn a_doubled_increment_is_found() {
        bad(&[incr(10, 2)], "applied twice");
        bad(&[incr(10, 1), answered(20, What::Count(0, 2))], "applied twice");
        bad(&[refused(5, What::Increment(0, None)), incr(10, 2)], "one that was refused was applied");
        // One whose outcome is unknown fills one hole, not two; and none that was there before it was sent.
        bad(&[unknown(5, What::Increment(0, None)), incr(10, 3)], "applied twice");
        bad(&[incr(10, 2), unknown(20, What::Increment(0, None))], "applied twice");
    }

    #[test]
    fn a_stale_count_is_found() {
        bad(&[incr(10, 1), answered(20, What::Count(0, 0)), answered(30, What::Count(0, 1))], "answered with 0");
        bad(&[incr(10, 2), incr(20, 1)], "INCR was answered with 1 although 2");
    }
}
