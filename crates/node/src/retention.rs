//! How much of a range's log is kept.
//!
//! Three things need it: this disk, until the data that came of it is durable; a restart, which replays what is not; and
//! members that do not have it yet. The first two are bounded by flushing in time. For the third the leader tells everybody
//! what no member needs any more; one that is slow is waited for longer than one that is away, and neither for ever: whoever
//! comes back later gets the data itself, see [`crate::transfer`].
//!
//! The measure is the flush, which the driver makes whenever the log has grown by a certain number of bytes.

use std::collections::VecDeque;
use std::time::Duration;

use dstore_raft::Time;
use dstore_storage::{LogIndex, LogOp};

use crate::group::{Effects, Group};

/// A member that was silent for so long is away.
const AWAY_AFTER: Duration = Duration::from_secs(10);
/// What one that is away may still ask for: the log of so many flushes. Enough for a restart.
const FLUSHES_FOR_AWAY: usize = 2;
/// What one that answers may still ask for; it may be taking in a snapshot, and then needs what came after it.
const FLUSHES_FOR_SLOW: usize = 10;
/// What is kept by whoever hears of no leader.
const FLUSHES_MAX: usize = 12;

/// What is known of who needs the log.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// Nobody needs anything up to here, as a leader has said.
    unneeded: LogIndex,
    /// How far the data was durable after each of the last flushes, oldest first.
    flushed: VecDeque<LogIndex>,
}

impl Retention {
    /// A leader says that nobody needs anything up to `index`.
    pub(crate) fn note_unneeded(&mut self, index: LogIndex) {
        self.unneeded = self.unneeded.max(index);
    }

    fn note_flushed(&mut self, index: LogIndex) {
        if self.flushed.back().is_none_or(|last| *last < index) {
            self.flushed.push_back(index);
        }
        if self.flushed.len() > FLUSHES_MAX {
            self.flushed.pop_front();
        }
    }

    /// How far the data was durable so many flushes ago.
    fn ago(&self, flushes: usize) -> LogIndex {
        let at = self.flushed.len().checked_sub(flushes);
        at.and_then(|at| self.flushed.get(at)).copied().unwrap_or_default()
    }
}

impl Group {
    /// As the leader: up to where no member needs the log, or may any longer.
    pub(crate) fn unneeded(&self, now: Time) -> LogIndex {
        let status = self.raft.status();
        let least = |away: bool| {
            let peers = status.peers.iter().filter(|peer| (now.since(peer.heard_at) > AWAY_AFTER) == away);
            peers.map(|peer| peer.matched).min().map(|index| LogIndex(index.0))
        };
        let kept_for_slow = least(false).map(|index| index.max(self.retention.ago(FLUSHES_FOR_SLOW)));
        let kept_for_away = least(true).map(|index| index.max(self.retention.ago(FLUSHES_FOR_AWAY)));
        let durable = LogIndex(status.durable.0);
        [kept_for_slow, kept_for_away].into_iter().flatten().fold(durable, LogIndex::min)
    }

    /// The data on disk reaches `persisted`: what nobody needs any more of the log is cut off.
    pub(crate) fn cut(&mut self, now: Time, persisted: LogIndex, effects: &mut Effects<'_>) {
        self.retention.note_flushed(persisted);
        let durable = LogIndex(self.raft.durable_index().0);
        let unneeded = self.retention.unneeded.max(self.retention.ago(FLUSHES_MAX));
        let persisted = if planted!(self.replica, CutAheadOfData) { durable } else { persisted };
        let index = persisted.min(durable).min(unneeded);
        if index.0 > self.raft.status().base.index.0 {
            mark!(LogCut);
            if self.raft.status().peers.iter().any(|peer| peer.matched.0 < index.0) {
                mark!(LogCutPastFollower);
            }
            let ops = vec![LogOp::TruncatePrefix { range: self.replica.range(), index }];
            self.writes.submit(now, (None, Vec::new()), ops, effects.outputs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_brought_nothing_new_is_no_measure() {
        let mut retention = Retention::default();
        for index in [3, 3, 5, 5, 5, 9] {
            retention.note_flushed(LogIndex(index));
        }
        let ago = |flushes| retention.ago(flushes).0;
        assert_eq!([ago(1), ago(2), ago(3), ago(4)], [9, 5, 3, 0]);
    }

    #[test]
    fn what_is_remembered_of_flushes_is_bounded() {
        let mut retention = Retention::default();
        (1..1000).for_each(|index| retention.note_flushed(LogIndex(index)));
        assert_eq!(retention.flushed.len(), FLUSHES_MAX);
        assert_eq!(retention.ago(FLUSHES_MAX), LogIndex(1000 - FLUSHES_MAX as u64));
    }
}
