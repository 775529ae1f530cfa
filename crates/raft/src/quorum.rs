//! Majorities, of one set of voters and of two at once.
//!
//! Every decision of Raft is a question to a majority: has it the entry, has it answered this round, did it vote. All are
//! asked here, so that joint consensus (dissertation, section 4.3) is one line: in a joint configuration the answer must be
//! yes in both sets, each by its own majority.

use crate::NodeId;

/// Outcome of an election so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    Lost,
    Open,
}

/// Most groups have fewer voters than this, and are counted without allocating.
const VOTERS_ON_STACK: usize = 9;

/// The largest value that a majority of `voters` has reached. The empty set has reached everything, so that it does not
/// hold back the other half of a configuration that is not joint.
pub(crate) fn majority_value(voters: &[NodeId], mut value: impl FnMut(NodeId) -> u64) -> u64 {
    let n = voters.len();
    if n == 0 {
        return u64::MAX;
    }
    let mut on_stack = [0u64; VOTERS_ON_STACK];
    let mut on_heap;
    let values = if n <= VOTERS_ON_STACK {
        &mut on_stack[..n]
    } else {
        on_heap = vec![0; n];
        &mut on_heap[..]
    };
    for (slot, id) in values.iter_mut().zip(voters) {
        *slot = value(*id);
    }
    values.sort_unstable();
    // Of 3 sorted upward, the value at 1 is reached by two; of 4, the one at 1 by three; of 5, the one at 2 by three.
    values[(n - 1) / 2]
}

/// Counts votes; `vote` gives `None` for a voter who has not answered. The empty set is won.
pub(crate) fn majority_vote(voters: &[NodeId], mut vote: impl FnMut(NodeId) -> Option<bool>) -> Tally {
    let needed = voters.len() / 2 + 1;
    let (mut granted, mut refused) = (0, 0);
    for id in voters {
        match vote(*id) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if voters.is_empty() || granted >= needed {
        Tally::Won
    } else if voters.len() - refused < needed {
        Tally::Lost
    } else {
        Tally::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u64) -> Vec<NodeId> {
        (1..=n).map(NodeId).collect()
    }

    #[test]
    fn the_majority_value_is_the_largest_that_more_than_half_have_reached() {
        for n in 1..=11u64 {
            // Every voter has its own value; a dumb count is the model.
            let value = |id: NodeId| (id.0 * 7919) % 31;
            let got = majority_value(&ids(n), value);
            let reached = |v: u64| ids(n).iter().filter(|id| value(**id) >= v).count() as u64;
            assert!(reached(got) > n / 2, "n={n}");
            assert!((got + 1..40).all(|v| reached(v) <= n / 2), "n={n}");
        }
        assert_eq!(majority_value(&[], |_| 0), u64::MAX);
    }

    #[test]
    fn an_election_is_decided_as_soon_as_it_can_be() {
        let cast =
            |votes: &'static [Option<bool>]| majority_vote(&ids(votes.len() as u64), |id| votes[(id.0 - 1) as usize]);
        assert_eq!(cast(&[Some(true), None, None]), Tally::Open);
        assert_eq!(cast(&[Some(true), Some(true), None]), Tally::Won);
        assert_eq!(cast(&[Some(true), Some(false), Some(false)]), Tally::Lost);
        assert_eq!(cast(&[Some(true), Some(true), None, None]), Tally::Open);
        assert_eq!(cast(&[Some(true), Some(false), Some(false), None]), Tally::Lost);
        assert_eq!(cast(&[]), Tally::Won);
    }
}
