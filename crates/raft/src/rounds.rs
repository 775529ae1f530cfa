//! Rounds of heartbeats: the leader's proof, at a known time, that a quorum still follows it.
//!
//! Every heartbeat of a leader carries the number of its round. A round answered by a quorum proves two things: no later
//! leader existed when the round *began* (so a read that came before it may be served: dissertation, section 6.4), and for
//! one lease after that moment none will (section 6.4.1).

use std::collections::VecDeque;

use crate::Time;

/// A lease rests on a round some heartbeats ago at most; answers to older ones say only that the follower lives.
const ROUNDS_KEPT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Number of the newest round; the first is 1.
    pub(crate) current: u64,
    /// Answers to this round and earlier ones give no lease: during or before it, leadership was being handed over.
    pub(crate) lease_floor: u64,
    sent: VecDeque<(u64, Time)>,
}

impl Rounds {
    pub(crate) fn begin(&mut self, now: Time) -> u64 {
        self.current += 1;
        if self.sent.len() == ROUNDS_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.current, now));
        self.current
    }

    /// When a round was sent, if that is still known.
    pub(crate) fn sent_at(&self, round: u64) -> Option<Time> {
        let first = self.sent.front()?.0;
        let offset = usize::try_from(round.checked_sub(first)?).ok()?;
        self.sent.get(offset).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recent_rounds_are_remembered() {
        let mut rounds = Rounds::default();
        for i in 1..=100 {
            assert_eq!(rounds.begin(Time::from_millis(i)), i);
        }
        assert_eq!(rounds.sent_at(100), Some(Time::from_millis(100)));
        assert_eq!(rounds.sent_at(37), Some(Time::from_millis(37)));
        assert_eq!(rounds.sent_at(36), None);
        assert_eq!(rounds.sent_at(101), None);
        assert_eq!(rounds.sent_at(0), None);
    }
}
